"use strict";
// Plays pieces of samples at the rate of the network, and reports its progress.
// Resamples if the browser does not support an AudioContext of that rate.

const MIN_BUFFER = 0.12; // seconds that are buffered before playback starts, and after a gap
const REPORT_INTERVAL = 0.04; // seconds

class Player extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.rate = processorOptions.rate;
    this.step = this.rate / sampleRate;
    this.pieces = [];
    this.isHeld = processorOptions.isHeld;
    this.waiting = true;
    this.ended = false;
    this.reported = 0;
    this.buffered = this.played = this.gaps = this.at = this.phase = 0;
    this.around = [0, 0, 0, 0]; // samples around the playback position, for cubic interpolation
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  /** Append samples, hold playback or let it go on, or end. */
  receive({ samples, isHeld, isEnd }) {
    if (samples) {
      this.pieces.push(samples);
      this.buffered += samples.length;
    }
    if (isHeld !== undefined) {
      this.isHeld = isHeld;
      this.waiting = true;
    }
    if (isEnd) this.ended = true;
  }

  next() {
    const [piece] = this.pieces;
    const value = piece[this.at];
    this.at += 1;
    this.buffered -= 1;
    this.played += 1;
    if (this.at === piece.length) {
      this.pieces.shift();
      this.at = 0;
    }
    return value;
  }

  interpolate() {
    const [a, b, c, d] = this.around;
    const t = this.phase;
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
  }

  process(_, [[output]]) {
    if (this.waiting && !this.isHeld && this.buffered >= MIN_BUFFER * this.rate) this.waiting = false;
    if (!this.waiting) this.fill(output);
    if (currentTime - this.reported >= REPORT_INTERVAL) {
      this.reported = currentTime;
      this.port.postMessage({ played: this.played, buffered: this.buffered, gaps: this.gaps });
    }
    return !this.ended;
  }

  fill(output) {
    const isSameRate = this.step === 1;
    for (let n = 0; n < output.length; n += 1) {
      for (this.phase += isSameRate ? 1 : this.step; this.phase >= 1; this.phase -= 1) {
        if (!this.buffered) {
          this.waiting = true;
          this.gaps += 1;
          return;
        }
        this.around.shift();
        this.around.push(this.next());
      }
      output[n] = isSameRate ? this.around[3] : this.interpolate();
    }
  }
}

registerProcessor("player", Player);
