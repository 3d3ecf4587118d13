// What speaks against the turns of a failed trajectory.

const FELL = 0.01;  // a belief that fell by less says nothing

/** What speaks against turns of a failed trajectory: [what, the turns it is about]. None for a solved one. */
function blame(trajectory) {
  if (trajectory.solved) return [];
  const turns = trajectory.turns, all = [...turns.keys()];
  const fell = (k) => (turns[k].has_gain && k + 1 < trajectory.belief.length ? trajectory.belief[k + 1] - trajectory.belief[k] : 0);
  const worst = (of) => all.reduce((a, b) => (of(b) < of(a) ? b : a));
  const surely = (k) => Math.min(0, (turns[k].oracle_advantage ?? 0) + 2 * (turns[k].oracle_error ?? 0));
  const dropped = worst(fell), lost = worst(surely), lowest = least(trajectory, MEASURES.advantage);
  return [
    [`lowest advantage, ${digits(turns[Math.max(0, lowest)].advantage)}`, lowest < 0 ? [] : [lowest]],
    [`lowest oracle A*, ${digits(turns[lost].oracle_advantage)}, two errors below 0`, surely(lost) < 0 ? [lost] : []],
    [`belief fell by ${digits(-fell(dropped))}`, fell(dropped) < -FELL ? [dropped] : []],
    ["call not useful", all.filter((k) => turns[k].useful === false)],
    ["call failed", all.filter((k) => turns[k].calls.some((c) => c.why && c.result === "failed"))],
    ["answered before all was found that it takes", trajectory.metrics.early_answer ? [turns.length - 1] : []],
    [`ended by ${trajectory.stop}`, trajectory.stop === "answered" ? [] : [turns.length - 1]],
  ].filter(([, about]) => about.length);
}

/** The same as a line whose turns can be opened. */
function blameLine(trajectory, open) {
  const links = (about) => about.map((k, i) => [i ? ", " : "", el("button", { class: "link", click: () => open(k) }, `turn ${k + 1}`)]).flat();
  const said = blame(trajectory).map(([what, about]) => [`${what}: `, ...links(about)]);
  if (!trajectory.solved && trajectory.turns.length > 1 && least(trajectory, MEASURES.advantage) < 0) said.unshift(["nothing in the credit, which is the same for all"]);
  return said.length ? el("p", { id: "blame" }, el("strong", {}, "What speaks against its turns: "), said.map((one, i) => [i ? " · " : "", ...one]).flat()) : null;
}
