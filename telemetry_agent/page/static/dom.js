/** Elements of the page: found, made, and filled. */

/** @returns {HTMLElement} */
export const $ = (id) => document.getElementById(id);

/** @param {Record<string, unknown>} properties of the element, such as className or title */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** To set a text to what it is already would make work for the browser. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
