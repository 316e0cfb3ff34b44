// The row of figures at the top of a job's page: those that answer at one glance, by kind of job.

import * as f from "./format.js";
import { h, reconcile, setField } from "./elements.js";

/** Fill `place` with the tiles of a job. Each value carries data-field, and the exact figure in data-value. */
export function tilesOf(place, job, progress) {
  const figures = progress?.figures ?? {};
  const result = job.result ?? {};
  const tiles = (KINDS[job.kind] ?? other)({ job, progress: progress ?? {}, figures, result });
  reconcile(
    place,
    tiles,
    (tile) => tile.field,
    make,
    (element, tile) => {
      setField(element.value, tile.text, tile.value);
      element.value.title = tile.note ?? "";
    },
  );
}

function make({ field, name }) {
  const value = h("span.value", { "data-field": field });
  const element = h("div.tile", {}, h("span.name", {}, name), value);
  element.value = value;
  return element;
}

const tile = (field, name, value, text, note) => ({ field, name, value, text, note });
const left = (job, progress) => {
  if (f.TERMINAL.includes(job.state)) return tile("duration", "took", f.ranFor(job), f.duration(f.ranFor(job)));
  return tile("seconds_left", "time left", progress.seconds_left, f.duration(progress.seconds_left));
};
const speed = ({ rate }, name) => tile("rate", `${name} a second`, rate, f.figure(rate));
const done = (progress, name) => tile("samples_done", name, progress.done, f.count(progress.done));
const total = (progress) => tile("samples_total", "of", progress.total, f.count(progress.total));
const error = (field, name, value) => tile(field, name, value, f.decimals(value));

const KINDS = {
  train: ({ job, progress, figures, result }) => [
    tile(
      "epoch",
      "epoch",
      figures.epoch,
      known(figures.epoch) ? `${f.count(figures.epoch)} of ${f.count(figures.epochs)}` : f.UNKNOWN,
    ),
    left(job, progress),
    tile("loss", "training loss", figures.loss, f.decimals(figures.loss)),
    error("top1_error", "top-1 error", figures.top1_error ?? result.top1_error),
    error("top5_error", "top-5 error", figures.top5_error ?? result.top5_error),
    tile(
      "rate",
      "samples a second",
      figures.samples_per_s ?? progress.rate,
      f.figure(figures.samples_per_s ?? progress.rate),
    ),
    tile("data_wait_share", "waiting for data", figures.data_wait_share, f.percent(figures.data_wait_share)),
    tile("learning_rate", "learning rate", figures.learning_rate, f.figure(figures.learning_rate)),
  ],
  ingest: ({ job, progress, figures, result }) => [
    done(progress, "samples done"),
    total(progress),
    left(job, progress),
    speed({ rate: f.TERMINAL.includes(job.state) ? result.samples_per_s : progress.rate }, "samples"),
    tile(
      "quarantined",
      "quarantined",
      figures.quarantined ?? result.num_quarantined,
      f.count(figures.quarantined ?? result.num_quarantined),
    ),
    tile("bytes", "written", figures.bytes, f.bytes(figures.bytes)),
  ],
  verify: ({ job, progress, result }) => [
    done(progress, `${progress.unit ?? "files"} checked`),
    total(progress),
    left(job, progress),
    tile("ok", "result", result.ok, known(result.ok) ? (result.ok ? "undamaged" : "damaged") : "not yet known"),
  ],
  evaluate: ({ job, progress, figures, result }) => [
    error("top1_error", "top-1 error", result.top1_error ?? figures.top1_error),
    error("top5_error", "top-5 error", result.top5_error ?? figures.top5_error),
    tile("loss", "loss", result.loss ?? figures.loss, f.decimals(result.loss ?? figures.loss)),
    done(progress, "samples done"),
    total(progress),
    left(job, progress),
  ],
};

const other = ({ job, progress }) => [
  done(progress, `${progress.unit ?? "units"} done`),
  total(progress),
  left(job, progress),
];
const known = (value) => value !== undefined && value !== null;
