/**
 * The trail on a canvas. Delivered positions are a solid line; those that are only on the disk are
 * beads, one for each as far as there is room; those in flight are larger beads; refused ones are
 * crosses. One pass over the positions, without those on the same pixels.
 */

const NEAR_PX = 2;
const APART_PX = 8;
const MARGIN_PX = 20;

/**
 * @param {import("./track.js").Track} track
 * @param {{onTiles: boolean, calm: () => boolean}} how whether it is drawn on tiles,
 *   and whether animation is off
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

/** The runs as indices. Positions in no run were just written, so they are on the disk. */
function stretches(track) {
  const found = [];
  const add = (from, end, place) => {
    if (end <= from) return;
    const last = found.at(-1);
    if (last?.[2] === place) last[1] = end; // between them were rows that are gone
    else found.push([from, end, place]);
  };
  let from = 0;
  for (const [lo, hi, place] of track.runs) {
    const start = track.indexOf(lo);
    const end = track.indexOf(hi + 1);
    add(from, start, "stored");
    add(start, end, place);
    from = Math.max(from, end);
  }
  add(from, track.size, "stored");
  return found;
}

/** One stroke for all parts of a kind: a thousand strokes would cost a frame. */
function drawTrail(view, colour, onTiles) {
  const { context } = view;
  const found = stretches(view.track);
  const of = (wanted) => found.filter(([, , place]) => place === wanted);
  const lines = {};
  const gaps = new Path2D();
  for (const [from, end, place] of found) trace(view, from, end, (lines[place] ??= new Path2D()), gaps);
  context.setLineDash([1, 7]);
  stroke(context, gaps, colour.muted, 1.6);
  context.setLineDash([]);
  if (onTiles) for (const line of Object.values(lines)) stroke(context, line, colour.ground, 8);
  if (lines.delivered) stroke(context, lines.delivered, colour.delivered, 4.5);
  context.globalAlpha = 0.45;
  if (lines.stored) stroke(context, lines.stored, colour.stored, 2);
  if (lines["in-flight"]) stroke(context, lines["in-flight"], colour.flight, 2);
  context.globalAlpha = 1;
  beads(view, of("stored"), colour.stored, 3.1, colour.ground);
  beads(view, of("in-flight"), colour.flight, 3.8, colour.ground);
  crosses(view, of("dead-letter"), colour.dead, colour.ground);
}

/** New arrivals: a blue flash that fades. @returns whether one is still visible */
function drawArrivals(view, colour, now, calm) {
  const arrivals = view.track.justArrived(now);
  if (!arrivals.length || calm) return false;
  for (const { lo, hi, light } of arrivals) {
    const from = view.track.indexOf(lo);
    const end = view.track.indexOf(hi + 1);
    const line = new Path2D();
    trace(view, from, end, line, new Path2D());
    view.context.globalAlpha = light;
    stroke(view.context, line, colour.flight, 4.5);
    view.context.globalAlpha = 0.35 * light;
    stroke(view.context, line, colour.flight, 4.5 + 16 * (1 - light));
    view.context.globalAlpha = 1;
  }
  return true;
}

/** Add the line through these positions and from the one before, and the gaps in it. */
function trace({ track, width, height, worldPx, left, top }, from, end, line, gaps) {
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
    if (pen && !apart(x, y, last, lastY, width, height)) line.lineTo(x, y);
    else line.moveTo(x, y);
    last = x;
    lastY = y;
    pen = true;
  }
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

/** The visible positions of some parts, with some room between two. */
function* seen({ track, width, height, worldPx, left, top }, found) {
  let last = -1e9;
  let lastY = -1e9;
  for (const [from, end] of found) {
    for (let i = from; i < end; i++) {
      const x = track.x[i] * worldPx - left;
      const y = track.y[i] * worldPx - top;
      if (Math.abs(x - last) < APART_PX && Math.abs(y - lastY) < APART_PX) continue;
      last = x;
      lastY = y;
      if (x > -MARGIN_PX && y > -MARGIN_PX && x < width + MARGIN_PX && y < height + MARGIN_PX) {
        yield [x, y];
      }
    }
  }
}

/** A picture at each position: a thousand arcs would cost a frame. */
function stamp(view, found, edge, draw) {
  const picture = document.createElement("canvas");
  picture.width = picture.height = Math.ceil(2 * edge * view.ratio);
  const context = picture.getContext("2d");
  context.scale(view.ratio, view.ratio);
  context.translate(edge, edge);
  draw(context);
  const size = picture.width / view.ratio;
  for (const [x, y] of seen(view, found)) {
    view.context.drawImage(picture, x - edge, y - edge, size, size);
  }
}

function beads(view, found, colour, radius, ground) {
  const edge = radius + 1.5;
  stamp(view, found, edge, (context) => {
    for (const [style, r] of [[ground, edge - 0.2], [colour, radius]]) {
      context.fillStyle = style;
      context.beginPath();
      context.arc(0, 0, r, 0, 2 * Math.PI);
      context.fill();
    }
  });
}

function crosses(view, found, colour, ground) {
  stamp(view, found, 8, (context) => {
    const cross = new Path2D("M-4-4 4 4M4-4-4 4");
    context.lineCap = "round";
    stroke(context, cross, ground, 6);
    stroke(context, cross, colour, 2.6);
  });
}

function stroke(context, path, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}
