// Sealed datasets: a list, and for each its counts, contact sheet, mean image, principal colours and quarantine.

import * as f from "./format.js";
import { card, errorBox, facts, h, picture, table, timeElement } from "./elements.js";
import { getJson, pause } from "./http.js";
import { quarantineCard } from "./quarantine.js";

const EVERY_MS = 10_000;
const MAX_CLASSES = 1000; // rows of the class table
const SWATCH = { width: 160, height: 14 };
const SWATCH_DEVIATIONS = 2;

export async function datasetsPage(main, signal) {
  const place = h("div", { "aria-live": "polite" }, h("p.quiet", {}, "Looking for sealed datasets …"));
  main.replaceChildren(h("div.page", {}, h("div.head", {}, h("h1", { tabindex: "-1" }, "Datasets")), place));
  let shown = "";
  while (!signal.aborted) {
    try {
      const { datasets, unfinished } = await getJson("/v1/datasets", signal);
      const text = JSON.stringify([datasets, unfinished]);
      if (text !== shown)
        place.replaceChildren(...unfinished.map(cutShort), datasets.length ? datasetTable(datasets) : empty());
      shown = text;
    } catch (error) {
      if (!signal.aborted && !shown) place.replaceChildren(errorBox(error, "The datasets could not be listed"));
    }
    await pause(EVERY_MS, signal);
  }
}

const cutShort = (root) =>
  h("p", { role: "status" }, `${root} holds too many folders, or does not answer: datasets may be missing from this list.`);

function empty() {
  return h(
    "section.card.welcome",
    {},
    h("h2", {}, "No dataset yet"),
    h("p", {}, "A dataset appears here when an ingest has sealed it, in a folder that the service may read."),
    h("p", {}, h("a.button.primary", { href: "#/new/ingest" }, "New ingest")),
  );
}

function datasetTable(datasets) {
  return h(
    "div.card",
    {},
    table(
      "Sealed datasets",
      [
        { title: "name" },
        { title: "samples", number: true },
        { title: "classes", number: true },
        { title: "stored as" },
        { title: "size", number: true },
        { title: "sealed" },
      ],
      datasets.map((d) => [
        h("a", { href: `#/datasets/${encodeURIComponent(d.dataset_id)}`, "data-line": "", title: d.uri }, d.name),
        f.count(d.num_samples),
        f.count(d.num_classes),
        storedAs(d.settings),
        f.bytes(d.bytes),
        timeElement(d.created_at),
      ]),
    ),
  );
}

const storedAs = ({ format, payload, side }) => `${format}, ${payload}, ${side} x ${side}`;

export async function datasetPage(main, signal, id) {
  const path = `/v1/datasets/${encodeURIComponent(id)}`;
  const d = await getJson(path, signal);
  if (d.damage) return main.replaceChildren(damagedPage(id, d));
  const splits = Object.entries(d.splits);
  const train = `#/new/train?dataset=${encodeURIComponent(d.uri)}`;
  main.replaceChildren(
    h(
      "article.page",
      { "data-dataset": id },
      h(
        "div.head",
        {},
        h("div", {}, h("h1", { tabindex: "-1" }, d.name), h("p.sub", {}, d.uri)),
        h("div.buttons", {}, h("a.button.primary", { href: train }, "Train on it")),
      ),
      tiles(d, splits),
      h(
        "div.cards",
        {},
        sheetCard(path, signal),
        augmentationCard(path, signal),
        meanCard(path, signal, d),
        pcaCard(d.statistics),
        splitCard(splits),
        quarantineCard(path, signal, d),
        factsCard(d),
        classesCard(d, splits),
      ),
    ),
  );
}

function tiles(d, splits) {
  const of = (name, value) => h("div.tile", {}, h("span.name", {}, name), h("span.value", {}, value));
  return h(
    "div.tiles",
    {},
    of("samples", f.count(d.num_samples)),
    splits.map(([name, split]) => of(name, f.count(split.num_samples))),
    of("classes", f.count(d.num_classes)),
    of("quarantined", f.count(d.num_quarantined)),
    of("size", f.bytes(d.bytes)),
  );
}

function sheetCard(path, signal) {
  const element = card(
    "Contact sheet",
    "one column a class",
    picture(`${path}/contact.png`, "Samples of the dataset, one column a class", "There is no contact sheet.", signal),
  );
  element.classList.add("wide");
  return element;
}

/** What the loader makes of the first pictures; drawn by the service when it is asked for. */
function augmentationCard(path, signal) {
  const place = h("div");
  const words = "The first samples as stored with their crops, and as the network sees them in five epochs";
  const draw = h(
    "details",
    {
      on: {
        toggle: () =>
          draw.open &&
          !place.firstChild &&
          place.append(picture(`${path}/augmentation.png`, words, "There is none.", signal)),
      },
    },
    h(
      "summary",
      {},
      "What the network sees ",
      h("span.note", {}, "the loader's own views, mean taken back; takes some seconds"),
    ),
    place,
  );
  const element = h("section.card.wide", { "aria-label": "Augmentation sheet" }, draw);
  return element;
}

/** What the manifest says of a dataset whose files are not those that were sealed, and what to do about it. */
function damagedPage(id, d) {
  const form = (kind) => `#/new/${kind}?dataset=${encodeURIComponent(d.uri)}`;
  return h(
    "article.page",
    { "data-dataset": id },
    h(
      "div.head",
      {},
      h("div", {}, h("h1", { tabindex: "-1" }, d.name), h("p.sub", {}, d.uri)),
      h(
        "div.buttons",
        {},
        h("a.button", { href: form("verify") }, "Verify"),
        h("a.button.primary", { href: form("repair") }, "Repair"),
      ),
    ),
    h(
      "div.error",
      { role: "alert" },
      h("strong", {}, "This dataset is damaged"),
      h("p", {}, d.damage),
      h("p", {}, "Verify lists all damage; repair makes the damaged files again from the source."),
    ),
    tiles(d, Object.entries(d.splits)),
  );
}

function meanCard(path, signal, d) {
  const train = d.splits.train?.num_samples;
  const element = card(
    "Mean image",
    train ? `of ${f.count(train)} training pictures` : "of the training split",
    picture(`${path}/mean.png`, "Mean image of the training split", "There is no mean image.", signal),
  );
  element.classList.add("mean");
  return element;
}

function splitCard(splits) {
  const element = card(
    "Splits",
    "",
    table(
      "Splits",
      [
        { title: "split" },
        { title: "samples", number: true },
        { title: "shards", number: true },
        { title: "quarantined", number: true },
        { title: "a class, fewest to most", number: true },
      ],
      splits.map(([name, s]) => [
        name,
        f.count(s.num_samples),
        f.count(s.num_shards),
        f.count(s.num_quarantined),
        spread(s.class_counts),
      ]),
    ),
  );
  element.classList.add("wide");
  return element;
}

function spread(counts) {
  if (!counts.length) return f.UNKNOWN;
  const [low, high] = [Math.min(...counts), Math.max(...counts)];
  return low === high ? f.count(low) : `${f.count(low)} to ${f.count(high)}`;
}

/** Axes as columns of the eigenvectors; the swatch moves the mean colour by so many standard deviations each way. */
function pcaCard(pca) {
  const axes = [0, 1, 2].map((axis) => pca.eigenvectors_columns.map((row) => row[axis]));
  return card(
    "RGB principal axes",
    "standard deviations in levels of 0 to 255",
    table(
      "RGB principal axes",
      [
        { title: "axis" },
        { title: "R", number: true },
        { title: "G", number: true },
        { title: "B", number: true },
        { title: "s.d.", number: true },
        { title: `mean colour ± ${SWATCH_DEVIATIONS} s.d.` },
      ],
      axes.map((v, i) => [
        String(i + 1),
        ...v.map((c) => f.decimals(c)),
        f.decimals(Math.sqrt(pca.eigenvalues[i]), 1),
        swatch(pca.channel_mean, v, Math.sqrt(pca.eigenvalues[i])),
      ]),
    ),
  );
}

function swatch(mean, axis, deviation) {
  const canvas = h("canvas.swatch", { ...SWATCH, role: "img", "aria-label": "colours along this axis" });
  const context = canvas.getContext("2d");
  for (let x = 0; x < SWATCH.width; x += 1) {
    const step = (x / (SWATCH.width - 1)) * 2 * SWATCH_DEVIATIONS - SWATCH_DEVIATIONS;
    const [r, g, b] = mean.map((m, c) => Math.round(m + step * deviation * axis[c]));
    context.fillStyle = `rgb(${r} ${g} ${b})`;
    context.fillRect(x, 0, 1, SWATCH.height);
  }
  return canvas;
}

function factsCard(d) {
  const settings = Object.entries(d.settings).map(([name, value]) => [f.label(name), String(value)]);
  const element = card(
    "Facts",
    "",
    facts([
      ["Dataset id", h("span.wrap", {}, d.dataset_id)],
      ["Content id", h("span.wrap", {}, d.content_id)],
      ["From", d.layout],
      ["Imaging", `${d.imaging.name} ${d.imaging.version}`],
      ["Sealed", timeElement(d.created_at)],
      ...settings,
    ]),
  );
  element.classList.add("wide");
  return element;
}

function classesCard(d, splits) {
  const classes = d.classes.slice(0, MAX_CLASSES);
  const rows = classes.map((one, label) => [
    String(label),
    one.wnid,
    one.words,
    ...splits.map(([, s]) => f.count(s.class_counts[label])),
  ]);
  const columns = [
    { title: "label", number: true },
    { title: "wnid" },
    { title: "words" },
    ...splits.map(([name]) => ({ title: name, number: true })),
  ];
  const list = table("Classes and their counts", columns, rows);
  list.classList.add("tall");
  const element = card("Classes", `${f.count(d.num_classes)}, label 0 first`, list);
  element.classList.add("wide");
  return element;
}
