// Pictures in quarantine with the reason of each, and what can be decoded of it. Drawn as they are scrolled to.

import * as f from "./format.js";
import { card, errorBox, h, picture, setText } from "./elements.js";
import { getJson } from "./http.js";

const AT_ONCE = 24;

/** A card for a dataset's quarantine; `d` is the dataset as the service describes it. */
export function quarantineCard(path, signal, d) {
  if (!d.num_quarantined) return card("Quarantine", "", h("p.quiet", {}, "Every picture of the source is in a shard."));
  const list = h("ul.gallery", { "aria-label": "Pictures put aside" });
  const more = h("button", { type: "button" }, "More");
  const element = card("Quarantine", `${f.count(d.num_quarantined)} put aside`, list, more);
  element.classList.add("wide", "quarantine");
  const next = async () => {
    more.disabled = true;
    try {
      const first = list.children.length;
      const { pictures, total } = await getJson(`${path}/quarantine?first=${first}&limit=${AT_ONCE}`, signal);
      list.append(...pictures.map((one) => tile(path, one, signal)));
      more.hidden = list.children.length >= total;
      setText(element.note, `${f.count(list.children.length)} of ${f.count(total)} shown`);
    } catch (error) {
      if (!signal.aborted) more.replaceWith(errorBox(error, "The quarantine could not be read"));
    }
    more.disabled = false;
  };
  more.addEventListener("click", next);
  next();
  return element;
}

function tile(path, one, signal) {
  const source = `${path}/quarantine/${encodeURIComponent(one.split)}/${one.row}.png`;
  const shown = one.picture
    ? picture(source, `What can be decoded of ${one.key}`, "Nothing of it can be decoded.", signal)
    : h("p.quiet.no-picture", {}, "Not decoded.");
  return h(
    "li",
    {},
    shown,
    h("p", {}, h("span.badge", { "data-state": "failed" }, one.code), " ", h("span.wrap", {}, one.message)),
    h("p.note.wrap", {}, `${one.key} · ${one.split} · ${f.bytes(one.size)}`),
  );
}
