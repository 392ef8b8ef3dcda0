"use strict";
// Plays what it is sent at the rate of the network, and says every moment how far it is.
// It resamples where the browser would not have an AudioContext of that rate.

const BEGIN = 0.12; // seconds that have to be there before it begins, or goes on after it ran dry
const TELL = 0.04; // seconds between reports

class Player extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.rate = processorOptions.rate;
    this.step = this.rate / sampleRate;
    this.pieces = [];
    this.waiting = true;
    this.over = false;
    this.told = 0;
    this.buffered = this.played = this.gaps = this.at = this.phase = 0;
    this.near = [0, 0, 0, 0]; // the samples about the place that is played, for the curve through them
    this.port.onmessage = ({ data }) => {
      if (data === null) this.over = true;
      else {
        this.pieces.push(data);
        this.buffered += data.length;
      }
    };
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

  between() {
    const [a, b, c, d] = this.near;
    const t = this.phase;
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
  }

  process(_, [[output]]) {
    if (this.waiting && this.buffered >= BEGIN * this.rate) this.waiting = false;
    if (!this.waiting) this.fill(output);
    if (currentTime - this.told >= TELL) {
      this.told = currentTime;
      this.port.postMessage({ played: this.played, buffered: this.buffered, gaps: this.gaps });
    }
    return !this.over;
  }

  fill(output) {
    const same = this.step === 1;
    for (let n = 0; n < output.length; n += 1) {
      for (this.phase += same ? 1 : this.step; this.phase >= 1; this.phase -= 1) {
        if (!this.buffered) {
          this.waiting = true;
          this.gaps += 1;
          return;
        }
        this.near.shift();
        this.near.push(this.next());
      }
      output[n] = same ? this.near[3] : this.between();
    }
  }
}

registerProcessor("player", Player);
