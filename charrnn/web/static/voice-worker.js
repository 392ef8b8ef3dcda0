"use strict";
// Runs the engine of a page: engine.c in WebAssembly. Receives messages from voice.js, and answers with symbols.

const BLOCK = 256; // symbols that the engine draws at most at a time
const WARM_UP = 400; // milliseconds of drawing before the speed is measured, in which the browser optimises the module
const MEASURED = 200; // milliseconds
const TOO_LARGE = "The browser has not enough memory for this network.";
const STACK = 1 << 16; // bytes of the second worker's stack

let engine = null; // { exports, memory, base, vocab, wide }
let played = { stream: 0 }; // what is played: { stream, temperature, drawn, played, lead }; 0 for nothing
let speed = 0; // symbols per second
const samples = []; // requests for a given number of symbols: { id, temperature, ids, drawn, seed, started }
const channel = new MessageChannel(); // for turns between which messages are received

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

function measureSpeed() {
  start(1, 0);
  const began = performance.now();
  let from = 0;
  let count = 0;
  for (let now = began; now < began + WARM_UP + MEASURED; now = performance.now()) {
    if (now < began + WARM_UP) [from, count] = [now, 0];
    count += draw(1, BLOCK, 1).length;
  }
  speed = (1000 * count) / (performance.now() - from);
}

function load({ module, memory, image, pointers, network, streams, table, isWide, isShared }) {
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
  if (isShared) {
    exports.share();
    postMessage({ type: "share", stack: exports.allocate(STACK) + STACK });
  } else measureSpeed();
  postMessage({ type: "ready", speed });
}

/** Compute the second worker's part of all jobs of the first; never returns. */
function help({ module, memory, stack }) {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  exports.__stack_pointer.value = stack;
  exports.help();
}

function work() {
  const [request] = samples;
  if (request) {
    if (!request.drawn) start(1, request.seed);
    const ids = request.drawn < request.ids.length ? draw(1, request.ids.length - request.drawn, request.temperature) : [];
    request.ids.set(ids, request.drawn);
    request.drawn += ids.length;
    if (request.drawn === request.ids.length) {
      samples.shift();
      postMessage({ type: "sampled", id: request.id, ids: request.ids }, [request.ids.buffer]);
    }
  }
  if (mustPlay()) {
    const began = performance.now();
    const ids = draw(0, BLOCK, played.temperature);
    const seconds = (performance.now() - began) / 1000;
    speed = 0.95 * speed + (0.05 * ids.length) / Math.max(seconds, 1e-4);
    played.drawn += ids.length;
    postMessage({ type: "piece", stream: played.stream, ids, temperature: played.temperature, speed }, [ids.buffer]);
  }
  if (samples.length || mustPlay()) channel.port2.postMessage(null);
  else isWorking = false;
}

function mustPlay() {
  return played.stream > 0 && played.drawn - played.played < played.lead;
}

let isWorking = false;

function wake() {
  if (isWorking) return;
  isWorking = true;
  channel.port2.postMessage(null);
}

channel.port1.onmessage = () => {
  try {
    work();
  } catch (error) {
    isWorking = false;
    postMessage({ type: "failed", why: error.message });
  }
};

const receivers = {
  load,
  help,
  measure() {
    measureSpeed();
    postMessage({ type: "ready", speed });
  },
  play({ stream, seed, temperature, lead }) {
    start(0, seed);
    played = { stream, temperature, lead, drawn: 0, played: 0 };
  },
  stop() {
    played = { stream: 0 };
  },
  change(settings) {
    Object.assign(played, settings);
  },
  sample({ id, seed, temperature, length }) {
    samples.push({ id, seed, temperature, drawn: 0, ids: new (engine.isWide ? Uint32Array : Uint8Array)(length) });
  },
};

onmessage = ({ data: { type, ...rest } }) => {
  try {
    receivers[type](rest);
    if (engine) wake();
  } catch (error) {
    postMessage({ type: "failed", why: error.message });
  }
};
