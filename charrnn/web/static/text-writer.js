import { download } from "./player.js";

const PER_SECOND = 100; // characters
const KEPT = 20000; // characters on the page, and in the file

/** Writer of characters to an element, at a pace at which they can be read. */
export class TextWriter {
  constructor(element) {
    this.element = element;
    this.onwritten = () => {}; // receives { written, waiting } in characters
    this.clear();
    requestAnimationFrame((now) => this.write(now));
  }

  /** Append characters, an array of strings. */
  add(characters) {
    for (const character of characters) this.waiting.push(character);
  }

  /** Drop the characters that were not written. */
  stop() {
    this.waiting = [];
  }

  clear() {
    this.stop();
    this.written = 0;
    this.element.textContent = "";
  }

  /** Save the text that is on the page as a file. */
  save(name) {
    download(new Blob([this.element.textContent], { type: "text/plain;charset=utf-8" }), name);
  }

  write(now) {
    requestAnimationFrame((next) => this.write(next));
    const count = Math.min(this.waiting.length, Math.ceil(((now - this.wroteAt) / 1000) * PER_SECOND) || 1);
    this.wroteAt = now;
    if (!count) return;
    const text = this.element.textContent + this.waiting.splice(0, count).join("");
    this.element.textContent = text.slice(-KEPT).replace(/^[\udc00-\udfff]/, ""); // the second half of a surrogate pair
    this.element.scrollTop = this.element.scrollHeight;
    this.written += count;
    this.onwritten({ written: this.written, waiting: this.waiting.length });
  }
}
