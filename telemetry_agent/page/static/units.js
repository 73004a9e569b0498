/** km/h, mph or knots: the viewer's choice, kept in the browser. */

import { keep, recall } from "./dom.js";

const UNITS = {
  kmh: { per_m_s: 3.6, speed: "km/h", metres: 1000, distance: "km" },
  mph: { per_m_s: 3600 / 1609.344, speed: "mph", metres: 1609.344, distance: "mi" },
  kn: { per_m_s: 3600 / 1852, speed: "kn", metres: 1852, distance: "nmi" },
};
const ONE = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

let chosen = UNITS[recall("units")] ?? UNITS.kmh;

/** Connect a select with the values kmh, mph and kn. @param {() => void} changed */
export function unitsSelect(element, changed) {
  element.value = Object.keys(UNITS).find((name) => UNITS[name] === chosen);
  element.addEventListener("change", () => {
    chosen = UNITS[element.value];
    keep("units", element.value);
    changed();
  });
}

/** @param {number} m_s */
export const speed = (m_s) => `${Math.round(m_s * chosen.per_m_s)}\u00a0${chosen.speed}`;

/** Only the number, and only the unit, for an axis. */
export const speedValue = (m_s) => m_s * chosen.per_m_s;
export const speedUnit = () => chosen.speed;

/** @param {number} m */
export const distance = (m) => `${ONE.format(m / chosen.metres)}\u00a0${chosen.distance}`;
