// What a cell may show: name, value (null where there is none), middle of the scale, what it means, a second number.

const MEASURES = {
  advantage: { name: "advantage Â", middle: 0, of: (t) => t.advantage,
    means: "What the policy learns from the turn: blue pushes it to be more likely, orange less." },
  turn_credit: { name: "turn credit", middle: 0, of: (t) => t.turn_credit,
    means: "The part of Â that is the turn's own; the rest, R̂, is the outcome's and the same for the whole trajectory." },
  normalized_gain: { name: "normalized gain îg", middle: 0, of: (t) => (t.has_gain ? t.normalized_gain : null),
    means: "The gain in standard deviations of its turn group: blue taught more than the others at that depth." },
  gain: { name: "gain ig", middle: 0, of: (t) => (t.has_gain ? t.gain : null),
    means: "How the turn moved the policy's belief in the accepted answer: blue raised it, orange lowered it." },
  clip_scale: { name: "clip scale c", middle: 1, of: (t) => t.clip_scale,
    means: "By how much the ratio may move further (blue) or less far (orange) than at a turn without a gain." },
  ratio: { name: "ratio − 1 after the last step", middle: 0, of: (t) => (t.ratio === undefined ? null : Number(t.ratio) - 1), more: (t) => (t.clipped ? "clipped" : ""),
    means: "What the iteration's steps made of the turn, ratio − 1: blue likelier, orange less likely. Other turns and tokens move it too." },
  oracle: { name: "oracle A*", middle: 0, of: (t) => t.oracle_advantage ?? null,
    more: (t) => (t.oracle_error === null ? "" : `± ${short(t.oracle_error, false)}`),
    means: "What the turn changed in the mean outcome of forks, and its standard error: within two errors of 0 it says nothing." },
  beside: { name: "the other credit's Â", middle: 0, of: (t) => t.beside ?? null,
    means: "What the credit beside would have given to the turn." },
  disagreement: { name: "difference of the credits", middle: 0, of: (t) => t.disagreement ?? null,
    means: "Â less the other credit's, each in root mean squares of its own over the rollout set: blue, the run's own is higher." },
};

/** The first number of a cell with a second one to hold against it: the other credit's, else the oracle's. */
function second(turn) {
  return turn.beside ?? turn.oracle_advantage ?? null;
}

/** The largest distance from the middle of a measure among groups: what has full colour. */
function extremeOf(groups, measure) {
  const values = groups.flatMap((g) => g.trajectories.flatMap((t) => t.turns.map(measure.of)));
  return Math.max(0, ...values.filter((v) => v !== null).map((v) => Math.abs(Number(v) - measure.middle)).filter(Number.isFinite));
}

/** From full orange to full blue, with the numbers at both ends. */
function legend(middle, extreme) {
  const stops = [-1, 0, 1].map(colour).join(", ");
  return [short(middle - extreme, true), el("i", { style: `background: linear-gradient(to right, ${stops})`, role: "img",
    "aria-label": `from orange through none at ${middle} to blue` }), short(middle + extreme, true)];
}

/** The turn of a failed trajectory with the lowest advantage, where its turns differ; −1 where there is none. */
function least(trajectory) {
  const values = trajectory.turns.map((t) => Number(t.advantage));
  const lowest = Math.min(...values), told = values.filter(Number.isFinite);
  return trajectory.solved || told.every((v) => v === lowest) ? -1 : values.indexOf(lowest);
}
