// Waveform and spectrogram on the page, and the WAV file of the last seconds.

const SIZE = 512; // samples per spectrum
const LOUD = -20; // dB shown as white, as in the report
const QUIET = -90; // dB shown as black
const HEAT = [[0, 0, 3], [28, 16, 70], [80, 18, 123], [130, 37, 129], [182, 54, 121], [230, 81, 98], [251, 136, 97], [254, 196, 136], [251, 252, 191]]; // matplotlib's magma

const hann = Float32Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));
const twiddles = Array.from({ length: SIZE / 2 }, (_, n) => [Math.cos((2 * Math.PI * n) / SIZE), -Math.sin((2 * Math.PI * n) / SIZE)]);
const bitReversed = Uint16Array.from({ length: SIZE }, (_, n) => {
  let index = 0;
  for (let bit = 1, back = SIZE / 2; bit < SIZE; bit *= 2, back /= 2) if (n & bit) index += back;
  return index;
});
const heat = Uint32Array.from({ length: 256 }, (_, n) => {
  const at = (n / 255) * (HEAT.length - 1);
  const low = HEAT[Math.floor(at)];
  const high = HEAT[Math.min(HEAT.length - 1, Math.floor(at) + 1)];
  const [r, g, b] = low.map((value, k) => Math.round(value + (high[k] - value) * (at % 1)));
  return (255 << 24) | (b << 16) | (g << 8) | r;
});

/** Return the levels (SIZE / 2) of a window of samples in dB relative to a sine at full scale. */
export function decibels(samples) {
  const re = new Float32Array(SIZE);
  const im = new Float32Array(SIZE);
  for (let n = 0; n < SIZE; n += 1) re[bitReversed[n]] = samples[n] * hann[n];
  for (let half = 1; half < SIZE; half *= 2) {
    for (let n = 0; n < half; n += 1) {
      const [cos, sin] = twiddles[(n * SIZE) / (2 * half)];
      for (let a = n; a < SIZE; a += 2 * half) {
        const b = a + half;
        const x = re[b] * cos - im[b] * sin;
        const y = re[b] * sin + im[b] * cos;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
  const gain = 16 / (SIZE * SIZE); // corrects for the window, and for the half of the amplitude at negative frequencies
  return Float32Array.from({ length: SIZE / 2 }, (_, k) => 10 * Math.log10((re[k] * re[k] + im[k] * im[k]) * gain + 1e-12));
}

function createCopy(canvas) {
  const copy = document.createElement("canvas");
  Object.assign(copy, { width: canvas.width, height: canvas.height });
  copy.getContext("2d").drawImage(canvas, 0, 0);
  return copy;
}

/** Scrolling waveform and spectrogram of the last seconds, on two canvases. */
export class Scroll {
  constructor(wave, spectrum, seconds) {
    Object.assign(this, { wave, spectrum, seconds, rate: 11025 });
    this.clear();
  }

  /** Fit the resolution of the canvases to their size, and keep their contents. */
  fit() {
    const dots = Math.min(2, devicePixelRatio || 1);
    for (const canvas of [this.wave, this.spectrum]) {
      const width = Math.max(1, Math.round(canvas.clientWidth * dots));
      const height = Math.max(1, Math.round(canvas.clientHeight * dots));
      if (canvas.width === width && canvas.height === height) continue;
      const before = canvas.width > 1 && createCopy(canvas);
      Object.assign(canvas, { width, height });
      if (before) canvas.getContext("2d").drawImage(before, 0, 0, width, height);
    }
  }

  /** Show silence. */
  clear() {
    this.fit();
    for (const canvas of [this.wave, this.spectrum]) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    const pen = this.wave.getContext("2d");
    pen.fillStyle = "#3a4258";
    pen.fillRect(0, Math.floor(this.wave.height / 2), this.wave.width, 1);
    this.rest = new Float32Array(0);
    this.before = new Float32Array(SIZE);
  }

  /** Set the sampling rate in Hz; sound at another rate is removed. */
  setRate(rate) {
    if (this.rate !== rate) this.clear();
    this.rate = rate;
  }

  /** Append samples, full scale 1, that were played. */
  add(samples) {
    const all = new Float32Array(this.rest.length + samples.length);
    all.set(this.rest);
    all.set(samples, this.rest.length);
    const hop = Math.max(1, (this.seconds * this.rate) / this.wave.width);
    const columns = Math.floor(all.length / hop);
    const used = Math.floor(columns * hop);
    if (columns) this.draw(all, Math.min(this.wave.width, columns), hop, used);
    this.rest = all.slice(used);
  }

  draw(all, columns, hop, used) {
    const pens = [this.wave, this.spectrum].map((canvas) => {
      const pen = canvas.getContext("2d");
      pen.globalCompositeOperation = "copy";
      pen.drawImage(canvas, -columns, 0);
      pen.globalCompositeOperation = "source-over";
      return pen;
    });
    const { width, height } = this.wave;
    const tall = this.spectrum.height;
    const image = pens[1].createImageData(columns, tall);
    const dots = new Uint32Array(image.data.buffer);
    const context = new Float32Array(this.before.length + all.length);
    context.set(this.before);
    context.set(all, this.before.length);
    pens[0].fillStyle = "#8fb6ff";
    for (let column = 0; column < columns; column += 1) {
      const end = used - Math.floor((columns - 1 - column) * hop);
      let low = 1;
      let high = -1;
      for (let n = Math.max(0, Math.floor(end - hop)); n < end; n += 1) {
        low = Math.min(low, all[n]);
        high = Math.max(high, all[n]);
      }
      const top = ((1 - high) / 2) * height;
      pens[0].fillRect(width - columns + column, top, 1, Math.max(1, ((high - low) / 2) * height));
      const levels = decibels(context.subarray(end, end + SIZE));
      for (let y = 0; y < tall; y += 1) {
        const level = levels[Math.floor(((tall - 1 - y) / tall) * levels.length)];
        dots[y * columns + column] = heat[Math.max(0, Math.min(255, Math.round((255 * (level - QUIET)) / (LOUD - QUIET))))];
      }
    }
    pens[1].putImageData(image, width - columns, 0);
    this.before = context.slice(used, used + SIZE);
  }
}

/** The last seconds of the sound that was played, as int16 pieces. */
export class Tape {
  constructor(seconds) {
    Object.assign(this, { seconds, rate: 0, pieces: [], length: 0 });
  }

  /** Append a piece; a piece at another rate replaces all others. */
  add(piece, rate) {
    if (this.rate !== rate) Object.assign(this, { rate, pieces: [], length: 0 });
    this.pieces.push(piece);
    this.length += piece.length;
    while (this.length - this.pieces[0].length >= this.seconds * rate) this.length -= this.pieces.shift().length;
  }

  /** Return a 16-bit mono WAV file. */
  wav() {
    const head = new DataView(new ArrayBuffer(44));
    const write = (at, text) => [...text].forEach((letter, n) => head.setUint8(at + n, letter.charCodeAt(0)));
    write(0, "RIFF");
    head.setUint32(4, 36 + 2 * this.length, true);
    write(8, "WAVEfmt ");
    head.setUint32(16, 16, true);
    head.setUint16(20, 1, true); // PCM
    head.setUint16(22, 1, true);
    head.setUint32(24, this.rate, true);
    head.setUint32(28, 2 * this.rate, true);
    head.setUint16(32, 2, true);
    head.setUint16(34, 16, true);
    write(36, "data");
    head.setUint32(40, 2 * this.length, true);
    return new Blob([head, ...this.pieces], { type: "audio/wav" });
  }
}
