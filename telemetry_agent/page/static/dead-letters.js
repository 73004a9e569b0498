/** The positions that the endpoint refused, and why; the viewer can retry or discard them. */

import { $, make } from "./dom.js";
import { post } from "./feed.js";
import { count, many, total } from "./words.js";

const areDone = (number, what) => `${many(number, "position")} ${number === 1 ? "is" : "are"} ${what}.`;
const WORDS = {
  retry: { doing: "Retrying", done: (number) => areDone(number, "sent again") },
  discard: { doing: "Discarding", done: (number) => areDone(number, "discarded") },
};

export class DeadLetters {
  constructor() {
    this.shown = "";
    this.number = 0;
    this.busy = false;
    $("retry-all").addEventListener("click", () => this.#act("retry", { all: true }, this.number));
    $("discard-all").addEventListener("click", () => this.#discard({ all: true }, this.number));
  }

  async show(state) {
    const key = state.stream + JSON.stringify(state.queue.dead_letters);
    this.number = total(state.queue.dead_letters);
    if (key === this.shown || this.busy) return;
    this.shown = key;
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
      button("Retry", "", () => this.#act("retry", names, 1)),
      button("Discard", "danger", () => this.#discard(names, 1)),
    );
  }

  #discard(names, number) {
    if (this.busy) return;
    const dialog = $("sure");
    $("sure-title").textContent = `Discard ${many(number, "position")}?`;
    dialog.returnValue = "no";
    dialog.onclose = () => dialog.returnValue === "yes" && this.#act("discard", names, number);
    dialog.showModal();
  }

  /** A hundred thousand take some seconds. The buttons keep the focus, but do nothing meanwhile. */
  async #act(what, names, number) {
    if (this.busy) return;
    const { doing, done } = WORDS[what];
    this.#show(`${doing} ${many(number, "position")} …`, "");
    this.#setBusy(true);
    try {
      const answer = await post(what, names);
      this.#show(done(Object.values(answer)[0]), "");
    } catch (error) {
      this.#show("", `That did not work: ${error.message}`);
    } finally {
      this.#setBusy(false);
    }
  }

  #setBusy(busy) {
    this.busy = busy;
    for (const button of $("dead-card").querySelectorAll("button")) button.ariaDisabled = String(busy);
  }

  #show(note, fault) {
    for (const [id, text] of [["dead-note", note], ["dead-fault", fault]]) {
      $(id).textContent = text;
      $(id).hidden = !text;
    }
  }
}
