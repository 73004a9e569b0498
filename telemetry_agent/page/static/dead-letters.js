/** The positions that the endpoint refused, and why; the viewer can retry or discard them. */

import { $, make } from "./dom.js";
import { post } from "./feed.js";
import { count, many, total } from "./words.js";

export class DeadLetters {
  constructor() {
    this.shown = "";
    this.number = 0;
    $("retry-all").addEventListener("click", () => this.#act("retry", { all: true }));
    $("discard-all").addEventListener("click", () => this.#discard({ all: true }, this.number));
  }

  async show(state) {
    const key = state.stream + JSON.stringify(state.queue.dead_letters);
    if (key === this.shown) return;
    this.shown = key;
    this.number = total(state.queue.dead_letters);
    const card = $("dead-card");
    const acting = card.contains(document.activeElement);
    card.hidden = !this.number;
    if (!this.number) {
      if (acting) $("story").focus();
      return;
    }
    try {
      const answer = await fetch("dead-letters");
      if (!answer.ok) throw new Error(await answer.text());
      const letters = await answer.json();
      $("dead-list").replaceChildren(...letters.map((letter) => this.#entry(letter)));
      if (acting && !card.contains(document.activeElement)) $("dead-list").focus();
      $("dead-more").hidden = letters.length >= this.number;
      $("dead-more").textContent = `and ${count(this.number - letters.length)} more`;
    } catch {
      this.shown = ""; // the next event asks again
    }
  }

  #entry({ stream, seq, time, reason }) {
    const when = make("time", { dateTime: time }, `${time.slice(0, 10)} ${time.slice(11, 19)} UTC`);
    const names = { names: [[stream, seq]] };
    const button = (text, kind, onclick) => {
      const ariaLabel = `${text} the position of ${when.textContent}`;
      return make("button", { type: "button", className: `small ${kind}`, ariaLabel, onclick }, text);
    };
    return make(
      "li", {},
      make("p", {}, when, make("span", {}, reason)),
      button("Retry", "", () => this.#act("retry", names)),
      button("Discard", "danger", () => this.#discard(names, 1)),
    );
  }

  #discard(names, number) {
    const dialog = $("sure");
    $("sure-title").textContent = `Discard ${many(number, "position")}?`;
    dialog.returnValue = "no";
    dialog.onclose = () => dialog.returnValue === "yes" && this.#act("discard", names);
    dialog.showModal();
  }

  async #act(what, names) {
    $("dead-fault").hidden = true;
    try {
      await post(what, names);
    } catch (error) {
      $("dead-fault").textContent = `That did not work: ${error.message}`;
      $("dead-fault").hidden = false;
    }
  }
}
