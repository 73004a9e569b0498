/** Joins the parts: each of them shows every event of the agent. */

import { DeadLetters } from "./dead-letters.js";
import { $, keep, make, put } from "./dom.js";
import { Feed, post } from "./feed.js";
import { Health, marked } from "./health.js";
import { instead, library, whenSeen } from "./lazy.js";
import { Pipe } from "./pipe.js";
import { Playback } from "./playback.js";
import { SkyView } from "./sky.js";
import { Track } from "./track.js";
import { unitsSelect } from "./units.js";
import { ago, count, headline, lostContact, many, reasons, size, span, total } from "./words.js";

const ICONS = { bad: "icon-bad.svg", stored: "icon-warn.svg" };
const THEMES = { "": "System", light: "Light", dark: "Dark" };

async function start() {
  const { check, missing, login, ...ground } = await setup();
  const track = new Track();
  // For the tests: the number of positions, and how long it takes to draw them.
  window.page = { track };
  document.body.classList.toggle("bare", Boolean(missing));
  const drawn = missing ? (element) => instead(element, missing) : whenSeen;
  const map = drawn($("map"), async () => {
    const [{ TrackMap }] = await Promise.all([import("./map.js"), library("leaflet")]);
    if (ground.map) await library("protomaps-leaflet", { styled: false });
    window.page.map = new TrackMap(track, ground, feed);
    return window.page.map;
  });
  const playback = new Playback(track, (index) => window.page.map?.play(index), () => choose(null));
  const trips = whenSeen($("trips-card"), async () => {
    const { TripList } = await import("./trips.js");
    window.page.trips = new TripList(choose);
    return window.page.trips;
  });
  async function choose(range) {
    if (range) playback.open(range);
    else playback.close();
    if (!range) window.page.trips?.cleared();
    exportsOf(range);
    const changed = Boolean(range) || Boolean(feed.range);
    if (changed) await feed.choose(range);
    playback.update();
    if (range) $("map").scrollIntoView({ block: "nearest" });
    if (changed) window.page.map?.chosen();
  }
  $("replay").addEventListener("click", () => {
    if (feed.range) playback.open({ ...feed.range });
    else playback.open({ label: "The whole track" });
  });
  const history = drawn($("chart"), async () => {
    const [{ History }] = await Promise.all([import("./history.js"), library("uPlot")]);
    return new History();
  });
  const parts = [map, new Pipe(), new SkyView(), history, trips, new DeadLetters(), new Health(check)];
  const story = new Story();
  const colours = () => parts.forEach((part) => part.recolour?.());
  themeSwitch(colours);
  networkSwitch();
  logoutButton(login);
  onOpen("log", (lines) => lines.join("\n") || "Nothing yet.");
  onOpen("config", (values) =>
    Object.entries(values).map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join("\n"));
  let last = null;
  const feed = new Feed(
    track,
    (state) => {
      if (last && state.version !== last.version) return location.reload(); // so is the page
      const words = headline(state);
      story.show(words);
      labels(state, words.title);
      for (const part of parts) part.show(state);
      playback.update();
      last = state;
    },
    (lostMs, refusal) => {
      $("contact").dataset.state = lostMs === null ? "live" : "lost";
      if (lostMs === null) return;
      put($("contact").lastElementChild, "No contact");
      document.title = `no contact · ${$("device").textContent}`;
      story.show(lostContact(lostMs, last !== null, refusal));
    },
  );
  feed.changed = () => last && map.show(last);
  unitsSelect($("units"), () => {
    colours();
    if (last) for (const part of parts) part.show(last);
  });
  window.page.feed = feed;
  feed.start();
}

/** The settings of the page; asked for until they come. */
async function setup() {
  for (;;) {
    try {
      return await (await fetch("setup")).json();
    } catch {
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

/** The headline; a screen reader reads it when its meaning changes, not when a number grows. */
class Story {
  show({ kind, tone, leadTone, lead, rest, more }) {
    $("story").dataset.tone = tone;
    $("lead").dataset.tone = leadTone;
    put($("lead"), lead);
    put($("rest"), rest);
    if (more !== this.more) $("more").replaceChildren(...marked(more));
    this.more = more;
    $("more").hidden = !more;
    if (kind !== this.kind) put($("announce"), `${lead} ${rest}`);
    this.kind = kind;
    // The icon of the tab has the colour of the worst state.
    const icon = ICONS[tone] ?? "icon.svg";
    if (icon !== this.icon) document.querySelector("link[rel=icon]").href = `static/${icon}`;
    this.icon = icon;
  }
}

function labels(state, title) {
  const { queue, upload, receiver } = state;
  $("contact").dataset.state = "live";
  put($("contact").lastElementChild, "Live");
  put($("device"), state.device);
  put($("version"), state.version);
  document.title = `${title} · ${state.device}`;
  $("switch").hidden = state.away === undefined;
  $("switch").setAttribute("aria-pressed", String(Boolean(state.away)));
  put($("switch"), state.away ? "Restore the network" : "Cut the network");
  const facts = [
    ["Receiver", receiver.source],
    ["Running for", span(state.uptime_s)],
    ["Requests", `${count(upload.requests)}, ${count(upload.failed_requests)} failed`],
    ["Sent in 24 h", size(upload.sent_bytes_24h)],
    ["Queue file", size(queue.file_bytes)],
    ["Refused", total(queue.dead_letters) ? many(total(queue.dead_letters), "position") : "nothing"],
    ["Lost", reasons(queue.lost) || "nothing"],
  ];
  if (upload.last_error) facts.push(["Last fault", `${upload.last_error}, ${ago(upload.last_error_s)}`]);
  const details = $("details");
  if (details.children.length !== facts.length) {
    details.replaceChildren(...facts.map(() => make("div", {}, make("dt"), make("dd"))));
  }
  facts.forEach(([name, value], i) => {
    put(details.children[i].children[0], name);
    put(details.children[i].children[1], value);
  });
}

function themeSwitch(changed) {
  const button = $("theme");
  const root = document.documentElement;
  const show = () => {
    const chosen = root.dataset.theme ?? "";
    put(button.lastElementChild, THEMES[chosen]);
    button.setAttribute("aria-label", `Colours: ${THEMES[chosen]}`);
    changed();
  };
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(root.dataset.theme ?? "") + 1) % names.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    keep("theme", next);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

const EVERYTHING = $("export-what").textContent;

/** An export covers the chosen time. */
function exportsOf(range) {
  put($("export-what"), range ? `${range.label}.` : EVERYTHING);
  const asked = new URLSearchParams();
  if (range) asked.set("since", range.since);
  if (range?.until !== undefined) asked.set("until", range.until);
  for (const link of $("exports").children) {
    link.search = asked.toString();
  }
}

/** Texts that are fetched when the viewer opens them. */
function onOpen(id, words) {
  $(id).addEventListener("toggle", async () => {
    if (!$(id).open) return;
    const text = $(id).querySelector("pre");
    try {
      const answer = await fetch(id);
      text.textContent = answer.ok ? words(await answer.json()) : await answer.text();
    } catch {
      text.textContent = "No contact with the agent.";
    }
    text.scrollTop = text.scrollHeight;
  });
}

function networkSwitch() {
  $("switch").addEventListener("click", () => {
    const away = $("switch").getAttribute("aria-pressed") !== "true";
    tried(() => post("network", { away }));
  });
}

/** It ends what every tab of this browser shows. */
function logoutButton(login) {
  $("logout").hidden = !login;
  $("logout").addEventListener("click", () =>
    tried(async () => {
      await post("logout", {});
      keep("logout", String(Date.now()));
      location.reload();
    }));
  addEventListener("storage", ({ key }) => key === "logout" && location.reload());
}

/** If it fails, it says why below the headline, until it is tried again. */
async function tried(action) {
  $("story-fault").hidden = true;
  try {
    await action();
  } catch (error) {
    put($("story-fault"), `That did not work: ${error.message}`);
    $("story-fault").hidden = false;
  }
}

start();
