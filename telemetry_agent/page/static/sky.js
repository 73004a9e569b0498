/** The sky from above: where each satellite is, whether it is used, and its signal. Also as a table. */

import { $, make } from "./dom.js";
import { many } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const LETTERS = { GPS: "G", GLONASS: "R", Galileo: "E", BeiDou: "C", QZSS: "J", NavIC: "I", SBAS: "S" };
const CENTRE = 130;
const RADIUS = 108;
const LOUDEST_DB = 55;

export class SkyView {
  constructor() {
    this.shown = "";
    this.inSight = false;
    ground($("polar"));
    new IntersectionObserver((entries) => {
      this.inSight = entries.at(-1).isIntersecting;
      if (this.state) this.show(this.state);
    }).observe($("polar").closest("section"));
    $("sky-table").addEventListener("toggle", () => {
      this.shown = "";
      if (this.state) this.show(this.state);
    });
  }

  /** Signals change each second, so after the first time the sky is drawn only while it is visible. */
  show(state) {
    this.state = state;
    if (!this.inSight && this.shown) return;
    const { satellites } = state.receiver;
    const key = JSON.stringify(satellites);
    if (key === this.shown) return;
    this.shown = key;
    const used = satellites.filter((satellite) => satellite.used).length;
    const systems = [...new Set(satellites.map((satellite) => satellite.system))];
    $("polar").setAttribute(
      "aria-label",
      satellites.length
        ? `${many(satellites.length, "satellite")} in view, ${used} used: ${systems.join(", ")}. The table below lists them.`
        : "No satellite in view",
    );
    $("polar").querySelector(".satellites").replaceChildren(...satellites.filter(isPlaced).map(dot));
    $("bars").replaceChildren(...systems.map((system) => group(system, satellites)));
    if ($("sky-table").open) $("satellites").replaceChildren(...satellites.map(row));
    $("no-sky").hidden = satellites.length > 0;
    $("sky-table").hidden = satellites.length === 0;
  }
}

const name = ({ system, number }) => `${LETTERS[system] ?? "?"}${number}`;

const isPlaced = ({ elevation_deg, azimuth_deg }) =>
  elevation_deg !== undefined && azimuth_deg !== undefined;

function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A ring at each 30 degrees of elevation, and the four directions. */
function ground(polar) {
  for (const share of [1, 2 / 3, 1 / 3]) {
    polar.append(svg("circle", { class: "ring", cx: CENTRE, cy: CENTRE, r: RADIUS * share }));
  }
  polar.append(svg("path", { class: "ring", d: `M${CENTRE} ${CENTRE - RADIUS}v${2 * RADIUS}M${CENTRE - RADIUS} ${CENTRE}h${2 * RADIUS}` }));
  const winds = [["N", 130, 14], ["E", 250, 134], ["S", 130, 254], ["W", 10, 134]];
  for (const [wind, x, y] of winds) polar.append(svg("text", { class: "wind", x, y }, wind));
  polar.append(svg("text", { class: "degrees", x: CENTRE + 3, y: CENTRE - RADIUS / 3 + 11 }, "60°"));
  polar.append(svg("text", { class: "degrees", x: CENTRE + 3, y: CENTRE - (RADIUS * 2) / 3 + 11 }, "30°"));
  polar.append(svg("g", { class: "satellites" }));
}

function dot(satellite) {
  const away = RADIUS * (1 - satellite.elevation_deg / 90);
  const turn = (satellite.azimuth_deg * Math.PI) / 180;
  const x = CENTRE + away * Math.sin(turn);
  const y = CENTRE - away * Math.cos(turn);
  const group = svg("g", { class: satellite.used ? "used" : "unused", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
  group.append(svg("circle", { r: 10.5 }), svg("text", { y: 3.2 }, name(satellite)));
  return group;
}

function group(system, satellites) {
  const bars = satellites.filter((satellite) => satellite.system === system).map(bar);
  return make("div", { className: "system" }, make("div", {}, ...bars), make("p", {}, system));
}

function bar(satellite) {
  const heard = satellite.snr_db !== undefined;
  const level = make("i", {}, make("b", {}, heard ? String(satellite.snr_db) : "–"));
  level.style.height = `${Math.min(100, ((satellite.snr_db ?? 0) / LOUDEST_DB) * 100)}%`;
  const className = `bar ${satellite.used ? "used" : "unused"} ${heard ? "" : "unheard"}`;
  return make("span", { className }, level, make("small", {}, name(satellite)));
}

function row(satellite) {
  const degrees = (value) => (value === undefined ? "unknown" : `${value}°`);
  const cells = [
    satellite.system,
    degrees(satellite.elevation_deg),
    degrees(satellite.azimuth_deg),
    satellite.snr_db === undefined ? "not tracked" : String(satellite.snr_db),
    satellite.used ? "yes" : "no",
  ];
  return make("tr", {}, make("th", { scope: "row" }, name(satellite)), ...cells.map((text) => make("td", {}, text)));
}
