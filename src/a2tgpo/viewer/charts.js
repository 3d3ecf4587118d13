// Curves as SVG.

/** A curve of metrics.csv with the cursor at an iteration; a click moves it to the nearest point. */
function curveOf(name, points, iteration, pick) {
  const [width, height, left, bottom] = [168, 62, 4, 48];
  const last = Math.max(1, ...points.map((p) => p[0]));
  const highest = Math.max(...points.map((p) => p[1]));
  const lowest = Math.min(0, ...points.map((p) => p[1]));
  const x = (i) => left + (i / last) * (width - 2 * left);
  const y = (v) => bottom - ((v - lowest) / (highest - lowest || 1)) * (bottom - 14);
  const now = points.find((p) => p[0] === iteration);
  const picture = svg("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${name} over ${points.length} iterations, from ${digits(points[0][1])} to ${digits(points.at(-1)[1])}`,
      click: (event) => {
        const box = picture.getBoundingClientRect();
        pick((((event.clientX - box.left) / box.width) * width - left) / (width - 2 * left) * last);
      },
    },
    svg("path", { class: "axis", d: `M${left},${bottom}H${width - left}` }),
    svg("path", { class: "cursor", d: `M${x(iteration)},10V${bottom}` }),
    svg("polyline", { class: "curve", points: points.map((p) => `${x(p[0])},${y(p[1])}`).join(" ") }),
    points.length < 60 ? points.map((p) => svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 2 })) : null,
    svg("text", { x: left, y: 9 }, digits(highest)),
    svg("text", { x: left, y: height - 4 }, "0"),
    svg("text", { x: width - left, y: height - 4, "text-anchor": "end" }, String(last)),
  );
  return el("figure", {}, el("figcaption", {}, name, now ? `: ${digits(now[1])}` : ""), picture);
}

/** Beliefs of a group: a line a trajectory, solid for successes and dashed for failures; the chosen one is thick. */
function beliefChart(trajectories, solved, chosen) {
  if (trajectories.some((t) => !t.belief.length)) return el("p", { class: "quiet" }, "No beliefs were recorded.");
  const [width, height, left, right, top, bottom] = [300, 190, 38, 16, 12, 160];
  const states = Math.max(2, ...trajectories.map((t) => t.belief.length));
  const highest = Math.max(1e-12, ...trajectories.flatMap((t) => t.belief));
  const x = (s) => left + (s / (states - 1)) * (width - left - right);
  const y = (b) => bottom - (b / highest) * (bottom - top);
  const order = [...trajectories.keys()].sort((a, b) => (a === chosen) - (b === chosen));
  const lines = order.map((i) => {
    const t = trajectories[i];
    const look = `${solved(t) ? "" : "failed "}${i === chosen ? "chosen" : ""}`;
    return svg("g", {},
      svg("title", {}, `trajectory ${t.sample}: ${t.belief.map(digits).join(" → ")}`),
      svg("polyline", { class: `curve ${look}`, points: t.belief.map((b, s) => `${x(s)},${y(b)}`).join(" ") }),
      t.belief.map((b, s) => svg("circle", { class: look, cx: x(s), cy: y(b), r: i === chosen ? 4 : 2.5 })));
  });
  const ticks = [...Array(states).keys()].map((s) =>
    svg("text", { x: x(s), y: height - 8, "text-anchor": "middle" }, s || "question"));
  return el("figure", {},
    el("figcaption", {}, "Belief in the accepted answer, before and after each turn. Solid: success; dashed: failure; thick: the chosen one."),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
        "aria-label": `beliefs of ${trajectories.length} trajectories, at most ${digits(highest)}; each is listed with its turns` },
      svg("path", { class: "axis", d: `M${left},${top}V${bottom}H${width - right}` }),
      svg("text", { x: left - 9, y: top + 4, "text-anchor": "end" }, short(highest, false)),
      svg("text", { x: left - 9, y: bottom + 3, "text-anchor": "end" }, "0"), ticks, lines));
}
