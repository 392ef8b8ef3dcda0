// Controls and figures of player.html, which published pages and the listening page have in common.

import { SHOWN_SECONDS } from "./player.js";

export const $ = (id) => document.getElementById(id);

export function showMessage(text, isError = false) {
  if ($("message").textContent !== text) $("message").textContent = text;
  $("message").classList.toggle("wrong", isError);
}

/** Show whether something plays, on the button that starts and stops it. */
export function showIsPlaying(isPlaying) {
  $("play").setAttribute("aria-pressed", String(isPlaying));
  $("play-label").textContent = isPlaying ? "Stop" : "Play";
}

/** Show the progress of playback at a rate in Hz, which `Player.onprogress` receives. */
export function showProgress({ played, buffered, gaps, piece }, rate) {
  if (piece) {
    $("keep").disabled = false;
    $("current-temperature").textContent = piece.temperature.toFixed(2);
  }
  $("buffer").textContent = (buffered / rate).toFixed(2);
  $("gaps").textContent = gaps;
  $("played").textContent = `${(played / rate).toFixed(1)} s`;
  $("top").textContent = `0 to ${(rate / 2000).toFixed(1)} kHz, louder is brighter`;
}

/** Let the slider set the volume of a player; show how many seconds its canvases hold. */
export function setUpSound(player) {
  $("volume").oninput = () => {
    $("volume-value").textContent = `${$("volume").value} %`;
    player.setVolume(Number($("volume").value));
  };
  $("volume").oninput();
  $("oldest").textContent = `${SHOWN_SECONDS} seconds ago`;
}

/** Return the seed; if what was entered is none, show that and return null. */
export function readSeed() {
  const text = $("seed").value;
  const seed = /^\d+$/.test(text) ? Number(text) : NaN;
  if (Number.isSafeInteger(seed)) return seed;
  showMessage(`The seed is ${text || "not a number"}: enter a whole number from 0 to ${Number.MAX_SAFE_INTEGER}.`, true);
  return null;
}

/** Call a function when the seed was changed, by the input or the button for a random one. */
export function setUpSeed(onchange) {
  $("seed").onchange = onchange;
  $("another").onclick = () => {
    $("seed").value = Math.floor(Math.random() * 1e6);
    onchange();
  };
}

/** Let the space bar start and stop, unless it is used by the element that has the focus. */
export function playWithSpace() {
  addEventListener("click", (event) => {
    if (event.detail) event.target.closest("button")?.blur(); // the mouse does not leave the focus on a button
  });
  addEventListener("keydown", (event) => {
    const usesSpace = event.target.closest("button, select, summary, a, input:not([type=range])");
    if (event.key === " " && !usesSpace && !$("play").disabled) {
      event.preventDefault();
      $("play").click();
    }
  });
}
