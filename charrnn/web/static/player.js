import { Scroll, Tape } from "./draw.js";

const SAVED_SECONDS = 30;
const START_TIMEOUT = 5000; // milliseconds
const FRAME_INTERVAL = matchMedia("(prefers-reduced-motion: reduce)").matches ? 500 : 30; // milliseconds between updates of the canvases
export const SHOWN_SECONDS = 8; // on the canvases

/** Player of pieces of sound, which draws what was played on two canvases and keeps its last seconds. */
export class Player {
  constructor(wave, spectrum, worklet) {
    this.scroll = new Scroll(wave, spectrum, SHOWN_SECONDS);
    this.tape = new Tape(SAVED_SECONDS);
    this.worklet = worklet; // URL of player-worklet.js
    this.audio = null; // { context, gain, rate }
    this.volume = 0; // gain, 0 to 1
    this.onprogress = () => {}; // receives { played, buffered, gaps, piece } in samples; the piece is the newest played
    this.drawn = 0; // time of the last update of the canvases in milliseconds
    this.undrawn = []; // samples that were played and are not drawn yet, in pieces
    this.undrawnLength = 0;
    this.stop();
    addEventListener("resize", () => this.scroll.fit());
    requestAnimationFrame((now) => this.draw(now));
  }

  /** Open the sound output for a rate in Hz. */
  async open(rate) {
    if (this.audio && this.audio.rate === rate && this.audio.context.state !== "closed") return resume(this.audio.context);
    if (!globalThis.AudioWorkletNode) throw new Error("This browser plays sound only on pages that are opened from disk, or served over HTTPS or from localhost.");
    this.audio?.context.close();
    let context;
    try {
      context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    } catch { // the browser does not support the rate, so the worklet resamples
      context = new AudioContext({ latencyHint: "interactive" });
    }
    const gain = new GainNode(context, { gain: this.volume });
    gain.connect(context.destination);
    this.audio = { context, gain, rate };
    await context.audioWorklet.addModule(this.worklet);
    return resume(context);
  }

  /** Set the volume, 0 to 100. */
  setVolume(percent) {
    this.volume = (percent / 100) ** 2;
    this.audio?.gain.gain.setTargetAtTime(this.volume, this.audio.context.currentTime, 0.02);
  }

  /** Start to play pieces at the rate of the open output; if it is held, they are buffered until `hold(false)`. */
  start(isHeld = false) {
    const { context, gain, rate } = this.audio;
    this.scroll.setRate(rate);
    const options = { numberOfInputs: 0, outputChannelCount: [1], processorOptions: { rate, isHeld } };
    this.node = new AudioWorkletNode(context, "player", options);
    this.node.connect(gain);
    this.node.port.onmessage = ({ data }) => this.handleProgress(data);
  }

  /** Append a piece: an object with its samples as int16 in `pcm`. */
  add(piece) {
    const samples = Float32Array.from(piece.pcm, (value) => value / 32768);
    this.pieces.push(Object.assign(piece, { samples, used: 0 }));
    this.node.port.postMessage({ samples });
  }

  /** Hold playback, or let it go on; no sample is lost. */
  hold(isHeld) {
    this.node.port.postMessage({ isHeld });
  }

  /** Stop, and drop the pieces that were not played. */
  stop() {
    if (this.node) {
      this.node.port.onmessage = null;
      this.node.port.postMessage({ isEnd: true });
      this.node.disconnect();
    }
    this.audio?.context.suspend();
    this.node = null;
    this.pieces = [];
    this.played = 0;
  }

  /** Save the last seconds as a WAV file. */
  save(name) {
    download(this.tape.wav(), name);
  }

  /** Handle a progress report of the worklet. */
  handleProgress({ played, buffered, gaps }) {
    let newest = null;
    while (this.played < played && this.pieces.length) {
      const [piece] = this.pieces;
      const count = Math.min(played - this.played, piece.pcm.length - piece.used);
      this.addUndrawn(piece.samples.subarray(piece.used, piece.used + count));
      this.tape.add(piece.pcm.subarray(piece.used, piece.used + count), this.audio.rate);
      piece.used += count;
      this.played += count;
      newest = piece;
      if (piece.used === piece.pcm.length) this.pieces.shift();
    }
    this.onprogress({ played, buffered, gaps, piece: newest });
  }

  /** Append samples to draw. A page in the background is not drawn, so only those that the canvases can show are kept. */
  addUndrawn(samples) {
    this.undrawn.push(samples);
    this.undrawnLength += samples.length;
    while (this.undrawnLength - this.undrawn[0].length > SHOWN_SECONDS * this.scroll.rate) this.undrawnLength -= this.undrawn.shift().length;
  }

  draw(now) {
    requestAnimationFrame((next) => this.draw(next));
    if (!this.undrawnLength || now - this.drawn < FRAME_INTERVAL) return;
    this.drawn = now;
    const samples = new Float32Array(this.undrawnLength);
    this.undrawn.reduce((at, one) => (samples.set(one, at), at + one.length), 0);
    this.undrawn = [];
    this.undrawnLength = 0;
    this.scroll.add(samples.subarray(Math.max(0, samples.length - SHOWN_SECONDS * this.scroll.rate)));
  }
}

/** Start an AudioContext. Browsers without a sound output wait for one without an end. */
function resume(context) {
  const timeout = new Promise((_, reject) => {
    setTimeout(() => reject(new Error("The browser found no sound output: connect one, and press Play again.")), START_TIMEOUT);
  });
  return Promise.race([context.resume(), timeout]);
}

/** Let the browser download a blob as a file. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
