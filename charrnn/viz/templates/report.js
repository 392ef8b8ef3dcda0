"use strict";
const { curves, themes, units } = JSON.parse(document.getElementById("data").textContent);
const plot = document.getElementById("plot");
const choices = document.getElementById("choices");
const dark = matchMedia("(prefers-color-scheme: dark)");
const escaped = (name) => name.replace(/[$&<>]/g, (c) => `&#${c.charCodeAt(0)};`); // Plotly interprets tags and formulas

// Curves.

function draw() {
  const chosen = Object.fromEntries(new FormData(choices));
  const css = getComputedStyle(document.documentElement);
  const color = (name) => css.getPropertyValue(name).trim();
  const palette = themes[dark.matches ? "dark" : "light"];
  const narrow = plot.clientWidth < 600;
  const inBits = chosen.unit === "bits";
  const levels = (run) => (inBits ? run : run.loss);
  const validations = (run) => (inBits ? run.val.bits : run.val.loss);
  const digits = inBits ? ".3f" : ".4g"; // mean squared errors are small
  const values = curves.flatMap((run) => [...levels(run).low, ...levels(run).high, ...validations(run), ...(levels(run).flac ? [levels(run).flac] : [])]);
  const lowest = values.reduce((a, b) => Math.min(a, b), Infinity);
  const highest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const yscale = lowest > 0 ? chosen.yscale : "linear"; // nats of a density may be negative
  choices.querySelector("input[name=yscale][value=log]").disabled = lowest <= 0;
  choices.querySelector(`input[name=yscale][value=${yscale}]`).checked = true;
  const xOf = (points) => (chosen.x === "time" ? points.time.map((s) => s / divisor) : points.iteration);
  const longest = Math.max(...curves.map((run) => run.time[run.time.length - 1]));
  const [divisor, timeUnit] = longest > 5400 ? [3600, "hours"] : longest > 90 ? [60, "minutes"] : [1, "seconds"];
  const traces = [];
  curves.forEach((run, number) => {
    const stroke = palette[number % palette.length];
    const x = xOf(run);
    const isUnreduced = run.low.every((value, at) => value === run.high[at]); // every iteration is a point of its own
    const line = { width: isUnreduced ? 0.6 : 0, color: stroke + "80" };
    const band = { x, mode: "lines", line, hoverinfo: "skip", showlegend: false, legendgroup: run.name };
    traces.push({ ...band, y: levels(run).low });
    traces.push({ ...band, y: levels(run).high, fill: "tonexty", fillcolor: stroke + "40" });
    traces.push({
      x, y: levels(run).mean, name: escaped(run.name), legendgroup: run.name, mode: "lines", line: { color: stroke, width: 1.6 },
      hovertemplate: `%{y:${digits}} training`,
    });
    traces.push({
      x: xOf(run.val), y: validations(run), name: escaped(run.name), legendgroup: run.name, showlegend: false,
      mode: "lines+markers", line: { color: stroke, width: 1.4, dash: "dash" },
      marker: { size: 7, line: { color: color("--card"), width: 1.5 } }, hovertemplate: `%{y:${digits}} validation`,
    });
  });
  const haveOneUnit = new Set(curves.map((run) => run.bits_unit)).size === 1; // FLAC of bytes does not compare with 16-bit samples
  const flac = [...new Set(curves.map((run) => levels(run).flac).filter((level) => haveOneUnit && level).map((level) => level.toFixed(2)))];
  const axis = { gridcolor: color("--line"), linecolor: color("--line"), zeroline: false, tickcolor: color("--line") };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { family: getComputedStyle(document.body).fontFamily, color: color("--ink"), size: 13 },
    margin: { l: narrow ? 40 : 62, r: 16, t: 40, b: 64 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--faint"), activecolor: color("--accent") },
    hovermode: "x unified", hoverlabel: { bgcolor: color("--card"), bordercolor: color("--line"), font: { color: color("--ink") } },
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
    xaxis: {
      ...axis, type: chosen.xscale, title: { text: chosen.x === "time" ? `training time, ${timeUnit}` : "iteration" },
      tickformat: chosen.x === "time" ? "" : ",", ...(chosen.xscale === "log" ? { dtick: 1 } : {}),
    },
    yaxis: {
      ...axis, type: yscale, title: narrow ? undefined : { text: `loss, ${inBits ? units.bits : units.loss}` },
      ...(yscale === "log" && inBits && lowest > 0.4 ? { tickmode: "array", tickvals: highest < 3 * lowest ? evenTicks(lowest, highest) : [0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20] } : {}),
    },
    shapes: flac.map((level) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: Number(level), y1: Number(level), line: { color: color("--ink"), dash: "dot", width: 1.2 },
    })),
    annotations: flac.map((level) => ({
      text: `FLAC ${level}`, xref: "paper", x: 1, xanchor: "right", yanchor: "bottom", showarrow: false,
      y: yscale === "log" ? Math.log10(level) : Number(level),
    })),
  };
  const config = {
    responsive: true, displaylogo: false, displayModeBar: !narrow, scrollZoom: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // leaves out the button that uploads the data
  };
  return Plotly.react(plot, traces, layout, config);
}

/** Return equally spaced round values that span two numbers. */
function evenTicks(low, high) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5].find((one) => (high - low) / one < 8) || 10;
  const first = Math.floor(low / step);
  return Array.from({ length: Math.ceil(high / step) - first + 1 }, (_, n) => Number(((first + n) * step).toFixed(1)));
}

function zoom(factor) {
  if (!factor) return Plotly.relayout(plot, { "xaxis.autorange": true, "yaxis.autorange": true });
  const [from, to] = plot._fullLayout.xaxis.range;
  const [middle, half] = [(from + to) / 2, ((to - from) / 2) * factor];
  return Plotly.relayout(plot, { "xaxis.range": [middle - half, middle + half] });
}

draw();
choices.addEventListener("change", draw);
choices.addEventListener("submit", (event) => event.preventDefault());
choices.addEventListener("click", (event) => {
  if (event.target.dataset.zoom !== undefined) zoom(Number(event.target.dataset.zoom));
});
dark.addEventListener("change", draw);
addEventListener("beforeprint", draw);

// Sounds.

const players = [...document.querySelectorAll("audio")];
const volume = document.getElementById("volume");
const all = document.getElementById("all");
const now = document.getElementById("now");
let inOrder = false;

function setVolume() {
  for (const player of players) player.volume = Number(volume.value);
}

function showPosition(player) {
  const marker = player.closest(".sound").querySelector(".position");
  marker.hidden = !player.currentTime;
  marker.style.left = `${(100 * player.currentTime) / (player.duration || 1)}%`;
  if (!player.paused) requestAnimationFrame(() => showPosition(player));
}

function setOrder(playing) {
  inOrder = playing;
  all.textContent = playing ? "Stop" : "Play all in order";
}

function start(player) {
  player.currentTime = 0;
  player.play();
  player.closest(".sound").scrollIntoView({ block: "nearest" });
}

for (const player of players) {
  const card = player.closest(".sound");
  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
    card.classList.add("playing");
    now.textContent = player.getAttribute("aria-label");
    showPosition(player);
  });
  player.addEventListener("pause", () => card.classList.remove("playing"));
  player.addEventListener("seeked", () => showPosition(player));
  player.addEventListener("ended", () => {
    const next = players[players.indexOf(player) + 1];
    if (inOrder && next) start(next);
    else setOrder(false);
  });
  card.querySelector(".pictures").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const part = (event.clientX - box.left) / box.width;
    const seek = () => { player.currentTime = part * player.duration; };
    if (player.readyState) seek();
    else player.addEventListener("loadedmetadata", seek, { once: true });
    player.play();
  });
}

if (volume) {
  setVolume();
  volume.addEventListener("input", setVolume);
  all.addEventListener("click", () => {
    setOrder(!inOrder);
    if (inOrder) start(players[0]);
    else for (const player of players) player.pause();
  });
}
