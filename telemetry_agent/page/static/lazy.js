/** Parts of the page whose code is loaded when they are first seen. */

import { make } from "./dom.js";

/**
 * @param {Element} element loads the part when it becomes visible
 * @param {() => Promise<{show: (state: object) => void, recolour?: () => void}>} load makes the part
 * @returns a part that remembers the last state until then
 */
export function whenSeen(element, load) {
  let part = null;
  let state = null;
  let failed = false;
  const observer = new IntersectionObserver(
    async (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      try {
        part = await load();
      } catch {
        failed = true;
        return;
      }
      if (state) part.show(state);
    },
    { rootMargin: "150px" },
  );
  observer.observe(element);
  return {
    show(newState) {
      state = newState;
      if (failed) observer.observe(element); // there is contact again
      failed = false;
      part?.show(state);
    },
    recolour: () => part?.recolour?.(),
  };
}

/** Replaces a part whose library is not in this installation. */
export function instead(element, missing) {
  element.replaceChildren(make("p", { className: "empty missing" }, missing));
  return { show() {} };
}

/** Load a library that is not a module, with its styles before ours. */
export async function library(name, { styled = true } = {}) {
  const style = make("link", { rel: "stylesheet", href: `static/vendor/${name}.css` });
  const script = make("script", { src: `static/vendor/${name}.js` });
  const loaded = (styled ? [style, script] : [script]).map(
    (element) =>
      new Promise((done, failed) => {
        element.onload = done;
        element.onerror = () => failed(new Error(`${name} cannot be loaded`));
      }),
  );
  if (styled) document.head.prepend(style);
  document.head.append(script);
  await Promise.all(loaded);
}
