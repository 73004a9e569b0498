/** The lines of latitude and longitude, for a map without tiles. */

const STEPS = [
  [180, 0], [90, 0], [45, 0], [30, 0], [15, 0], [10, 0], [5, 0], [2, 0], [1, 0], [1 / 2, 1], [1 / 4, 1], [1 / 6, 1],
  [1 / 12, 1], [1 / 30, 1], [1 / 60, 1], [1 / 120, 2], [1 / 240, 2], [1 / 360, 2], [1 / 720, 2],
  [1 / 1800, 2], [1 / 3600, 2],
];
const APART_PX = 130;
const TAKEN_PX = 84; // by what lies on the map in its corners

/** Paints a canvas layer without a margin. */
export function paintGraticule(context, { map, width, height }, colours) {
  const bounds = map.getBounds();
  const apart = ((bounds.getEast() - bounds.getWest()) * APART_PX) / width;
  const [step, unit] = STEPS.findLast(([degrees]) => degrees >= apart) ?? STEPS[0];
  context.lineWidth = 1;
  context.strokeStyle = colours.line;
  context.fillStyle = colours.label;
  context.font = "11px system-ui, sans-serif";
  for (let n = Math.ceil(bounds.getWest() / step); n * step <= bounds.getEast(); n++) {
    const x = Math.round(map.latLngToContainerPoint([0, n * step]).x) + 0.5;
    line(context, x, 0, x, height);
    const label = angle(within(n * step), unit, "E", "W");
    if (x + 5 + context.measureText(label).width <= width) context.fillText(label, x + 5, 17);
  }
  for (let n = Math.ceil(bounds.getSouth() / step); n * step <= bounds.getNorth(); n++) {
    const y = Math.round(map.latLngToContainerPoint([n * step, 0]).y) + 0.5;
    line(context, 0, y, width, y);
    if (y < TAKEN_PX || y > height - TAKEN_PX) continue;
    context.fillText(angle(n * step, unit, "N", "S"), 14, y - 5);
  }
}

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

/** Longitudes wrap at 180. */
const within = (degrees) => degrees - 360 * Math.round(degrees / 360);

/** 48°07′02″N, without digits that are finer than the step. */
export function angle(degrees, unit, positive, negative) {
  const seconds = Math.round(Math.abs(degrees) * 3600);
  const side = seconds % (180 * 3600) ? (degrees < 0 ? negative : positive) : "";
  const two = (n) => String(n).padStart(2, "0");
  const d = `${Math.floor(seconds / 3600)}°`;
  const m = `${two(Math.floor((seconds % 3600) / 60))}′`;
  const s = `${two(seconds % 60)}″`;
  return [d, d + m, d + m + s][unit] + side;
}
