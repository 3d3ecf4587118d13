// Elements, numbers and colours. Texts of models are hostile: they become text nodes, never markup.

/** Characters that are not seen, or turn the direction of a line. */
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** `text` with such characters written out. */
function shown(text) {
  return String(text).replace(HIDDEN, (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

/** An element with attributes; children are elements or texts. A function is a listener of its event. */
function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : shown(value));
  }
  node.append(...children.flat().filter((c) => c !== null).map((c) => (c instanceof Node ? c : shown(c))));
  return node;
}

/** A number as it is printed: five digits; – where there is none. */
function digits(value) {
  if (value === null || value === undefined) return "–";
  const x = Number(Number(value).toPrecision(5));
  return x !== 0 && Math.abs(x) < 1e-4 ? x.toExponential() : String(x);
}

/** A number in a cell: two decimals with its sign, or its size where that would be 0. */
function short(value, signed) {
  if (value === null) return "–";
  const x = Number(value);
  const text = x !== 0 && Math.abs(x) < 0.005 ? x.toExponential(0) : x.toFixed(2);
  return signed && x > 0 ? `+${text}` : text;
}

/** What ● and ○ say of a call; nothing where the task does not know it. */
function usefulness(useful) {
  if (useful === null) return "";
  return useful ? "● useful: it returned evidence of the task that the episode had not seen"
    : "○ not useful: it returned no evidence of the task that the episode had not seen";
}

/** Opacity of blue (above the middle) or orange (below it), which people of any colour vision tell apart. */
function shade(value, middle, extreme) {
  const share = extreme > 0 ? Math.max(-1, Math.min(1, (Number(value) - middle) / extreme)) : 0;
  return { colour: colour(share), strong: Math.abs(share) > 0.82 };
}

function colour(share) {
  return `rgba(${share < 0 ? "179, 88, 6" : "33, 102, 172"}, ${Math.abs(share).toFixed(3)})`;
}
