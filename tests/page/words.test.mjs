import assert from "node:assert/strict";
import test from "node:test";

import {
  accuracy, coordinates, disk, endpoint, headline, lostContact, motion, network, receiver, size, span,
} from "../../telemetry_agent/page/static/words.js";
import { angle } from "../../telemetry_agent/page/static/graticule.js";

const plain = (text) => text.replaceAll("\u00a0", " ");

/** An agent on which all is well, but for what is given. */
function state({ receiver = {}, upload = {}, queue = {}, network = {} } = {}) {
  return {
    receiver: { state: "3d", state_s: 20, rate_hz: 1, satellites: [], sats: 8, ...receiver },
    upload: { state: "ok", state_s: 100, delivered: 500, last_delivery_s: 1, ...upload },
    queue: { pending: 0, dead_letters: {}, lost: {}, disk_free_bytes: 80e9, ...queue },
    network: { word: "up", since_s: 300, error: "", ...network },
  };
}

const says = (given) => {
  const { lead, rest } = headline(state(given));
  return plain(`${lead} ${rest}`);
};

test("one sentence tells how it is", () => {
  assert.equal(says({}), "Recording. Everything is delivered.");
  assert.equal(says({ upload: { delivered: 0 } }), "Recording. Nothing is recorded yet.");
  assert.equal(
    says({ queue: { pending: 4, oldest_pending_s: 3 } }),
    "Recording. Everything is delivered but the newest 4.",
  );
  assert.equal(
    says({ queue: { pending: 1 } }),
    "Recording. Everything is delivered but the newest position.",
  );
  assert.equal(
    says({ queue: { pending: 12_345 } }),
    "Recording. 12,345 positions are on the way from the disk to the endpoint.",
  );
  assert.equal(
    says({ queue: { pending: 87 }, network: { word: "unreachable", since_s: 12 }, upload: { state: "unreachable" } }),
    "Recording. The network has been away for 12 s; 87 positions wait safely on the disk.",
  );
  assert.equal(
    says({ network: { word: "unreachable", since_s: 12, error: "192.0.2.1: Connection refused" } }),
    "Recording. The endpoint has been down for 12 s; nothing waits.",
  );
  assert.equal(
    says({ queue: { pending: 1 }, network: { word: "no-route", since_s: 7300 } }),
    "Recording. There has been no network for 2 h 2 min; 1 position waits safely on the disk.",
  );
  assert.equal(
    says({ receiver: { state: "no-fix" } }),
    "The receiver sees too little of the sky. Everything is delivered.",
  );
  assert.match(says({ upload: { state: "held" }, queue: { pending: 5 } }), /refused our set-up.*5 positions wait safely/);
  assert.match(says({ upload: { state: "portal" }, queue: { pending: 5 } }), /login page/);
  assert.match(lostContact(9000).rest, /9/);
});

test("it is read out anew when it says something else, not when a number grows", () => {
  const away = (pending, since_s) =>
    headline(state({ queue: { pending }, network: { word: "unreachable", since_s } })).kind;
  assert.equal(away(5, 1), away(500, 99));
  assert.notEqual(away(5, 1), headline(state()).kind);
});

test("what is refused or lost is confessed", () => {
  const more = (queue) => headline(state({ queue })).more;
  assert.equal(
    more({ dead_letters: { "400": 2 }, lost: { memory: 1, damaged: 3, discarded: 5 } }),
    "The endpoint refused 2 positions: see below. 4 positions were lost: 1 while the disk refused them, 3 to damage.",
  );
  assert.equal(more({ lost: { discarded: 5 } }), "");
  assert.match(more({ full: true, lost: { thinned: 1 } }), /^The queue is full: .* 1 position was lost: 1 thinned out\.$/);
  assert.equal(more({ carrying_over: true }), "More is being carried over from a damaged file.");
});

test("each station has its words and its tone", () => {
  assert.equal(plain(receiver(state()).caption), "8 satellites · 1 a second · for 20 s");
  assert.equal(receiver(state({ receiver: { state: "no-fix", antenna: "OPEN" } })).tone, "bad");
  assert.match(receiver(state({ receiver: { state: "no-fix", antenna: "OPEN" } })).caption, /antenna OPEN/);
  assert.equal(plain(disk(state()).caption), "nothing waits · 80 GB free");
  assert.equal(network(state({ network: { word: "no-route" } })).value, "No network");
  const refused = state({ network: { word: "unreachable", error: "192.0.2.1: Connection refused" } });
  assert.equal(network(refused).value, "Endpoint down");
  assert.equal(network({ ...refused, away: true }).value, "Network away"); // the demo's
  assert.equal(plain(endpoint(state()).caption), "positions delivered · the last just now");
  assert.equal(endpoint(state({ upload: { delivered: 0 } })).caption, "positions delivered"); // a report was
  assert.match(endpoint(state({ upload: { state: "held" } })).caption, /refuses our set-up/);
});

test("numbers are said as one says them", () => {
  assert.deepEqual([0, 99.9, 100, 3599, 3600, 7500, 172_800].map((s) => plain(span(s))), [
    "0 s", "99 s", "2 min", "60 min", "1 h", "2 h 5 min", "2 days",
  ]);
  assert.deepEqual([5, 1500, 80e9].map((n) => plain(size(n))), ["5 bytes", "1.5 kB", "80 GB"]);
  assert.equal(plain(coordinates({ lat: -33.86, lon: 151.2 })), "33.86000° S 151.20000° E");
  assert.equal(motion({ speed: 12, course: 359.6 }), "43 km/h N 000°");
  assert.equal(motion({ speed: 0.1, course: 90 }), "0 km/h");
  assert.equal(motion({}), "");
  assert.deepEqual(plain(accuracy({ err_h: 2.04, hdop: 1 }).text), "± 2.0 m");
  assert.match(accuracy({ hdop: 1.5 }).how, /hdop 1.5/);
  assert.equal(accuracy({}), null);
  assert.equal(angle(48 + 7 / 60 + 2 / 3600, 2, "N", "S"), "48°07′02″N");
  assert.equal(angle(-0.5, 1, "E", "W"), "0°30′W");
});
