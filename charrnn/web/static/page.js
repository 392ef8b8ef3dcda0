import { $, playWithSpace, readSeed, setUpSeed, setUpSound, showIsPlaying, showMessage, showProgress } from "./controls.js";
import { setUpMidi } from "./midi.js";
import { Player } from "./player.js";
import { TextWriter } from "./text-writer.js";

const LEAD = 0.4; // seconds of sound that are drawn ahead of playback, so that changes are heard soon
const SLOW = 1.05; // times real time up to which a network has to render ahead
const LONGEST_LEAD = 60; // seconds that a slow network renders ahead at most
const WITHOUT_GAP = 30; // seconds that a slow network plays before the next pause, about
const TEXT_LEAD = 50; // characters
const MAX_TEMPERATURE = 10;
const MAX_LENGTH = 2 ** 31; // of a request, in symbols
const DEFAULT_LENGTH = 2000;
const SECOND_TIMEOUT = 3000; // milliseconds until the page does without the second worker
const TOO_OLD = "This browser is too old for the page: use a version from 2023 or later.";

// Loading.

/** Unpack the page's data; return its JSON metadata with the binary parts by name. */
async function unpack() {
  if (!globalThis.DecompressionStream) throw new Error(TOO_OLD);
  const packed = Uint8Array.from(atob($("data").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const size = new DataView(bytes.buffer).getUint32(0, true);
  const meta = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + size)));
  const parts = Object.fromEntries(Object.entries(meta.parts).map(([name, [at, length]]) => [name, bytes.slice(4 + size + at, 4 + size + at + length)]));
  return { ...meta, parts };
}

function scriptUrl(id) {
  return URL.createObjectURL(new Blob([$(id).textContent], { type: "text/javascript" }));
}

/** Return the name and the compiled module of the fastest variant that the browser supports, and memory for two workers. */
async function compile(parts) {
  const isRelaxed = WebAssembly.validate(parts.relaxed) && isExact(await WebAssembly.compile(parts.relaxed));
  const memory = isRelaxed ? sharedMemory() : null;
  const name = !isRelaxed ? "plain" : memory ? "relaxed-shared" : "relaxed";
  if (!WebAssembly.validate(parts[name])) throw new Error(TOO_OLD);
  return { name, module: await WebAssembly.compile(parts[name]), memory };
}

/** Return memory that two workers can share, or null if the browser does not allow that or has no second core. */
function sharedMemory() {
  if (!globalThis.crossOriginIsolated || navigator.hardwareConcurrency < 2) return null;
  try {
    return new WebAssembly.Memory({ initial: 64, maximum: 16384, shared: true });
  } catch {
    return null;
  }
}

/** Return whether a browser's relaxed dot products are exact; engine.c explains it. */
function isExact(module) {
  return new WebAssembly.Instance(module).exports.is_exact() === 1;
}

async function load() {
  const data = await unpack();
  const { name, module, memory } = await compile(data.parts);
  const worker = new Worker(scriptUrl("worker"));
  const { image } = data.parts;
  const isWide = data.network.vocabulary > 256;
  worker.postMessage({ type: "load", module, memory, image, ...data.layout, isWide }, [image.buffer]);
  return new Promise((resolve, reject) => {
    worker.onerror = () => reject(new Error("The browser could not start the page's worker."));
    worker.onmessage = ({ data: { type, reason, stack, speed, threads } }) => {
      if (type === "failed") reject(new Error(reason));
      if (type === "share") startSecond({ module, memory, stack }).then((hasSecond) => worker.postMessage({ type: "measure", hasSecond }));
      if (type === "ready") resolve({ ...data, worker, engine: name, speed, threads });
    };
  });
}

/** Start the worker that computes a part of each layer; return whether it runs. */
function startSecond(shared) {
  const second = new Worker(scriptUrl("worker"));
  second.postMessage({ type: "help", ...shared });
  return new Promise((resolve) => {
    second.onmessage = ({ data }) => resolve(data.type === "helping");
    second.onerror = () => resolve(false);
    setTimeout(() => resolve(false), SECOND_TIMEOUT);
  });
}

// Playing.

const progress = Object.assign(document.createElement("progress"), { max: 1, value: 0, hidden: true }); // of rendering ahead
const player = new Player($("wave"), $("spectrum"), `data:text/javascript,${encodeURIComponent($("worklet").textContent)}`);
const writer = new TextWriter($("text"));
let loaded = null; // what `load` returns
let playbackId = 0; // number of the playback that was started last
let playing = null; // { gaps, enough }; `enough` are the seconds that a slow network renders before it plays, or else 0
const requests = new Map(); // promises of window.charrnn.sample by number
let requestId = 0; // number of the last request

function isSlow() {
  return loaded.speed < SLOW * loaded.network.rate;
}

function lead() {
  const { rate } = loaded.network;
  return rate ? Math.round((playing?.enough || isSlow() ? LONGEST_LEAD : LEAD) * rate) : TEXT_LEAD;
}

function showSpeed() {
  const { rate } = loaded.network;
  const speed = loaded.speed / (rate || 1);
  $("speed").textContent = speed < 10 ? speed.toFixed(2) : Math.round(speed).toLocaleString("en");
  $("engine").textContent = `WebAssembly with ${loaded.engine === "plain" ? "" : "relaxed "}SIMD, ${loaded.threads === 1 ? "one thread" : "two threads"}`;
}

async function play() {
  const seed = readSeed();
  if (seed === null) return;
  player.stop();
  playbackId += 1;
  const own = playbackId;
  const { rate } = loaded.network;
  playing = { gaps: 0, enough: 0 };
  writer.clear();
  showIsPlaying(true);
  showMessage(rate ? "Playing." : "Writing.");
  if (rate && isSlow()) renderAhead();
  try {
    if (rate) await player.open(rate);
  } catch (error) {
    if (own === playbackId) end(error.message, true);
    return;
  }
  if (own !== playbackId) return;
  if (rate) player.start(playing.enough > 0);
  showRendered(0);
  loaded.worker.postMessage({ type: "play", id: playbackId, seed, temperature: Number($("temperature").value), lead: lead() });
}

function end(message = "", isError = false) {
  player.stop();
  writer.stop();
  playing = null;
  playbackId += 1; // pieces that are still in transit belong to no playback
  loaded?.worker.postMessage({ type: "stop" });
  showIsPlaying(false);
  progress.hidden = true;
  for (const id of ["buffer", "current-temperature"]) $(id).textContent = "–";
  showMessage(message, isError);
}

function receivePiece({ ids, temperature }) {
  if (!loaded.network.rate) {
    writer.add(Array.from(ids, (id) => loaded.network.characters[id]));
    $("current-temperature").textContent = temperature.toFixed(2);
    return;
  }
  player.add({ pcm: Int16Array.from(ids, (id) => loaded.network.samples[id]), temperature });
}

/** Return how many seconds a slow network renders ahead, so that it can play for a while. */
function secondsAhead() {
  const speed = loaded.speed / loaded.network.rate;
  return Math.min(LONGEST_LEAD - 1, Math.max(2, 1.1 * WITHOUT_GAP * (1 - speed)));
}

/** Let a slow network render seconds ahead before it plays, or goes on. */
function renderAhead() {
  playing.enough = secondsAhead();
  showMessage(`Rendering ${Math.ceil(playing.enough)} seconds ahead, at ${(loaded.speed / loaded.network.rate).toFixed(2)} times real time.`);
}

/** Show how many seconds a slow network has rendered ahead, and play them once they are enough. */
function showRendered(seconds) {
  progress.hidden = !playing.enough;
  if (!playing.enough) return;
  playing.enough = Math.min(playing.enough, secondsAhead()); // it may have become faster
  progress.value = seconds / playing.enough;
  if (seconds < playing.enough) return;
  playing.enough = 0;
  progress.hidden = true;
  player.hold(false);
  showMessage("Playing, while the network renders more.");
}

player.onprogress = (state) => {
  const { rate } = loaded.network;
  loaded.worker.postMessage({ type: "change", played: state.played, lead: lead() });
  showProgress(state, rate);
  if (state.gaps > playing.gaps && !playing.enough && isSlow()) {
    renderAhead();
    player.hold(true);
  }
  playing.gaps = state.gaps;
  showRendered(state.buffered / rate);
};

writer.onwritten = ({ written, waiting }) => {
  $("played").textContent = written.toLocaleString("en");
  $("buffer").textContent = waiting;
  $("keep").disabled = false;
  loaded.worker.postMessage({ type: "change", played: written });
};

function receive({ data: message }) {
  if (message.speed) {
    [loaded.speed, loaded.threads] = [message.speed, message.threads];
    showSpeed();
  }
  if (message.type === "sampled") {
    requests.get(message.id)?.resolve(message.ids);
    requests.delete(message.id);
  }
  if (message.type === "rejected") {
    requests.get(message.id)?.reject(new RangeError(message.reason));
    requests.delete(message.id);
  }
  if (message.type === "failed") {
    for (const { reject } of requests.values()) reject(new Error(message.reason));
    requests.clear();
    end(message.reason, true);
  }
  if (message.type === "piece" && playing && message.id === playbackId) receivePiece(message);
}

function isWhole(value, limit) {
  return Number.isSafeInteger(value) && value >= 0 && value <= limit;
}

function quoted(value) {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** Draw symbols for a program: the ids that charrnn-sample draws with the same seed, temperature and precision. */
async function sample(options) {
  const { seed = 0, temperature = 1, length = DEFAULT_LENGTH, ...others } = Object(options);
  const [unknown] = Object.keys(others);
  if (unknown !== undefined) throw new TypeError(`${unknown} is no option: sample takes an object with seed, temperature and length.`);
  if (!isWhole(seed, Number.MAX_SAFE_INTEGER)) throw new RangeError(`seed is ${quoted(seed)}: it must be a whole number from 0 to 2^53 - 1.`);
  if (!(typeof temperature === "number" && temperature >= 0 && temperature <= MAX_TEMPERATURE)) throw new RangeError(`temperature is ${quoted(temperature)}: it must be a number from 0 to ${MAX_TEMPERATURE}.`);
  if (!isWhole(length, MAX_LENGTH)) throw new RangeError(`length is ${quoted(length)}: it must be a whole number from 0 to ${MAX_LENGTH}.`);
  await ready;
  requestId += 1;
  const id = requestId;
  return new Promise((resolve, reject) => {
    requests.set(id, { resolve, reject });
    loaded.worker.postMessage({ type: "sample", id, seed, temperature, length });
  });
}

// Controls.

function setTemperature(value) {
  $("temperature").value = value;
  $("temperature-value").textContent = Number($("temperature").value).toFixed(2);
  if (playing) loaded.worker.postMessage({ type: "change", temperature: Number($("temperature").value) });
}

progress.setAttribute("aria-label", "Rendered sound");
$("message").after(progress);
$("play").onclick = () => (playing ? end() : play());
$("temperature").oninput = () => setTemperature($("temperature").value);
setUpSound(player);
setUpSeed(() => playing && play());
$("keep").onclick = () => {
  const name = `${document.title.replace(/[^\p{L}\p{N} ._-]+/gu, "-")}-live`; // not that of the recording
  if (loaded.network.rate) player.save(`${name}.wav`);
  else writer.save(`${name}.txt`);
};
setUpMidi($("midi"), (value) => setTemperature(2 * value), () => $("another").click());
playWithSpace();
showMessage("Loading the network …");
setTemperature(1);

function showLoaded() {
  const { network } = loaded;
  loaded.worker.onmessage = receive;
  if (!network.rate) {
    for (const id of ["stage", "loud"]) $(id).hidden = true;
    $("written").hidden = false;
    for (const [id, text] of [["speed-unit", "characters per second"], ["buffer-unit", "characters"], ["keep", "Save the text"]]) $(id).textContent = text;
  }
  showSpeed();
  $("play").disabled = false;
  showMessage(network.rate && isSlow() ? "This browser is slower than real time, so it renders ahead." : "");
}

const ready = load().then(
  (result) => {
    loaded = result;
    showLoaded();
  },
  (error) => {
    showMessage(error.message, true);
    throw error;
  },
);
ready.catch(() => {}); // the page shows the error; without this, the console would report it as not handled

window.charrnn = {
  sample,
  get info() {
    if (!loaded) return null;
    const { rate, samples, characters, ...properties } = loaded.network;
    return { ...properties, rate, engine: loaded.engine, threads: loaded.threads, symbolsPerSecond: loaded.speed, timesRealTime: rate ? loaded.speed / rate : null };
  },
};
