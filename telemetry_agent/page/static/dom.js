/** Find, make and fill elements of the page. */

/** @returns {HTMLElement} */
export const $ = (id) => document.getElementById(id);

/** @param {Record<string, unknown>} properties of the element, such as className or title */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** What this browser keeps under that name; null: nothing, or it has no storage. */
export function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Without a storage it lasts for this visit only. */
export function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // See above.
  }
}

/** Setting a text costs the browser work, even if it is the same text. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
