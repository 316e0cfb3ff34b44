// The tables of a comparison: how the runs ended, and their settings side by side. runs: [{job, letter, hue}].

import * as f from "./format.js";
import { badge, card, h, table } from "./elements.js";

const known = (value) => value !== null && value !== undefined;

/** Errors and speed of each run, as it ended or as it stands; the lowest top-1 error is said to be the lowest. */
export function errorsCard(runs) {
  const lowest = Math.min(...runs.map((run) => standing(run).top1_error ?? Infinity));
  const columns = [
    { title: "run" },
    { title: "state" },
    { title: "epochs", number: true },
    { title: "top-1 error", number: true },
    { title: "top-5 error", number: true },
    { title: "loss", number: true },
    { title: "samples/s", number: true },
    { title: "duration", number: true },
  ];
  const element = card(
    "Errors",
    "of the validation split, as the runs ended or stand",
    table(
      "Errors",
      columns,
      runs.map((run) => row(run, lowest, runs.length)),
    ),
  );
  element.classList.add("wide", "errors-card");
  return element;
}

function row(run, lowest, count) {
  const now = standing(run);
  const best = count > 1 && now.top1_error === lowest;
  return [
    runLink(run),
    badge(run.job),
    known(now.epoch) ? `${f.count(now.epoch)} of ${f.count(now.epochs)}` : f.UNKNOWN,
    h("span", {}, best && h("span.note", {}, "lowest "), f.decimals(now.top1_error)),
    f.decimals(now.top5_error),
    f.decimals(now.loss),
    f.figure(now.samples_per_s),
    f.duration(f.ranFor(run.job)),
  ];
}

/** What is known of a run: its result, before that its newest progress. */
function standing({ job }) {
  const figures = { ...job.progress?.figures };
  const result = job.state === "succeeded" ? { ...job.result, epoch: job.result?.epochs } : {};
  return { ...figures, ...Object.fromEntries(Object.entries(result).filter(([, value]) => known(value))) };
}

function runLink({ job, letter, hue }) {
  return h(
    "span.wrap",
    {},
    h(`strong.letter.hue-${hue}`, {}, letter),
    " ",
    h("a", { href: `#/jobs/${encodeURIComponent(job.id)}` }, job.name || f.subject(job)),
    " ",
    h("span.quiet", {}, job.id),
  );
}

/** Settings that differ, in a table; those that are the same folded away below. */
export function settingsCard(runs, open = false) {
  const names = [...new Set(runs.flatMap(({ job }) => Object.keys(job.settings)))];
  const differ = names.filter(
    (name) => new Set(runs.map((run) => JSON.stringify(run.job.settings[name] ?? null))).size > 1,
  );
  const same = names.filter((name) => !differ.includes(name));
  const element = card(
    "Settings",
    runs.length < 2 ? "" : differ.length ? `${differ.length} of ${names.length} differ` : "no setting differs",
    differ.length > 0 && settingsTable("Settings that differ", differ, runs, true),
    h(
      "details",
      { open },
      h("summary", {}, `${same.length} ${runs.length < 2 ? "settings" : "settings are the same"}`),
      settingsTable("Settings that are the same", same, runs, false),
    ),
  );
  element.classList.add("wide", "settings-compared");
  return element;
}

function settingsTable(caption, names, runs, marked) {
  const columns = [{ title: "setting" }, ...runs.map(({ letter }) => ({ title: letter }))];
  const rows = names.map((name) => [
    h("span", {}, f.label(name), marked && h("span.mark", {}, " differs")),
    ...runs.map(({ job }) => h(marked ? "strong.wrap" : "span.wrap", {}, f.settingWords(job.settings[name]))),
  ]);
  return table(caption, columns, rows);
}
