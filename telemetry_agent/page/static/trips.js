/** Days and trips in a list, and a range to choose. */

import { $, make } from "./dom.js";
import { many, span } from "./words.js";
import { day, end, inputValue, minute } from "./times.js";
import { distance, speed } from "./units.js";

const AGAIN_MS = 15_000;
const LATEST_S = 253_402_300_799; // the agent knows no time after the year 9999
export class TripList {
  /** @param {(range: {since: number, until?: number, label: string} | null) => void} choose */
  constructor(choose) {
    this.choose = choose;
    this.shown = "";
    this.asked = -Infinity;
    $("range").addEventListener("submit", (event) => {
      event.preventDefault();
      const [since, until] = [$("since").value, $("until").value].map((text) =>
        Math.min(Math.max(0, new Date(text).getTime() / 1000), LATEST_S),
      );
      const fault = !(until > since);
      $("range-fault").hidden = !fault;
      if (fault) return;
      this.#select(null, { since, until, label: "Your range" });
    });
    $("all-of-it").addEventListener("click", () => this.#select(null, null));
  }

  /** The range was cleared elsewhere. */
  cleared() {
    this.#mark(null);
  }

  recolour() {
    this.shown = "";
  }

  async show() {
    if (performance.now() - this.asked < (this.complete ? AGAIN_MS : 1500)) return;
    this.asked = performance.now();
    try {
      const answer = await fetch("trips");
      if (answer.ok) this.#list(await answer.json());
    } catch {
      // Contact is lost; the next event asks again.
    }
  }

  #list({ trips, complete, read, stored }) {
    this.complete = complete;
    const note = complete ? "" : `Reading the track: ${Math.floor((100 * read) / Math.max(1, read, stored))} %.`;
    $("trips-note").textContent = note || (trips.length ? "" : "No trip yet. A trip ends when the device parks.");
    const key = JSON.stringify(trips);
    if (key === this.shown) return;
    this.shown = key;
    const days = new Map();
    for (const trip of trips) days.set(day(trip.start_ms), [...(days.get(day(trip.start_ms)) ?? []), trip]);
    const focused = document.activeElement?.dataset?.range;
    $("trips").replaceChildren(...[...days].reverse().map(([name, ofDay]) => this.#day(name, ofDay)));
    if (focused) document.querySelector(`#trips [data-range="${focused}"]`)?.focus();
    this.#mark(this.marked);
    if (!$("since").value && trips.length) {
      $("since").value = inputValue(trips.at(-1).start_ms);
      $("until").value = inputValue(trips.at(-1).end_ms + 60_000);
    }
  }

  #day(name, trips) {
    const [first, last] = [trips[0], trips.at(-1)];
    const way = trips.reduce((sum, trip) => sum + trip.distance_m, 0);
    const range = { since: first.start_ms / 1000, until: last.open ? undefined : last.end_ms / 1000, label: name };
    const head = this.#button(range, name, `${many(trips.length, "trip")}, ${distance(way)}`);
    head.classList.add("day");
    head.dataset.range += " day"; // its first trip begins at the same time
    return make("li", {}, head, make("ul", {}, ...trips.map((trip) => this.#trip(trip)).reverse()));
  }

  #trip(trip) {
    const until = trip.open ? "now" : end(trip.start_ms, trip.end_ms);
    const name = `${minute(trip.start_ms)} – ${until}`;
    const range = {
      since: trip.start_ms / 1000,
      until: trip.open ? undefined : trip.end_ms / 1000,
      label: `${day(trip.start_ms)}, ${name}`,
      facts: facts(trip),
    };
    return make("li", {}, this.#button(range, name, range.facts));
  }

  #button(range, name, more) {
    const onclick = () => this.#select(button.dataset.range, range);
    const button = make("button", { type: "button", onclick }, make("b", {}, name), make("span", {}, more));
    button.dataset.range = `${range.since}`;
    return button;
  }

  #select(mark, range) {
    this.#mark(mark);
    this.choose(range);
  }

  #mark(mark) {
    this.marked = mark;
    for (const button of document.querySelectorAll("#trips button")) {
      button.setAttribute("aria-pressed", String(button.dataset.range === mark));
    }
  }
}

/** The facts of a trip, in a line. */
export function facts({ distance_m, moving_s, standing_s, highest_m_s, stops }) {
  const parts = [distance(distance_m), `${span(moving_s)} moving`];
  if (standing_s >= 60) parts.push(`${span(standing_s)} standing`);
  if (moving_s) parts.push(`average ${speed(distance_m / moving_s)}`);
  if (highest_m_s) parts.push(`highest ${speed(highest_m_s)}`);
  if (stops) parts.push(many(stops, "stop"));
  return parts.join(" · ");
}
