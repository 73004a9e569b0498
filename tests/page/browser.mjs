// Runs one story in a real browser: node browser.mjs STORY URL [PICTURES]. Exits with 0 on success.
// Prints results for the caller as lines of JSON.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const require = createRequire(import.meta.url);
const [, , story, url, pictures] = process.argv;
const LIMIT_MS = 100_000; // other tests may start a browser at the same time

const SIZES = { desk: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };
const LOST = /net::ERR_(CONNECTION|INCOMPLETE|EMPTY|ABORTED)/;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    ...["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
    "--disable-dev-shm-usage", // containers have little of it
    ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    // Maps the name and the usual port to the proxy of the test.
    ...(process.env.PAGE_PROXY
      ? [`--host-resolver-rules=MAP ${new URL(url).host}:443 ${process.env.PAGE_PROXY}`]
      : []),
  ],
});

/** Opens a page that collects its faults: console errors, exceptions, requests to other hosts. */
async function open(options = {}, path = "", prepare = null, beside = null) {
  const { size = "desk", ...rest } = options;
  const calm = { reducedMotion: "reduce" }; // decorative motion would only cost time
  const context = beside ?? (await browser.newContext({ viewport: SIZES[size], ...calm, ...rest }));
  const page = await context.newPage();
  await prepare?.(page);
  if (pictures) await page.addInitScript(asReleased);
  page.faults = [];
  page.setDefaultTimeout(LIMIT_MS);
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) page.faults.push(message.text());
  });
  page.on("pageerror", (error) => page.faults.push(String(error)));
  page.on("request", (request) => {
    const stranger = process.env.STRANGER;
    if (stranger && request.url().includes(stranger)) return;
    if (!request.url().startsWith(url)) page.faults.push(`asked for ${request.url()}`);
  });
  await page.goto(url + path);
  return page;
}

/** Replaces test folders and the version suffix: the pictures show the next release to readers. */
function asReleased() {
  const { parse } = JSON;
  JSON.parse = (text) =>
    parse(
      text
        .replace(/\/(tmp|dev\/shm|var\/tmp)\/(telemetry-agent-test-|tmp)\w+/g, "/var/lib/telemetry-agent")
        .replace("+checkout", ""),
    );
}

const until = (page, test, arg) => page.waitForFunction(test, arg, { timeout: LIMIT_MS });

/** Reads a value until it is right, and returns it; a failure shows the last value. */
async function comes(read, right) {
  const end = performance.now() + LIMIT_MS;
  for (;;) {
    const seen = await read();
    if (right(seen)) return seen;
    if (performance.now() > end) assert.fail(`it stayed ${JSON.stringify(seen)}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

const wide = (page, limit) => comes(() => page.evaluate(() => document.documentElement.scrollWidth), (width) => width <= limit);
/** Whether the track and the scale of the map are above the strip with the chosen time. */
const clear = (page) =>
  page.evaluate(() => {
    const { map, track } = window.page.map;
    const box = map.getContainer().getBoundingClientRect();
    const lowest = Math.max(...[...track.lat.subarray(0, track.size)].map((lat, i) =>
      map.latLngToContainerPoint([lat / 1e7, track.lon[i] / 1e7]).y));
    const strip = document.querySelector("#strip").getBoundingClientRect().top;
    return box.top + lowest < strip && document.querySelector(".leaflet-control-scale").getBoundingClientRect().bottom < strip;
  });
const live = (page) => until(page, () => document.querySelector("#contact").dataset.state === "live");
const says = (page, pattern) =>
  until(page, (text) => new RegExp(text).test(document.querySelector("#headline").innerText), pattern);

/** Counts the drawn positions by their state. */
const places = (page) =>
  page.evaluate(() => {
    const { track } = window.page;
    const found = {};
    for (let i = 0; i < track.size; i++) {
      const place = track.placeOf(i);
      found[place] = (found[place] ?? 0) + 1;
    }
    return found;
  });

const pressed = (page) => page.evaluate(() => document.querySelector("#switch").ariaPressed === "true");

const tell = (value) => console.log(JSON.stringify(value));

const picture = async (page, name, options = {}) => {
  if (!pictures) return;
  await until(page, () => window.page?.map);
  await until(page, () => !window.page.map.map._animatingZoom);
  await page.evaluate(() => new Promise(requestAnimationFrame)); // then it is drawn again
  await page.screenshot({ path: `${pictures}/page-${name}.png`, ...options });
};

/** Shows a state in light, in dark and on a phone; axe must not find violations. */
async function looks(page, name) {
  for (const [look, viewport, colorScheme] of [
    ["light", { width: 1200, height: 750 }, "light"],
    ["dark", { width: 1200, height: 750 }, "dark"],
    ["phone", SIZES.phone, "light"],
  ]) {
    await page.setViewportSize(viewport);
    await page.emulateMedia({ colorScheme });
    await axe(page, `${name} ${look}`);
    // No pixel of the sentence is cut off.
    await comes(() => page.evaluate(() => document.querySelector("#story").scrollHeight - document.querySelector("#story").clientHeight), (cut) => cut <= 0);
    await page.evaluate(() => scrollTo(0, 0));
    if (pictures) await page.waitForTimeout(500); // until the map is drawn in its new size
    await picture(page, `${name}-${look}`);
  }
}

/** Runs axe-core through the debugger, because the page does not allow scripts of other sites. */
async function axe(page, where) {
  await page.evaluate(await readFile(require.resolve("axe-core/axe.min.js"), "utf8"));
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
  assert.deepEqual(found, [], where);
}

/** Clicks on a position of the track and waits for its details. */
async function clickPosition(page, index) {
  const point = await page.evaluate((i) => {
    const { map, track } = window.page.map;
    const at = map.latLngToContainerPoint([track.lat[i] / 1e7, track.lon[i] / 1e7]);
    const box = map.getContainer().getBoundingClientRect();
    return [at.x + box.x, at.y + box.y];
  }, index);
  await page.mouse.click(...point);
  await page.waitForFunction(() => /Satellites/.test(document.querySelector(".fix")?.innerText ?? ""));
}

/** Presses Tab until this element has the focus. */
async function tabTo(page, selector) {
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) return;
  }
  assert.fail(`${selector} is not reached by keyboard`);
}

const stories = {
  /** The demo: the trail turns amber, then green again. All by keyboard. */
  async outage() {
    const desk = await open({ reducedMotion: "no-preference" });
    const dark = await open({ colorScheme: "dark" });
    const phone = await open({ size: "phone", hasTouch: true, deviceScaleFactor: 2 });
    await until(desk, (n) => window.page?.track.size > n, pictures ? 70 : 12);
    await tabTo(desk, "#switch");
    if (await pressed(desk)) {
      // The demo used the switch first: switch it back.
      await desk.keyboard.press("Enter");
      await until(desk, () => document.querySelector("#switch").ariaPressed === "false");
    }
    await desk.keyboard.press("Enter");
    await says(desk, "Uploads unreachable for");
    await until(desk, () => /Uploads unreachable for/.test(document.querySelector("#announce").textContent));
    await until(desk, (n) => Number(document.querySelector("#disk .value").innerText) >= n, pictures ? 60 : 30);
    const away = await comes(() => places(desk), (away) => away.stored >= 20 && away.delivered > 0);
    for (const [page, name] of [[desk, "outage-light"], [dark, "outage-dark"], [phone, "outage-phone"]]) {
      await until(page, () => document.querySelector("#outflow").dataset.flow === "cut");
      await page.evaluate(() => document.activeElement.blur());
      await picture(page, name);
    }
    await tabTo(desk, "#switch");
    await desk.keyboard.press("Space");
    await says(desk, "Everything is delivered");
    await until(desk, () => document.querySelector("#outflow").dataset.flow !== "cut");
    await until(desk, (n) => window.page.track.runs[0]?.[1] >= n, away.stored + away.delivered);
    await comes(() => places(desk), (home) => home.delivered >= away.stored + away.delivered);
    await until(desk, () => window.page.track.runs[0][2] === "delivered");
    for (const part of [".here.fresh.moves", ".accuracy", ".leaflet-control-scale-line", ".graticule"]) {
      await desk.waitForSelector(`#map ${part}`, { state: "attached" });
    }
    await desk.locator("#chart").scrollIntoViewIfNeeded();
    await until(desk, () => /waiting on the disk: now [\d.,]+ positions, at most [1-9][\d.,]* positions; delivered/.test(document.querySelector("#chart").ariaLabel));
    await until(desk, () => /in view, \d+ used: BeiDou, GLONASS, GPS, Galileo/.test(document.querySelector("#polar").ariaLabel));
    await desk.evaluate(() => document.activeElement.blur());
    if (pictures) await until(desk, () => window.page.track.size > 198); // one round with the tunnel
    await desk.evaluate(() => scrollTo(0, 0));
    await picture(desk, "delivered-light");
    await picture(dark, "delivered-dark");
    const sky = desk.locator("[aria-labelledby=sky-title]");
    await sky.scrollIntoViewIfNeeded();
    if (pictures) await sky.screenshot({ path: `${pictures}/page-sky.png` });
    await desk.locator("#sky-table summary").click();
    await until(desk, () => document.querySelectorAll("#satellites tr").length > 20);
    await axe(desk, "with satellites");
    for (const page of [desk, dark, phone]) assert.deepEqual(page.faults, []);
  },

  /** Dead letters are retried and discarded; discarding asks for confirmation. */
  async letters() {
    const page = await open();
    const entries = page.locator("#dead-list li");
    await until(page, () => document.querySelectorAll("#dead-list li").length === 3);
    for (const name of ["GPX", "KML", "GeoJSON", "CSV", "NDJSON"]) {
      const [file] = await Promise.all([
        page.waitForEvent("download"),
        page.getByRole("link", { name, exact: true }).click(),
      ]);
      assert.equal(file.suggestedFilename(), `van-07-2026-11-23.${name.toLowerCase()}`);
      assert.match(await readFile(await file.path(), "utf8"), /2026-11-23T12:00:02/);
    }
    await comes(() => entries.first().innerText(), (text) => /lat out of range/.test(text));
    await axe(page, "with dead letters");
    const sky = page.locator("[aria-labelledby=sky-title]");
    const { width } = await sky.boundingBox();
    // During a retry, the page says so, and the buttons do nothing.
    let answer;
    await page.route("**/retry", async (route) => {
      await new Promise((done) => (answer = done));
      await route.continue();
    });
    await entries.first().getByRole("button", { name: /Retry/ }).click();
    await until(page, () => document.querySelector("#dead-note").innerText === "Retrying 1 position …");
    await axe(page, "while it retries");
    await page.evaluate(() => document.querySelector("#discard-all").click());
    assert.equal(await page.getByRole("dialog").count(), 0);
    answer();
    await until(page, () => document.querySelectorAll("#dead-list li").length === 2);
    await until(page, () => document.querySelector("#dead-note").innerText === "1 position is sent again.");
    await page.unroute("**/retry");
    await until(page, () => document.activeElement.id === "dead-list");
    await entries.first().getByRole("button", { name: /Discard/ }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Keep them" }).click();
    assert.equal(await entries.count(), 2);
    await entries.first().getByRole("button", { name: /Discard/ }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Discard" }).click();
    await until(page, () => document.querySelectorAll("#dead-list li").length === 1);
    await page.getByRole("button", { name: "Retry all" }).click();
    await until(page, () => document.querySelector("#dead-card").hidden);
    await until(page, () => document.activeElement.id === "story"); // the focus is not lost with the button
    assert.equal((await sky.boundingBox()).width, width); // the satellites keep their width
    await says(page, "Everything is delivered");
    assert.deepEqual(page.faults, []);
  },

  /** Light, dark and on a phone, with 50,000 positions: no violation, no overflow, smooth motion. */
  async look() {
    const page = await open();
    await until(page, () => window.page?.map && window.page.track.size > 1000);
    for (const [size, colorScheme] of [["desk", "light"], ["desk", "dark"], ["phone", "light"]]) {
      await page.setViewportSize(SIZES[size]);
      await page.emulateMedia({ colorScheme });
      await axe(page, `${size} ${colorScheme}`);
      await wide(page, SIZES[size].width);
    }
    await page.setViewportSize(SIZES.desk);
    tell(await frames(page));
    await tabTo(page, "#theme");
    for (const theme of ["light", "dark", undefined]) {
      await page.keyboard.press("Enter");
      await until(page, (theme) => document.documentElement.dataset.theme === theme, theme);
    }
    await tabTo(page, "#map");
    const before = await page.evaluate(() => window.page.map.map.getZoom());
    await page.keyboard.press("+");
    await until(page, (zoom) => window.page.map.map.getZoom() > zoom, before);
    await tabTo(page, "#whole");
    await page.keyboard.press("Enter");
    assert.deepEqual(page.faults, []);
  },

  /** For benchmarks/page.py. */
  async frames() {
    const page = await open();
    await until(page, () => window.page?.map && window.page.track.size >= 500);
    await page.waitForTimeout(3000);
    const wire_bytes = await page.evaluate(() =>
      ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind)).reduce((sum, { transferSize }) => sum + transferSize, 0),
    );
    tell({ wire_bytes, ...(await frames(page)) });
  },

  /** The agent stops and starts again: the page says so, and continues with the new run. */
  async restart() {
    const page = await open();
    await until(page, () => window.page?.track.size > 5);
    const first = await page.evaluate(() => document.title);
    tell({ ready: first });
    await says(page, "No contact with the agent");
    await looks(page, "no-contact");
    tell({ lost: true });
    await live(page);
    await says(page, "Recording");
    await until(page, () => window.page.track.size > 10);
    assert.ok(page.faults.every((fault) => LOST.test(fault)), page.faults.join("\n"));
  },

  /** The complete track, although the agent had not read it when the page was opened. */
  async long() {
    const page = await open();
    await until(page, () => window.page?.track.size > 1000 && window.page.track.rows[0] === 1);
    assert.deepEqual(page.faults, []);
  },

  /** A chosen trip stays chosen when the agent returns with other row numbers. */
  async chosen() {
    const page = await open();
    await page.locator("#trips-card").scrollIntoViewIfNeeded();
    await page.locator("#trips li li button").last().click();
    const some = () => until(page, () => window.page.track.size > 10 && window.page.track.size < 700);
    await some();
    const time = await page.innerText("#strip-time");
    const playing = await open({}, "", null, page.context());
    await until(playing, () => window.page?.map && window.page.track.size > 10);
    await playing.evaluate(() => {
      const { map, track } = window.page;
      const { play } = map;
      window.places = [];
      map.play = (index) => {
        play.call(map, index);
        if (index !== null && !track.glitch[index]) window.places.push(map.ghost.getLatLng().lat);
      };
      document.querySelector("#replay").click();
      document.querySelector("#play").click();
    });
    await until(playing, () => window.places.length > 3);
    tell("chosen");
    for (const one of [page, playing]) await until(one, () => document.querySelector("#contact").dataset.state === "lost");
    tell("lost");
    for (const one of [page, playing]) await live(one);
    await page.waitForTimeout(1500); // one or two events
    await some();
    await comes(() => page.innerText("#strip-time"), (text) => text === time);
    assert.deepEqual(await playing.evaluate(() => window.places.filter((lat) => lat < 40)), []); // it was never at 0, 0
    assert.ok(page.faults.every((fault) => LOST.test(fault)), page.faults.join("\n"));
  },

  /** Code and setup that could not be loaded are loaded when contact returns. */
  async loading() {
    const page = await open({ size: "phone" }, "", async (page) => {
      let refused = 2;
      await page.route("**/setup", (route) => (refused-- > 0 ? route.abort() : route.continue()));
    });
    await live(page);
    await page.route("**/*.js", (route) => route.abort());
    await page.locator("#trips-card").scrollIntoViewIfNeeded();
    await until(page, () => /trips\.js/.test(performance.getEntriesByType("resource").map(({ name }) => name).join()));
    await page.waitForTimeout(500);
    await page.unroute("**/*.js");
    await until(page, () => document.querySelectorAll("#trips li").length > 0);
    assert.ok(page.faults.every((fault) => /ERR_FAILED|module/.test(fault)), page.faults.join("\n"));
    // A range beyond any time that the agent can have.
    await page.fill("#since", "0001-01-01T00:00");
    await page.fill("#until", "9999-12-31T23:59");
    await page.getByRole("button", { name: "Show", exact: true }).click();
    await until(page, () => !document.querySelector("#strip").hidden && window.page.feed.stale === false);
  },

  /** Other languages, zones and clocks: each part makes sense, endpoint messages stay text. */
  async odd() {
    const shifted = (years) => {
      const Real = Date;
      const now = () => Real.now() + years * 31_556_952_000;
      globalThis.Date = class extends Real {
        constructor(...given) {
          super(...(given.length ? given : [now()]));
        }
        static now = now;
      };
    };
    for (const [locale, timezoneId, years] of [
      ["de-DE", "Pacific/Kiritimati", 0],
      ["ar-EG", "America/St_Johns", -30],
      ["th-TH-u-ca-buddhist", "Asia/Kathmandu", 60],
    ]) {
      const page = await open({ locale, timezoneId }, "", (page) => page.addInitScript(shifted, years));
      await live(page);
      await until(page, () => window.page.map && !window.page.feed.stale);
      await page.locator("#whole").click();
      for (const part of ["#chart", "#trips-card"]) await page.locator(part).scrollIntoViewIfNeeded();
      await until(page, () => window.page.trips && !/Reading/.test(document.querySelector("#trips-note").innerText));
      for (const trip of (await page.locator("#trips li li button").all()).slice(0, 2)) {
        await trip.click();
        await page.locator("#strip").waitFor();
      }
      const shown = await page.evaluate(() => {
        const labels = [...document.querySelectorAll("[aria-label], [title]")].flatMap((one) =>
          ["aria-label", "title"].map((name) => one.getAttribute(name) ?? ""));
        return [document.body.innerText, ...labels].join("\n");
      });
      assert.equal(/.{0,50}(NaN|undefined|Infinity|Invalid|\[object).{0,50}/.exec(shown)?.[0], undefined);
      assert.equal(await page.locator("main img[src=x]").count(), 0);
      await wide(page, SIZES.desk.width);
      const narrow = { width: 320, height: 568 };
      await page.setViewportSize(narrow);
      await wide(page, narrow.width);
      const sticksOut = () =>
        page.evaluate(() => ["#story", "#receiver", "#endpoint", "#chart"].filter((name) => {
          const box = document.querySelector(name);
          return box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
        }).join());
      await comes(sticksOut, (names) => names === "");
      assert.deepEqual(page.faults, []);
      await page.close();
    }
  },

  /** Everything that the page loads is available. */
  async whole() {
    const page = await open();
    await live(page);
    await until(page, () => window.page?.map);
    await page.locator("#chart").scrollIntoViewIfNeeded();
    await until(page, () => document.querySelector("#chart .uplot"));
    const heard = /waiting on the disk: now 0 positions, at most 0 positions; delivered per minute: now 0 a minute/;
    await comes(() => page.getAttribute("#chart", "aria-label"), (words) => heard.test(words));
    await page.locator("#trips-card").scrollIntoViewIfNeeded();
    await until(page, () => window.page.trips);
    assert.deepEqual(page.faults, []);
  },

  /** The agent returns in another version, and the page reloads itself. */
  async upgraded() {
    const page = await open();
    await live(page);
    await page.evaluate(() => (window.old = true));
    tell("live");
    await until(page, () => !window.old && document.querySelector("#version").textContent === "9.9.9");
    await live(page);
  },

  /** The page shows nothing without the token. */
  async login() {
    const token = process.env.PAGE_TOKEN;
    const page = await open();
    await axe(page, "the login");
    await page.fill("#token", "wrong");
    await page.keyboard.press("Enter");
    await page.waitForSelector("[role=alert]");
    await axe(page, "after a wrong token");
    await page.fill("#token", token);
    await page.keyboard.press("Enter");
    await until(page, () => window.page?.track.size > 0);
    const [cookie] = await page.context().cookies();
    assert.ok(cookie.httpOnly && cookie.sameSite === "Lax" && !cookie.value.includes(token));
    assert.ok(!(await page.content()).includes(token));
    // A link on another site leads to the page, not to the login form.
    await page.route("http://wiki.example/", (route) =>
      route.fulfill({ contentType: "text/html", body: `<a href="${url}">van-07</a>` }));
    await page.goto("http://wiki.example/");
    await page.click("a");
    await until(page, () => window.page?.track.size > 0);
    // A logout in one tab applies to all tabs of the browser.
    const other = await open({}, "", null, page.context());
    await live(other);
    // The page shows what failed, and still shows the cause of the state.
    await page.route("**/logout", (route) => route.fulfill({ status: 503, body: "busy" }));
    const out = page.getByRole("button", { name: "Log out" });
    await out.click();
    const fault = page.getByText("That did not work: busy");
    await fault.waitFor();
    await page.waitForTimeout(2500); // one or two events
    assert.ok(await fault.isVisible());
    assert.ok(!/did not work/.test(await page.textContent("#more")));
    await axe(page, "when the logout failed");
    await page.unroute("**/logout");
    await out.click();
    for (const left of [page, other]) await left.waitForSelector("#token");
    assert.deepEqual(await page.context().cookies(), []);
    await page.fill("#token", token);
    await page.keyboard.press("Enter");
    await until(page, () => window.page?.track.size > 0);
  },

  /** Too many viewers: the page says so, and continues when a place is free. */
  async full() {
    const page = await open();
    await says(page, "Too many viewers .limit 32.: close another window");
    await axe(page, "too many viewers");
    assert.ok(await page.locator("#logout").isHidden()); // there is no token
    tell({ full: true });
    await live(page);
    await says(page, "Receiver absent");
    assert.ok(page.faults.every((fault) => /status of 503/.test(fault)), page.faults.join("\n"));
  },

  /** Tiles of a server: the origin as Referer, high resolution on such a screen, inverted in dark. */
  async tiles() {
    const page = await open({ deviceScaleFactor: 2 });
    await until(page, () => document.querySelectorAll("#map img.leaflet-tile-loaded").length > 3);
    await comes(() => page.innerText(".leaflet-control-attribution"), (text) => text === "© <b>them</b> & others");
    assert.equal(await page.locator("#map .graticule").count(), 0);
    await axe(page, "with tiles");
    await page.emulateMedia({ colorScheme: "dark" });
    await until(page, () => /invert/.test(getComputedStyle(document.querySelector("#map .pictures")).filter));
    await axe(page, "with tiles in the dark");
    assert.deepEqual(page.faults, []);
  },

  /** A map on the device: land, water and a road, without requests to other hosts. */
  async offline() {
    const page = await open();
    const ground = () =>
      page.evaluate(() => {
        const found = new Set();
        for (const canvas of document.querySelectorAll("#map canvas.leaflet-tile-loaded")) {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          for (let i = 0; i < data.length; i += 4 * 97) found.add([...data.subarray(i, i + 4)].join());
        }
        return [...found];
      });
    const light = await comes(ground, (light) => light.length >= 3); // land, water and the background
    await comes(() => page.innerText(".leaflet-control-attribution"), (text) => text === "made by © nobody x");
    await axe(page, "with a map");
    await picture(page, "map");
    await page.emulateMedia({ colorScheme: "dark" });
    await comes(ground, (dark) => dark.length >= 3 && !dark.some((colour) => light.includes(colour)));
    await axe(page, "with a map in the dark");
    await picture(page, "map-dark");
    assert.deepEqual(page.faults.filter((fault) => !/willReadFrequently/.test(fault)), []); // caused by this test
  },

  /** Narrow screens, many satellites, no script, the focus of the zoom buttons, an app to install. */
  async details() {
    const page = await open({ size: "phone" });
    await live(page);
    // A screen reader can read parts that were never scrolled into view.
    await until(page, () => /^\d+ satellites in view/.test(document.querySelector("#polar").getAttribute("aria-label")));
    // The map says that it does not show all of the track until the agent has read it.
    await until(page, () => window.page?.map && window.page.track.size > 0);
    const saysSo = (whole) => {
      window.page.map.show({ receiver: {}, first: 0, whole });
      return !document.querySelector("#reading").hidden;
    };
    assert.deepEqual([await page.evaluate(saysSo, false), await page.evaluate(saysSo, true)], [true, false]);
    await page.locator("#trips-card").scrollIntoViewIfNeeded();
    await until(page, () => !/Reading/.test(document.querySelector("#trips-note").innerText));
    await page.evaluate(() => {
      window.notes = [];
      const note = document.querySelector("#trips-note");
      new MutationObserver(() => window.notes.push(note.textContent)).observe(note, { childList: true });
    });
    await page.locator("#polar").scrollIntoViewIfNeeded();
    await until(page, () => document.querySelectorAll("#bars .bar").length > 20);
    for (const width of [390, 320]) {
      await page.setViewportSize({ width, height: 844 });
      await wide(page, width);
      await until(page, () => {
        const card = document.querySelector("[aria-labelledby=sky-title]").getBoundingClientRect();
        return [...document.querySelectorAll("#bars .bar")].every((bar) => bar.getBoundingClientRect().right <= card.right);
      });
      await axe(page, `${width} wide`);
    }
    // A laptop at 200 %: the buttons of the map are inside the map.
    await page.setViewportSize({ width: 640, height: 400 });
    await comes(
      () => Promise.all([".map", "#replay"].map((one) => page.locator(one).boundingBox())),
      ([map, last]) => last.y + last.height <= map.y + map.height - 40,
    );
    // With system colours, used satellites are still visible as used.
    await page.emulateMedia({ forcedColors: "active" });
    await until(page, () => {
      const colour = (one) => getComputedStyle(document.querySelector(one)).backgroundColor;
      return matchMedia("(forced-colors: active)").matches && [".bar.used i", ".contact i"].every((one) => colour(one) !== colour("body"));
    });
    await axe(page, "with forced colours");
    // The two lines of a chart still differ.
    await page.locator("#chart").scrollIntoViewIfNeeded();
    await page.selectOption("#chart-what", "satellites");
    await comes(
      () => page.locator("#chart .u-marker").evaluateAll((markers) => markers.map((one) => getComputedStyle(one).borderColor)),
      ([, one, other]) => one && other && one !== other, // the first marker is the time
    );
    await page.emulateMedia({ forcedColors: "none" });
    await page.setViewportSize({ width: 320, height: 844 });
    await tabTo(page, ".leaflet-control-zoom-in");
    await until(page, () => getComputedStyle(document.activeElement).outlineOffset === "-4px"); // inside the clipped area
    const session = await page.context().newCDPSession(page);
    const { url: manifest, errors, data } = await session.send("Page.getAppManifest");
    assert.ok(manifest.endsWith("/static/manifest.webmanifest"));
    assert.deepEqual(errors, []);
    for (const icon of JSON.parse(data).icons) {
      const answer = await page.request.get(new URL(icon.src, manifest).href);
      assert.equal(answer.headers()["content-type"], icon.type);
    }
    // The track was read once. New positions do not change that.
    assert.deepEqual((await page.evaluate(() => window.notes)).filter((note) => /Reading/.test(note)), []);
    // The chart shows a processor temperature below zero.
    await page.route("**/history?*", async (route) => {
      const known = await (await route.fetch()).json();
      await route.fulfill({ json: { ...known, temperature: known.time.map(() => -12) } });
    });
    await page.selectOption("#chart-what", "temperature");
    await page.locator("#chart").scrollIntoViewIfNeeded();
    await until(page, () => /now -12 °C/.test(document.querySelector("#chart").ariaLabel));
    await comes(
      async () => {
        await page.locator("#chart .u-over").hover(); // repeatedly: each new value redraws the chart
        return Promise.all([".u-over", ".u-cursor-pt"].map((one) => page.locator(`#chart ${one}`).boundingBox()));
      },
      ([chart, point]) => point && point.y > chart.y && point.y + point.height < chart.y + chart.height,
    );
    const plain = await open({ javaScriptEnabled: false });
    const note = await plain.locator(".noscript").boundingBox();
    assert.ok(note.y < 200, `the note is at ${note.y}`);
    assert.equal(await plain.locator("main").isVisible(), false); // no false values
    assert.deepEqual(page.faults, []);
  },

  /** Days, trips, a range, playback, all details of a point, units. */
  async time() {
    const page = await open({ timezoneId: "Asia/Tokyo" });
    await until(page, () => window.page?.map && window.page.track.size > 50);
    const whole = await page.evaluate(() => window.page.track.size);
    await page.locator("#trips-card").scrollIntoViewIfNeeded();
    await until(page, () => document.querySelectorAll("#trips li li").length === 2);
    const trips = page.locator("#trips li li button");
    await comes(() => trips.first().innerText(), (text) => /km · .* moving .*average \d+\skm\/h · highest \d+\skm\/h · 1 stop/s.test(text));
    await trips.last().click();
    await page.waitForSelector("#strip:not([hidden])");
    await until(page, (whole) => window.page.track.size > 10 && window.page.track.size < whole, whole);
    const [first, last] = await page.evaluate(() => [window.page.track.time[0], window.page.track.time[window.page.track.size - 1]]);
    assert.ok(last - first < 700, `${last - first}`);
    const chosen = () => page.locator("#trips [aria-pressed=true]").allInnerTexts();
    assert.deepEqual(await chosen(), [await trips.last().innerText()]);
    await page.locator("#trips .day").click(); // it begins at the same time as its first trip
    assert.deepEqual(await chosen(), [await page.locator("#trips .day").innerText()]);
    await trips.last().click();
    await axe(page, "with a trip");
    await tabTo(page, "#slider");
    await page.keyboard.press("Home");
    for (let i = 0; i < 3; i++) await page.keyboard.press("ArrowRight");
    await comes(() => page.innerText("#strip-time"), (text) => /23 Nov 2026, \d\d:\d\d:\d\d GMT\+9/.test(text));
    await page.waitForSelector("#map .ghost", { state: "attached" });
    await page.click("#play");
    const at = await page.inputValue("#slider");
    await until(page, (at) => Number(document.querySelector("#slider").value) > at, Number(at));
    await page.click("#play");
    await picture(page, "trip");
    await page.selectOption("#units", "mph");
    await until(page, () => / mph/.test(document.querySelector("#trips li li").innerText.replaceAll("\u00a0", " ")));
    // A click on a point shows all its details.
    await clickPosition(page, 5);
    const told = await page.innerText(".fix");
    for (const word of ["Local", "GMT+9", "UTC", "Speed", "mph", "Altitude", "Accuracy", "State"]) {
      assert.ok(told.includes(word), `${word} in ${told}`);
    }
    const [file] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("link", { name: "NDJSON", exact: true }).click(),
    ]);
    const lines = (await readFile(await file.path(), "utf8")).trim().split("\n");
    assert.ok(Math.abs(lines.length - (last - first)) <= 2, `${lines.length} ${last - first}`);
    // If another trip is chosen during playback, only that trip is shown.
    await page.click("#play");
    await trips.first().click();
    await until(page, (last) => window.page.track.size > 10 && window.page.track.time[0] > last, last);
    const strip = () => page.evaluate(async () => {
      const [{ local }, { track, map }] = [await import("./static/times.js"), window.page];
      const [time, play] = ["#strip-time", "#play"].map((one) => document.querySelector(one));
      return [time.innerText === local(track.time[track.size - 1] * 1000), play.ariaPressed, map.map.hasLayer(map.ghost)];
    });
    await comes(strip, (seen) => String(seen) === "true,false,false");
    await page.fill("#since", "2026-11-23T21:00");
    await page.fill("#until", "2026-11-23T20:00");
    await page.getByRole("button", { name: "Show", exact: true }).click();
    await page.waitForSelector("#range-fault:not([hidden])");
    await page.fill("#until", "2026-11-23T21:02");
    await page.getByRole("button", { name: "Show", exact: true }).click();
    await until(page, () => window.page.track.size > 10 && window.page.track.time[window.page.track.size - 1] - window.page.track.time[0] <= 120);
    // On a phone, the details of a point are inside the map, and nothing covers the strip.
    await page.setViewportSize(SIZES.phone);
    await comes(() => clear(page), (is) => is);
    await clickPosition(page, 0);
    await until(page, () => document.querySelectorAll(".leaflet-popup").length === 1); // the previous one fades out
    const [map, words] = [await page.locator("#map").boundingBox(), await page.locator(".leaflet-popup-content-wrapper").boundingBox()];
    assert.ok(words.x >= map.x && words.x + words.width <= map.x + map.width, JSON.stringify([map, words]));
    assert.ok(words.y >= map.y, JSON.stringify([map, words]));
    await page.click("#strip-close");
    await until(page, (whole) => window.page.track.size >= whole, whole);
    // A glitch does not change the view.
    await comes(
      () => page.evaluate(() => window.page.map.map.getBounds().toBBoxString().split(",").map(Number)),
      ([, south, , north]) => south > 40 && north < 55,
    );
    assert.deepEqual(page.faults, []);
  },

  /** Processor time of the main thread, and the size of the first load. */
  async busy() {
    const page = await open({ reducedMotion: "no-preference" }, "", async (page) => {
      const session = await page.context().newCDPSession(page);
      await session.send("Network.enable");
      page.wire = 0;
      session.on("Network.loadingFinished", ({ encodedDataLength }) => (page.wire += encodedDataLength));
      page.session = session;
    });
    const size = Number(process.env.PAGE_SIZE ?? 1);
    const limit = Number(process.env.BUSY_PERCENT ?? 100);
    await until(page, (size) => window.page?.map && window.page.track.size >= size, size);
    await page.waitForTimeout(4000); // until the load is complete
    tell({ wire_bytes: page.wire });
    for (const part of ["#map", "#chart", "#polar"]) {
      await page.locator(part).scrollIntoViewIfNeeded();
      await page.waitForTimeout(1500);
      // Other programs on the processor slow the page down. One idle measurement is enough.
      let share = await busy(page, 4000);
      for (let i = 0; i < 3 && share > limit; i++) share = Math.min(share, await busy(page, 4000));
      tell({ part, busy: share });
    }
    assert.deepEqual(page.faults, []);
  },

  /** Ten visible tabs of one browser: each is up to date. A hidden tab has no stream. */
  async tabs() {
    const pages = [await open()];
    for (let i = 1; i < 10; i++) pages.push(await open({}, "", null, pages[0].context()));
    for (const page of pages) await live(page);
    for (const page of pages) {
      const size = await page.evaluate(() => window.page.track.size);
      await until(page, (size) => window.page.track.size > size, size);
      await live(page);
      assert.deepEqual(page.faults, []);
    }
    await comes(
      () => Promise.all(pages.map((page) => page.evaluate(() => Boolean(window.page.feed.source)))),
      (streams) => streams.filter(Boolean).length === 4,
    );
    const setHidden = (page, hidden) =>
      page.evaluate((hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    for (const page of pages.slice(0, 9)) await setHidden(page, true);
    await setHidden(pages[9], true);
    await setHidden(pages[9], false); // a stream is free for it now
    await until(pages[9], () => window.page.feed.source?.readyState === EventSource.OPEN);
    await pages[0].waitForTimeout(6000); // longer than the timeout of contact
    await until(pages[0], () => document.querySelector("#contact").dataset.state === "live" && window.page.feed.source === null);
    const before = await pages[0].evaluate(() => window.page.track.last);
    await setHidden(pages[0], false);
    await until(pages[0], (row) => window.page.track.last > row, before);
    for (const page of pages) assert.deepEqual(page.faults, []);
  },

  /** The worst state of all rooms: colour, title, icon, cause and remedy. */
  async worst() {
    const { tone, title, cause, name } = JSON.parse(process.env.EXPECTED);
    const page = await open();
    await until(
      page,
      ([tone, title]) =>
        document.querySelector("#story").dataset.tone === tone &&
        new RegExp(`^(${title})`).test(document.title),
      [tone, title],
    );
    await comes(() => page.evaluate(() => document.querySelector("#more").innerText.replaceAll("\n", " ")), (text) => new RegExp(cause).test(text));
    const icon = { good: "icon.svg", stored: "icon-warn.svg", bad: "icon-bad.svg" }[tone];
    await until(page, (icon) => document.querySelector("link[rel=icon]").href.endsWith(`/${icon}`), icon);
    await comes(() => page.locator("#findings li").count(), (number) => number > 0 === (tone !== "good"));
    if (pictures) await page.waitForTimeout(4000); // until the map shows something
    await looks(page, name);
    assert.deepEqual(page.faults, []);
  },

  /** All checks of the doctor, from the page. */
  async check() {
    const page = await open();
    await says(page, "Recording");
    await tabTo(page, "#check");
    await page.keyboard.press("Enter");
    await until(page, () => document.querySelectorAll("#checks tr").length > 15);
    for (const row of [/port in use[^]*by the agent/, /sentences\s+✔ pass/]) {
      await comes(() => page.innerText("#checks"), (text) => row.test(text));
    }
    await until(page, () => document.activeElement.id === "check");
    await axe(page, "with checks");
    assert.deepEqual(page.faults, []);
  },

  /** Behind a reverse proxy with TLS and a path: login, events, actions, exports. */
  async proxied() {
    const page = await open({ ignoreHTTPSErrors: true });
    await page.fill("#token", process.env.PAGE_TOKEN);
    await page.keyboard.press("Enter");
    await until(page, () => window.page?.track.size === 3);
    assert.equal(page.url(), url);
    const [cookie, ...others] = await page.context().cookies();
    assert.deepEqual(others, []);
    assert.ok(cookie.secure && cookie.httpOnly && cookie.sameSite === "Lax");
    assert.equal(cookie.path, new URL(url).pathname.replace(/\/$/, ""));
    const [file] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("link", { name: "GPX", exact: true }).click(),
    ]);
    assert.match(await readFile(await file.path(), "utf8"), /2026-11-23T12:00:02/);
    const entries = page.locator("#dead-list li");
    await until(page, () => document.querySelectorAll("#dead-list li").length === 3);
    await entries.first().getByRole("button", { name: /Discard/ }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Discard" }).click();
    await until(page, () => document.querySelectorAll("#dead-list li").length === 2);
    await page.getByRole("button", { name: "Retry all" }).click();
    await until(page, () => window.page.track.runs[0]?.[2] === "delivered"); // reported by an event
    await page.getByRole("button", { name: "Log out" }).click();
    await page.waitForSelector("#token");
    assert.deepEqual(await page.context().cookies(), []);
    // The login answers 401, and the browser logs that.
    assert.deepEqual(page.faults.filter((fault) => !/status of 401/.test(fault)), []);
  },

  async bare() {
    const page = await open();
    await live(page);
    for (const place of ["#map", "#chart"])
      await comes(() => page.locator(place).innerText(), (text) => /Install Node 20 with npm/.test(text));
    await until(page, () => document.querySelector("#receiver .value").innerText !== "…");
    await page.locator("#trips-card").scrollIntoViewIfNeeded();
    await until(page, () => document.querySelectorAll("#trips li").length > 0);
    await until(page, () => document.querySelectorAll("#bars > *").length > 0);
    await page.locator("#follow").waitFor({ state: "hidden" });
    await page.locator("#trips li button").first().click();
    await axe(page, "without libraries");
    assert.deepEqual(page.faults, []);
  },
};

/** How much longer the same work takes now than on the processor of BUSY_PERCENT (there 10 ms). */
function slowness() {
  const began = process.cpuUsage();
  const sums = new Map();
  for (let i = 0; i < 300_000; i++) sums.set(`${i % 997}`, (sums.get(`${i % 997}`) ?? 0) + i);
  const { user, system } = process.cpuUsage(began);
  return Math.max(1, (user + system) / 1000 / 10);
}

/** The share of that processor that the page's main thread takes, in percent. */
async function busy(page, ms) {
  const { session } = page;
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  const read = async () => {
    const { metrics } = await session.send("Performance.getMetrics");
    return metrics.find(({ name }) => name === "TaskDuration").value;
  };
  const [before, began] = [await read(), performance.now()];
  await page.waitForTimeout(ms);
  const share = ((await read()) - before) / ((performance.now() - began) / 1000);
  return Math.round((share * 1000) / slowness()) / 10;
}

/** Drags the map for a while; returns the durations of the frames, in ms. */
async function frames(page) {
  return page.evaluate(async () => {
    const { map, layer } = window.page.map;
    const gaps = [];
    let last = performance.now();
    layer.frameMs.length = 0;
    for (let i = 0; i < 90; i++) {
      map._rawPanBy(L.point(i < 45 ? 9 : -9, i % 2 ? 4 : -4)); // like a finger
      map.fire("move");
      await new Promise(requestAnimationFrame);
      gaps.push(performance.now() - last);
      last = performance.now();
    }
    const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
    return { draw_ms: median(layer.frameMs), quick_draw_ms: layer.frameMs.toSorted((a, b) => a - b)[layer.frameMs.length >> 2], frame_ms: median(gaps), worst_ms: Math.max(...gaps) };
  });
}

try {
  await stories[story]();
  tell({ done: story });
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
