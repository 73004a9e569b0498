/** The strip on the map: the chosen time, and a slider along it. */

import { $ } from "./dom.js";
import { local, utc } from "./times.js";

const STEP_MS = 120;
const WHOLE_MS = 30_000;
export class Playback {
  /**
   * @param {import("./track.js").Track} track
   * @param {(index: number | null) => void} moved shows the position with that index
   * @param {() => void} closed
   */
  constructor(track, moved, closed) {
    this.track = track;
    this.moved = moved;
    this.timer = null;
    const strip = $("strip"); // scale and attribution of the map are above it
    new ResizeObserver(() => strip.parentElement.style.setProperty("--strip", `${strip.offsetHeight}px`)).observe(strip);
    $("slider").addEventListener("input", () => this.#to(Number($("slider").value)));
    $("play").addEventListener("click", () => (this.timer ? this.#pause() : this.#play()));
    $("strip-close").addEventListener("click", () => {
      this.close();
      closed();
    });
  }

  /** @param {{label: string, facts?: string}} range */
  open(range) {
    this.#pause();
    this.moved(null);
    const slider = $("slider");
    slider.max = slider.min; // it begins at the end of the new time
    $("strip").hidden = false;
    $("strip-label").textContent = range.label;
    $("strip-facts").textContent = range.facts ?? "";
    this.update();
  }

  close() {
    this.#pause();
    $("strip").hidden = true;
    this.moved(null);
  }

  /** The track has changed. */
  update() {
    if ($("strip").hidden) return;
    const { size, time } = this.track;
    const slider = $("slider");
    slider.disabled = $("play").disabled = size < 2;
    if (size < 2) {
      $("strip-time").textContent = "No position in this time.";
      return;
    }
    const [first, last] = [time[0], time[size - 1]];
    const atEnd = slider.value === slider.max;
    slider.min = String(first);
    slider.max = String(last); // the browser moves the value between them
    if (atEnd) slider.value = String(last);
    if (!this.timer) this.#words(Number(slider.value));
  }

  #play() {
    const slider = $("slider");
    if (slider.value === slider.max) slider.value = slider.min;
    $("play").setAttribute("aria-pressed", "true");
    $("play").lastElementChild.textContent = "Pause";
    let at = Number(slider.value);
    this.timer = setInterval(() => {
      at += ((slider.max - slider.min) * STEP_MS) / WHOLE_MS;
      slider.value = String(at);
      this.#to(at);
      if (at >= Number(slider.max)) this.#pause();
    }, STEP_MS);
  }

  #pause() {
    clearInterval(this.timer);
    this.timer = null;
    $("play").setAttribute("aria-pressed", "false");
    $("play").lastElementChild.textContent = "Play";
  }

  #to(second) {
    this.#words(second);
    this.moved(this.track.size ? this.track.atTime(second) : null); // it is fetched again after a restart
  }

  #words(second) {
    $("strip-time").textContent = local(second * 1000);
    $("strip-time").title = utc(second * 1000);
    $("slider").setAttribute("aria-valuetext", local(second * 1000));
  }
}
