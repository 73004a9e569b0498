/**
 * The positions, and the place of each. As in the agent's queue: positions by row, and their places
 * as runs of rows, so that a few numbers change fifty thousand of them.
 */

/** @typedef {"stored" | "in-flight" | "delivered" | "dead-letter"} Place */
/** @typedef {[lo: number, hi: number, place: Place]} Run */
/** @typedef {{lo: number, hi: number, since: number}} Arrival rows that were delivered just now */

export const POINT_BYTES = 24;
const TURN = 3.6e9;
const NORTHMOST = 85.0511287798; // where a map in Web Mercator ends, as for Leaflet
const ARRIVAL_MS = 1400;
const LIT_FROM = 4;
/** What is known of each position. */
const COLUMNS = {
  rows: Float64Array,
  lat: Int32Array,
  lon: Float64Array, // beyond 180 degrees after the track has crossed the antimeridian
  time: Uint32Array,
  begins: Uint8Array,
  glitch: Uint8Array, // where the device cannot have been: it is drawn, but the view does not follow it
  x: Float64Array, // in Web Mercator: the world is 1 x 1, north and west are 0
  y: Float64Array,
};

export class Track {
  constructor() {
    this.clear();
  }

  clear() {
    this.size = 0;
    /** The row up to which all are known. */
    this.last = 0;
    for (const name in COLUMNS) this[name] = new COLUMNS[name](1024);
    /** @type {Run[]} */
    this.runs = [];
    /** @type {Arrival[]} */
    this.arrivals = [];
    /** Rises with each change. */
    this.version = (this.version ?? 0) + 1;
  }

  /** Drop the positions; the places of the rows stay. */
  restart() {
    const { runs } = this;
    this.clear();
    this.runs = runs;
  }

  /** @param {ArrayBuffer} packed positions as the agent packs them, all newer than those here */
  addPacked(packed) {
    const view = new DataView(packed);
    for (let at = 0; at + POINT_BYTES <= packed.byteLength; at += POINT_BYTES) {
      this.add(
        view.getFloat64(at, true),
        view.getInt32(at + 8, true),
        view.getInt32(at + 12, true),
        view.getUint32(at + 16, true),
        view.getUint32(at + 20, true),
      );
    }
  }

  /** Add a position if it is newer than all; degrees in 1e-7, seconds since 1970. */
  add(row, lat, lon, time, flags) {
    if (this.size && row <= this.rows[this.size - 1]) return;
    if (this.size === this.rows.length) this.#grow();
    const i = this.size;
    this.rows[i] = row;
    this.lat[i] = lat;
    this.lon[i] = this.unbroken(lon);
    this.time[i] = time;
    this.begins[i] = flags & 1;
    this.glitch[i] = (flags >> 1) & 1;
    const seen = Math.max(-NORTHMOST, Math.min(NORTHMOST, lat / 1e7)); // beyond it: at the edge
    const sine = Math.sin(seen * (Math.PI / 180));
    this.x[i] = this.lon[i] / TURN + 0.5;
    this.y[i] = 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI);
    if (row > this.last) this.last = row;
    this.size++;
    this.version++;
  }

  /** That longitude, turned round the world until it is next to the end of the track. */
  unbroken(lon) {
    return this.size ? lon + TURN * Math.round((this.lon[this.size - 1] - lon) / TURN) : lon;
  }

  /** Drop the positions that are older than the agent's oldest row. */
  forgetBefore(row) {
    const gone = this.indexOf(row);
    if (gone < 1000 && !(gone && gone === this.size)) return; // moving everything has its price
    for (const name in COLUMNS) {
      this[name].copyWithin(0, gone, this.size);
    }
    this.size -= gone;
    this.version++;
  }

  /** Drop the rows that are gone, as first and last, ascending. */
  drop(gone) {
    let to = 0;
    let next = 0;
    let begins = 0; // among what is dropped, so with what comes next
    for (let i = 0; i < this.size; i++) {
      begins |= this.begins[i];
      while (next < gone.length && gone[next][1] < this.rows[i]) next++;
      if (next < gone.length && gone[next][0] <= this.rows[i]) continue;
      for (const name in COLUMNS) this[name][to] = this[name][i];
      this.begins[to++] = begins;
      begins = 0;
    }
    this.size = to;
    this.version++;
  }

  /**
   * @param {Run[]} runs where the rows are now, ascending
   * @param {number} now milliseconds
   */
  setRuns(runs, now) {
    if (this.runs.length) {
      const before = this.runs.filter((run) => run[2] === "delivered");
      const after = runs.filter((run) => run[2] === "delivered");
      for (const [lo, hi] of without(after, before)) {
        // A flash for each single position would keep the browser drawing all the time.
        if (hi - lo >= LIT_FROM) this.arrivals.push({ lo, hi, since: now });
      }
    }
    this.runs = runs;
    this.version++;
  }

  /** The rows that were delivered a moment ago, and how new that is: from 1 to 0. */
  justArrived(now) {
    this.arrivals = this.arrivals.filter((arrival) => now - arrival.since < ARRIVAL_MS);
    return this.arrivals.map(({ lo, hi, since }) => ({ lo, hi, light: 1 - (now - since) / ARRIVAL_MS }));
  }

  /** The index of the first position of that row or a later one. */
  indexOf(row) {
    return this.#first((i) => this.rows[i] >= row);
  }

  /** The index of the last position of that second or before. */
  atTime(second) {
    return Math.max(0, this.#first((i) => this.time[i] > second) - 1);
  }

  /** The first index for which this is true; it is true for all behind that. */
  #first(isTrue) {
    let [low, high] = [0, this.size];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isTrue(middle)) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Where the position with that index is. */
  placeOf(index) {
    const row = this.rows[index];
    const run = this.runs.find(([lo, hi]) => lo <= row && row <= hi);
    return run ? run[2] : "stored";
  }

  #grow() {
    for (const name in COLUMNS) {
      const larger = new COLUMNS[name](this[name].length * 2);
      larger.set(this[name]);
      this[name] = larger;
    }
  }
}

/**
 * The rows of some runs that are in none of others; both ascending.
 * @param {Run[]} runs
 * @param {Run[]} others
 * @returns {[number, number][]}
 */
export function without(runs, others) {
  const left = [];
  let next = 0;
  for (const [first, hi] of runs) {
    let lo = first;
    while (next < others.length && others[next][1] < lo) next++;
    for (let i = next; i < others.length && others[i][0] <= hi; i++) {
      if (others[i][0] > lo) left.push([lo, others[i][0] - 1]);
      lo = others[i][1] + 1;
    }
    if (lo <= hi) left.push([lo, hi]);
  }
  return left;
}
