/** The way of a position: receiver, disk, network, endpoint, and the drops between them. */

import { $, put } from "./dom.js";
import { disk, endpoint, network, receiver } from "./words.js";

const FLOW_MS = 1600;
const TICK_MS = 150; // an animation of each frame would keep a processor busy that has no help
const FALL_MS = 1500;
const FULL_AT = 5; // a hundred thousand positions fill the picture of the disk
const [TOP, BOTTOM] = [5.5, 20.5];

export class Pipe {
  constructor() {
    this.delivered = null;
    this.movedAt = -FLOW_MS;
    this.ticking = null;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.calm.addEventListener("change", () => this.#move());
    new IntersectionObserver((entries) => {
      this.inSight = entries.at(-1).isIntersecting;
      this.#move();
    }).observe($("inflow").parentElement);
    this.#drops(0);
  }

  show(state) {
    station($("receiver"), receiver(state));
    station($("disk"), disk(state));
    station($("endpoint"), endpoint(state));
    const way = network(state);
    put($("outflow").querySelector(".value"), way.value);
    put($("outflow").querySelector(".caption"), way.caption);
    put($("host"), state.upload.host);
    const share = Math.min(1, Math.log10(1 + state.queue.pending) / FULL_AT);
    $("level").setAttribute("y", String(BOTTOM - share * (BOTTOM - TOP)));
    $("level").setAttribute("height", String(share * (BOTTOM - TOP)));
    this.#flow(state, way);
    if (!this.ticking) this.#drops(1 / 6);
  }

  #flow(state, way) {
    const now = performance.now();
    if (this.delivered !== null && state.upload.delivered > this.delivered) this.movedAt = now;
    this.delivered = state.upload.delivered;
    const moves = state.queue.in_flight > 0 || now - this.movedAt < FLOW_MS;
    const comes = ["2d", "3d"].includes(state.receiver.state) && state.receiver.rate_hz > 0;
    $("inflow").dataset.flow = comes ? "on" : "off";
    $("outflow").dataset.flow = way.tone === "away" ? "cut" : moves ? "on" : "off";
    this.#move();
  }

  /** Move the drops while positions flow and the page is visible. */
  #move() {
    const flows = $("inflow").dataset.flow === "on" || $("outflow").dataset.flow === "on";
    const moving = flows && this.inSight && !this.calm.matches && !document.hidden;
    if (moving && !this.ticking) {
      this.ticking = setInterval(() => this.#drops(performance.now() / FALL_MS), TICK_MS);
    } else if (!moving && this.ticking) {
      clearInterval(this.ticking);
      this.ticking = null;
    }
  }

  /** Three drops in each tube, a third of the way apart. */
  #drops(turn) {
    for (const tube of [$("inflow"), $("outflow")]) {
      const on = tube.dataset.flow === "on";
      tube.querySelectorAll("i").forEach((drop, i) => {
        const at = (turn + i / 3) % 1;
        drop.style.opacity = on ? String(Math.min(1, at * 6, (1 - at) * 5, 1)) : "";
        if (on) drop.style.transform = `translateY(${(at * 100).toFixed(1)}%)`;
      });
    }
  }
}

function station(element, words) {
  element.dataset.tone = words.tone;
  put(element.querySelector(".value"), words.value);
  put(element.querySelector(".caption"), words.caption);
}
