/** The way of a position: receiver, disk, network, endpoint, and what moves between them. */

import { disk, endpoint, network, receiver } from "./words.js";

const FLOW_MS = 1600;
const FULL_AT = 5; // a hundred thousand positions fill the picture of the disk
const [TOP, BOTTOM] = [5.5, 20.5];

const $ = (id) => document.getElementById(id);

export class Pipe {
  constructor() {
    this.delivered = null;
    this.movedAt = -FLOW_MS;
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
  }

  #flow(state, way) {
    const now = performance.now();
    if (this.delivered !== null && state.upload.delivered > this.delivered) this.movedAt = now;
    this.delivered = state.upload.delivered;
    const moves = state.queue.in_flight > 0 || now - this.movedAt < FLOW_MS;
    const comes = ["2d", "3d"].includes(state.receiver.state) && state.receiver.rate_hz > 0;
    $("inflow").dataset.flow = comes ? "on" : "off";
    $("outflow").dataset.flow = way.tone === "away" ? "cut" : moves ? "on" : "off";
  }
}

function station(element, words) {
  element.dataset.tone = words.tone;
  put(element.querySelector(".value"), words.value);
  put(element.querySelector(".caption"), words.caption);
}

/** To set a text to what it is already would make work for the browser. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
