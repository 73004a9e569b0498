/**
 * The trail on a canvas. What is delivered is a solid line; what is only on the disk is beads, one
 * for each position, as far as there is room; what is in flight are larger beads; what was refused
 * is crossed out. One pass over the positions, of which those on the same pixels are skipped.
 */

import { Track } from "./track.js";

const NEAR_PX = 2;
const BEADS_APART_PX = 8;
const MARGIN_PX = 20;

/**
 * @param {Track} track
 * @param {{onTiles: boolean, calm: () => boolean}} how whether it lies on a map of many colours,
 *   and whether nothing may move
 * @returns what paints a canvas layer
 */
export function trailPainter(track, { onTiles, calm }) {
  return (context, view, colours) => {
    context.lineJoin = "round";
    context.lineCap = "round";
    const seen = { track, context, ...view };
    drawTrail(seen, colours, onTiles);
    return drawArrivals(seen, colours, performance.now(), calm());
  };
}

/** The runs as indices of positions, with what belongs to none: just written, so on the disk. */
function stretches(track) {
  const found = [];
  let from = 0;
  for (const [lo, hi, place] of track.runs) {
    const start = track.place(lo);
    const end = track.place(hi + 1);
    if (start > from) found.push([from, start, "stored"]);
    if (end > start) found.push([start, end, place]);
    from = Math.max(from, end);
  }
  if (from < track.size) found.push([from, track.size, "stored"]);
  return found;
}

function drawTrail(view, colour, onTiles) {
  const { context, track } = view;
  const found = stretches(track);
  const lines = found.map(([from, end]) => path(view, from, end));
  const gaps = new Path2D();
  for (const line of lines) gaps.addPath(line.gaps);
  context.setLineDash([1, 7]);
  stroke(context, gaps, colour.muted, 1.6);
  context.setLineDash([]);
  if (onTiles) for (const line of lines) stroke(context, line.whole, colour.ground, 8);
  found.forEach(([, , place], i) => {
    if (place === "delivered") stroke(context, lines[i].whole, colour.delivered, 4.5);
    else if (place === "stored" || place === "in-flight") {
      context.globalAlpha = 0.45;
      stroke(context, lines[i].whole, place === "stored" ? colour.stored : colour.flight, 2);
      context.globalAlpha = 1;
    }
  });
  for (const [from, end, place] of found) {
    if (place === "stored") beads(view, from, end, colour.stored, 3.1, colour.ground);
    if (place === "in-flight") beads(view, from, end, colour.flight, 3.8, colour.ground);
  }
  for (const [from, end, place] of found) {
    if (place === "dead-letter") crosses(view, from, end, colour.dead, colour.ground);
  }
}

/** What has just arrived: a blue light that goes out. @returns whether it is still there */
function drawArrivals(view, colour, now, calm) {
  const arrivals = view.track.justArrived(now);
  if (!arrivals.length || calm) return false;
  for (const arrival of arrivals) {
    const from = view.track.place(arrival.lo);
    const end = view.track.place(arrival.hi + 1);
    const light = Track.freshness(arrival, now);
    view.context.globalAlpha = light;
    stroke(view.context, path(view, from, end).whole, colour.flight, 4.5);
    view.context.globalAlpha = 0.35 * light;
    stroke(view.context, path(view, from, end).whole, colour.flight, 4.5 + 16 * (1 - light));
    view.context.globalAlpha = 1;
  }
  return true;
}

/** The line through these positions and from the one before, and the gaps in it. */
function path({ track, width, height, worldPx, left, top }, from, end) {
  const whole = new Path2D();
  const gaps = new Path2D();
  const { x: xs, y: ys, begins } = track;
  let last = -1e9;
  let lastY = -1e9;
  let pen = false;
  const first = from > 0 ? from - 1 : from;
  for (let i = first; i < end; i++) {
    const x = xs[i] * worldPx - left;
    const y = ys[i] * worldPx - top;
    if (i > first && begins[i]) {
      gaps.moveTo(xs[i - 1] * worldPx - left, ys[i - 1] * worldPx - top);
      gaps.lineTo(x, y);
      pen = false;
    } else if (pen && i < end - 1 && Math.abs(x - last) < NEAR_PX && Math.abs(y - lastY) < NEAR_PX) {
      continue;
    }
    if (pen && !apart(x, y, last, lastY, width, height)) whole.lineTo(x, y);
    else whole.moveTo(x, y);
    last = x;
    lastY = y;
    pen = true;
  }
  return { whole, gaps };
}

/** Whether the line between two points cannot be seen. */
function apart(x1, y1, x2, y2, width, height) {
  return (
    (x1 < -MARGIN_PX && x2 < -MARGIN_PX) ||
    (y1 < -MARGIN_PX && y2 < -MARGIN_PX) ||
    (x1 > width + MARGIN_PX && x2 > width + MARGIN_PX) ||
    (y1 > height + MARGIN_PX && y2 > height + MARGIN_PX)
  );
}

/** The positions that can be seen, with some room between two. */
function* seen({ track, width, height, worldPx, left, top }, from, end, apartPx) {
  let last = -1e9;
  let lastY = -1e9;
  for (let i = from; i < end; i++) {
    const x = track.x[i] * worldPx - left;
    const y = track.y[i] * worldPx - top;
    if (Math.abs(x - last) < apartPx && Math.abs(y - lastY) < apartPx) continue;
    last = x;
    lastY = y;
    if (x > -MARGIN_PX && y > -MARGIN_PX && x < width + MARGIN_PX && y < height + MARGIN_PX) {
      yield [x, y];
    }
  }
}

/** Each bead is a copy of one picture: a thousand arcs would cost a frame. */
function beads(view, from, end, colour, radius, ground) {
  const edge = radius + 1.5;
  const bead = document.createElement("canvas");
  bead.width = bead.height = Math.ceil(2 * edge * view.ratio);
  const picture = bead.getContext("2d");
  picture.scale(view.ratio, view.ratio);
  for (const [style, r] of [[ground, edge - 0.2], [colour, radius]]) {
    picture.fillStyle = style;
    picture.beginPath();
    picture.arc(edge, edge, r, 0, 2 * Math.PI);
    picture.fill();
  }
  const size = bead.width / view.ratio;
  for (const [x, y] of seen(view, from, end, BEADS_APART_PX)) {
    view.context.drawImage(bead, x - edge, y - edge, size, size);
  }
}

function crosses(view, from, end, colour, ground) {
  const all = new Path2D();
  for (const [x, y] of seen(view, from, end, BEADS_APART_PX)) {
    all.moveTo(x - 4, y - 4);
    all.lineTo(x + 4, y + 4);
    all.moveTo(x + 4, y - 4);
    all.lineTo(x - 4, y + 4);
  }
  stroke(view.context, all, ground, 6);
  stroke(view.context, all, colour, 2.6);
}

function stroke(context, path, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}
