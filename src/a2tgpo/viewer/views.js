// What is drawn of a prompt, a group, a turn. Each view is a function of plain data and gives elements.

/** What a cell may show: its name, value (null where there is none), middle of the scale, and what it means. */
const MEASURES = {
  advantage: { name: "advantage Â", middle: 0, of: (t) => t.advantage,
    means: "What the policy learns from the turn: blue makes it more likely, orange less." },
  turn_credit: { name: "turn credit", middle: 0, of: (t) => t.turn_credit,
    means: "The part of Â that is the turn's own; the rest, R̂, is the outcome's and the same for the whole trajectory." },
  normalized_gain: { name: "normalized gain îg", middle: 0, of: (t) => (t.has_gain ? t.normalized_gain : null),
    means: "The gain in standard deviations of its turn group: blue taught more than the others at that depth." },
  gain: { name: "gain ig", middle: 0, of: (t) => (t.has_gain ? t.gain : null),
    means: "How the turn moved the policy's belief in the accepted answer: blue raised it, orange lowered it." },
  clip_scale: { name: "clip scale c", middle: 1, of: (t) => t.clip_scale,
    means: "By how much the ratio may move further (blue) or less far (orange) than at a turn without a gain." },
};

const FILTERS = {
  all: { name: "all", keep: () => true },
  failed: { name: "all fail", keep: (g) => g.share === 0 },
  solved: { name: "all succeed", keep: (g) => g.share === 1 },
  mixed: { name: "some succeed", keep: (g) => g.share > 0 && g.share < 1 },
  flat: { name: "no credit: every Â is 0", keep: (g) => g.flat },
};

const SORTS = {
  played: { name: "order of play", by: () => 0 },
  hardest: { name: "success, lowest first", by: (g) => g.share },
  easiest: { name: "success, highest first", by: (g) => -g.share },
  spread: { name: "spread of gains", by: (g) => -g.spread },
};

/** What the list of prompts knows of a group. */
function summarise(group) {
  const turns = group.trajectories.flatMap((t) => t.turns);
  const gains = turns.filter((t) => t.has_gain).map((t) => Number(t.gain));
  group.share = group.trajectories.filter((t) => t.solved).length / group.trajectories.length;
  group.spread = gains.length ? Math.max(...gains) - Math.min(...gains) : 0;
  group.flat = turns.every((t) => Number(t.advantage) === 0);
  group.words = [group.task_id, group.question, ...group.answers, ...turns.flatMap((t) => [t.action, t.observation])]
    .join("\n").toLowerCase();
}

/** The row of a prompt. */
function promptRow(group, chosen, withIteration, open) {
  const solved = group.trajectories.filter((t) => t.solved).length;
  return el("tr", { class: chosen ? "chosen" : null },
    el("td", {}, el("button", { click: open, "aria-current": chosen ? "true" : null },
      `${withIteration ? `${group.iteration}: ` : ""}${group.question}`)),
    el("td", { class: "number" }, `${solved}/${group.trajectories.length}`),
    el("td", { class: "number" }, short(group.spread, false)));
}

/** The largest distance from the middle of a measure among groups: what has full colour. */
function extremeOf(groups, measure) {
  const values = groups.flatMap((g) => g.trajectories.flatMap((t) => t.turns.map(measure.of)));
  return Math.max(0, ...values.filter((v) => v !== null).map((v) => Math.abs(Number(v) - measure.middle)).filter(Number.isFinite));
}

/** From full orange to full blue, with the numbers at both ends. */
function legend(measure, extreme) {
  const stops = [-1, 0, 1].map(colour).join(", ");
  return [short(measure.middle - extreme, true), el("i", { style: `background: linear-gradient(to right, ${stops})`, role: "img",
    "aria-label": `from orange through none at ${measure.middle} to blue` }), short(measure.middle + extreme, true)];
}

/** The turn with the least value of a failed trajectory, where its turns differ; −1 where there is none. */
function least(trajectory, measure) {
  const values = trajectory.turns.map(measure.of).map((v) => (v === null ? Infinity : Number(v)));
  const lowest = Math.min(...values), told = values.filter(Number.isFinite);
  return trajectory.solved || told.every((v) => v === lowest) ? -1 : values.indexOf(lowest);
}

/** The group: a row a trajectory, a column a turn with the moments of its turn group. */
function grid(group, measure, extreme, chosen, open) {
  const heads = group.columns.map((c, t) => el("th", { scope: "col" }, `turn ${t + 1}`,
    c.n === 0 ? el("span", { class: "quiet" }, "no gains")
      : [`mean ${short(c.mean, true)}`, `σ ${short(c.std, false)}`, `n ${c.n}`].map((s) => el("span", { class: "quiet" }, s))));
  const rows = group.trajectories.map((t, row) => {
    const lowest = least(t, measure);
    return el("tr", {},
      el("th", { scope: "row" }, el("span", { class: t.solved ? "good" : "bad" }, t.solved ? "✓ " : "✗ "), `${t.sample}`,
        el("span", { class: "quiet" }, ` ${t.solved ? "solved" : "failed"}, ${short(t.outcome, false)}`)),
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
  const flags = `${lowest ? "▼ " : ""}${turn.useful === false ? "○ " : turn.useful ? "● " : ""}`;
  const useful = turn.useful === null ? "" : turn.useful ? ", useful" : ", not useful";
  return el("td", {}, el("button", {
    class: look === null ? "none" : look.strong ? "strong" : null,
    style: look && `background: ${look.colour}`,
    "aria-label": `trajectory ${trajectory.sample}, turn ${k + 1}: ${measure.name} ${shared ? "shared" : digits(value)}${useful}${lowest ? ", lowest of a failed trajectory" : ""}`,
    title: `${measure.name} ${digits(value)}\n${turn.action.slice(0, 300)}`,
    "aria-current": current ? "true" : null,
    tabindex: current ? "0" : "-1",
    click: open,
  }, flags, said));
}

/** Texts of a trajectory, turn by turn. */
function texts(trajectory, chosen, open) {
  return trajectory.turns.map((turn, k) => el("article", { class: k === chosen ? "chosen" : null },
    el("h3", {}, el("button", { click: () => open(k), "aria-current": k === chosen ? "true" : null }, `turn ${k + 1}`),
      el("span", { class: "quiet" }, ` Â ${digits(turn.advantage)}${turn.has_gain ? `, gain ${digits(turn.gain)}` : ", no gain"}`,
        turn.useful === null ? "" : turn.useful ? ", ● useful" : ", ○ not useful")),
    el("pre", { "aria-label": "what the policy wrote" }, turn.action),
    turn.observation ? el("pre", { class: "result", "aria-label": "tool result" }, turn.observation) : null,
    turn.calls.filter((c) => c.why).map((c) => el("p", { class: "bad" }, `${c.tool} failed: ${c.why}`))));
}

/** The arithmetic of a turn: [name, how, value]. `made` is the composition of the run. */
function steps(trajectory, k, column, made) {
  const turn = trajectory.turns[k];
  if (k < trajectory.n_shared) return [["shared", "an earlier trajectory of the group has this turn and its credit", ""]];
  const rows = [];
  if (turn.has_gain) {
    if (k + 1 < trajectory.belief.length) {
      rows.push(["belief before", "in the accepted answer", digits(trajectory.belief[k])]);
      rows.push(["belief after", "", digits(trajectory.belief[k + 1])]);
    }
    const difference = { prob: "after − before", log_prob: "ln after − ln before" }[made.unit];
    rows.push(["gain ig", difference ?? made.signal, digits(turn.gain)]);
    rows.push(["mean of turn group", `turn ${k + 1} of ${column.n} trajectories`, digits(column.mean)]);
    rows.push(["σ of turn group", `n = ${column.n}`, digits(column.std)]);
    rows.push(["normalized gain îg", normalised(turn, column, made), digits(turn.normalized_gain)]);
    if (turn.d !== null) {
      const later = trajectory.turns.map((t, j) => [t, j]).filter(([t, j]) => j >= k && t.has_gain);
      const sum = later.map(([t, j]) => `${j === k || made.gamma === 1 ? "" : `${digits(made.gamma ** (j - k))} · `}${digits(t.normalized_gain)}`).join(" + ");
      rows.push(["still to come D", `Σ γᵏ⁻ᵗ îg = ${sum}`, digits(turn.d)]);
      rows.push(["terms n", made.rescaled ? `√n = ${digits(Math.sqrt(turn.n))}` : "gains from here on", digits(turn.n)]);
    }
  } else {
    rows.push(["no gain", "no tool result followed, or the signal gives this turn none", ""]);
  }
  if (turn.outcome_advantage !== null) {
    rows.push(["turn credit", credited(turn, made), digits(turn.turn_credit)]);
    rows.push(["outcome R̂", fromOutcome(trajectory, made), digits(turn.outcome_advantage)]);
  }
  rows.push(["advantage Â", turn.outcome_advantage === null ? made.credit : "turn credit + R̂", digits(turn.advantage), "total"]);
  if (turn.clip_scale !== null) {
    rows.push(["clip scale c", made.clipper === "AdaptiveTurn" ? "1 + β(2σ(îg) − 1), σ the sigmoid" : made.clipper, digits(turn.clip_scale)]);
  }
  rows.push(["clip bound below", `1 − ${digits(turn.clip_low)}`, digits(1 - Number(turn.clip_low))]);
  rows.push(["clip bound above", `1 + ${digits(turn.clip_high)}`, digits(1 + Number(turn.clip_high))]);
  if (turn.useful !== null) rows.push(["useful", "known from the task, not seen by the credit", turn.useful ? "yes" : "no"]);
  return rows;
}

function normalised(turn, column, made) {
  if (made.normalizer !== "TurnGroup") return made.normalizer || made.credit;
  if (column.n === 1) return "0: nobody else has a gain at this turn";
  if (Number(turn.normalized_gain) === 0 && Math.abs(turn.gain - column.mean) > 0.01 * column.std) return "0: the gains differ by less than model.normalizer.resolution";
  return column.std === 0 ? "0: all gains are equal" : `(ig − mean) / σ = (${digits(turn.gain)} − ${digits(column.mean)}) / ${digits(column.std)}`;
}

function credited(turn, made) {
  if (!made.summed) return made.accumulator || made.credit;
  if (turn.n === 0) return "no gain of its own to sum from";
  return made.rescaled ? `α·D/√n, α = ${digits(made.alpha)}` : `α·D, α = ${digits(made.alpha)}`;
}

function fromOutcome(trajectory, made) {
  if (made.combiner && made.combiner !== "Additive") return made.combiner;
  const told = `outcome ${digits(trajectory.outcome)}; the group's mean ${digits(trajectory.outcome_mean)}, σ ${digits(trajectory.outcome_std)}`;
  return made.outcome === "PromptGroup" && made.combiner ? `(R − mean) / σ: ${told}` : told;
}

/** In a sentence, where the advantage comes from. */
function verdict(turn) {
  const way = (x) => (Number(x) > 0 ? "pushes up by" : "pulls down by");
  const pulls = [["turn credit", turn.turn_credit], ["outcome", turn.outcome_advantage]]
    .filter(([, x]) => x !== null && Number(x) !== 0).map(([name, x]) => `${name} ${way(x)} ${digits(Math.abs(x))}`);
  const advantage = Number(turn.advantage);
  const learned = advantage > 0 ? "The turn is made more likely" : advantage < 0 ? "The turn is made less likely" : "Nothing is learned from the turn";
  return `${learned}${pulls.length ? `: ${pulls.join(", ")}` : ""}.`;
}

/** These steps as a table. */
function arithmeticTable(rows) {
  return el("table", {}, el("tbody", {}, rows.map(([name, how, value, look]) =>
    el("tr", { class: look }, el("th", { scope: "row" }, name, how ? el("small", {}, how) : null), el("td", {}, value)))));
}
