import { Scroll, drawCurve, wav } from "./listen-draw.js";

const KEPT = 30; // seconds that can be kept
const SHOWN = 8; // seconds on the canvases
const LARGEST = 50e6; // bytes of a recording that is dropped
const LOOK = 4000; // milliseconds between looks at what training has added
const FRAME = 30; // milliseconds between pictures, at least
const CALM = matchMedia("(prefers-reduced-motion: reduce)").matches ? 500 : 0;

const $ = (id) => document.getElementById(id);
const scroll = new Scroll($("wave"), $("spectrum"), SHOWN);
let runs = [];
let curve = null;
let socket = null;
let sound = null; // { context, gain, rate }
let take = 0;
let playing = null; // the take that plays: { node, ahead, heard, step, rate }
let kept = { rate: 0, pieces: [], length: 0 };
let unseen = []; // heard, and not drawn yet
let start = null; // { file, id, run }

// What there is to choose from.

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function look() {
  try {
    const found = await ask("/api/runs");
    if (JSON.stringify(found.runs) !== JSON.stringify(runs)) {
      runs = found.runs;
      fillRuns();
    }
    if (runs.length) curve = await ask(`/api/curves?run=${$("run").value}`);
    showCurve();
  } catch (error) {
    if (!playing) say(error instanceof TypeError ? "The server has ended: start charrnn-listen again." : error.message, true);
  }
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, words]) => new Option(words, value)));
  if (options.some(([value]) => String(value) === before)) select.value = before;
}

function fillRuns() {
  fill($("run"), runs.map((run, number) => [number, run.name]));
  fillCheckpoints();
}

function fillCheckpoints() {
  const run = runs[$("run").value];
  const words = (step) => `iteration ${step.toLocaleString("en")}`;
  const steps = [...run.checkpoints].reverse();
  const named = steps.length ? [["newest", `newest: ${words(steps[0])}`]] : [];
  if (run.best !== null && steps.includes(run.best)) named.push(["best", `best: ${words(run.best)}`]);
  fill($("checkpoint"), [...named, ...steps.map((step) => [step, words(step)])]);
  $("title").textContent = run.name;
  $("about").textContent = [run.network, run.inputs && `trained on ${run.inputs}`, run.rate && `${run.rate.toLocaleString("en")} Hz`].filter(Boolean).join(", ");
  $("play").disabled = !steps.length || !run.rate || run.kind === "frames";
  if (run.kind === "frames") say("This is a frame predictor, which is not played live: charrnn-sample writes its sound.", true);
  else if (!run.rate) say("This network was trained on text, and has no sound.", true);
  else if (!steps.length) say("This network has no checkpoint yet: let it train until its first one.");
}

function chosenStep() {
  const run = runs[$("run").value];
  const which = $("checkpoint").value;
  return which === "newest" ? run.checkpoints.at(-1) : which === "best" ? run.best : Number(which);
}

function showCurve() {
  if (!curve || !runs.length) return;
  const { iteration, mean, val, flac, unit } = curve;
  const last = iteration.at(-1);
  const words = last === undefined ? "Nothing is logged yet." : `Iteration ${last.toLocaleString("en")}: training loss ${mean.at(-1).toFixed(2)} ${unit}`;
  const best = val.bits.length ? `, best validation ${Math.min(...val.bits).toFixed(2)}` : "";
  $("curve-words").textContent = words + best + (last === undefined ? "" : flac ? `, FLAC ${flac.toFixed(2)}.` : ".");
  $("flac-key").hidden = !flac;
  drawCurve($("curve"), curve, playing ? playing.step : chosenStep());
}

// Playing.

function say(words, wrong = false) {
  if ($("message").textContent !== words) $("message").textContent = words;
  $("message").classList.toggle("wrong", wrong);
}

function sayWhat() {
  const { checkpoints, name } = runs[$("run").value];
  const newer = $("checkpoint").value === "newest" && checkpoints.at(-1) > playing.step ? " A newer checkpoint is there: stop and play for it." : "";
  say(`Playing ${name}, iteration ${playing.step.toLocaleString("en")}.${newer}`);
}

function connected() {
  if (socket && socket.readyState === WebSocket.OPEN) return Promise.resolve();
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`);
  socket.binaryType = "arraybuffer";
  const mine = socket;
  socket.onmessage = ({ data }) => (typeof data === "string" ? told(JSON.parse(data)) : came(data));
  return new Promise((done, fail) => {
    socket.onopen = done;
    socket.onclose = () => {
      fail(new Error("The connection cannot be made: is charrnn-listen still running?"));
      if (mine === socket && playing) end("The connection has ended.", true);
    };
  });
}

function tell(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

async function makeSound(rate) {
  if (sound && sound.rate === rate && sound.context.state !== "closed") return sound.context.resume();
  if (sound) sound.context.close();
  let context;
  try {
    context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
  } catch { // a browser that has no such rate: the worklet resamples
    context = new AudioContext({ latencyHint: "interactive" });
  }
  const gain = new GainNode(context, { gain: loudness() });
  gain.connect(context.destination);
  sound = { context, gain, rate };
  await context.audioWorklet.addModule("/listen-worklet.js");
  return context.resume();
}

function loudness() {
  return (Number($("volume").value) / 100) ** 2;
}

async function play() {
  const run = runs[$("run").value];
  hush();
  const mine = (take += 1);
  $("play").setAttribute("aria-pressed", "true");
  $("play-word").textContent = "Stop";
  say("Waking the network …");
  playing = { node: null, ahead: [], heard: 0, step: chosenStep(), rate: run.rate, slow: 0 };
  try {
    await Promise.all([connected(), makeSound(run.rate)]);
    if (start && start.run !== $("run").value) await upload(start.file);
  } catch (error) {
    if (mine === take) end(error.message, true);
    return;
  }
  if (mine !== take) return;
  const which = $("checkpoint").value;
  tell({
    type: "play", take, run: Number($("run").value), checkpoint: /^\d+$/.test(which) ? Number(which) : which,
    temperature: Number($("temperature").value), seed: Number($("seed").value), start: start ? start.id : null,
  });
}

function hush() {
  if (playing && playing.node) {
    const { node } = playing;
    node.port.onmessage = null;
    node.port.postMessage(null);
    node.disconnect();
  }
  playing = null;
}

function end(words = "", wrong = false) {
  hush();
  take += 1; // what is still under way belongs to no take
  tell({ type: "stop" });
  if (sound) sound.context.suspend();
  $("play").setAttribute("aria-pressed", "false");
  $("play-word").textContent = "Play";
  for (const id of ["speed", "buffer", "heard"]) $(id).textContent = "–";
  say(words, wrong);
  showCurve();
}

async function told(message) {
  if (message.type === "refused") end(message.why, true);
  if (message.take !== take || !playing) return;
  if (message.type === "ended") end(message.why, true);
  if (message.type === "status") {
    $("speed").textContent = message.speed.toFixed(message.speed < 10 ? 2 : 0);
    playing.slow = message.speed < 1 ? playing.slow + 1 : 0;
    if (playing.slow > 2) say("This network takes longer here than its sound lasts, so it comes in pieces.");
    else if (!playing.slow) sayWhat();
  }
  if (message.type === "playing") {
    Object.assign(playing, { rate: message.rate, step: message.step });
    if (scroll.rate !== message.rate) scroll.clear();
    scroll.rate = message.rate;
    if (message.rate !== sound.rate) await makeSound(message.rate);
    listen();
    sayWhat();
    showCurve();
  }
}

function listen() {
  const node = new AudioWorkletNode(sound.context, "player", { numberOfInputs: 0, outputChannelCount: [1], processorOptions: { rate: playing.rate } });
  node.connect(sound.gain);
  node.port.onmessage = ({ data }) => report(data);
  playing.node = node;
  for (const { samples } of playing.ahead) node.port.postMessage(samples);
}

function came(data) {
  const head = new DataView(data);
  if (head.getUint32(0, true) !== take || !playing) return;
  const pcm = new Int16Array(data, 8);
  const samples = Float32Array.from(pcm, (value) => value / 32768);
  playing.ahead.push({ pcm, samples, temperature: head.getFloat32(4, true), used: 0 });
  if (playing.node) playing.node.port.postMessage(samples);
}

/** The worklet says how far it is. */
function report({ played, buffered, gaps }) {
  const now = playing;
  while (now.heard < played && now.ahead.length) {
    const [piece] = now.ahead;
    const count = Math.min(played - now.heard, piece.pcm.length - piece.used);
    unseen.push(piece.samples.subarray(piece.used, piece.used + count));
    keep(piece.pcm.subarray(piece.used, piece.used + count), now.rate);
    piece.used += count;
    now.heard += count;
    $("heard").textContent = piece.temperature.toFixed(2);
    if (piece.used === piece.pcm.length) now.ahead.shift();
  }
  tell({ type: "heard", take, samples: played });
  $("buffer").textContent = (buffered / now.rate).toFixed(2);
  $("gaps").textContent = gaps;
  $("played").textContent = `${(played / now.rate).toFixed(1)} s`;
}

function keep(pcm, rate) {
  if (kept.rate !== rate) kept = { rate, pieces: [], length: 0 };
  kept.pieces.push(pcm);
  kept.length += pcm.length;
  while (kept.length - kept.pieces[0].length >= KEPT * rate) kept.length -= kept.pieces.shift().length;
  $("keep").disabled = false;
}

let drawn = 0;
function draw(now) {
  requestAnimationFrame(draw);
  if (!unseen.length || now - drawn < Math.max(FRAME, CALM)) return;
  drawn = now;
  const length = unseen.reduce((sum, one) => sum + one.length, 0);
  const samples = new Float32Array(length);
  unseen.reduce((at, one) => (samples.set(one, at), at + one.length), 0);
  unseen = [];
  scroll.add(samples.subarray(Math.max(0, length - SHOWN * scroll.rate)));
  $("top").textContent = `up to ${(scroll.rate / 2000).toFixed(1)} kHz, louder is brighter`;
}

// Starting from a recording.

async function upload(file) {
  const run = $("run").value;
  if (file.size > LARGEST) throw new Error(`${file.name} has more than ${LARGEST / 1e6} MB: a part that ends in the same way will do.`);
  $("drop-words").textContent = `Reading ${file.name} …`;
  try {
    const found = await ask(`/api/start?run=${run}&name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
    start = { file, id: found.id, run };
    $("drop-words").textContent = `The network reads the last ${found.seconds.toFixed(1)} seconds of ${file.name} first.`;
    $("forget").hidden = false;
  } catch (error) {
    forget();
    throw error instanceof TypeError ? new Error(`${file.name} was not taken: it is too large, or the server has ended.`) : error;
  }
}

function forget() {
  start = null;
  $("file").value = "";
  $("forget").hidden = true;
  $("drop-words").textContent = "Drop one here, or choose it: the network reads its last two seconds and goes on from them.";
}

async function dropped(file) {
  if (!file || !runs.length) return;
  try {
    await upload(file);
    if (playing) play();
    else say("Ready: play begins where the recording ends.");
  } catch (error) {
    say(error.message, true);
  }
}

// Controls.

$("play").onclick = () => (playing ? end() : play());
$("temperature").oninput = () => {
  const value = Number($("temperature").value);
  $("temperature-value").textContent = value.toFixed(2);
  if (playing) tell({ type: "temperature", value });
};
$("volume").oninput = () => {
  $("volume-value").textContent = `${$("volume").value} %`;
  if (sound) sound.gain.gain.setTargetAtTime(loudness(), sound.context.currentTime, 0.02);
};
$("run").onchange = () => {
  if (playing) end();
  say("");
  fillCheckpoints();
  look();
};
$("checkpoint").onchange = () => (playing ? play() : showCurve());
$("seed").onchange = () => {
  const seed = Math.floor(Number($("seed").value));
  $("seed").value = Number.isSafeInteger(seed) && seed >= 0 ? seed : 0;
  if (playing) play();
};
$("another").onclick = () => {
  $("seed").value = Math.floor(Math.random() * 1e6);
  if (playing) play();
};
$("file").onchange = () => dropped($("file").files[0]);
$("forget").onclick = () => {
  forget();
  $("file").focus();
  if (playing) play();
};
$("keep").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wav(kept.pieces, kept.rate));
  link.download = `${runs[$("run").value].name}-live.wav`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over-it", kind === "dragover");
    if (kind === "drop") dropped(event.dataTransfer.files[0]);
  });
}
addEventListener("keydown", (event) => {
  const writes = event.target.closest("button, select, summary, a, input:not([type=range])");
  if (event.key === " " && !writes && !$("play").disabled) {
    event.preventDefault();
    $("play").click();
  }
});
addEventListener("resize", () => {
  scroll.fit();
  showCurve();
});

$("oldest").textContent = `${SHOWN} seconds ago`;
$("temperature").oninput();
$("volume").oninput();
look();
setInterval(() => document.hidden || look(), LOOK);
requestAnimationFrame(draw);
