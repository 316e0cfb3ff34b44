// Cards that every job has: events, result, settings, logs.

import * as f from "./format.js";
import { card, facts, h, setText, timeElement } from "./elements.js";
import { getText, Problem } from "./http.js";

const MAX_EVENTS = 300; // lines kept on the page; the run folder has all
const LOG_LINES = 400;
const LOG_EVERY_MS = 3000;
const LOUD = { warning: "warn", failed: "bad", "actor lost": "warn", lost: "warn", quarantined: "warn" };

/** Newest first. Frequent "metrics" and "shard" events are hidden until asked for. */
export function eventsCard() {
  const list = h("ol.events", { tabindex: "0", "aria-label": "Events, newest first" });
  const all = h("button.small", { type: "button", "aria-pressed": "false", on: { click: () => toggle() } }, "all");
  const element = card("Events", "", list);
  element.querySelector("h2").append(all);
  element.classList.add("events-card", "brief");
  const empty = h("li.quiet.empty", {}, "Nothing has happened yet.");
  list.append(empty);
  const toggle = () => all.setAttribute("aria-pressed", String(!element.classList.toggle("brief")));
  element.add = (event) => {
    empty.remove();
    insert(list, eventLine(event));
    if (list.children.length > MAX_EVENTS) list.lastElementChild.remove();
  };
  return element;
}

function eventLine(event) {
  const often = ["metrics", "shard"].includes(event.kind);
  const line = h(
    often ? "li.often" : "li",
    { "data-seq": event.seq, "data-attempt": event.attempt, "data-kind": event.kind, "data-loud": LOUD[event.kind] },
    h("time", { title: f.absolute(event.at) }, f.clock(event.at)),
    h("span.kind", {}, event.kind),
    h("span.text", {}, event.text),
  );
  line.order = [event.attempt, event.seq];
  return line;
}

function insert(list, line) {
  const later = (a, b) => a[0] > b[0] || (a[0] === b[0] && a[1] > b[1]);
  const before = [...list.children].find((other) => !other.order || later(line.order, other.order));
  list.insertBefore(line, before ?? null);
}

/** How it ended, in figures; hidden until it has. */
export function resultCard() {
  const place = h("div");
  const element = card("Result", "", place);
  element.hidden = true;
  let shown = "";
  element.update = (job) => {
    const text = JSON.stringify(job.result ?? null);
    element.hidden = !job.result || !Object.keys(job.result).length;
    if (element.hidden || text === shown) return;
    shown = text;
    place.replaceChildren(facts(pairs(job.result)));
  };
  return element;
}

/** Any JSON object as names and values that a person can read. */
export function pairs(record) {
  return Object.entries(record).map(([name, value]) => [f.label(name), valueElement(name, value)]);
}

function valueElement(name, value) {
  if (value === null || value === undefined) return f.UNKNOWN;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return numberWords(name, value);
  if (Array.isArray(value))
    return value.length
      ? h(
          "ul",
          {},
          value.slice(0, 50).map((v) => h("li", {}, shortWords(v))),
        )
      : "none";
  if (typeof value === "object") return facts(pairs(value));
  return h("span.wrap", {}, String(value));
}

function numberWords(name, value) {
  if (/_at$/.test(name)) return timeElement(value);
  if (name === "seconds" || (/_s$/.test(name) && !/per_s$/.test(name)) || /^seconds_/.test(name))
    return f.duration(value);
  if (/bytes$|^size$/.test(name)) return f.bytes(value);
  return f.figure(value, 4);
}

const shortWords = (value) =>
  value && typeof value === "object" ? Object.values(value).map(String).join(" · ") : String(value);

export function settingsCard(job) {
  const given = Object.entries(job.settings ?? {}).filter(([, value]) => value !== null);
  const own = [
    ["Id", h("span.wrap", {}, job.id)],
    ["Asked for", f.absolute(job.created_at)],
    ["Priority", f.count(job.priority)],
  ];
  return card(
    "Settings",
    "as they were asked for",
    facts([...given.map(([name, value]) => [f.label(name), h("span.wrap", {}, f.settingWords(value))]), ...own]),
  );
}

/** The end of the driver's output; read only while it is open. */
export function logsCard(view) {
  const text = h("pre.log", { tabindex: "0", role: "log", "aria-live": "off", "aria-label": "End of the log" });
  const details = h(
    "details",
    {},
    h("summary", {}, "Log ", h("span.note", {}, `the last ${LOG_LINES} lines of the process's own output`)),
    text,
  );
  const element = h("section.card.wide", { "aria-label": "Log" }, details);
  let inFlight = 0;
  element.refresh = async () => {
    if (!details.open) return;
    inFlight += 1;
    await readLog(view, text);
    inFlight -= 1;
  };
  details.addEventListener("toggle", element.refresh);
  element.open = () => {
    details.open = true; // its toggle reads the log
  };
  // A slow Ray is not asked again before it has answered.
  const poll = () => !inFlight && !f.TERMINAL.includes(view.job.state) && element.refresh();
  const timer = setInterval(poll, LOG_EVERY_MS);
  view.signal.addEventListener("abort", () => clearInterval(timer));
  return element;
}

async function readLog(view, element) {
  try {
    const text = await getText(`${view.path}/logs?tail=${LOG_LINES}`, view.signal);
    const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    setText(element, text.trimEnd() || "The log is empty.");
    if (atEnd) element.scrollTop = element.scrollHeight;
  } catch (error) {
    if (!view.signal.aborted)
      setText(element, error instanceof Problem && error.status === 404 ? "There is no log yet." : error.message);
  }
}
