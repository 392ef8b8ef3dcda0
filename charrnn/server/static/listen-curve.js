// Loss curve on the page.

/** Draw the losses of a run in an SVG; `step` is the iteration of the checkpoint that is played. */
export function drawCurve(svg, curve, step) {
  const { clientWidth: width, clientHeight: height } = svg;
  const edge = { left: 34, right: 10, top: 10, bottom: 38 };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const put = (name, attributes, text) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    if (text !== undefined) one.textContent = text;
    svg.append(one);
  };
  if (!curve.iteration.length) return;
  const last = Math.max(curve.iteration.at(-1), ...curve.val.iteration, step || 0);
  const steep = last / 50; // the scale leaves out the first iterations, whose losses are far higher
  const later = curve.mean.filter((_, n) => curve.iteration[n] >= steep);
  const levels = [...(later.length ? later : curve.mean), ...curve.val.bits, ...(curve.flac ? [curve.flac] : [])];
  const tick = [0.1, 0.2, 0.5, 1, 2, 5].find((one) => (Math.max(...levels) - Math.min(...levels)) / one <= 5) || 10;
  const bottom = Math.floor(Math.min(...levels) / tick) * tick;
  const top = Math.max(bottom + tick, Math.ceil(Math.max(...levels) / tick) * tick);
  const x = (value) => edge.left + (value / last) * (width - edge.left - edge.right);
  const y = (bits) => edge.top + ((top - Math.min(top, Math.max(bottom, bits))) / (top - bottom)) * (height - edge.top - edge.bottom);
  for (let bits = bottom; bits <= top + tick / 2; bits += tick) {
    put("path", { class: "grid", d: `M${edge.left} ${y(bits)}H${width - edge.right}` });
    put("text", { x: edge.left - 6, y: y(bits) + 4, "text-anchor": "end" }, tick < 1 ? bits.toFixed(1) : Math.round(bits));
  }
  const power = 10 ** Math.floor(Math.log10(last / 2));
  const every = [1, 2, 5, 10].map((one) => one * power).find((one) => last / one <= (width < 400 ? 4 : 6)) || last;
  for (let at = 0; at <= last; at += every) {
    const anchor = x(at) > width - 40 ? "end" : at ? "middle" : "start";
    put("text", { x: x(at), y: height - edge.bottom + 17, "text-anchor": anchor }, Math.round(at).toLocaleString("en"));
  }
  put("text", { x: width - edge.right, y: height - 4, "text-anchor": "end" }, "iteration");
  put("text", { x: 0, y: height - 4 }, curve.unit);
  const line = (xs, ys) => "M" + xs.map((one, n) => `${x(one).toFixed(1)} ${y(ys[n]).toFixed(1)}`).join("L");
  const back = curve.iteration.map((_, n) => curve.iteration.length - 1 - n);
  put("path", { class: "band", d: `${line(curve.iteration, curve.high)}L${line(back.map((n) => curve.iteration[n]), back.map((n) => curve.low[n])).slice(1)}Z` });
  put("path", { class: "mean", d: line(curve.iteration, curve.mean) });
  if (curve.flac) put("path", { class: "flac", d: `M${edge.left} ${y(curve.flac)}H${width - edge.right}` });
  if (curve.val.iteration.length) put("path", { class: "val", d: line(curve.val.iteration, curve.val.bits) });
  curve.val.iteration.forEach((one, n) => put("circle", { class: "dot", cx: x(one), cy: y(curve.val.bits[n]), r: 3.5 }));
  if (step) put("path", { class: "here", d: `M${x(step)} ${edge.top}V${height - edge.bottom}` });
}
