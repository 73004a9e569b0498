/** What waited and what was delivered, over the last hours. */

import { count, span } from "./words.js";

const SAMPLES = 720;
const [MINUTE, HOUR] = [60, 3600];
const STEPS_S = [
  ...[1, 2, 5, 10, 20, 30], ...[1, 2, 5, 10, 20, 30].map((n) => n * MINUTE),
  ...[1, 2, 3, 6, 12, 24, 48].map((n) => n * HOUR),
];

export class History {
  constructor() {
    this.box = document.getElementById("chart");
    this.stream = null;
    this.clear();
    new ResizeObserver(() => this.#resize()).observe(this.box);
  }

  clear() {
    this.step = 0;
    this.uptime = [];
    this.pending = [];
    this.delivered = [];
  }

  /** The samples of the agent; from there on each event is one. */
  async load() {
    try {
      const answer = await fetch("history");
      if (!answer.ok) return;
      const known = await answer.json();
      this.clear();
      this.uptime = known.uptime_s;
      this.pending = known.pending;
      this.delivered = known.delivered;
    } catch {
      // Contact is lost; it is loaded when that is back.
    }
  }

  async show(state) {
    if (state.stream !== this.stream) {
      this.stream = state.stream;
      await this.load();
    }
    const now = state.uptime_s;
    if (!this.uptime.length || now - this.uptime.at(-1) >= this.step) {
      this.uptime.push(now);
      this.pending.push(state.queue.pending);
      this.delivered.push(state.upload.delivered);
      this.#bound();
      this.#draw(now);
    }
  }

  /** As the agent does it: too many samples become half as many. */
  #bound() {
    if (this.uptime.length <= 2 * SAMPLES) return;
    for (const name of ["uptime", "pending", "delivered"]) {
      this[name] = this[name].filter((_, i) => i % 2 === 0);
    }
    this.step = (this.uptime.at(-1) - this.uptime[0]) / this.uptime.length;
  }

  /** Deliveries come in batches, so they are told over some of the chart's width. */
  #rates() {
    const { uptime, delivered } = this;
    const over = Math.max(5, (uptime.at(-1) - uptime[0]) / 60);
    let from = 0;
    return delivered.map((total, i) => {
      while (uptime[i] - uptime[from] > over) from++;
      const seconds = Math.max(uptime[i] - uptime[from], 5);
      return i ? Math.max(0, ((total - delivered[from]) / seconds) * 60) : 0;
    });
  }

  #draw(now) {
    const data = [this.uptime.map((at) => at - now), this.pending, this.#rates()];
    if (this.plot) this.plot.setData(data);
    else if (this.uptime.length > 1) this.plot = new uPlot(this.#options(), data, this.box);
    const most = Math.max(...this.pending);
    this.box.setAttribute(
      "aria-label",
      `In the last ${span(now - this.uptime[0])} at most ${count(most)} positions waited on the disk, now ${count(this.pending.at(-1))}. ${count(this.delivered.at(-1) - this.delivered[0])} were delivered.`,
    );
  }

  recolour() {
    this.plot?.destroy();
    this.plot = null;
  }

  #resize() {
    this.plot?.setSize(this.#size());
  }

  #size() {
    return { width: this.box.clientWidth, height: this.box.clientHeight };
  }

  #options() {
    const style = getComputedStyle(this.box);
    const probe = (name) => {
      this.box.style.color = `var(--${name})`;
      const colour = getComputedStyle(this.box).color;
      this.box.style.color = "";
      return colour;
    };
    const [text, line] = [probe("muted"), probe("hairline")];
    const font = `12px ${style.fontFamily}`;
    const axis = { stroke: text, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const whole = (_, values) => values.map((value) => (Number.isInteger(value) ? count(value) : ""));
    return {
      ...this.#size(),
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 4, 0, 0],
      scales: { x: { time: false }, y: { range: above }, rate: { range: above } },
      axes: [
        { ...axis, grid: { show: false }, values: (_, values) => values.map(before), incrs: STEPS_S, space: 80, size: 28 },
        { ...axis, values: whole, size: 52 },
        { ...axis, scale: "rate", side: 1, values: whole, size: 56, grid: { show: false } },
      ],
      series: [
        {},
        { stroke: probe("stored"), fill: faint(probe("stored")), width: 2, points: { show: false } },
        { scale: "rate", stroke: probe("delivered"), width: 2, points: { show: false } },
      ],
    };
  }
}

/** From zero to a little above the highest. */
const above = (_plot, _low, high) => [0, Math.max(4, (high ?? 0) * 1.12)];

const before = (seconds) => (seconds > -0.5 ? "now" : `−${span(-seconds)}`);

const faint = (colour) => colour.replace(/^rgb\((.*)\)$/, "rgba($1, 0.18)");
