import assert from "node:assert/strict";
import test from "node:test";

import { Track, without } from "../../telemetry_agent/page/static/track.js";

function packed(points) {
  const view = new DataView(new ArrayBuffer(points.length * 24));
  points.forEach(([row, lat, lon, time, begins], i) => {
    view.setFloat64(i * 24, row, true);
    view.setInt32(i * 24 + 8, lat, true);
    view.setInt32(i * 24 + 12, lon, true);
    view.setUint32(i * 24 + 16, time, true);
    view.setUint32(i * 24 + 20, begins, true);
  });
  return view.buffer;
}

const point = (row) => [row, -338_600_000, 1_512_000_000, 1_795_435_200 + row, 0];

test("positions come packed or one by one, and each counts once", () => {
  const track = new Track();
  track.addPacked(packed([1, 2, 4].map(point)));
  track.add(...point(4));
  track.add(...point(3));
  track.add(...point(5));
  assert.deepEqual([...track.rows.slice(0, track.size)], [1, 2, 4, 5]);
  assert.equal(track.lat[0], -338_600_000);
  assert.equal(track.time[3], 1_795_435_205);
  assert.equal(track.last, 5);
});

test("the world is a square from north-west to south-east", () => {
  const track = new Track();
  track.add(1, 0, 0, 0, 0);
  track.add(2, 850_511_287, -1_799_999_999, 0, 0);
  assert.deepEqual([track.x[0], track.y[0]], [0.5, 0.5]);
  assert.ok(Math.abs(track.x[1]) < 1e-9 && Math.abs(track.y[1]) < 1e-6);
});

test("what is nearer to a pole than the map reaches is at its edge", () => {
  const track = new Track();
  track.add(1, 899_990_000, 0, 0, 0);
  track.add(2, 900_000_000, 0, 0, 0);
  track.add(3, -900_000_000, 0, 0, 0);
  assert.deepEqual([...track.y.slice(0, 3)].map((y) => Math.round(y * 1e6)), [0, 0, 1e6]);
});

test("a track over the antimeridian is one", () => {
  const track = new Track();
  for (const [row, lon] of [[1, 179.9], [2, -179.9], [3, -179.8], [4, 179.95]]) {
    track.add(row, 0, lon * 1e7, 0, 0);
  }
  assert.deepEqual([...track.lon.slice(0, 4)], [179.9e7, 180.1e7, 180.2e7, 179.95e7]);
  assert.ok(track.x[1] > track.x[0] && track.x[1] - track.x[0] < 0.001);
  assert.equal(track.unbroken(-179.99e7), 180.01e7);
});

test("what is gone is dropped, and a segment begins with what is left of it", () => {
  const track = new Track();
  for (let row = 1; row <= 9; row++) track.add(row, 0, 0, row, row === 3 ? 1 : 0);
  track.drop([[2, 3], [4, 4], [8, 8]]);
  assert.deepEqual([...track.rows.slice(0, track.size)], [1, 5, 6, 7, 9]);
  assert.deepEqual([...track.begins.slice(0, track.size)], [0, 1, 0, 0, 0]);
  track.setRuns([[1, 9, "stored"]], 0);
  track.restart();
  assert.deepEqual([track.size, track.last, track.runs.length], [0, 0, 1]);
});

test("many are no trouble, and the oldest are dropped together", () => {
  const track = new Track();
  for (let row = 1; row <= 60_000; row++) track.add(...point(row));
  track.forgetBefore(500);
  assert.equal(track.size, 60_000);
  track.forgetBefore(10_001);
  assert.equal(track.size, 50_000);
  assert.equal(track.rows[0], 10_001);
  assert.equal(track.indexOf(10_003), 2);
});

test("each position is where its run says, and what belongs to none is on the disk", () => {
  const track = new Track();
  for (let row = 1; row <= 9; row++) track.add(...point(row));
  track.setRuns([[1, 3, "delivered"], [4, 4, "dead-letter"], [5, 8, "in-flight"]], 0);
  const found = [0, 3, 4, 8].map((index) => track.placeOf(index));
  assert.deepEqual(found, ["delivered", "dead-letter", "in-flight", "stored"]);
});

test("what was delivered just now is news for a moment", () => {
  const track = new Track();
  track.setRuns([[1, 3, "delivered"], [4, 9, "stored"]], 0);
  assert.deepEqual(track.justArrived(0), []); // it was delivered before
  track.setRuns([[1, 8, "delivered"], [9, 9, "stored"]], 100);
  assert.deepEqual(track.justArrived(200).map(({ lo, hi }) => [lo, hi]), [[4, 8]]);
  assert.ok(track.justArrived(200)[0].light > track.justArrived(900)[0].light);
  assert.deepEqual(track.justArrived(5000), []);
  track.setRuns([[1, 9, "delivered"]], 6000);
  assert.deepEqual(track.justArrived(6000), []); // a single position has no highlight
});

test("runs without other runs", () => {
  assert.deepEqual(without([[1, 9]], []), [[1, 9]]);
  assert.deepEqual(without([[1, 9]], [[1, 9]]), []);
  assert.deepEqual(without([[1, 9], [20, 30]], [[0, 2], [4, 4], [8, 22], [25, 40]]), [[3, 3], [5, 7], [23, 24]]);
});
