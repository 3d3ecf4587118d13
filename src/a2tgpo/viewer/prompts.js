// The list of prompts: which are shown, in which order, and a row of it.

const FILTERS = {
  all: { name: "all", keep: () => true },
  failed: { name: "all fail", keep: (g) => g.share === 0 },
  solved: { name: "all succeed", keep: (g) => g.share === 1 },
  mixed: { name: "some succeed", keep: (g) => g.share > 0 && g.share < 1 },
  contradicts: { name: "credit contradicts", keep: (g) => g.contradicts },
  flat: { name: "no credit: every Â is 0", keep: (g) => g.flat },
};

const SORTS = {
  played: { name: "order of play", by: () => 0 },
  hardest: { name: "success, lowest first", by: (g) => g.share },
  easiest: { name: "success, highest first", by: (g) => -g.share },
  spread: { name: "spread of gains", by: (g) => -g.spread },
  disagreement: { name: "largest difference of the credits", by: (g) => -g.disagreement },
};

/** What the list of prompts knows of a group. */
function summarise(group) {
  const turns = group.trajectories.flatMap((t) => t.turns);
  const gains = turns.filter((t) => t.has_gain).map((t) => Number(t.gain));
  group.share = group.trajectories.filter((t) => t.solved).length / group.trajectories.length;
  group.spread = gains.length ? Math.max(...gains) - Math.min(...gains) : 0;
  group.flat = turns.every((t) => Number(t.advantage) === 0);
  group.contradicts = turns.some((t) => t.contradicts);
  group.disagreement = Math.max(...turns.map((t) => Math.abs(Number(t.disagreement ?? 0))));
  group.words = [group.task_id, group.question, ...group.answers, ...turns.flatMap((t) => [t.action, t.observation])]
    .join("\n").toLowerCase();
}

/** The row of a prompt. */
function promptRow(group, chosen, withIteration, byDifference, open) {
  const solved = group.trajectories.filter((t) => t.solved).length;
  return el("tr", { class: chosen ? "chosen" : null },
    el("td", {}, el("button", { click: open, "aria-current": chosen ? "true" : null },
      `${withIteration ? `${group.when}: ` : ""}${group.question}`)),
    el("td", { class: "number" }, `${solved}/${group.trajectories.length}`),
    el("td", { class: "number" }, short(byDifference ? group.disagreement : group.spread, false)));
}
