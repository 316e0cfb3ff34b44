// What a job would do, as a dry run answers: its sizes as tiles, warnings first, every resolved setting folded away.

import * as f from "./format.js";
import { card, facts, h, table } from "./elements.js";
import { pairs } from "./job_cards.js";

const SIZES = [
  ["samples", "samples in all", f.count],
  ["steps", "steps in all", f.count],
  ["steps_per_epoch", "steps an epoch", f.count],
  ["num_parameters", "parameters", f.count],
  ["num_classes", "classes", f.count],
  ["num_files", "files to check", f.count],
  ["estimated_bytes", "size, about", f.bytes],
  ["estimated_hours", "time, about", (hours) => f.duration(hours * 3600)],
  ["num_actors", "actors", f.count],
];
const NEEDS = [
  ["cpus", "CPUs needed", f.figure],
  ["gpus", "GPUs needed", f.figure],
  ["memory_bytes", "memory needed", f.bytes],
];
const SAID = [
  "kind",
  "layout",
  "never",
  "needs",
  "misfits",
  "splits",
  "settings",
  "recipe",
  ...SIZES.map(([name]) => name),
];

/** A card for the answer to a POST with ?dry_run=true. */
export function dryRunCard(answer) {
  const element = card(
    "Dry run",
    answer.layout ? `nothing was started; the source holds ${answer.layout}` : "nothing was started",
    warnings(answer),
    h("div.tiles", {}, tiles(answer, SIZES), tiles(answer.needs ?? {}, NEEDS)),
    splits(answer.splits),
    folded("Every setting", answer.settings, answer.recipe && { ...answer.recipe }),
    folded("More", Object.fromEntries(Object.entries(answer).filter(([name]) => !SAID.includes(name)))),
  );
  element.classList.add("dry-run");
  return element;
}

function warnings({ never, misfits = [] }) {
  const lines = [never && `It can never start on this cluster as it is: ${never}`, ...misfits].filter(Boolean);
  return (
    lines.length > 0 &&
    h(
      "div.error.mild",
      {},
      lines.map((line) => h("p", {}, words(line))),
    )
  );
}

const words = (line) => (typeof line === "string" ? line : Object.values(line).join(" "));

const tiles = (values, names) =>
  names
    .filter(([name]) => values[name] !== null && values[name] !== undefined)
    .map(([name, title, show]) =>
      h("div.tile", {}, h("span.name", {}, title), h("span.value", { "data-field": name }, show(values[name]))),
    );

function splits(found) {
  if (!found) return null;
  const rows = Object.entries(found).map(([name, split]) =>
    typeof split === "number"
      ? [name, f.count(split), f.UNKNOWN]
      : [name, f.count(split.num_entries ?? split.num_samples), f.count(split.num_shards)],
  );
  return table(
    "Splits",
    [{ title: "split" }, { title: "pictures", number: true }, { title: "shards", number: true }],
    rows,
  );
}

function folded(title, ...records) {
  const found = records.filter((record) => record && Object.keys(record).length);
  return (
    found.length > 0 &&
    h(
      "details",
      {},
      h("summary", {}, title),
      found.map((record) => facts(pairs(record))),
    )
  );
}
