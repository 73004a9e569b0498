/**
 * The agent's events. The feed reconnects by itself, reports when contact is lost, and fetches what
 * an event did not hold. A hidden tab has no connection. If other tabs of this browser use up the
 * connections that it may open, this tab polls.
 */

import { keep, recall } from "./dom.js";
import { POINT_BYTES } from "./track.js";

const LOST_AFTER_MS = 4000;
const AGAIN_MS = 1500;
const POLL_MS = 1000;
const GROWS_TO = 5000; // then it is fetched again, thinned

export class Feed {
  /**
   * @param {import("./track.js").Track} track
   * @param {(state: object) => void} onState called after each event, when the track is up to date
   * @param {(lostMs: number | null, refusal: string) => void} onContact called when contact is
   *   lost, each second while it is, and with null when it is back; the refusal: why the agent does
   *   not admit this viewer
   */
  constructor(track, onState, onContact) {
    this.track = track;
    this.onState = onState;
    this.onContact = onContact;
    this.stream = null;
    this.receivedAt = performance.now();
    this.lost = false;
    this.refusal = "";
    /** @type {string | null} the URL that is fetched now */
    this.fetching = null;
    this.opened = 0;
    /** @type {{since: number, until?: number} | null} the time of the track to show */
    this.range = null;
    /** How exact the track is, in 1e-7 degrees (0: all points are here), and in which box, in degrees. */
    this.detail = { exact: 0, box: null };
    this.grown = 0;
    /** Whether the whole track must be fetched again. */
    this.stale = true;
    /** Whether the agent had read all of it. */
    this.whole = false;
  }

  /** Show this time of the track; null: all of it. */
  choose(range) {
    this.range = range;
    this.detail = { exact: 0, box: null };
    this.#outdated();
    return this.#fetchAll();
  }

  /** Fetch this part of the world with this precision. */
  refine(tolerance, box) {
    return this.#fetchAll({ tolerance, box });
  }

  start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close() : this.#seen()));
    if (!document.hidden) this.#open();
    setInterval(() => this.#watch(), 1000);
  }

  #seen() {
    this.receivedAt = performance.now(); // while the tab was hidden it could not receive anything
    this.#open();
  }

  #close() {
    this.source?.close();
    this.source = null;
    clearInterval(this.polling);
    this.polling = null;
  }

  #open() {
    this.#close();
    this.opened = performance.now();
    this.source = new EventSource(events());
    this.source.addEventListener("poll", () => this.#poll());
    this.source.addEventListener("hello", (event) => {
      this.#outdated(); // what was missed is not known
      this.#receive(JSON.parse(event.data));
    });
    this.source.addEventListener("news", (event) => this.#receive(JSON.parse(event.data)));
  }

  #poll() {
    this.#close();
    const ask = async () => {
      try {
        const answer = await fetch("state");
        const state = await answer.json();
        if (this.polling) this.#receive(state);
      } catch {
        // Silence is judged by the clock.
      }
    };
    this.polling = setInterval(ask, POLL_MS);
    ask();
  }

  /** A stream that hangs looks like a quiet one, so silence is judged by the clock. */
  async #watch() {
    if (document.hidden) return;
    const now = performance.now();
    const silentMs = now - this.receivedAt;
    if (silentMs < LOST_AFTER_MS) return;
    this.lost = true;
    this.onContact(silentMs, this.refusal);
    const closed = this.source?.readyState === EventSource.CLOSED;
    if (now - this.opened < (closed ? AGAIN_MS : 3 * LOST_AFTER_MS)) return;
    this.opened = now;
    this.#close();
    this.refusal = closed ? await refusal() : "";
    this.#open();
  }

  #receive(state) {
    this.receivedAt = performance.now();
    if (this.lost) {
      this.lost = false;
      this.onContact(null);
    }
    if (state.stream !== this.stream) {
      this.stream = state.stream;
      this.#outdated();
      this.track.clear();
    }
    if (state.whole && !this.whole) this.#outdated();
    this.whole = state.whole;
    const past = this.range?.until !== undefined; // nothing new belongs to it
    for (const point of past ? [] : state.points) {
      if (state.after <= this.track.last) this.track.add(...point);
      this.grown++;
    }
    if (past || state.after <= this.track.last) this.track.last = Math.max(this.track.last, state.last);
    if (state.gone) this.track.drop(state.gone);
    if (state.places) this.track.setRuns(state.places, performance.now());
    this.track.forgetBefore(state.first);
    if (this.stale || this.grown > GROWS_TO) this.#fetchAll();
    else if (this.track.last < state.last) {
      this.#load(`trail?planes&after=${this.track.last}`, (packed) => this.track.addPacked(packed)); // what was missed
    }
    this.onState(state);
  }

  #outdated() {
    this.stale = true;
    this.fetching = null; // it was asked for before
  }

  /** Fetch the track, thinned to what can be seen. */
  async #fetchAll(view = {}) {
    const range = this.range;
    const asked = new URLSearchParams({ planes: "", across: "1400" });
    if (range) asked.set("since", range.since);
    if (range?.until !== undefined) asked.set("until", range.until);
    const { tolerance, box } = view;
    if (tolerance) {
      asked.set("tolerance", Math.max(1, Math.round(tolerance)));
      asked.set("box", [box.getSouth(), box.getWest(), box.getNorth(), box.getEast()].map((degrees) => Math.round(degrees * 1e7)));
    }
    await this.#load(`track?${asked}`, (packed, exact) => {
      if (range !== this.range) return;
      this.grown = 0;
      this.stale = false;
      this.detail = { exact, box: box ?? null, asked: tolerance };
      this.track.restart();
      this.track.addPacked(packed);
    });
    this.changed?.();
  }

  async #load(url, take) {
    if (this.fetching === url) return;
    this.fetching = url;
    try {
      const { stream } = this;
      const answer = await fetch(url);
      const packed = interleaved(await answer.arrayBuffer());
      if (!answer.ok || stream !== this.stream) return;
      take(packed, Number(answer.headers.get("X-Tolerance")));
      this.track.last = Math.max(this.track.last, Number(answer.headers.get("X-Last-Row")));
    } catch {
      // The next event asks again.
    } finally {
      if (this.fetching === url) this.fetching = null;
    }
  }
}

/** Points that came with all first bytes first, then all second ones: gzip packs that better. */
function interleaved(planes) {
  const from = new Uint8Array(planes);
  const to = new Uint8Array(from.length);
  const count = from.length / POINT_BYTES;
  for (let i = 0, at = 0; at < from.length; i++) {
    for (let byte = 0; byte < POINT_BYTES; byte++) to[at++] = from[byte * count + i];
  }
  return to.buffer;
}

/** The stream of events, with an id that is the same in all tabs of this browser. */
function events() {
  const id = recall("browser") ?? Math.random().toString(36).slice(2);
  keep("browser", id);
  return `events?browser=${id}`;
}

/** Why the agent refused a stream, which an EventSource does not say. Shows the login if that is why. */
async function refusal() {
  try {
    const answer = await fetch(events());
    if (answer.status === 401) location.reload();
    const fromAgent = answer.headers.get("Content-Type").startsWith("text/plain"); // else from a proxy
    if (!answer.ok && fromAgent) return await answer.text();
    answer.body.cancel();
  } catch {
    // There is no contact.
  }
  return "";
}

/**
 * Ask the agent to do something.
 * @returns {Promise<object>} its answer
 * @throws {Error} with its message
 */
export async function post(path, asked) {
  const answer = await fetch(path, { method: "POST", body: JSON.stringify(asked) }).catch(() => {
    throw new Error("no contact with the agent");
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
