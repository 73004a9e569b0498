import assert from "node:assert/strict";
import test from "node:test";

import {
  accuracy, coordinates, disk, endpoint, headline, lostContact, motion, network, receiver, size, span,
} from "../../telemetry_agent/page/static/words.js";
import { angle } from "../../telemetry_agent/page/static/graticule.js";
import { axis, end } from "../../telemetry_agent/page/static/times.js";

const plain = (text) => text.replaceAll("\u00a0", " ");

/** The state of an agent on which all is well, except for the given parts. */
function state({ receiver = {}, upload = {}, queue = {}, network = {}, findings = [] } = {}) {
  return {
    findings,
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
  assert.equal(says({ upload: { delivered: 0 } }), "Recording. Nothing is delivered yet.");
  assert.equal(
    says({ queue: { pending: 4, oldest_pending_s: 3 } }),
    "Recording. Everything is delivered except the newest 4.",
  );
  assert.equal(
    says({ queue: { pending: 1 } }),
    "Recording. Everything is delivered except the newest position.",
  );
  assert.equal(
    says({ queue: { pending: 12_345 } }),
    "Recording. 12,345 positions are on the way from the disk to the endpoint.",
  );
  assert.equal(
    says({ queue: { pending: 87 }, network: { word: "unreachable", since_s: 12 }, upload: { state: "unreachable" } }),
    "Recording. Uploads unreachable for 12 s; 87 positions wait safely on the disk.",
  );
  assert.equal(
    says({ queue: { pending: 1 }, network: { word: "no-route", since_s: 7300 } }),
    "Recording. Uploads no-route for 2 h 2 min; 1 position waits safely on the disk.",
  );
  assert.equal(says({ receiver: { state: "no-fix" } }), "Receiver no-fix for 20 s. Everything is delivered.");
  assert.equal(
    says({ upload: { state: "held" }, queue: { pending: 5 } }),
    "Recording. Uploads held for 2 min; 5 positions wait safely on the disk.",
  );
  const forgets = { name: "file system", verdict: "fail", said: "tmpfs", remedy: "use the card" };
  assert.doesNotMatch(
    says({ upload: { state: "held" }, queue: { pending: 5 }, findings: [forgets] }), /safely/,
  );
  assert.equal(says({ queue: { dead_letters: { "400": 2 } } }), "Recording. Everything else is delivered.");
  assert.equal(
    says({ queue: { dead_letters: { "400": 2 }, pending: 3 } }),
    "Recording. Everything else is delivered except the newest 3.",
  );
  assert.match(lostContact(9000).rest, /9/);
  assert.match(lostContact(9000).more, /last known state/);
  assert.doesNotMatch(lostContact(9000, false).more, /last known state/);
  const { lead, rest } = lostContact(9000, true, "Too many viewers (limit 32): close another window.");
  assert.equal(lead + rest, "Too many viewers (limit 32): close another window.");
});

test("the worst speaks: tone, title, cause and remedy", () => {
  const found = (name, verdict) => ({ name, verdict, said: "the cause", remedy: "the remedy" });
  const cases = [
    // state, tone, sentence, title
    [{ receiver: { state: "absent" }, findings: [found("device", "fail")] }, "bad", /^Receiver absent for 20 s\./, "receiver absent"],
    [{ upload: { state: "held" }, findings: [found("delivery", "fail")] }, "bad", /^Recording\. Uploads held for 2 min/, "held, all delivered"],
    [{ queue: { dead_letters: { "400": 350 } }, findings: [found("queue", "warn")] }, "stored", /^350 positions refused\./, "350 positions refused"],
    [{ queue: { disk_error: "no" }, findings: [found("queue", "fail")] }, "bad", /^Disk refuses\./, "disk refuses"],
    [{ queue: { full: true }, findings: [found("queue", "warn")] }, "stored", /^Queue full\./, "queue full"],
    [{ queue: { lost: { damaged: 1 } }, findings: [found("queue", "warn")] }, "stored", /^Positions lost\./, "positions lost"],
    [{ findings: [found("queue", "warn"), found("file system", "fail")] }, "bad", /^Disk not safe\./, "disk not safe"],
    [{ findings: [found("disk space", "fail")] }, "bad", /^Disk almost full\./, "disk almost full"],
    [{ receiver: { antenna: "OPEN" }, findings: [found("antenna", "fail")] }, "bad", /^Antenna open\./, "antenna open"],
    [{ receiver: { quality: "simulated" }, findings: [found("fix", "warn")] }, "stored", /^Position simulated\./, "position simulated"],
    [{ network: { word: "unreachable" }, upload: { state: "unreachable" }, findings: [found("delivery", "warn")] }, "stored", /^Recording\. Uploads unreachable/, "unreachable, all delivered"],
  ];
  for (const [given, tone, text, title] of cases) {
    const told = headline(state(given));
    assert.equal(told.tone, tone, title);
    assert.match(plain(`${told.lead} ${told.rest}`), text);
    assert.equal(told.title, title);
    assert.match(told.more, /^The cause\. To do: the remedy\./);
  }
  assert.equal(headline(state()).tone, "good");
});

test("the cause of a missing fix needs no name of its check before it", () => {
  const findings = [{ name: "fix", verdict: "fail", said: "none: no satellite is heard", remedy: "" }];
  assert.equal(headline(state({ receiver: { state: "no-fix" }, findings })).more, "No satellite is heard.");
});

test("it is read out anew when it says something else, not when a number grows", () => {
  const away = (pending, since_s) =>
    headline(state({ queue: { pending }, network: { word: "unreachable", since_s } })).kind;
  assert.equal(away(5, 1), away(500, 99));
  assert.notEqual(away(5, 1), headline(state()).kind);
});

test("what the disk refuses does not wait safely on the disk", () => {
  const full = state({ queue: { pending: 266, uncommitted: 245, disk_error: "full" }, network: { word: "unreachable", since_s: 26 } });
  assert.equal(plain(headline(full).rest), "Uploads unreachable for 26 s; 266 positions wait, 245 of them in memory.");
  assert.match(plain(disk(full).caption), /^positions wait, 245 of them in memory ·/);
});

test("what is refused or lost is confessed", () => {
  const more = (queue) => headline(state({ queue })).more;
  assert.equal(
    more({ dead_letters: { "400": 2 }, lost: { memory: 1, damaged: 3, discarded: 5 } }),
    "4 positions were lost: 1 while the disk refused them, 3 damaged on the disk.",
  );
  assert.equal(more({ lost: { discarded: 5 } }), "");
  assert.match(more({ full: true, lost: { thinned: 1 } }), /^1 position was lost: 1 thinned out\.$/);
  assert.equal(more({ carrying_over: true }), "More positions are being carried over from a damaged file.");
});

test("each station has its words and its tone", () => {
  assert.equal(plain(receiver(state()).caption), "8 satellites · 1 a second · for 20 s");
  assert.equal(receiver(state({ receiver: { state: "no-fix", antenna: "OPEN" } })).tone, "bad");
  assert.match(receiver(state({ receiver: { state: "no-fix", antenna: "OPEN" } })).caption, /antenna OPEN/);
  const forgets = [{ name: "state directory", verdict: "fail", said: "", remedy: "" }];
  assert.match(disk(state({ queue: { pending: 2 }, findings: forgets })).caption, /^positions wait ·/);
  assert.match(disk(state({ queue: { pending: 2 } })).caption, /^positions wait safely ·/);
  assert.equal(plain(disk(state()).caption), "nothing waits · 80 GB free");
  assert.equal(receiver(state({ receiver: { state: "wrong-baud" } })).value, "wrong-baud");
  assert.equal(network(state({ network: { word: "no-route" } })).value, "Network no-route");
  assert.equal(network(state({ network: { word: "unreachable" } })).value, "Network unreachable");
  assert.equal(plain(endpoint(state()).caption), "positions delivered · the last just now");
  const nothing = { delivered: 0, last_delivery_s: undefined };
  assert.equal(endpoint(state({ upload: nothing })).caption, "positions delivered");
  const complete = endpoint(state({ upload: { complete_until: "2026-11-23T12:35:19.000Z" } }));
  assert.match(complete.caption, /^positions delivered · complete until 2[34] Nov 2026, \d\d:\d\d · the last/);
  const today = endpoint(state({ upload: { complete_until: new Date().toISOString() } }));
  assert.match(today.caption, /complete until \d\d:\d\d · the last/);
  assert.match(endpoint(state({ upload: { state: "held" } })).caption, /^positions delivered · held for/);
});

test("numbers are said as one says them", () => {
  assert.deepEqual([0, 99.9, 100, 3599, 3600, 7500, 172_800].map((s) => plain(span(s))), [
    "0 s", "99 s", "2 min", "60 min", "1 h", "2 h 5 min", "2 days",
  ]);
  assert.deepEqual([5, 1500, 80e9].map((n) => plain(size(n))), ["5 bytes", "1.5 kB", "80 GB"]);
  assert.equal(plain(coordinates({ lat: -33.86, lon: 151.2 })), "33.86000° S 151.20000° E");
  assert.equal(plain(motion({ speed: 12, course: 359.6 })), "43 km/h N 000°");
  assert.equal(plain(motion({ speed: 0.1, course: 90 })), "0 km/h");
  assert.equal(motion({}), "");
  assert.deepEqual(plain(accuracy({ err_h: 2.04, hdop: 1 }).text), "± 2.0 m");
  assert.match(accuracy({ hdop: 1.5 }).how, /hdop 1.5/);
  assert.equal(accuracy({}), null);
  assert.equal(angle(48 + 7 / 60 + 2 / 3600, 2, "N", "S"), "48°07′02″N");
  assert.equal(angle(-0.5, 1, "E", "W"), "0°30′W");
  assert.equal(angle(0, 0, "N", "S"), "0°");
  assert.equal(angle(-180, 0, "E", "W"), "180°");
});

test("the end of a trip has its day, unless that is the day of the beginning", () => {
  const noon = new Date(2026, 10, 23, 12).getTime();
  assert.equal(end(noon, noon + 3_600_000), "13:00");
  assert.equal(end(noon, noon + 27 * 3_600_000), "Tue, 24 Nov 2026, 15:00");
});

test("no two times at an axis are the same, and the first of each day has its date", () => {
  const begin = new Date(2026, 10, 23, 23, 59).getTime() / 1000;
  const ten = [0, 10, 20].map((s) => begin + s);
  assert.deepEqual(axis(ten), ["23:59:00\nMon, 23 Nov 2026", "23:59:10", "23:59:20"]);
  assert.deepEqual(axis([begin, begin + 60, begin + 120]), ["23:59\nMon, 23 Nov 2026", "00:00\nTue, 24 Nov 2026", "00:01"]);
  assert.deepEqual(axis([begin]), ["23:59\nMon, 23 Nov 2026"]);
  assert.deepEqual(axis([]), []);
});
