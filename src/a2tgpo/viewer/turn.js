// A turn: its texts, and the arithmetic of its advantage.

/** Texts of a trajectory, turn by turn; those of the chosen turn are shaded by what the update made of their tokens. */
function texts(trajectory, chosen, open) {
  return trajectory.turns.map((turn, k) => {
    const tokens = k === chosen ? tokensOf(turn) : null;
    return el("article", { class: k === chosen ? "chosen" : null },
      el("h3", {}, el("button", { click: () => open(k), "aria-current": k === chosen ? "true" : null }, `turn ${k + 1}`),
        el("span", { class: "quiet", title: usefulness(turn.useful) }, ` Â ${digits(turn.advantage)}${turn.has_gain ? `, gain ${digits(turn.gain)}` : ", no gain"}`,
          turn.useful === null ? "" : turn.useful ? ", ● useful" : ", ○ not useful")),
      tokens === null ? el("pre", { "aria-label": "what the policy wrote" }, turn.action) : shadedText(tokens),
      turn.observation ? el("pre", { class: "result", "aria-label": "tool result" }, turn.observation) : null,
      turn.calls.filter((c) => c.why).map((c) => el("p", { class: "bad" }, `${c.tool} failed: ${c.why}`)));
  });
}

/** The arithmetic of a turn: [name, how, value]. `made` is the composition of the run, `beside` the other credit. */
function steps(trajectory, k, column, made, beside) {
  const turn = trajectory.turns[k];
  if (k < trajectory.n_shared) return [["shared", "an earlier trajectory of the group has this turn and its credit", ""]];
  return [...ofGain(trajectory, k, column, made), ...ofAdvantage(trajectory, turn, made), ...ofBounds(turn, made),
    ...ofOthers(turn, beside),
    ...(turn.useful === null ? [] : [["useful", "did its result have evidence of the task that the episode had not seen?", turn.useful ? "yes" : "no"]])];
}

function ofGain(trajectory, k, column, made) {
  const turn = trajectory.turns[k], rows = [];
  if (!turn.has_gain) return [["no gain", "no tool result followed, or the signal gives this turn none", ""]];
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
    rows.push(["still to come D", `Σ γᵏ⁻ᵗ îg, γ = ${digits(made.gamma)}: ${sum}`, digits(turn.d)]);
    rows.push(["terms", made.rescaled ? `gains from here on; √terms = ${digits(Math.sqrt(turn.n))}` : "gains from here on", digits(turn.n)]);
  }
  return rows;
}

function normalised(turn, column, made) {
  if (made.normalizer !== "TurnGroup") return made.normalizer || made.credit;
  if (column.n === 1) return "0: nobody else has a gain at this turn";
  if (Number(turn.normalized_gain) === 0 && Math.abs(turn.gain - column.mean) > 0.01 * column.std) return "0: the gains differ by less than model.normalizer.resolution";
  return column.std === 0 ? "0: all gains are equal" : `(ig − mean) / σ = (${digits(turn.gain)} − ${digits(column.mean)}) / ${digits(column.std)}`;
}

function ofAdvantage(trajectory, turn, made) {
  const apart = turn.outcome_advantage !== null;
  return [
    ...(apart ? [["turn credit", credited(turn, made), digits(turn.turn_credit)],
      ["outcome R̂", fromOutcome(trajectory, made), digits(turn.outcome_advantage)]] : []),
    ["advantage Â", apart ? "turn credit + R̂" : made.credit, digits(turn.advantage), "total"],
  ];
}

function credited(turn, made) {
  if (!made.summed) return made.accumulator || made.credit;
  if (turn.n === 0) return "no gain of its own to sum from";
  return made.rescaled ? `α·D/√terms, α = ${digits(made.alpha)}` : `α·D, α = ${digits(made.alpha)}`;
}

function fromOutcome(trajectory, made) {
  if (made.combiner && made.combiner !== "Additive") return made.combiner;
  const told = `outcome ${digits(trajectory.outcome)}; the group's mean ${digits(trajectory.outcome_mean)}, σ ${digits(trajectory.outcome_std)}`;
  return made.outcome === "PromptGroup" && made.combiner ? `(R − mean) / σ: ${told}` : told;
}

/** How far the ratio may go, and where it stood behind the iteration's last step. */
function ofBounds(turn, made) {
  const rows = turn.clip_scale === null ? []
    : [["clip scale c", made.clipper === "AdaptiveTurn" ? `1 + β(2·sigmoid(îg) − 1), β = ${digits(made.beta)}` : made.clipper, digits(turn.clip_scale)]];
  rows.push(["clip bound below", `1 − ${digits(turn.clip_low)}`, digits(1 - Number(turn.clip_low))]);
  rows.push(["clip bound above", `1 + ${digits(turn.clip_high)}`, digits(1 + Number(turn.clip_high))]);
  if (turn.ratio === undefined) return rows;
  rows.push(["ratio after the last step", "of the policy behind the update to the one that was scored", digits(turn.ratio)]);
  const share = Number(turn.clipped), up = Number(turn.advantage) > 0;
  const how = share ? `${up ? "above" : "below"} its bound, where Â pulls it: no further gradient` : "within the bound to which Â pulls it";
  rows.push(["clipped", how, share === 0 ? "no" : share === 1 ? "yes" : `${digits(100 * share)} % of tokens`]);
  return rows;
}

/** What others say of the turn: forks of the outcome, another credit. */
function ofOthers(turn, beside) {
  const rows = [];
  if (turn.oracle_advantage !== undefined) {
    rows.push(["value before", "V: mean outcome of forks of the state", digits(turn.value)]);
    rows.push(["oracle A*", "V after − V before", digits(turn.oracle_advantage)]);
    rows.push(["error of A*", "standard error over forks", digits(turn.oracle_error)]);
  }
  if (turn.beside !== undefined) {
    rows.push(["Â beside", beside, digits(turn.beside)]);
    rows.push(["difference", "each Â in root mean squares of its own", digits(turn.disagreement)]);
  }
  return rows;
}

/** In a sentence, where the advantage comes from. */
function verdict(turn) {
  const way = (x) => (Number(x) > 0 ? "pushes up by" : "pushes down by");
  const pulls = [["turn credit", turn.turn_credit], ["outcome", turn.outcome_advantage]]
    .filter(([, x]) => x !== null && Number(x) !== 0).map(([name, x]) => `${name} ${way(x)} ${digits(Math.abs(x))}`);
  const advantage = Number(turn.advantage);
  const learned = advantage > 0 ? "The turn is pushed more likely" : advantage < 0 ? "The turn is pushed less likely" : "Nothing is learned from the turn";
  return `${learned}${pulls.length ? `: ${pulls.join(", ")}` : ""}.${moved(turn)}${held(turn)}`;
}

/** That the ratio went the other way, where it did. */
function moved(turn) {
  if (!turn.moved_against) return "";
  return ` Yet the update left it ${Number(turn.ratio) < 1 ? "less" : "more"} likely, ratio − 1 is ${digits(Number(turn.ratio) - 1)}: other turns and tokens moved it too.`;
}

/** What forks, or the task, say against the sign of Â; where forks tell, also that they agree. */
function held(turn) {
  if (turn.oracle_sign !== null) {
    const said = turn.contradicts ? "contradicts the sign of Â" : turn.oracle_sign === 0 ? "is within two errors of 0: it has no sign to hold Â against"
      : Number(turn.advantage) === 0 ? "has a sign, Â has none" : "agrees with the sign of Â";
    return ` Forks: A* ${digits(turn.oracle_advantage)} ± ${digits(turn.oracle_error)} ${said}.`;
  }
  if (!turn.contradicts) return "";
  return turn.useful ? " Yet its call was useful (●)." : " Yet its call was not useful (○).";
}

/** These steps as a table. */
function arithmeticTable(rows) {
  return el("table", {}, el("tbody", {}, rows.map(([name, how, value, look]) =>
    el("tr", { class: look }, el("th", { scope: "row" }, name, how ? el("small", {}, how) : null), el("td", {}, value)))));
}
