"use strict";
// Engine of a page: engine.c in WebAssembly, which receives messages from page.js and answers with symbols.

const BLOCK = 256; // symbols that the engine draws at most at a time
const WARM_UP = 400; // milliseconds of drawing before the speed is measured, in which the browser optimises the module
const MEASURED = 200; // milliseconds
const RETRY = 5000; // least number of milliseconds until a slower number of threads is measured again
const RETRY_RATIO = 20; // least multiple, for the same, of the time that the last measurement took
const RETRIED = 32; // symbols that are drawn for such a measurement
const PLAYBACK = 0; // streams of the engine
const REQUESTS = 1;
const TOO_LARGE = "The browser does not have enough memory for this network.";
const STACK = 1 << 16; // bytes of the second worker's stack

let engine = null; // { exports, memory, base, streams, isWide }
let playback = { id: 0 }; // { id, temperature, drawn, played, lead }; the number 0 stands for none
const candidates = []; // numbers of threads: { threads, speed, due }, in symbols per second and milliseconds
const requests = []; // for a given number of symbols: { id, seed, temperature, ids, drawn }
const channel = new MessageChannel(); // the worker posts to itself after each block, so that other messages are handled

function symbols(stream, count) {
  const [, ids] = engine.streams[stream];
  return new (engine.isWide ? Uint32Array : Uint8Array)(new Int32Array(engine.memory.buffer, engine.base + ids, count));
}

function start(stream, seed) {
  engine.exports.start(engine.base + engine.streams[stream][0], BigInt(seed));
}

/** Draw at most `count` next symbols of a stream. */
function draw(stream, count, temperature) {
  const drawn = engine.exports.draw(engine.base + engine.streams[stream][0], Math.min(BLOCK, count), temperature);
  if (drawn < 0) throw new Error(TOO_LARGE);
  return symbols(stream, drawn);
}

/** Return the speed of a number of threads in symbols per second. */
function measureSpeed(threads) {
  engine.exports.use_workers(threads);
  start(REQUESTS, 0);
  const began = performance.now();
  let from = 0;
  let drawn = 0;
  for (let now = began; now < began + WARM_UP + MEASURED; now = performance.now()) {
    if (now < began + WARM_UP) [from, drawn] = [now, 0];
    drawn += draw(REQUESTS, BLOCK, 1).length;
  }
  return (1000 * drawn) / (performance.now() - from);
}

function load({ module, memory, image, pointers, network, streams, table, isWide }) {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  exports._initialize();
  const own = memory || exports.memory;
  const base = exports.allocate(image.byteLength);
  if (!base) throw new Error(TOO_LARGE);
  new Uint8Array(own.buffer, base).set(image);
  const view = new DataView(own.buffer);
  for (const at of pointers) view.setUint32(base + at, base + view.getUint32(base + at, true), true);
  if (table) exports.fill_table(...table.slice(0, 3), ...table.slice(3).map((offset) => base + offset));
  if (exports.prepare(base + network)) throw new Error(TOO_LARGE);
  engine = { exports, memory: own, base, streams, isWide };
  if (memory) postMessage({ type: "share", stack: exports.allocate(STACK) + STACK });
  else measure({ hasSecond: false });
}

/** Measure the speed with one thread, and with two if there is a second worker. */
function measure({ hasSecond }) {
  for (const threads of hasSecond ? [1, 2] : [1]) candidates.push({ threads, speed: measureSpeed(threads), due: performance.now() + RETRY });
  const { speed, threads } = fastest();
  postMessage({ type: "ready", speed, threads });
}

function fastest() {
  return candidates.reduce((best, one) => (one.speed > best.speed ? one : best));
}

/** Draw like `draw`, with the number of threads that has been the fastest recently.
 *
 * Two threads wait for each other many times per symbol, so they are much slower than one if the processor is busy. The
 * slower number is measured again from time to time. */
function drawFast(stream, count, temperature) {
  const began = performance.now();
  const best = fastest();
  const retried = count < RETRIED ? undefined : candidates.find((one) => one !== best && one.due <= began);
  const used = retried ?? best;
  engine.exports.use_workers(used.threads);
  const ids = draw(stream, retried ? RETRIED : count, temperature);
  const ended = performance.now();
  const seconds = Math.max(ended - began, 0.1) / 1000;
  if (retried) Object.assign(used, { speed: ids.length / seconds, due: ended + Math.max(RETRY, RETRY_RATIO * (ended - began)) });
  else if (ids.length >= RETRIED) used.speed = 1 / (0.95 / used.speed + (0.05 * seconds) / ids.length);
  return ids;
}

/** Compute the second worker's part of every job; never return. */
function help({ module, memory, stack }) {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  exports.__stack_pointer.value = stack;
  postMessage({ type: "helping" });
  exports.run_second_worker();
}

/** Draw the next symbols of the first request, and of what is played. */
function drawNext() {
  const [request] = requests;
  if (request) {
    if (!request.drawn) start(REQUESTS, request.seed);
    const left = request.ids.length - request.drawn;
    const ids = left ? drawFast(REQUESTS, left, request.temperature) : [];
    request.ids.set(ids, request.drawn);
    request.drawn += ids.length;
    if (request.drawn === request.ids.length) {
      requests.shift();
      postMessage({ type: "sampled", id: request.id, ids: request.ids, ...fastest() }, [request.ids.buffer]);
    }
  }
  if (mustPlay()) {
    const { id, temperature } = playback;
    const ids = drawFast(PLAYBACK, BLOCK, temperature);
    playback.drawn += ids.length;
    postMessage({ type: "piece", id, ids, temperature, ...fastest() }, [ids.buffer]);
  }
}

function mustPlay() {
  return playback.id > 0 && playback.drawn - playback.played < playback.lead;
}

let isDrawing = false;

function scheduleDrawing() {
  if (isDrawing || !(requests.length || mustPlay())) return;
  isDrawing = true;
  channel.port2.postMessage(null);
}

channel.port1.onmessage = () => {
  isDrawing = false;
  try {
    drawNext();
    scheduleDrawing();
  } catch (error) {
    requests.length = 0;
    playback = { id: 0 };
    postMessage({ type: "failed", reason: error.message });
  }
};

const receivers = {
  load,
  help,
  measure,
  play({ id, seed, temperature, lead }) {
    start(PLAYBACK, seed);
    playback = { id, temperature, lead, drawn: 0, played: 0 };
  },
  stop() {
    playback = { id: 0 };
  },
  change(settings) {
    Object.assign(playback, settings);
  },
  sample({ id, seed, temperature, length }) {
    try {
      requests.push({ id, seed, temperature, drawn: 0, ids: new (engine.isWide ? Uint32Array : Uint8Array)(length) });
    } catch {
      postMessage({ type: "rejected", id, reason: `length is ${length}: the browser does not have enough memory for it.` });
    }
  },
};

onmessage = ({ data: { type, ...rest } }) => {
  try {
    receivers[type](rest);
    scheduleDrawing();
  } catch (error) {
    postMessage({ type: "failed", reason: error.message });
  }
};
