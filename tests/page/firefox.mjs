// The demo's page in Debian's Firefox over WebDriver BiDi: its switch cuts and restores the network.
// node --experimental-websocket firefox.mjs FIREFOX PROFILE URL [PICTURE]. Exits with 0 on success.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [, , program, profile, url, picture] = process.argv;
const LIMIT_MS = 120_000;

const firefox = spawn(
  program,
  ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port=0", "about:blank"],
  { stdio: ["ignore", "ignore", "pipe"] },
);
process.on("exit", () => firefox.kill("SIGKILL"));
setTimeout(() => assert.fail("it took too long"), LIMIT_MS).unref();

/** The address on which Firefox listens, from its output. */
async function address() {
  for await (const line of createInterface(firefox.stderr)) {
    const said = /WebDriver BiDi listening on (ws:\S+)/.exec(line);
    if (said) return said[1];
  }
  assert.fail("Firefox ended");
}

const socket = new WebSocket(`${await address()}/session`);
firefox.stderr.resume();
await once(socket, "open");

const waiting = new Map();
const faults = [];
socket.addEventListener("message", ({ data }) => {
  const { id, type, result, method, params, message } = JSON.parse(data);
  if (method === "log.entryAdded" && ["error", "warn"].includes(params.level)) faults.push(params.text);
  if (method === "network.beforeRequestSent" && !/^data:/.test(params.request.url) && !params.request.url.startsWith(url)) {
    faults.push(`asked for ${params.request.url}`);
  }
  const one = waiting.get(id);
  if (type === "success") one.resolve(result);
  else if (type === "error") one.reject(new Error(message));
});

let last = 0;
const send = (method, params = {}) =>
  new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    socket.send(JSON.stringify({ id: last, method, params }));
  });

await send("session.new", { capabilities: {} });
const { contexts } = await send("browsingContext.getTree");
const context = contexts[0].context;
await send("browsingContext.setViewport", { context, viewport: { width: 1440, height: 900 } });
await send("session.subscribe", { events: ["log.entryAdded", "network.beforeRequestSent"] });
await send("browsingContext.navigate", { context, url, wait: "complete" });

/** The value of an expression on the page, transferred as JSON. */
async function value(expression) {
  const answer = await send("script.evaluate", {
    expression: `(async () => JSON.stringify(await (${expression})))()`,
    target: { context },
    awaitPromise: true,
  });
  assert.equal(answer.type, "success", JSON.stringify(answer));
  return JSON.parse(answer.result.value ?? "null");
}

/** Waits until a test on the page is true. */
const until = (test) =>
  value(`new Promise((done) => { const look = () => (${test}) ? done(true) : setTimeout(look, 100); look(); })`);

const press = (selector) => value(`document.querySelector("${selector}").click()`);
const headline = (text) => until(`document.querySelector("#headline").innerText.includes("${text}")`);

await until("window.page?.map && window.page.track.size > 12");
await headline("Recording");
await press("#switch");
await headline("Uploads unreachable for");
await until(`document.querySelector("#outflow").dataset.flow === "cut"`);
await until(`Number(document.querySelector("#disk .value").innerText) > 20`);
if (picture) {
  const { data } = await send("browsingContext.captureScreenshot", { context });
  await writeFile(picture, Buffer.from(data, "base64"));
}
await press("#switch");
await headline("Everything is delivered");
await value(`document.querySelector("#chart").scrollIntoView()`);
await until(`/waiting on the disk: now/.test(document.querySelector("#chart").ariaLabel)`);
await until(`document.querySelectorAll("#bars .bar").length > 5`);
assert.ok(await value(`document.documentElement.scrollWidth <= innerWidth`));
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
await send("script.evaluate", { expression: `${axe};0`, target: { context }, awaitPromise: false });
assert.deepEqual(await value(`window.axe.run(document).then(({ violations }) => violations.map(({ id }) => id))`), []);
assert.deepEqual(faults, []);
process.exit(0);
