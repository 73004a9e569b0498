/**
 * The trail on a canvas. What is delivered is a solid line; what is only on the disk is beads, one
 * for each position, as far as there is room; what is in flight are larger beads; what was refused
 * is crossed out. Drawn anew for each frame in which something moved: one pass over the positions,
 * of which those that fall on the same pixels are skipped.
 */

import { drawGraticule } from "./graticule.js";
import { Track } from "./track.js";

const TILE = 256;
const NEAR_PX = 1.5;
const BEADS_APART_PX = 8;
const MARGIN_PX = 40;

/** @returns an L.Layer; ``refresh`` says that the track or the colours have changed */
export function trailLayer(track, { graticule, calm }) {
  const Layer = L.Layer.extend({
    onAdd(map) {
      this.canvas = L.DomUtil.create("canvas", "leaflet-zoom-animated trail-canvas");
      this.canvas.setAttribute("aria-hidden", "true");
      map.getPane("overlayPane").prepend(this.canvas);
      map.on("move zoom viewreset resize", this.refresh, this);
      map.on("zoomanim", this._follow, this);
      this.frameMs = [];
      this.refresh();
    },

    onRemove(map) {
      map.off("move zoom viewreset resize", this.refresh, this);
      map.off("zoomanim", this._follow, this);
      this.canvas.remove();
    },

    refresh() {
      this.frame ??= requestAnimationFrame(() => this._draw());
    },

    recolour() {
      this.colours = null;
      this.refresh();
    },

    /** While the map zooms, the picture is stretched; it is drawn anew at the end. */
    _follow(event) {
      const scale = this._map.getZoomScale(event.zoom, this._map.getZoom());
      const at = this._map._latLngToNewLayerPoint(this.corner, event.zoom, event.center);
      L.DomUtil.setTransform(this.canvas, at, scale);
    },

    _draw() {
      this.frame = null;
      const map = this._map;
      if (!map || map._animatingZoom) return; // the end of the zoom asks again
      const began = performance.now();
      const size = map.getSize();
      const context = this._clean(size);
      this.colours ??= colours(map.getContainer());
      if (graticule) drawGraticule(context, { map, size, colours: this.colours });
      const worldPx = TILE * 2 ** map.getZoom();
      const origin = map.getPixelOrigin().add(map.containerPointToLayerPoint([0, 0]));
      const view = { track, context, size, worldPx, left: origin.x, top: origin.y };
      drawTrail(view, this.colours);
      const moving = drawArrivals(view, this.colours, began, calm());
      this.frameMs.push(performance.now() - began);
      if (this.frameMs.length > 120) this.frameMs.shift();
      if (moving) this.refresh();
    },

    _clean(size) {
      const ratio = devicePixelRatio || 1;
      const { canvas } = this;
      if (canvas.width !== size.x * ratio || canvas.height !== size.y * ratio) {
        canvas.width = size.x * ratio;
        canvas.height = size.y * ratio;
        canvas.style.width = `${size.x}px`;
        canvas.style.height = `${size.y}px`;
      }
      this.corner = this._map.containerPointToLatLng([0, 0]);
      L.DomUtil.setTransform(canvas, this._map.containerPointToLayerPoint([0, 0]), 1);
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, size.x, size.y);
      context.lineJoin = "round";
      context.lineCap = "round";
      return context;
    },
  });
  return new Layer();
}

/** The colours of the page as the canvas can use them, in the light or the dark. */
function colours(container) {
  const probe = document.createElement("i");
  container.append(probe);
  const names = ["stored", "flight", "delivered", "dead", "map-line", "map-label", "map-ground", "muted"];
  const found = {};
  for (const name of names) {
    probe.style.color = `var(--${name})`;
    found[name.replace("map-", "")] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
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

function drawTrail(view, colour) {
  const { context, track } = view;
  const found = stretches(track);
  const lines = found.map(([from, end]) => path(view, from, end));
  const gaps = new Path2D();
  for (const line of lines) gaps.addPath(line.gaps);
  context.setLineDash([1, 7]);
  stroke(context, gaps, colour.muted, 1.6);
  context.setLineDash([]);
  for (const line of lines) stroke(context, line.whole, colour.ground, 8);
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
function path({ track, size, worldPx, left, top }, from, end) {
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
    if (pen && !apart(x, y, last, lastY, size)) whole.lineTo(x, y);
    else whole.moveTo(x, y);
    last = x;
    lastY = y;
    pen = true;
  }
  return { whole, gaps };
}

/** Whether the line between two points cannot be seen. */
function apart(x1, y1, x2, y2, size) {
  return (
    (x1 < -MARGIN_PX && x2 < -MARGIN_PX) ||
    (y1 < -MARGIN_PX && y2 < -MARGIN_PX) ||
    (x1 > size.x + MARGIN_PX && x2 > size.x + MARGIN_PX) ||
    (y1 > size.y + MARGIN_PX && y2 > size.y + MARGIN_PX)
  );
}

/** The positions that can be seen, with some room between two. */
function* seen({ track, size, worldPx, left, top }, from, end, apartPx) {
  let last = -1e9;
  let lastY = -1e9;
  for (let i = from; i < end; i++) {
    const x = track.x[i] * worldPx - left;
    const y = track.y[i] * worldPx - top;
    if (Math.abs(x - last) < apartPx && Math.abs(y - lastY) < apartPx) continue;
    last = x;
    lastY = y;
    if (x > -MARGIN_PX && y > -MARGIN_PX && x < size.x + MARGIN_PX && y < size.y + MARGIN_PX) {
      yield [x, y];
    }
  }
}

function beads(view, from, end, colour, radius, ground) {
  const all = new Path2D();
  for (const [x, y] of seen(view, from, end, BEADS_APART_PX)) {
    all.moveTo(x + radius, y);
    all.arc(x, y, radius, 0, 2 * Math.PI);
  }
  stroke(view.context, all, ground, 2.5);
  view.context.fillStyle = colour;
  view.context.fill(all);
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
