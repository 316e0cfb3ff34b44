// Small pieces of page: made by script, so that no text of the service is ever read as HTML.

import { absolute, ago, count, stateWords, UNKNOWN } from "./format.js";
import { getPicture, Problem, Unreachable } from "./http.js";

/** h("a.card", {href: "#"}, "text", child): an element. `on` holds listeners, the rest are attributes. */
export function h(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") Object.entries(value).forEach(([event, listener]) => element.addEventListener(event, listener));
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Set a text only when it differs, so that selections and screen readers are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A text that the tests and scripts can find: data-field, and the exact value beside what is shown. */
export function setField(element, text, value) {
  setText(element, text);
  element.dataset.value = value === null || value === undefined ? "" : String(value);
}

export function timeElement(at) {
  const element = h("time", { title: absolute(at) }, ago(at));
  element.refresh = () => setText(element, ago(at));
  return element;
}

export function badge(job) {
  const element = h("span.badge");
  element.update = (next) => {
    const words = stateWords(next);
    element.dataset.state = words;
    setField(element, words, next.state);
    element.title = next.unknown ? `Ray cannot be reached; last known state: ${next.state}` : "";
  };
  element.update(job);
  return element;
}

/** A bar; unknown totals are shown as unknown. */
export function bar(labelled) {
  const element = h("progress.bar", { max: 1, "aria-label": labelled });
  element.update = (progress, job) => {
    const share = shareDone(progress, job);
    if (share === null) element.removeAttribute("value");
    else element.value = share;
    element.dataset.state = stateWords(job);
    const words = share === null ? "" : `${Math.floor(share * 100)} %`;
    element.setAttribute("aria-valuetext", words || "unknown");
    element.title = progress?.total ? `${count(progress.done)} of ${count(progress.total)} ${progress.unit}` : words;
  };
  return element;
}

export function shareDone(progress, job) {
  if (job.state === "succeeded") return 1;
  if (progress?.total) return Math.min(1, progress.done / progress.total);
  return ["running", "starting", "stopping"].includes(job.state) && !job.unknown ? null : 0;
}

export function card(title, note, ...children) {
  const noteElement = h("span.note", {}, note ?? "");
  const element = h("section.card", { "aria-label": title }, h("h2", {}, title, " ", noteElement), ...children);
  element.note = noteElement;
  return element;
}

/** Names and values, two columns. Values are texts or elements. */
export function facts(pairs) {
  return h(
    "dl.facts",
    {},
    pairs.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value ?? UNKNOWN)]),
  );
}

/** columns: [{title, number?}]; rows: arrays of texts or elements. */
export function table(caption, columns, rows) {
  const cells = (row) => row.map((cell, i) => h(columns[i].number ? "td.number" : "td", {}, cell));
  return h(
    "div.scroll",
    { tabindex: "0", role: "group", "aria-label": caption },
    h(
      "table",
      {},
      h("caption.unseen", {}, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          columns.map((c) => h(c.number ? "th.number" : "th", { scope: "col" }, c.title)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) => h("tr", {}, cells(row))),
      ),
    ),
  );
}

/** Keep children in step with a list without rebuilding those that stay: focus and selection survive. */
export function reconcile(parent, list, key, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const thing of list) {
    const id = String(key(thing));
    let element = old.get(id);
    old.delete(id);
    if (!element) {
      element = make(thing);
      element.dataset.key = id;
    }
    update(element, thing);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  old.forEach((element) => element.remove());
}

/** A picture of the service on a canvas, or words while it is missing. `refresh()` fetches it again, with other words if
 * it is given some; the old picture stays until the new one is there. */
export function picture(path, words, missing, signal) {
  const canvas = h("canvas.picture", { role: "img", "aria-label": words, hidden: true });
  const note = h("p.quiet", {}, "…");
  const element = h("figure", {}, canvas, note);
  element.refresh = async (instead = missing) => {
    try {
      const bitmap = await getPicture(path, signal);
      if (bitmap) draw(canvas, bitmap);
      setText(note, bitmap ? "" : instead);
    } catch (error) {
      if (!signal.aborted) setText(note, canvas.hidden ? words1(error) : "");
    }
  };
  element.refresh();
  return element;
}

function draw(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  canvas.hidden = false;
  bitmap.close();
}

const words1 = (error) => (error instanceof Problem ? error.message : "The picture could not be read.");

/** An error in words, with what to do next. */
export function errorBox(error, title = "This could not be shown") {
  const advice = error instanceof Unreachable ? "Is `tench serve` still running?" : "";
  return h(
    "div.error",
    { role: "alert" },
    h("strong", {}, error.title && error.title !== error.message ? error.title : title),
    h("p", {}, error.message),
    advice && h("p.quiet", {}, advice),
  );
}

/** A command to type, with a button that copies it. */
export function command(words) {
  const copy = async () => {
    await navigator.clipboard.writeText(words);
    notice("Copied.");
  };
  const button = h("button.small", { type: "button", "aria-label": `Copy ${words}`, on: { click: copy } }, "copy");
  return h("div.command", {}, h("code", {}, words), button);
}

/** A line at the bottom of the page that goes after some seconds. */
export function notice(text, kind = "") {
  const line = h("p.notice", { "data-kind": kind }, text);
  const place = document.getElementById("notices");
  place.append(line);
  setTimeout(() => line.remove(), kind === "bad" ? 12_000 : 5000);
}
