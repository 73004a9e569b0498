/** What is wrong, with the remedy; and all checks of the doctor, when the viewer asks for them. */

import { $, make } from "./dom.js";
import { post } from "./feed.js";

const SIGNS = { pass: "✔", warn: "!", fail: "✘", skip: "–" };

export class Health {
  /** @param {boolean} canCheck whether the agent has a doctor */
  constructor(canCheck) {
    this.shown = "";
    $("check").hidden = !canCheck;
    $("check").addEventListener("click", () => this.#check());
  }

  show({ findings }) {
    const key = JSON.stringify(findings);
    if (key === this.shown) return;
    this.shown = key;
    $("findings").replaceChildren(...findings.map(entry));
    $("all-well").hidden = findings.length > 0;
    $("health-card").dataset.worst = findings.some(({ verdict }) => verdict === "fail") ? "fail" : findings.length ? "warn" : "pass";
  }

  async #check() {
    const button = $("check");
    if (button.getAttribute("aria-disabled") === "true") return; // "disabled" would take the focus away
    button.setAttribute("aria-disabled", "true");
    $("check-note").textContent = "Checking everything: up to 15 s.";
    try {
      const { checks } = await post("check", {});
      $("checks").replaceChildren(...checks.map(row));
      $("checks-table").hidden = false;
      const bad = checks.filter(({ verdict }) => verdict === "fail" || verdict === "warn").length;
      $("check-note").textContent = bad ? `${bad} of ${checks.length} need${bad === 1 ? "s" : ""} attention.` : "All is well.";
    } catch (error) {
      $("check-note").textContent = `That did not work: ${error.message}`;
    } finally {
      button.removeAttribute("aria-disabled");
    }
  }
}

function entry({ name, verdict, said, remedy }) {
  return judged("li", verdict, sign(verdict), paragraph([make("b", {}, name), " ", ...marked(said)], remedy));
}

function row({ name, verdict, said, remedy }) {
  const result = make("td", {}, sign(verdict), ` ${verdict}`);
  const head = make("th", { scope: "row" }, name);
  return judged("tr", verdict, head, result, make("td", {}, paragraph(marked(said), remedy)));
}

function judged(tag, verdict, ...children) {
  const element = make(tag, {}, ...children);
  element.dataset.verdict = verdict;
  return element;
}

function paragraph(said, remedy) {
  const todo = remedy ? [make("p", { className: "remedy" }, ...marked(remedy))] : [];
  return make("div", {}, make("p", {}, ...said), ...todo);
}

const sign = (verdict) => make("span", { className: "sign", ariaHidden: "true" }, SIGNS[verdict]);

/** A text whose commands are between backquotes. */
export const marked = (text) => text.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));
