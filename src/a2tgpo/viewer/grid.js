// A group as a grid: a row a trajectory, a column a turn with the moments of its turn group.

function grid(group, measure, extreme, chosen, open) {
  const heads = group.columns.map((c, t) => el("th", { scope: "col" }, `turn ${t + 1}`,
    c.n === 0 ? el("span", { class: "quiet" }, "no gains")
      : [`mean ${short(c.mean, true)}`, `σ ${short(c.std, false)}`, `n ${c.n}`].map((s) => el("span", { class: "quiet" }, s))));
  const rows = group.trajectories.map((t, row) => {
    const lowest = least(t);
    return el("tr", {},
      el("th", { scope: "row", title: `${t.solved ? "solved" : "failed"}, outcome ${digits(t.outcome)}` },
        el("span", { class: t.solved ? "good" : "bad" }, t.solved ? "✓ " : "✗ "), `${t.sample}`, el("span", { class: "quiet outcome" }, ` ${t.solved ? "solved" : "failed"}, ${short(t.outcome, false)}`)),
      t.turns.map((turn, k) => cell(t, k, turn, measure, extreme, k === lowest,
        chosen.row === row && chosen.turn === k, () => open(row, k))));
  });
  return [el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "trajectory"), heads)), el("tbody", {}, rows)];
}

function cell(trajectory, k, turn, measure, extreme, lowest, current, open) {
  const shared = k < trajectory.n_shared;
  const value = shared ? null : measure.of(turn);
  const look = value === null ? null : shade(value, measure.middle, extreme);
  const said = shared ? "shared" : value === null ? "–" : short(value, measure.middle === 0);
  const more = shared || value === null ? "" : measure.more ? measure.more(turn)
    : measure === MEASURES.advantage && second(turn) !== null ? `| ${short(second(turn), true)}` : "";
  const against = turn.contradicts ? `Â goes against ${turn.contradicts === "A*" ? "A*" : "the usefulness"}` : "";
  const flags = `${against ? "≠ " : ""}${lowest ? "▼ " : ""}${turn.useful === false ? "○ " : turn.useful ? "● " : ""}`;
  const useful = turn.useful === null ? "" : turn.useful ? ", useful" : ", not useful";
  return el("td", {}, el("button", {
    class: look === null ? "none" : look.strong ? "strong" : null,
    style: look && `background: ${look.colour}`,
    "aria-label": `trajectory ${trajectory.sample}, turn ${k + 1}: ${measure.name} ${shared ? "shared" : digits(value)}${more ? ` ${more}` : ""}${useful}${lowest ? ", lowest advantage of a failed trajectory" : ""}${against && `, ${against}`}`,
    title: `${measure.name} ${digits(value)}${more ? ` ${more}` : ""}\n${[against, usefulness(turn.useful), turn.action.slice(0, 300)].filter(Boolean).join("\n")}`,
    "aria-current": current ? "true" : null,
    tabindex: current ? "0" : "-1",
    click: open,
  }, flags, said, more ? el("span", { class: "more" }, ` ${more}`) : null));
}
