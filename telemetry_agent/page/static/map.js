/** The map: the trail, the device, and the visible part of the track. */

import { canvasLayer } from "./canvas-layer.js";
import { paintGraticule } from "./graticule.js";
import { $, make, put } from "./dom.js";
import { trailPainter } from "./trail-painter.js";
import { local, utc } from "./times.js";
import { distance } from "./units.js";
import { accuracy, ago, coordinates, motion } from "./words.js";

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const CLOSEST = 17;
const HIT_PX = 14;
const FRESH_S = 5;

const PLACES = {
  stored: "on the disk",
  "in-flight": "in flight",
  delivered: "delivered",
  "dead-letter": "refused",
  gone: "no longer on the disk", // since it was read
};

export class TrackMap {
  /**
   * @param {import("./track.js").Track} track
   * @param {{tiles?: string, credit?: string, map?: {credit: string, deepest: number}}} ground
   *   the template of a tile server's URLs, and the map on the device, if they are set
   * @param {import("./feed.js").Feed} feed fetches a part of the track with more points
   */
  constructor(track, ground, feed) {
    const { tiles, map: offline } = ground;
    const pictured = Boolean(tiles || offline);
    this.track = track;
    this.feed = feed;
    /** @type {"whole" | "follow" | "free"} */
    this.view = "whole";
    this.map = L.map("map", {
      zoomSnap: pictured ? 1 : 0.25,
      zoomDelta: pictured ? 1 : 0.5,
      zoomAnimation: !calm(),
      maxZoom: 20,
      attributionControl: false,
    }).setView([20, 0], 2);
    this.map.zoomControl.setPosition("topright");
    if (pictured) {
      this.map.getContainer().classList.add("tiled");
      if (offline) this.#offline(offline);
      else this.#tiles(tiles);
      credits(offline ? offline.credit : ground.credit || usualCredit(tiles)).addTo(this.map);
    }
    L.control.scale({ imperial: false, position: "bottomright" }).addTo(this.map);
    if (!pictured) {
      this.graticule = canvasLayer(paintGraticule, { name: "graticule", margin: 0 }).addTo(this.map);
    }
    const paint = trailPainter(track, { onTiles: pictured, calm });
    this.layer = canvasLayer(paint, { name: "trail", margin: 0.2 }).addTo(this.map);
    this.circle = L.circle([0, 0], { radius: 1, interactive: false, className: "accuracy" });
    this.marker = L.marker([0, 0], { icon: arrow(), interactive: false, keyboard: false });
    this.chip = $("position");
    this.nowhere = $("nowhere");
    this.#buttons();
    this.map.on("dragstart", () => this.#look("free"));
    this.map.on("click", (event) => this.#showFix(event.containerPoint));
    this.map.on("moveend", () => {
      clearTimeout(this.settling);
      this.settling = setTimeout(() => this.#refine(), 250);
    });
    new ResizeObserver(() => this.map.invalidateSize({ animate: false })).observe(this.map.getContainer());
  }

  /** The track has changed, or the position. */
  show(state) {
    this.#mark(state.position, state.receiver);
    $("reading").hidden = state.whole || !(this.track.rows[0] > state.first);
    if (this.view === "whole") this.#fit();
    else if (this.view === "follow" && state.position) {
      this.map.panTo(this.marker.getLatLng(), { animate: !calm() });
    }
    if (this.drawn !== this.track.version) this.layer.refresh();
    this.drawn = this.track.version;
  }

  /** Another time was chosen: show all of it. */
  chosen() {
    this.#look("whole");
    this.fitted = false;
    this.#fit(true);
    this.layer.refresh();
  }

  /** Mark the position with that index during playback; null: no position. */
  play(index) {
    if (index === null) {
      this.ghost?.remove();
      return;
    }
    const { lat, lon } = this.track;
    const at = [lat[index] / 1e7, lon[index] / 1e7];
    this.ghost ??= L.circleMarker(at, { radius: 9, className: "ghost", interactive: false });
    this.ghost.setLatLng(at).addTo(this.map);
    if (!this.map.getBounds().contains(at)) this.map.panTo(at, { animate: false });
  }

  /** Fetch more points if the viewer zooms in further than the track is exact. */
  #refine() {
    const tolerance = (1.5 * 3.6e9) / (256 * 2 ** this.map.getZoom());
    const bounds = this.map.getBounds();
    const { exact, box, asked } = this.feed.detail;
    if (this.view === "whole") {
      if (box) this.feed.choose(this.feed.range); // it was coarse outside of the box
      return;
    }
    const inside = !box || box.contains(bounds);
    if (!exact && inside) return;
    if (inside && Math.min(exact, asked ?? exact) <= 1.4 * tolerance) return;
    this.feed.refine(tolerance, bounds.pad(0.5));
  }

  #tiles(template) {
    L.tileLayer(template, {
      maxZoom: 20,
      maxNativeZoom: 19,
      referrerPolicy: "strict-origin", // OpenStreetMap's servers ask for it; nobody else gets one
      className: "pictures",
    }).addTo(this.map);
  }

  /** The map on the device, in the colours of the page. */
  #offline({ deepest }) {
    this.dark = isDark();
    this.vector = protomapsL.leafletLayer({
      url: new URL("map.pmtiles", location).href,
      flavor: this.dark ? "dark" : "light",
      lang: "en",
      maxDataZoom: deepest,
      maxZoom: 20,
      attribution: "",
    });
    this.vector.addTo(this.map);
    this.offline = { deepest };
  }

  recolour() {
    if (this.offline && this.dark !== isDark()) {
      this.vector.remove();
      this.#offline(this.offline);
    }
    this.graticule?.recolour();
    this.layer.recolour();
  }

  #buttons() {
    this.whole = $("whole");
    this.follow = $("follow");
    this.whole.addEventListener("click", () => {
      this.#look("whole");
      this.#fit(true);
    });
    this.follow.addEventListener("click", () => {
      this.#look("follow");
      if (this.map.hasLayer(this.marker)) {
        this.map.setView(this.marker.getLatLng(), Math.max(this.map.getZoom(), 16), { animate: !calm() });
      }
    });
    const zoomed = () => this.view === "whole" && this.#look("free");
    for (const link of document.querySelectorAll(".leaflet-control-zoom a")) {
      link.addEventListener("click", zoomed);
    }
    this.map.getContainer().addEventListener("wheel", zoomed, { passive: true });
    this.map.getContainer().addEventListener("keydown", (event) => {
      if (/^(Arrow|[+=_-]$)/.test(event.key)) this.#look("free");
    });
  }

  #look(view) {
    this.view = view;
    this.whole.setAttribute("aria-pressed", String(view === "whole"));
    this.follow.setAttribute("aria-pressed", String(view === "follow"));
  }

  /** Fit the whole track beside the panels on the map; again when it has grown out of the view. */
  #fit(anyway = false) {
    const bounds = this.#bounds();
    if (!bounds) return;
    const size = this.map.getSize();
    const [left, top, right, legend] = innerWidth > 900 ? [48, 84, 150, 84] : [40, 84, 72, 92];
    const bottom = Math.max(legend, $("strip").offsetHeight + 30);
    const first = !this.fitted;
    const pixels = [bounds.getNorthWest(), bounds.getSouthEast()].map((corner) =>
      this.map.latLngToContainerPoint(corner),
    );
    const seen =
      pixels[0].x >= left && pixels[0].y >= top &&
      pixels[1].x <= size.x - right && pixels[1].y <= size.y - bottom;
    if (seen && !first && !anyway) return;
    this.fitted = true;
    this.map.fitBounds(first || anyway ? bounds : bounds.pad(0.12), {
      paddingTopLeft: [left, top],
      paddingBottomRight: [right, bottom],
      maxZoom: CLOSEST,
      animate: !first && !calm(),
    });
  }

  #bounds() {
    const { size, lat, lon, glitch } = this.track;
    if (!size) return null;
    const sure = glitch.subarray(0, size).indexOf(0);
    const start = Math.max(0, sure);
    let [south, north, west, east] = [lat[start], lat[start], lon[start], lon[start]];
    for (let i = start + 1; i < size; i++) {
      if (glitch[i] && sure >= 0) continue;
      if (lat[i] < south) south = lat[i];
      else if (lat[i] > north) north = lat[i];
      if (lon[i] < west) west = lon[i];
      else if (lon[i] > east) east = lon[i];
    }
    return L.latLngBounds([south / 1e7, west / 1e7], [north / 1e7, east / 1e7]);
  }

  #mark(position, receiver) {
    this.chip.hidden = !position;
    this.nowhere.hidden = Boolean(position) || this.track.size > 0;
    if (!position) return;
    const at = [position.lat, this.track.unbroken(position.lon * 1e7) / 1e7];
    const fresh = position.age_s < FRESH_S && (receiver.state === "2d" || receiver.state === "3d");
    const near = accuracy(position);
    this.marker.setLatLng(at).addTo(this.map);
    const element = this.marker.getElement();
    element.classList.toggle("fresh", fresh);
    const moves = position.course !== undefined && (position.speed ?? 0) >= 0.5;
    element.classList.toggle("moves", moves);
    if (moves) element.querySelector(".heading").style.rotate = `${position.course}deg`;
    if (near && fresh) this.circle.setLatLng(at).setRadius(near.radius_m).addTo(this.map);
    else this.circle.remove();
    const parts = [coordinates(position)];
    if (!fresh) parts.push(ago(position.age_s));
    else parts.push(motion(position), near ? near.text : "");
    [...this.chip.children].forEach((place, i) => put(place, parts[i] ?? ""));
    this.chip.title = near && fresh ? `${near.text}: ${near.how}` : "";
  }

  /** A popup with all fields of that position. */
  async #showFix(point) {
    const near = this.#nearest(point);
    if (near === null) return;
    const { track } = this;
    const ms = track.time[near] * 1000;
    const box = make("dl", { className: "fix" });
    const facts = (list) =>
      box.replaceChildren(
        ...list.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
      );
    const known = [["Local", local(ms)], ["UTC", utc(ms)], ["State", PLACES[track.placeOf(near)]]];
    facts(known);
    const popup = L.popup({ closeButton: false, offset: [0, -4], autoPan: false, maxWidth: 320 })
      .setLatLng([track.lat[near] / 1e7, track.lon[near] / 1e7])
      .setContent(box)
      .openOn(this.map);
    this.#moveInside(popup);
    try {
      const answer = await fetch(`fix?row=${track.rows[near]}`);
      if (!answer.ok) return;
      const fix = await answer.json();
      const metres = (m) => (m === undefined ? "" : `${Math.round(m)}\u00a0m`);
      facts([
        ...known.slice(0, 2),
        ["State", PLACES[fix.place]], // of many short runs the track knows only the worst
        ["Place", coordinates(fix)],
        ["Speed", motion(fix)],
        ["Altitude", metres(fix.alt)],
        ["Accuracy", accuracy(fix)?.text],
        ["Satellites", fix.sats === undefined ? "" : String(fix.sats)],
        ["Odometer", fix.odo === undefined ? "" : distance(fix.odo)],
        ["Flags", fix.flags?.join(", ")],
      ]);
      popup.update();
      this.#moveInside(popup);
    } catch {
      // Contact is lost: the popup keeps what is known here.
    }
  }

  /** Move the words of a popup into the map, which on a phone is hardly wider. The map stays. */
  #moveInside(popup) {
    const words = popup.getElement().querySelector(".leaflet-popup-content-wrapper");
    words.style.translate = "";
    const [inner, outer] = [words, this.map.getContainer()].map((one) => one.getBoundingClientRect());
    const by = (low, high) => Math.max(low + 6, 0) || Math.min(high - 6, 0);
    words.style.translate =
      `${by(outer.left - inner.left, outer.right - inner.right)}px ${by(outer.top - inner.top, outer.bottom - inner.bottom)}px`;
  }

  #nearest(point) {
    const { track, map } = this;
    const world = 256 * 2 ** map.getZoom();
    const origin = map.getPixelOrigin().add(map.containerPointToLayerPoint([0, 0]));
    const [x, y] = [(point.x + origin.x) / world, (point.y + origin.y) / world];
    let best = (HIT_PX / world) ** 2;
    let found = null;
    for (let i = 0; i < track.size; i++) {
      const distance = (track.x[i] - x) ** 2 + (track.y[i] - y) ** 2;
      if (distance <= best) [best, found] = [distance, i];
    }
    return found;
  }
}

const isDark = () => {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

/** The attribution of the map. Always as text, also if a config or a file holds HTML. */
function credits(text) {
  const Credits = L.Control.extend({
    options: { position: "bottomright" },
    onAdd() {
      return make("div", { className: "leaflet-control-attribution", hidden: !text }, text);
    },
  });
  return new Credits();
}

function usualCredit(template) {
  const server = new URL(template.replaceAll(/[{}]/g, "")).hostname;
  return /(^|\.)openstreetmap\.org$/.test(server) ? "© OpenStreetMap contributors" : server;
}

/** Where the device is: a dot, with an arrow while it moves. */
function arrow() {
  return L.divIcon({
    className: "here",
    iconSize: [44, 44],
    html: `<span class="halo"></span><svg class="heading" viewBox="0 0 44 44" aria-hidden="true">
      <circle cx="22" cy="22" r="13"/><circle class="dot" cx="22" cy="22" r="4.5"/>
      <path class="tip" d="M22 12.5 L28.8 29.5 L22 26 L15.2 29.5 Z"/></svg>`,
  });
}
