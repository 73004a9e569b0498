/** Times as text: local, in the browser's time zone, and UTC. */

const format = (options) => new Intl.DateTimeFormat("en-GB", options);
const DAY = format({ weekday: "short", day: "numeric", month: "short", year: "numeric" });
const DATE = format({ day: "numeric", month: "short", year: "numeric" });
const MINUTE = format({ hour: "2-digit", minute: "2-digit" });
const CLOCK = format({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const SECOND = format({ hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" });
const UTC = format({ dateStyle: "medium", timeStyle: "medium", timeZone: "UTC" });

/** @param {number} ms since 1970 */
export const day = (ms) => DAY.format(ms);
export const minute = (ms) => MINUTE.format(ms);
/** With the day, unless that is today. */
export const moment = (ms) => (day(ms) === day(Date.now()) ? minute(ms) : `${DATE.format(ms)}, ${minute(ms)}`);
/** With the day, unless that is the day of the beginning. */
export const end = (from, ms) => (day(ms) === day(from) ? minute(ms) : `${day(ms)}, ${minute(ms)}`);
export const local = (ms) => `${DAY.format(ms)}, ${SECOND.format(ms)}`;
export const utc = (ms) => `${UTC.format(ms)} UTC`;

/** The times at an axis, in seconds since 1970: the first of each day with its date. */
export function axis(seconds) {
  const words = seconds[1] - seconds[0] < 60 ? CLOCK : MINUTE;
  const days = seconds.map((second) => day(second * 1000));
  return seconds.map((second, i) => words.format(second * 1000) + (days[i] === days[i - 1] ? "" : `\n${days[i]}`));
}

/** For an input of the type datetime-local. */
export function inputValue(ms) {
  const date = new Date(ms);
  return new Date(ms - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
