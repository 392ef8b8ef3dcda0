import { $, playWithSpace, setUpSeed, setUpSound, showIsPlaying, showMessage, showProgress } from "./controls.js";
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

/** Return the name and the compiled module of the fastest variant that the browser supports. */
async function compile(parts) {
  const isShared = Boolean(globalThis.crossOriginIsolated && navigator.hardwareConcurrency > 1);
  const isRelaxed = WebAssembly.validate(parts.relaxed) && isExact(await WebAssembly.compile(parts.relaxed));
  const name = !isRelaxed ? "plain" : isShared ? "relaxed-shared" : "relaxed";
  if (!WebAssembly.validate(parts[name])) throw new Error(TOO_OLD);
  return { name, module: await WebAssembly.compile(parts[name]) };
}

/** Return whether a browser's relaxed dot products are exact; engine.c explains it. */
function isExact(module) {
  return new WebAssembly.Instance(module).exports.is_exact() === 1;
}

async function load() {
  const data = await unpack();
  const { name, module } = await compile(data.parts);
  const isShared = name === "relaxed-shared";
  const memory = isShared ? new WebAssembly.Memory({ initial: 64, maximum: 16384, shared: true }) : null;
  const worker = new Worker(scriptUrl("worker"));
  const { image } = data.parts;
  const isWide = data.network.vocabulary > 256;
  worker.postMessage({ type: "load", module, memory, image, ...data.layout, isWide, isShared }, [image.buffer]);
  return new Promise((resolve, reject) => {
    worker.onerror = () => reject(new Error("The browser could not start the page's worker."));
    worker.onmessage = ({ data: { type, reason, stack, speed, threads } }) => {
      if (type === "failed") reject(new Error(reason));
      if (type === "share") startSecond({ module, memory, stack }).then((hasSecond) => worker.postMessage({ type: "measure", hasSecond }));
      if (type === "ready") resolve({ ...data, worker, engine: name, speed, threads });
    };
  });
}

/** Start the worker that computes a part of each layer; return whether the browser could. */
function startSecond(shared) {
  const second = new Worker(scriptUrl("worker"));
  second.postMessage({ type: "help", ...shared });
  return new Promise((resolve) => {
    second.onmessage = ({ data }) => resolve(data.type === "helping");
    second.onerror = () => resolve(false);
  });
}

// Playing.

const progress = Object.assign(document.createElement("progress"), { max: 1, value: 0, hidden: true }); // of rendering ahead
const player = new Player($("wave"), $("spectrum"), `data:text/javascript,${encodeURIComponent($("worklet").textContent)}`);
const writer = new TextWriter($("text"));
let loaded = null; // what `load` returns
let playbackId = 0; // number of the playback that was started last
let playing = null; // { gaps, playedBefore, held, enough }; pieces of a slow network are held until there are enough seconds
let seed = 0; // of the next playback
const requests = new Map(); // promises of window.charrnn.sample by number
let requestId = 0; // number of the last request

function isSlow() {
  return loaded.speed < SLOW * loaded.network.rate;
}

function lead() {
  const { rate } = loaded.network;
  return rate ? Math.round((isSlow() ? LONGEST_LEAD : LEAD) * rate) : TEXT_LEAD;
}

function showSpeed() {
  const { rate } = loaded.network;
  const speed = loaded.speed / (rate || 1);
  $("speed").textContent = speed < 10 ? speed.toFixed(2) : Math.round(speed).toLocaleString("en");
  $("engine").textContent = `WebAssembly with ${loaded.engine === "plain" ? "" : "relaxed "}SIMD, ${loaded.threads === 1 ? "one thread" : "two threads"}`;
}

async function play() {
  player.stop();
  playbackId += 1;
  const own = playbackId;
  const { rate } = loaded.network;
  playing = { gaps: 0, playedBefore: 0, held: null };
  if (rate && isSlow()) hold([]);
  writer.clear();
  showIsPlaying(true);
  showMessage(rate ? "Playing." : "Writing.");
  try {
    if (rate) await player.open(rate);
  } catch (error) {
    if (own === playbackId) end(error.message, true);
    return;
  }
  if (own !== playbackId) return;
  if (rate && !playing.held) player.start();
  showHeld();
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
  const piece = { pcm: Int16Array.from(ids, (id) => loaded.network.samples[id]), temperature };
  if (!playing.held) player.add(piece);
  else {
    playing.held.push(piece);
    showHeld();
  }
}

/** Hold pieces of a slow network until enough of them are rendered to play for a while. */
function hold(pieces) {
  const speed = loaded.speed / loaded.network.rate;
  playing.held = pieces;
  playing.enough = Math.min(LONGEST_LEAD - 1, Math.max(2, 1.1 * WITHOUT_GAP * (1 - speed)));
  $("message").after(progress);
}

/** Show how much sound a slow network has rendered, and play it once it is enough. */
function showHeld() {
  const { held, enough } = playing;
  progress.hidden = !held;
  if (!held) return;
  const { rate } = loaded.network;
  const seconds = held.reduce((sum, { pcm }) => sum + pcm.length, 0) / rate;
  progress.value = seconds / enough;
  showMessage(`This browser runs the network at ${(loaded.speed / rate).toFixed(2)} times real time, so it renders ahead: ${Math.floor(seconds)} of ${Math.ceil(enough)} seconds.`);
  if (seconds < enough) return;
  playing.held = null;
  progress.hidden = true;
  showMessage("Playing, while the network renders more.");
  held.forEach((piece) => player.add(piece));
  const own = playbackId;
  player.open(rate).then(() => own === playbackId && player.start());
}

player.onprogress = ({ played, buffered, gaps, piece }) => {
  const total = playing.playedBefore + played;
  loaded.worker.postMessage({ type: "change", played: total, lead: lead() });
  showProgress({ played: total, buffered, gaps: playing.gaps + gaps, piece }, loaded.network.rate);
  if (gaps && isSlow()) {
    playing.gaps += gaps;
    playing.playedBefore += played;
    hold(player.unplayed());
    player.stop();
    showHeld();
  }
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

/** Draw symbols for a program: the ids that charrnn-sample draws with the same seed, temperature and precision. */
async function sample(options) {
  const { seed = 0, temperature = 1, length = DEFAULT_LENGTH } = options ?? {};
  if (!Number.isSafeInteger(seed) || seed < 0) throw new RangeError(`seed is ${seed}: it must be a whole number from 0 to 2^53 - 1.`);
  if (typeof temperature !== "number" || !(temperature >= 0 && temperature <= MAX_TEMPERATURE)) throw new RangeError(`temperature is ${temperature}: it must be from 0 to ${MAX_TEMPERATURE}.`);
  if (!Number.isSafeInteger(length) || length < 0 || length > MAX_LENGTH) throw new RangeError(`length is ${length}: it must be a whole number from 0 to ${MAX_LENGTH}.`);
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

function setSeed(value) {
  seed = value;
  if (playing) play();
}

progress.setAttribute("aria-label", "Rendered sound");
$("play").onclick = () => (playing ? end() : play());
$("temperature").oninput = () => setTemperature($("temperature").value);
setUpSound(player);
setUpSeed(setSeed);
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
  showMessage("");
  if (!network.rate || !isSlow()) return;
  showMessage("This browser runs the network slower than real time, so it renders ahead before it plays.");
  $("message").after(progress); // before it is shown, so that nothing moves then
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
