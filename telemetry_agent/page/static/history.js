/** The history of the agent: one of several charts, over an hour to 30 days. */

import { $ } from "./dom.js";
import { axis as times, moment } from "./times.js";
import { speedUnit, speedValue } from "./units.js";

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const of = (scale) => (value) => value / scale;
const same = (value) => value;

/** Each has lines: column, name, colour, conversion; and a unit for each of its axes. */
const CHARTS = {
  queue: { units: ["positions", "a minute"], lines: [["pending", "waiting on the disk", "stored", same], ["delivered_per_min", "delivered per minute", "delivered", same]] },
  speed: { units: [speedUnit], lines: [["speed", "speed", "flight", (value) => speedValue(value)]] },
  satellites: { units: ["satellites", "HDOP"], lines: [["sats", "satellites used", "delivered", same], ["hdop", "HDOP", "stored", same]] },
  signal: { units: ["dB-Hz"], lines: [["signal", "signal of the four best", "flight", same]] },
  sent: { units: ["kB a minute"], lines: [["sent_bytes_per_min", "sent", "flight", of(1000)]] },
  disk: { units: ["GB"], lines: [["disk_free_bytes", "free on the disk", "stored", of(1e9)]] },
  temperature: { units: ["°C"], lines: [["temperature", "processor", "dead", same]] },
};
const GAP_STEPS = 3;

/** The unit of a line: the last one is that of all further lines. */
const unitOf = (units, i) => {
  const unit = units[Math.min(i, units.length - 1)];
  return typeof unit === "function" ? unit() : unit;
};

export class History {
  constructor() {
    this.box = $("chart");
    this.what = $("chart-what");
    this.hours = $("chart-hours");
    this.asked = -Infinity;
    this.inSight = true;
    this.sizes = new ResizeObserver(() => this.plot?.setSize(this.#size()));
    this.sizes.observe(this.box);
    new IntersectionObserver((entries) => (this.inSight = entries.at(-1).isIntersecting)).observe(this.box);
    this.what.addEventListener("change", () => this.#draw(true));
    this.hours.addEventListener("change", () => {
      this.asked = -Infinity;
      this.show();
    });
  }

  async show() {
    const every = Number(this.hours.value) > 1 ? 60_000 : 5_000;
    const now = performance.now();
    if (!this.inSight || now - this.asked < every) return;
    this.asked = now;
    try {
      const answer = await fetch(`history?hours=${this.hours.value}`);
      if (!answer.ok) return;
      this.data = gaps(await answer.json());
      this.#draw();
    } catch {
      // Contact is lost; the chart is fetched when it is back.
    }
  }

  recolour() {
    this.#draw(true);
  }

  #draw(again = false) {
    if (!this.data) return;
    const { lines, units } = CHARTS[this.what.value];
    const data = [this.data.time];
    for (const [column, , , convert] of lines) {
      data.push(this.data[column].map((value) => (value === null ? null : convert(value))));
    }
    if (again || this.drawn !== this.what.value + this.hours.value) {
      this.plot?.destroy();
      this.plot = null;
    }
    this.drawn = this.what.value + this.hours.value;
    if (this.plot) this.plot.setData(data);
    else if (data[0].length > 1) {
      this.plot = new uPlot(this.#options(), data, this.box);
      this.sizes.observe(this.plot.root.querySelector(".u-legend")); // on a phone it is higher
    }
    this.#words(lines, units, data);
  }

  /** The same for screen readers. */
  #words(lines, units, data) {
    const texts = lines.map(([, name], i) => {
      const known = data[i + 1].filter((value) => value !== null);
      if (!known.length) return `${name}: not known`;
      const words = (value) => `${NUMBER.format(value)} ${unitOf(units, i)}`;
      return `${name}: now ${words(known.at(-1))}, at most ${words(Math.max(...known))}`;
    });
    const over = this.hours.selectedOptions[0].textContent;
    this.box.setAttribute("aria-label", `${over}: ${texts.join("; ")}.`);
    const nothing = data.slice(1).every((line) => line.every((value) => value === null));
    $("chart-empty").hidden = Boolean(this.plot) && !nothing;
  }

  #size() {
    const legend = this.box.querySelector(".u-legend")?.offsetHeight ?? 0;
    return { width: this.box.clientWidth, height: this.box.clientHeight - legend - 8 };
  }

  #options() {
    const { units, lines } = CHARTS[this.what.value];
    const style = getComputedStyle(this.box);
    const probe = (name, forcedColorAdjust = "") => {
      Object.assign(this.box.style, { color: `var(--${name})`, forcedColorAdjust });
      const colour = getComputedStyle(this.box).color;
      Object.assign(this.box.style, { color: "", forcedColorAdjust: "" });
      return colour;
    };
    const [text, line] = [probe("muted"), probe("hairline")];
    const own = (name) => probe(name, "none"); // also with forced colours, which would make all lines alike
    const font = `12px ${style.fontFamily}`;
    const axis = { stroke: text, font, labelFont: font, labelSize: 18, grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const words = (_, values) => values.map((value) => NUMBER.format(value));
    const scale = (i) => (units.length > 1 && i ? "right" : "y");
    const shown = (i) => (_, value) => (value === null || value === undefined ? "–" : `${NUMBER.format(value)} ${unitOf(units, i)}`);
    return {
      ...this.#size(),
      legend: { show: true, live: true },
      cursor: { drag: { x: false, y: false } },
      padding: [8, 4, 0, 0],
      scales: { x: { time: true }, y: { range: above }, right: { range: above } },
      axes: [
        { ...axis, values: (_, seconds) => times(seconds), grid: { show: false }, space: 80, size: 48 },
        { ...axis, values: words, size: 58, label: unitOf(units, 0) },
        ...(units.length > 1 ? [{ ...axis, scale: "right", side: 1, values: words, size: 58, label: unitOf(units, 1), grid: { show: false } }] : []),
      ],
      series: [
        { label: "Time", value: (_, second) => (second ? moment(second * 1000) : "–") },
        ...lines.map(([, label, colour], i) => ({
          label, scale: scale(i), stroke: own(colour), width: 2, points: { show: false }, value: shown(i),
          ...(i ? {} : { fill: faint(own(colour)) }),
        })),
      ],
    };
  }
}

/** A line has a gap where nothing is known. */
function gaps(known) {
  const found = Object.fromEntries(Object.keys(known).map((name) => [name, []]));
  const { time, step_s: steps } = known;
  for (let i = 0; i < time.length; i++) {
    if (i && time[i] - time[i - 1] > GAP_STEPS * steps[i]) {
      for (const name of Object.keys(found)) found[name].push(name === "time" ? time[i - 1] + steps[i] : null);
    }
    for (const name of Object.keys(found)) found[name].push(known[name][i]);
  }
  return found;
}

/** From zero, or a little below the lowest temperature, to a little above the highest value. */
const above = (_plot, low, high) => [Math.min(0, (low ?? 0) * 1.12), Math.max(1, (high ?? 0) * 1.12)];

const faint = (colour) => colour.replace(/^rgb\((.*)\)$/, "rgba($1, 0.16)");
