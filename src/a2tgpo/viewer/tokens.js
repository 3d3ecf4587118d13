// What an update made of each token of a turn: its text shaded by the change of the token's log-prob.

const MOST = 0.6;  // opacity of the largest change: the text stays readable by day and by night

/** The tokens of a turn, each with its text and change; null where the file does not tell. */
function tokensOf(turn) {
  const letters = Array.from(turn.action), lengths = turn.token_lengths ?? [];
  if (!lengths.length || lengths.reduce((a, b) => a + b, 0) !== letters.length) return null;
  let start = 0;
  return lengths.map((length, i) => {
    start += length;
    return { text: letters.slice(start - length, start).join(""), change: turn.logprob_change[i] };
  });
}

/** The turn's text with its tokens in colour, a legend, and a line that says the number of the token pointed at. Arrows
 * move from token to token. */
function shadedText(tokens) {
  const extreme = Math.max(1e-12, ...tokens.map((t) => Math.abs(t.change)));
  const said = el("output", { class: "quiet" }, "point at a token, or move with the arrows, for its number");
  const tell = (i) => () => {
    const { text, change } = tokens[i];
    said.textContent = `token ${i + 1} of ${tokens.length}, “${shown(text)}”: ${digits(change)} nats, ${digits(Math.exp(change))} times as likely`;
  };
  const spans = tokens.map(({ text, change }, i) => el("span", {
    class: "token", role: "button", tabindex: i === 0 ? "0" : "-1", "aria-label": `${text || "token without text"}, ${digits(change)} nats`,
    style: `background: ${colour((MOST * change) / extreme)}`, mouseenter: tell(i), focus: tell(i), click: tell(i),
  }, text || "▯"));
  const move = (event) => {
    const i = spans.indexOf(document.activeElement) + { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!spans[i]) return;
    spans.forEach((span, k) => span.setAttribute("tabindex", k === i ? "0" : "-1"));
    spans[i].focus();
    event.preventDefault();
  };
  return [el("pre", { "aria-label": "what the policy wrote, a button a token", keydown: move }, spans),
    el("p", { class: "tokens quiet" }, "log-prob after the update less before: ", el("span", { class: "legend" }, legend(0, extreme)), " ", said)];
}
