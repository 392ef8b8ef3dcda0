import { $, playWithSpace, readSeed, setUpSeed, setUpSound, showIsPlaying, showMessage, showProgress } from "./controls.js";
import { drawCurve } from "./listen-curve.js";
import { setUpMidi } from "./midi.js";
import { Player } from "./player.js";
import { TextWriter } from "./text-writer.js";

const MAX_UPLOAD = 50e6; // bytes
const POLL = 4000; // milliseconds between requests for new checkpoints and losses
const SEND_INTERVAL = 50; // milliseconds between messages with a new temperature
const STOPPED = "The server has stopped: start charrnn-listen again.";

const player = new Player($("wave"), $("spectrum"), "/player-worklet.js");
const writer = new TextWriter($("text"));
let runs = [];
let curve = null;
let socket = null;
let connected = null; // promise that the socket is open
let stream = 0; // number of the stream that was requested last
let playing = null; // the stream that plays: { step, rate, isText, slow }
let start = null; // { file, id, run, seconds, oscPrime }
let hasOsc = false; // whether the server passes on OSC messages
let newestPrime = null; // recording that an OSC message named, which is read next
let isReadingPrime = false;
let isTemperatureDue = false; // whether the temperature is sent at the end of the interval
let uploads = Promise.resolve(); // the recordings that were chosen so far, one after the other

// Choice of run and checkpoint.

async function request(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function poll() {
  try {
    const found = await request("/api/runs");
    hasOsc = found.osc;
    if ($("message").textContent === STOPPED) {
      showMessage("");
      if (start) start.run = null; // the new server does not store it
    }
    if (hasOsc) connect().catch(() => {}); // the next poll tries again
    if (JSON.stringify(found.runs) !== JSON.stringify(runs)) {
      runs = found.runs;
      fill($("run"), runs.map((run, number) => [number, run.name]));
      fillCheckpoints();
    }
    if (runs.length) curve = await request(`/api/curves?run=${$("run").value}`);
    showCurve();
  } catch (error) {
    if (!playing) showMessage(error instanceof TypeError ? STOPPED : error.message, true);
  }
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
  if (options.some(([value]) => String(value) === before)) select.value = before;
}

function chosenRun() {
  return runs[$("run").value];
}

function fillCheckpoints() {
  const run = chosenRun();
  const label = (step) => `iteration ${step.toLocaleString("en")}`;
  const steps = [...run.checkpoints].reverse();
  const named = steps.length ? [["newest", `newest: ${label(steps[0])}`]] : [];
  if (run.best !== null && steps.includes(run.best)) named.push(["best", `best: ${label(run.best)}`]);
  fill($("checkpoint"), [...named, ...steps.map((step) => [step, label(step)])]);
  $("title").textContent = run.name;
  $("about").textContent = [run.network, run.inputs && `trained on ${run.inputs}`, run.rate && `${run.rate.toLocaleString("en")} Hz`].filter(Boolean).join(", ");
  $("play").disabled = !steps.length;
  showKind(run.kind === "symbols" && !run.rate);
  for (const id of ["temperature", "seed", "another"]) $(id).disabled = !run.random;
  if (!run.random && !playing) showMessage("This network uses no random numbers, so it has neither a temperature nor a seed.");
  if (!steps.length) showMessage("This network has no checkpoint yet.");
}

/** Show the parts of the page for sound, or those for text. */
function showKind(isText) {
  for (const id of ["stage", "loud"]) $(id).hidden = isText;
  $("written").hidden = !isText;
  $("speed-unit").textContent = isText ? "times the writing speed" : "times real time";
  $("buffer-unit").textContent = isText ? "characters" : "seconds";
  $("keep").textContent = isText ? "Save the text" : "Save the last 30 seconds";
}

function chosenStep() {
  const run = chosenRun();
  const which = $("checkpoint").value;
  return which === "newest" ? run.checkpoints.at(-1) : which === "best" ? run.best : Number(which);
}

function showCurve() {
  if (!curve || !runs.length) return;
  const { iteration, mean, val, flac, unit } = curve;
  const last = iteration.at(-1);
  const summary = last === undefined ? "No iteration has been logged yet." : `Iteration ${last.toLocaleString("en")}: training loss ${mean.at(-1).toFixed(2)} ${unit}`;
  const best = val.bits.length ? `, best validation ${Math.min(...val.bits).toFixed(2)}` : "";
  $("curve-text").textContent = summary + best + (last === undefined ? "" : flac ? `, FLAC ${flac.toFixed(2)}.` : ".");
  $("flac-key").hidden = !flac;
  drawCurve($("curve"), curve, playing ? playing.step : chosenStep());
}

// Playing.

function showPlaying() {
  const { checkpoints, name } = chosenRun();
  const newer = $("checkpoint").value === "newest" && checkpoints.at(-1) > playing.step ? " There is a newer checkpoint: stop and play again to use it." : "";
  showMessage(`${playing.isText ? "Writing" : "Playing"} ${name}, iteration ${playing.step.toLocaleString("en")}.${newer}`);
}

/** Return a promise of a connection to the server. */
function connect() {
  if (socket?.readyState <= WebSocket.OPEN) return connected;
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? receiveMessage(JSON.parse(data)) : receivePiece(data));
  connected = new Promise((done, fail) => {
    socket.onopen = done;
    socket.onclose = ({ target }) => {
      fail(new Error("The server cannot be reached: is charrnn-listen still running?"));
      if (target === socket && playing) end("The connection to the server was closed.", true);
    };
  });
  return connected;
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

async function play() {
  const seed = readSeed();
  if (seed === null) return;
  player.stop();
  writer.clear();
  const own = (stream += 1);
  showIsPlaying(true);
  showMessage("Loading the network …");
  const { rate } = chosenRun();
  playing = { step: chosenStep(), rate, isText: !rate, slow: 0 };
  try {
    await Promise.all([connect(), rate && player.open(rate)]);
    await uploads;
    if (start && start.run !== $("run").value) await (start.oscPrime ? readOscStart(start.oscPrime) : upload(start.file));
  } catch (error) {
    if (own === stream) end(error.message, true);
    return;
  }
  if (own !== stream) return;
  const which = $("checkpoint").value;
  send({
    type: "play", stream, run: Number($("run").value), checkpoint: /^\d+$/.test(which) ? Number(which) : which,
    temperature: Number($("temperature").value), seed, start: start ? start.id : null,
  });
}

function end(message = "", isError = false) {
  player.stop();
  writer.stop();
  playing = null;
  stream += 1; // pieces that are still in transit belong to no stream
  send({ type: "stop" });
  showIsPlaying(false);
  for (const id of ["speed", "buffer", "current-temperature"]) $(id).textContent = "–";
  showMessage(message, isError);
  showCurve();
}

/** Handle an OSC message, which the server passes on to all pages. */
function receiveControl({ name, value }) {
  if (name === "temperature" || name === "seed") {
    $(name).value = value;
    $(name)[name === "seed" ? "onchange" : "oninput"]();
  }
  if (name === "stop" && playing) end();
  if (name === "play" && !playing && !$("play").disabled) {
    if (navigator.userActivation.hasBeenActive) play();
    else showMessage("Press Play once: the browser allows sound only after that.", true);
  }
  if (name === "prime") {
    newestPrime = value;
    if (!isReadingPrime) readNewestPrime();
  }
}

async function readNewestPrime() {
  isReadingPrime = true;
  while (newestPrime) {
    const prime = newestPrime;
    newestPrime = null;
    try {
      await readOscStart(prime);
      if (playing) play();
    } catch (error) {
      showMessage(error.message, true);
    }
  }
  isReadingPrime = false;
}

/** Send the temperature after an interval, so that a controller that sends many values does not delay other messages. */
function sendTemperature() {
  if (isTemperatureDue) return;
  isTemperatureDue = true;
  setTimeout(() => {
    isTemperatureDue = false;
    if (playing) send({ type: "temperature", value: Number($("temperature").value) });
  }, SEND_INTERVAL);
}

async function receiveMessage(message) {
  if (message.type === "control") {
    receiveControl(message);
    return;
  }
  if (message.type !== "refused" && (message.stream !== stream || !playing)) return;
  if (message.type === "refused" || message.type === "ended") end(message.why, true);
  if (message.type === "status") {
    $("speed").textContent = message.speed.toFixed(message.speed < 10 ? 2 : 0);
    const wasSlow = playing.slow > 2;
    playing.slow = message.speed < 1 ? playing.slow + 1 : 0;
    if (playing.slow > 2) showMessage("This machine samples the network slower than real time, so there are gaps.");
    else if (wasSlow) showPlaying();
  }
  if (message.type === "text") {
    writer.add(message.text);
    $("current-temperature").textContent = message.temperature.toFixed(2);
  }
  if (message.type === "playing") {
    const { rate, step, isText } = message;
    Object.assign(playing, { rate, step, isText });
    if (!isText) {
      await player.open(rate);
      if (message.stream !== stream) return;
      player.start();
    }
    showPlaying();
    showCurve();
  }
}

writer.onwritten = ({ written, waiting }) => {
  $("keep").disabled = false;
  $("buffer").textContent = waiting;
  $("played").textContent = written.toLocaleString("en");
  send({ type: "played", stream, samples: written });
};

function receivePiece(data) {
  const head = new DataView(data);
  if (head.getUint32(0, true) !== stream || !playing) return;
  player.add({ pcm: new Int16Array(data, 8), temperature: head.getFloat32(4, true) });
}

player.onprogress = (progress) => {
  send({ type: "played", stream, samples: progress.played });
  showProgress(progress, playing.rate);
};

// Starting from a recording.

function upload(file) {
  const uploaded = uploads.then(() => uploadNow(file));
  uploads = uploaded.catch(() => {});
  return uploaded;
}

async function uploadNow(file) {
  const run = $("run").value;
  if (file.size > MAX_UPLOAD) throw new Error(`${file.name} has more than ${MAX_UPLOAD / 1e6} MB: use its last minute.`);
  $("drop-text").textContent = `Reading ${file.name} …`;
  try {
    const { id, seconds } = await request(`/api/start?run=${run}&name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
    start = { file, id, run, seconds };
  } catch (error) {
    $("file").value = ""; // an earlier recording is kept
    throw error instanceof TypeError ? new Error(`${file.name} could not be uploaded: it is too large, or the server has stopped.`) : error;
  } finally {
    showStart();
  }
}

/** Start from the recording that an OSC message named; the server reads it. */
async function readOscStart(prime) {
  const run = $("run").value;
  const { id, seconds } = await request(`/api/osc-start?run=${run}&prime=${prime.number}`, { method: "POST" });
  start = { file: prime, id, run, seconds, oscPrime: prime };
  showStart();
}

function showStart() {
  $("forget").hidden = !start;
  $("drop-text").textContent = start
    ? `The network continues the last ${start.seconds.toFixed(1)} seconds of ${start.file.name}.`
    : "Drop a recording here, or choose one: the network continues its last two seconds.";
}

function forget() {
  start = null;
  $("file").value = "";
  showStart();
}

async function addRecording(file) {
  if (!file || !runs.length) return;
  try {
    await upload(file);
    if (playing) play();
    else showMessage("Ready: the network will continue the recording.");
  } catch (error) {
    showMessage(error.message, true);
  }
}

// Controls.

$("play").onclick = () => (playing ? end() : play());
$("temperature").oninput = () => {
  const value = Number($("temperature").value);
  $("temperature-value").textContent = value.toFixed(2);
  if (playing) sendTemperature();
};
$("run").onchange = () => {
  end();
  fillCheckpoints();
  poll();
};
$("checkpoint").onchange = () => (playing ? play() : showCurve());
setUpSound(player);
setUpSeed(() => playing && play());
$("file").onchange = () => addRecording($("file").files[0]);
$("forget").onclick = () => {
  forget();
  $("file").focus();
  if (playing) play();
};
$("keep").onclick = () => {
  if ($("written").hidden) player.save(`${chosenRun().name}-live.wav`);
  else writer.save(`${chosenRun().name}-live.txt`);
};
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over-it", kind === "dragover");
    if (kind === "drop") addRecording(event.dataTransfer.files[0]);
  });
}
setUpMidi($("midi"), (value) => {
  $("temperature").value = 2 * value;
  $("temperature").oninput();
}, () => $("another").click());
playWithSpace();
addEventListener("resize", showCurve);

$("temperature").oninput();
poll();
setInterval(() => (document.hidden && !hasOsc) || poll(), POLL);
