// The state of the page: which iteration, group, trajectory and turn are looked at. The fragment of the address names them.

const run = JSON.parse(document.getElementById("data").textContent);
const made = run.composition;
const at = (id) => document.getElementById(id);
const MOST_ROWS = 300;
const sets = [...new Set(run.groups.map((g) => g.when))];  // rollout sets, in their order
const isForked = (when) => when.endsWith("forks");
const iterationOf = (when) => parseInt(when, 10);
const state = { group: null, row: 0, turn: 0 };

run.groups.forEach(summarise);

/** The groups of a rollout set. */
const of = (when) => run.groups.filter((g) => g.when === when);

function replace(id, ...children) {
  at(id).replaceChildren(...children.flat());
}

function chooseFrom(id, entries, listen) {
  replace(id, Object.entries(entries).map(([value, entry]) => el("option", { value }, entry.name)));
  at(id).addEventListener("change", listen);
}

/** The nearest of some rollout sets to an iteration. */
function nearest(among, iteration) {
  return among.reduce((a, b) => (Math.abs(iterationOf(b) - iteration) < Math.abs(iterationOf(a) - iteration) ? b : a));
}

/** The rollout sets in which a measure has values. */
function setsWith(measure) {
  return sets.filter((when) => of(when).some((g) => g.trajectories.some((t) => t.turns.some((turn) => measure.of(turn) !== null))));
}

/** What has no value in this rollout set cannot colour it: its entry says which set to see. */
function offerMeasures() {
  const { when, iteration } = state.group;
  for (const option of at("measure").options) {
    const { name, within } = MEASURES[option.value];
    option.disabled = !within.includes(when);
    option.textContent = option.disabled ? `${name} (see ${nearest(within, iteration)})` : name;
  }
  if (at("measure").selectedOptions[0].disabled) at("measure").value = "advantage";
}

function drawRun() {
  const iteration = state.group.iteration;
  at("iteration").value = state.group.when;
  const forks = sets.filter(isForked), toForks = el("button", { class: "link", click: () => openSet(nearest(forks, iteration)) }, "see the forks");
  replace("sampled", isForked(state.group.when) ? `${of(state.group.when).length} questions played and forked by the policy behind iteration ${iteration}`
    : [sampled, ...(forks.length ? [" · ", toForks] : [])]);
  offerMeasures();
  replace("health", health(run.curves, iteration, made));
  const pick = (x) => openSet(nearest(sets, x));
  replace("curves", Object.entries(run.curves).filter(([, points]) => points.length > 1 && points.some((p) => p[1] !== 0))
    .map(([name, points]) => curveOf(name, points, iteration, pick)));
}

function drawPrompts() {
  const words = at("search").value.trim().toLowerCase();
  const among = words ? run.groups.filter((g) => g.words.includes(words)) : of(state.group.when);
  const by = SORTS[at("sort").value].by, byDifference = at("sort").value === "disagreement";
  const found = among.filter(FILTERS[at("filter").value].keep).sort((a, b) => by(a) - by(b));
  replace("differs", byDifference ? "difference" : "spread");
  at("differs").title = byDifference ? "largest difference of the credits at a turn" : "largest less smallest gain";
  replace("prompt-rows", found.slice(0, MOST_ROWS).map((g) => promptRow(g, g === state.group, words !== "", byDifference, () => { openGroup(g); focusOn("grid"); })));
  const box = at("prompt-rows").closest(".scroll"), row = at("prompt-rows").querySelector(".chosen");
  if (row && (row.offsetTop < box.scrollTop || row.offsetTop > box.scrollTop + box.clientHeight - 40)) box.scrollTop = row.offsetTop - 60;
  at("prompt-count").textContent = `${found.length} of ${among.length} prompts${found.length > MOST_ROWS ? `, the first ${MOST_ROWS} shown` : ""}`;
}

function drawGroup() {
  const group = state.group, measure = MEASURES[at("measure").value];
  const extreme = extremeOf(of(group.when), measure);
  replace("question", shown(group.question));
  replace("accepted", shown(`accepted: ${group.answers.join(", ")} · ${group.task_id} · kind ${group.kind}`));
  replace("legend", legend(measure.middle, extreme));
  const other = group.trajectories.some((t) => t.turns.some((turn) => second(turn) !== null));
  const also = measure === MEASURES.advantage && other ? ` Behind the bar: ${run.beside ? `Â of ${shown(run.beside)}` : "the oracle's A*"}.` : "";
  at("meaning").textContent = `${measure.means} Full colour: the iteration's largest.${also}`;
  replace("grid", grid(group, measure, extreme, state, (row, turn) => open(group, row, turn)));
  bringIntoGrid();
  replace("beliefs", beliefChart(group.trajectories, (t) => t.solved, state.row));
}

/** Scroll the grid sideways to the turn that is looked at. */
function bringIntoGrid() {
  const box = at("grid").parentElement, cell = at("grid").querySelector("button[aria-current]").parentElement;
  const most = cell.offsetLeft - cell.parentElement.firstChild.offsetWidth;  // beyond it the row's name hides the cell
  if (box.scrollLeft > most || box.scrollLeft + box.clientWidth < cell.offsetLeft + cell.offsetWidth) box.scrollLeft = most;
  drawBeyond();
}

/** Say how many turns of the grid are out of sight, where it scrolls. */
function drawBeyond() {
  const box = at("grid").parentElement, edge = box.getBoundingClientRect().right;
  const beyond = [...at("grid").querySelectorAll("thead th")].filter((head) => head.getBoundingClientRect().right > edge + 4).length;
  at("beyond").hidden = box.scrollWidth <= box.clientWidth;
  at("beyond").textContent = beyond ? `→ ${beyond} more turn${beyond > 1 ? "s" : ""} to the right: scroll the grid` : "← earlier turns to the left: scroll the grid";
}

function drawTurn() {
  const { group, row, turn } = state, trajectory = group.trajectories[row];
  at("turn-title").textContent =
    `Trajectory ${shown(trajectory.sample)}, turn ${turn + 1} of ${trajectory.turns.length}: ${shown(trajectory.stop)}, outcome ${digits(trajectory.outcome)}`;
  const blamed = blameLine(trajectory, (k) => open(group, row, k));
  replace("texts", blamed ?? [], texts(trajectory, turn, (k) => open(group, row, k)));
  replace("arithmetic", el("h3", {}, `Why turn ${turn + 1} has the advantage ${digits(trajectory.turns[turn].advantage)}`),
    el("p", {}, verdict(trajectory.turns[turn])),
    arithmeticTable(steps(trajectory, turn, group.columns[turn], made, run.beside)));
}

/** What was drawn anew has lost the focus: give it to the turn that is looked at. */
function focusOn(id) {
  at(id).querySelector("button[aria-current]").focus();
}

/** Bring what a key has changed into view, the turn's text and its cell; `last` wins where there is no room for both. */
function bringIntoView(last) {
  const text = at("texts").querySelector("article.chosen"), cell = at("grid").querySelector("button[aria-current]").parentElement;
  for (const one of last === "cell" ? [text, cell] : [cell, text]) one.scrollIntoView({ block: "nearest" });
  const top = cell.getBoundingClientRect().top;
  if (top < 0 && text.getBoundingClientRect().bottom - top <= innerHeight) cell.scrollIntoView({ block: "nearest" });
}

/** Look at a turn; what does not exist is brought to the nearest that does. */
function open(group, row, turn) {
  const other = group !== state.group, elsewhere = group.when !== state.group?.when;
  const focused = ["grid", "texts"].find((id) => at(id).contains(document.activeElement));
  state.group = group;
  state.row = Math.max(0, Math.min(row, group.trajectories.length - 1));
  state.turn = Math.max(0, Math.min(turn, group.trajectories[state.row].turns.length - 1));
  if (elsewhere) drawRun();
  if (other) drawPrompts();
  drawGroup();
  drawTurn();
  if (focused) focusOn(focused);
  const { when, rank, group: number } = group;
  const place = new URLSearchParams({ iteration: when, rank, group: number, trajectory: group.trajectories[state.row].sample, turn: state.turn + 1 });
  history.replaceState(null, "", `#${place}`);
}

function openSet(when) {
  openGroup(of(when).find((g) => g.task_id === state.group?.task_id) ?? telling(of(when)));
}

/** Look at a group: at the turn of its first failed trajectory that lost most by forks, else has the lowest advantage. */
function openGroup(group) {
  const row = Math.max(0, group.trajectories.findIndex((t) => !t.solved)), lost = lostBy(group.trajectories[row]);
  open(group, row, lost < 0 ? Math.max(0, least(group.trajectories[row])) : lost);
}

/** Of some groups the one with most to see: its advantages differ most. */
function telling(groups) {
  const spread = (g) => {
    const values = g.trajectories.flatMap((t) => t.turns.map((turn) => Number(turn.advantage)));
    return Math.max(...values) - Math.min(...values);
  };
  return groups.reduce((a, b) => (spread(b) > spread(a) ? b : a));
}

/** The turn that the fragment names. */
function follow() {
  const place = new URLSearchParams(location.hash.slice(1));
  const asked = (key) => Number(place.get(key) ?? NaN);
  const group = run.groups.find((g) => g.when === place.get("iteration") && g.rank === asked("rank") && g.group === asked("group"));
  if (!group) return false;
  open(group, group.trajectories.findIndex((t) => t.sample === asked("trajectory")), asked("turn") - 1 || 0);
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const { group, row, turn } = state, inGrid = at("grid").contains(event.target);
  const go = { j: [0, 1], k: [0, -1], ...(inGrid && { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }) }[event.key];
  if (event.key === "/") at("search").focus();
  else if (go) {
    open(group, row + go[0], turn + go[1]);
    bringIntoView(/^[jk]$/.test(event.key) ? "text" : "cell");
  }
  else return;
  event.preventDefault();
});

replace("name", shown(run.name));
const figures = Object.entries(run.figures).map(([name, value]) => `${name} ${digits(value)}`).join(", ");
const changed = run.settings.overrides.length ? `, changed: ${run.settings.overrides.join(", ")}` : "";
replace("told", shown(`experiment ${run.settings.experiment ?? "none"}, seed ${run.settings.seed}${changed}`),
  figures ? el("span", {}, ` · success: ${figures}`) : "");
at("curves-fold").open = matchMedia("(min-width: 801px) and (min-height: 1000px)").matches;  // the group comes first
const sampled = run.every === 1 ? `all ${run.n_groups} groups of the run's files`
  : `${run.groups.length} of ${run.n_groups} groups: the first of every ${run.every} in the order of play, in each iteration`;
replace("iteration", sets.map((when) => el("option", { value: when }, when)));
at("iteration").addEventListener("change", () => openSet(at("iteration").value));
replace("limits", healthLimits(made));
chooseFrom("filter", FILTERS, drawPrompts);
chooseFrom("sort", run.beside ? SORTS : Object.fromEntries(Object.entries(SORTS).filter(([key]) => key !== "disagreement")), drawPrompts);
Object.values(MEASURES).forEach((measure) => { measure.within = setsWith(measure); });
chooseFrom("measure", Object.fromEntries(Object.entries(MEASURES).filter(([, { within }]) => within.length)), drawGroup);
at("search").addEventListener("input", drawPrompts);
at("grid").parentElement.addEventListener("scroll", drawBeyond);
window.addEventListener("resize", drawBeyond);
window.addEventListener("hashchange", follow);
if (!follow()) openGroup(telling(of(sets.findLast((when) => !isForked(when)) ?? sets.at(-1))));
