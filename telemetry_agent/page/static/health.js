/** What is wrong, with the remedy; and all checks of the doctor, when somebody asks for them. */

import { post } from "./feed.js";

const $ = (id) => document.getElementById(id);

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
    if (button.getAttribute("aria-disabled") === "true") return; // it keeps the focus, so no disabled
    button.setAttribute("aria-disabled", "true");
    $("check-note").textContent = "Checking everything: up to 15 s.";
    try {
      const { checks } = await post("check", {});
      $("checks").replaceChildren(...checks.map(row));
      $("checks-table").hidden = false;
      const bad = checks.filter(({ verdict }) => verdict === "fail" || verdict === "warn").length;
      $("check-note").textContent = bad ? `${bad} of ${checks.length} need a look.` : "All is well.";
    } catch (error) {
      $("check-note").textContent = `That did not work: ${error.message}`;
    } finally {
      button.removeAttribute("aria-disabled");
    }
  }
}

function entry({ name, verdict, said, remedy }) {
  const element = document.createElement("li");
  element.dataset.verdict = verdict;
  element.append(sign(verdict), paragraph([bold(name), " ", ...marked(said)], remedy));
  return element;
}

function row({ name, verdict, said, remedy }) {
  const element = document.createElement("tr");
  element.dataset.verdict = verdict;
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const result = document.createElement("td");
  result.append(sign(verdict), ` ${verdict}`);
  const words = document.createElement("td");
  words.append(paragraph(marked(said), remedy));
  element.append(head, result, words);
  return element;
}

function paragraph(said, remedy) {
  const element = document.createElement("div");
  const first = document.createElement("p");
  first.append(...said);
  element.append(first);
  if (remedy) {
    const second = document.createElement("p");
    second.className = "remedy";
    second.append(...marked(remedy));
    element.append(second);
  }
  return element;
}

function sign(verdict) {
  const element = document.createElement("span");
  element.className = "sign";
  element.setAttribute("aria-hidden", "true");
  element.textContent = SIGNS[verdict];
  return element;
}

function bold(text) {
  const element = document.createElement("b");
  element.textContent = text;
  return element;
}

/** A text in which commands stand between backquotes. */
export function marked(text) {
  return text.split("`").map((part, i) => {
    if (i % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  });
}
