// Is the iteration healthy? Figures of metrics.csv with the limit above which to look, and why there.

/** Column: name, largest value that is fine, what it is, why to look above. A limit may depend on the composition. */
const HEALTH = {
  "update/clip_fraction": { name: "clipped tokens", limit: () => 0.5,
    is: "share of action tokens whose gradient a bound made 0",
    why: "most tokens teach nothing more: steps are too large for the bounds, or too many for one rollout set" },
  "policy/rollout_gap_mean": { name: "rollout gap", limit: (made) => Math.min(...[made.eps_low, made.eps_high].filter((e) => e > 0), 0.2),
    is: "mean distance of the engine's log-probs from the trainer's, nats",
    why: "beyond the clip range the engine's policy is further off than a step may go: model/correction, or another precision" },
  "credit/equal_outcome_prompts": { name: "dead groups", limit: () => 0.8,
    is: "share of prompts whose trajectories all have the same outcome: R̂ is 0",
    why: "fewer than a fifth of the prompts teach by their outcome, as in src/check.py: other questions, larger groups, refill_rounds" },
  "credit/no_spread_turn_groups": { name: "flat turn groups", limit: () => 0.8,
    is: "share of turn groups of several whose gains do not differ: îg is 0",
    why: "fewer than a fifth of the turn groups tell turns apart: gains within model.normalizer.resolution, or all alike" },
  "train/tool_failures": { name: "failed calls", limit: () => 0.1,
    is: "per episode",
    why: "more than one episode in ten meets a broken tool, and learns from it; the turns say why" },
  "train/failed_episodes": { name: "lost episodes", limit: () => 0.01,
    is: "share",
    why: "what is lost is not a random part: long or odd episodes are missing from what is learned" },
  "update/skipped_steps": { name: "skipped steps", limit: () => 0,
    is: "optimizer steps whose loss or gradient was not finite",
    why: "a step that is skipped is a sign of numbers that overflow: a lower rate, or fp32" },
};

/** The figures of an iteration, each with its state. */
function health(curves, iteration, made) {
  return Object.entries(HEALTH).flatMap(([column, { name, limit, is, why }]) => {
    const point = (curves[column] ?? []).find((p) => p[0] === iteration);
    if (!point) return [];
    const look = !(Number(point[1]) <= limit(made));
    return el("div", { class: look ? "look" : null, title: `${column}: ${is}` }, el("dt", {}, name),
      el("dd", { class: "number" }, digits(point[1]), el("span", { class: "quiet" }, look ? " ! look" : " ✓ ok")),
      look ? el("dd", { class: "why" }, `above ${digits(limit(made))}: ${why}`) : null);
  });
}

/** What each figure is, and from where on to look. */
function healthLimits(made) {
  return el("table", {}, el("thead", {}, el("tr", {}, ["figure", "is", "look above", "because"].map((s) => el("th", { scope: "col" }, s)))),
    el("tbody", {}, Object.entries(HEALTH).map(([column, { name, limit, is, why }]) => el("tr", {},
      el("th", { scope: "row" }, name, el("small", {}, column)), el("td", {}, is), el("td", { class: "number" }, digits(limit(made))), el("td", {}, why)))));
}
