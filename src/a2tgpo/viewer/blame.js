// What speaks against the turns of a failed trajectory.

const FELL = 0.01;  // a belief that fell by less says nothing

/** The turn of a failed trajectory that forks say lost most, by two errors of A* at least; −1 where there is none. */
function lostBy(trajectory) {
  const told = [...trajectory.turns.keys()].filter((k) => trajectory.turns[k].oracle_sign < 0);
  return trajectory.solved || !told.length ? -1 : told.reduce((a, b) => (trajectory.turns[b].oracle_advantage < trajectory.turns[a].oracle_advantage ? b : a));
}

/** Do forks say something of its turns? */
function forked(trajectory) {
  return trajectory.turns.some((t) => t.oracle_sign !== null);
}

/** What speaks against turns of a failed trajectory: [what, the turns it is about, or null]: forks, the credit, the rest.
 * None for a solved one. */
function blame(trajectory) {
  if (trajectory.solved) return [];
  const turns = trajectory.turns, all = [...turns.keys()];
  const fell = (k) => (turns[k].has_gain && k + 1 < trajectory.belief.length ? trajectory.belief[k + 1] - trajectory.belief[k] : 0);
  const worst = (of) => all.reduce((a, b) => (of(b) < of(a) ? b : a));
  const dropped = worst(fell), lost = lostBy(trajectory), lowest = least(trajectory);
  return [
    lost < 0 && forked(trajectory) ? ["no A* is two errors below 0", null]
      : [`lowest A* that is two errors below 0, ${digits(turns[Math.max(0, lost)].oracle_advantage)}`, lost < 0 ? [] : [lost]],
    lowest < 0 && turns.length > 1 ? ["nothing in the credit, which is the same for all", null]
      : [`lowest advantage, ${digits(turns[Math.max(0, lowest)].advantage)}`, lowest < 0 ? [] : [lowest]],
    [`belief fell by ${digits(-fell(dropped))}`, fell(dropped) < -FELL ? [dropped] : []],
    ["call not useful (no new evidence)", all.filter((k) => turns[k].useful === false)],
    ["call failed", all.filter((k) => turns[k].calls.some((c) => c.why && c.result === "failed"))],
    ["answered before all was found that it takes", trajectory.metrics.early_answer ? [turns.length - 1] : []],
    [`ended by ${trajectory.stop}`, trajectory.stop === "answered" ? [] : [turns.length - 1]],
  ].filter(([, about]) => about === null || about.length);
}

/** The same as a line whose turns can be opened. */
function blameLine(trajectory, open) {
  const links = (about) => about.map((k, i) => [i ? ", " : "", el("button", { class: "link", click: () => open(k) }, `turn ${k + 1}`)]).flat();
  const said = blame(trajectory).map(([what, about]) => (about === null ? [what] : [`${what}: `, ...links(about)]));
  const order = forked(trajectory) ? "forks first, then the credit" : "the credit first";
  return said.length ? el("p", { id: "blame" }, el("strong", {}, "What speaks against its turns"), ` (${order}): `, said.map((one, i) => [i ? " · " : "", ...one]).flat()) : null;
}
