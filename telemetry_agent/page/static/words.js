/** The agent's state in plain words. Pure: state in, texts out. */

import { moment } from "./times.js";
import { speed } from "./units.js";

const NUMBER = new Intl.NumberFormat("en");

/** Fewer than this on the disk is the next batch, not a backlog. */
const NEXT_BATCH_S = 30;
const LONG_S = 300;

/** @param {number} value */
export const count = (value) => NUMBER.format(value);

/** @param {number} number @param {string} noun */
export const many = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A length of time as text: 12 s, 3 min, 2 h 5 min, 4 days. */
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 100) return `${s}\u00a0s`;
  if (s < 3600) return `${Math.round(s / 60)}\u00a0min`;
  const minutes = Math.round(s / 60);
  if (s < 2 * 86400) {
    const rest = minutes % 60;
    return `${Math.floor(minutes / 60)} h${rest ? ` ${rest} min` : ""}`;
  }
  return `${Math.floor(s / 86400)} days`;
}

/** For how long a state has lasted. */
const lasts = (seconds) => (seconds < 1 ? "just now" : `for ${span(seconds)}`);

/** How long ago something was. */
export const ago = (seconds) => (seconds < 2 ? "just now" : `${span(seconds)} ago`);

/** @param {number} bytes */
export function size(bytes) {
  for (const [unit, of] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= of) return `${(bytes / of).toFixed(bytes < 10 * of ? 1 : 0)}\u00a0${unit}`;
  }
  return `${bytes} bytes`;
}

/** @returns {{tone: string, value: string, caption: string}} */
export function receiver(state) {
  const { receiver } = state;
  const well = receiver.state === "2d" || receiver.state === "3d";
  const used = receiver.satellites.filter((satellite) => satellite.used).length || receiver.sats;
  const parts = [];
  if (well) {
    if (used) parts.push(many(used, "satellite"));
    parts.push(pace(receiver.rate_hz));
  } else {
    if (receiver.message) parts.push(receiver.message);
    else if (receiver.state === "no-date") parts.push("sends positions without a date");
    else if (receiver.satellites.length) parts.push(`${many(receiver.satellites.length, "satellite")} in view`);
    else if (receiver.state === "no-fix") parts.push("no satellite in view");
    if (receiver.antenna && receiver.antenna !== "OK") parts.push(`antenna ${receiver.antenna}`);
  }
  parts.push(lasts(receiver.state_s));
  return { tone: well ? "good" : "bad", value: receiver.state, caption: parts.join(" · ") };
}

function pace(hz) {
  if (hz >= 0.95) return `${count(Math.round(hz))} a second`;
  if (hz * 60 >= 0.95) return `${count(Math.round(hz * 60))} a minute`;
  return "standing still";
}

/** The word "safely", unless a power cut loses what is recorded. */
function safely({ findings = [], queue }) {
  if (queue.disk_error) return `, ${count(queue.uncommitted)} of them in memory`;
  return findings.some(({ name }) => name === "state directory" || name === "file system") ? "" : " safely";
}

/** @returns {{tone: string, value: string, caption: string}} */
export function disk(state) {
  const { pending, dead_letters: refused, disk_free_bytes: free } = state.queue;
  const parts = [];
  if (pending) {
    parts.push((pending === 1 ? "position waits" : "positions wait") + safely(state));
    const old = state.queue.oldest_pending_s;
    if (old >= LONG_S) parts.push(`the oldest for ${span(old)}`);
  } else {
    parts.push("nothing waits");
  }
  const dead = total(refused);
  if (dead) parts.push(`${count(dead)} refused`);
  parts.push(`${size(free)} free`);
  return { tone: pending ? "stored" : "good", value: count(pending), caption: parts.join(" · ") };
}

/** @param {Record<string, number>} counts */
export const total = (counts) => Object.values(counts).reduce((sum, n) => sum + n, 0);

/** @returns {{tone: string, value: string, caption: string}} */
export function network(state) {
  const { word, since_s: since } = state.network;
  return { tone: word === "up" ? "good" : "away", value: `Network ${word}`, caption: lasts(since) };
}

/** @returns {{tone: string, value: string, caption: string}} */
export function endpoint(state) {
  const { upload } = state;
  const parts = [upload.delivered === 1 ? "position delivered" : "positions delivered"];
  if (upload.complete_until) parts.push(`complete until ${moment(Date.parse(upload.complete_until))}`);
  if (upload.state !== "ok") parts.push(`${upload.state} ${lasts(upload.state_s)}`);
  else if (upload.last_delivery_s !== undefined) parts.push(`the last ${ago(upload.last_delivery_s)}`);
  const tone = { ok: "good", waiting: "stored", held: "bad" }[upload.state] ?? "away";
  return { tone, value: count(upload.delivered), caption: parts.join(" · ") };
}

/** @typedef {{name: string, verdict: "fail" | "warn", said: string, remedy: string}} Finding */

/** @param {Finding[]} findings @returns {Finding | undefined} the worst; the first of several */
export const worst = (findings = []) =>
  findings.find(({ verdict }) => verdict === "fail") ?? findings[0];

const TONES = { fail: "bad", warn: "stored" };

/**
 * The headline and what goes with it.
 * @returns {{kind: string, tone: string, leadTone: string, lead: string, rest: string,
 *   more: string, title: string}} the tone is that of the worst state; ``kind`` changes when the
 *   meaning of the sentence changes, not when a number in it grows
 */
export function headline(state) {
  const { upload } = state;
  const { pending } = state.queue;
  const recording = receiver(state).tone === "good";
  const bad = worst(state.findings);
  const held = awayWords(state);
  const everything = total(state.queue.dead_letters) ? "Everything else" : "Everything";
  let tone = "good";
  let rest = "";
  let title = pending ? `${count(pending)} waiting` : "all delivered";
  if (held) {
    tone = upload.state === "held" ? "bad" : "stored";
    const where = state.queue.disk_error ? "" : " on the disk";
    rest = pending ? `${held}; ${waits(pending)}${safely(state)}${where}.` : `${held}; nothing waits.`;
    title = `${away(state)}, ${title}`;
  } else if (!pending) {
    rest = upload.delivered ? `${everything} is delivered.` : "Nothing is delivered yet.";
    if (!upload.delivered) [tone, title] = ["idle", "nothing delivered yet"];
  } else if (late(state)) {
    tone = "flight";
    rest = `${many(pending, "position")} ${pending === 1 ? "is" : "are"} on the way from the disk to the endpoint.`;
  } else {
    rest = `${everything} is delivered except the newest ${pending === 1 ? "position" : count(pending)}.`;
  }
  let lead = "Recording.";
  let leadTone = "good";
  if (!recording) {
    lead = `Receiver ${state.receiver.state} ${lasts(state.receiver.state_s)}.`;
    leadTone = tone = "bad";
    title = `receiver ${state.receiver.state}`;
  }
  const named = bad && subject(bad, state);
  if (named) {
    leadTone = TONES[bad.verdict];
    if (recording) [lead, title] = [`${named}.`, named.toLowerCase()];
  }
  if (bad && tone !== "bad") tone = TONES[bad.verdict];
  const more = [];
  if (bad) more.push(sentence(bad));
  const { carrying_over: carrying } = state.queue;
  if (carrying) more.push("More positions are being carried over from a damaged file.");
  const { discarded, ...lost } = state.queue.lost; // the user discarded them
  if (total(lost)) more.push(`${many(total(lost), "position")} ${total(lost) === 1 ? "was" : "were"} lost: ${reasons(lost)}.`);
  if (held && upload.next_attempt_s > 1) more.push(`Next attempt in ${span(upload.next_attempt_s)}.`);
  const found = (state.findings ?? []).map(({ name, verdict }) => name + verdict);
  const kind = [state.receiver.state, held ? state.network.word : "", upload.state, tone, carrying, ...found];
  return { kind: kind.join(), tone, leadTone, lead, rest, more: more.join(" "), title };
}

/** What is wrong, in two or three words; empty if the rest of the sentence says it. */
function subject({ name }, { receiver, queue }) {
  switch (name) {
    case "antenna":
      return receiver.antenna === "SHORT" ? "Antenna short" : "Antenna open";
    case "fix":
      return receiver.quality ? `Position ${receiver.quality}` : "No fix";
    case "config":
      return "Config not used";
    case "state directory":
      return "Disk refuses";
    case "file system":
      return "Disk not safe";
    case "disk space":
      return "Disk almost full";
    case "queue":
      if (queue.disk_error) return "Disk refuses";
      if (queue.full) return "Queue full";
      if (!total(queue.dead_letters)) return "Positions lost";
      return `${many(total(queue.dead_letters), "position")} refused`;
    default:
      return "";
  }
}

/** @param {Finding} finding */
function sentence({ said, remedy }) {
  const text = said.replace(/^none( yet)?: /, ""); // of a check called "fix"
  return ended(text[0].toUpperCase() + text.slice(1)) + (remedy ? ended(` To do: ${remedy}`) : "");
}

/** A sentence with its full stop; a question keeps its mark. */
const ended = (text) => (/[.?!]$/.test(text) ? text : `${text}.`);

const LOST = {
  memory: "while the disk refused them",
  damaged: "damaged on the disk",
  discarded: "discarded",
  thinned: "thinned out",
  dropped: "dropped as the oldest",
  full: "because the queue was full",
  refused: "refused by the endpoint",
  expired: "too old",
  uncounted: "or more, exact number unknown",
};

/** @param {Record<string, number>} counts */
export const reasons = (counts) =>
  Object.entries(counts).map(([reason, n]) => `${count(n)} ${LOST[reason] ?? reason}`).join(", ");

const waits = (pending) => `${many(pending, "position")} ${pending === 1 ? "waits" : "wait"}`;

/** Whether more waits than the next batch takes. */
function late(state) {
  return (state.queue.oldest_pending_s ?? 0) > NEXT_BATCH_S || state.queue.pending > 200;
}

/** The state word for why nothing can be delivered; empty: deliveries work. */
function away({ upload, network }) {
  if (network.word !== "up") return network.word;
  return upload.state === "ok" ? "" : upload.state;
}

/** The same as a part of the sentence. */
function awayWords(state) {
  const word = away(state);
  const since = state.network.word === "up" ? state.upload.state_s : state.network.since_s;
  return word && `Uploads ${word} for ${span(since)}`;
}

/**
 * @param {number} lostMs
 * @param {boolean} seen whether a state is shown
 * @param {string} refusal why the agent does not admit this viewer
 */
export function lostContact(lostMs, seen = true, refusal = "") {
  return {
    kind: `lost ${refusal}`,
    tone: "idle",
    leadTone: "bad",
    lead: refusal || "No contact with the agent",
    rest: refusal ? "" : `for ${span(lostMs / 1000)}.`,
    more: `${seen ? "This is the last known state. " : ""}The page reconnects by itself.`,
  };
}

/** @returns {{text: string, radius_m: number, how: string} | null} */
export function accuracy(position) {
  if (position.err_h !== undefined) {
    const radius = position.err_h;
    return { radius_m: radius, text: `±\u00a0${metres(radius)}`, how: "1 sigma, by the receiver" };
  }
  if (position.hdop !== undefined) {
    const radius = Math.max(1, position.hdop * RANGE_ERROR_M);
    return { radius_m: radius, text: `±\u00a0${metres(radius)}`, how: `about, from hdop ${position.hdop}` };
  }
  return null;
}

const RANGE_ERROR_M = 5; // an estimate, the same as servers are sent (formats/packing.py)

const metres = (m) => (m < 10 ? `${m.toFixed(1)}\u00a0m` : `${Math.round(m)}\u00a0m`);

/** @param {{lat: number, lon: number}} position */
export function coordinates({ lat, lon }) {
  const ns = lat < 0 ? "S" : "N";
  const ew = lon < 0 ? "W" : "E";
  return `${Math.abs(lat).toFixed(5)}°\u00a0${ns} ${Math.abs(lon).toFixed(5)}°\u00a0${ew}`;
}

const WINDS = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];

/** The motion, such as "43 km/h NE 045°"; empty if it is unknown. */
export function motion(position) {
  if (position.speed === undefined) return "";
  const fast = speed(position.speed);
  if (position.course === undefined || position.speed < 0.5) return fast;
  const wind = WINDS[Math.round(position.course / 45) % 8];
  return `${fast} ${wind} ${String(Math.round(position.course) % 360).padStart(3, "0")}°`;
}
