// Cards of a training: its curves, the kernels of conv1, its layers, and how long each worker waits.

import * as f from "./format.js";
import { card, h, picture, setText, table } from "./elements.js";
import { chart } from "./charts.js";
import { atMost, getJson } from "./http.js";

const METRICS_EVERY_MS = 3000;
const PICTURES_EVERY_MS = 10_000;
const MAX_WORKERS = 64;

const over = (title, note, label, format, more = {}) =>
  chart({ title, note, x: "step", series: [{ label, format }], ...more });

function makeCharts() {
  const charts = {
    error: chart({
      title: "Error",
      note: "top-1 of both, top-5 of validation; share of pictures",
      x: "epoch",
      zero: true,
      series: [
        { label: "train", format: f.decimals },
        { label: "validation", format: f.decimals },
        { label: "top-5", format: f.decimals },
      ],
    }),
    loss: over("Loss", "nats a picture", "train", (v) => f.decimals(v, 3), { log: true }),
    rate: over("Learning rate", "of the weights", "rate", f.figure, { log: true, zero: true }),
    speed: over("Speed", "pictures a second", "all workers", f.figure, { zero: true }),
    wait: over("Waiting for data", "share of the step's time", "slowest worker", f.percent, { zero: true }),
    norm: over("Gradient norm", "L2, all parameters together", "norm", f.figure, { log: true, zero: true }),
    memory: chart({
      title: "GPU memory",
      note: "worker 0",
      x: "step",
      zero: true,
      series: [
        { label: "allocated", format: f.bytes },
        { label: "peak", format: f.bytes },
      ],
    }),
    busy: over("GPU utilisation", "worker 0, share of the last second", "busy", f.percent, { zero: true, top: 1 }),
  };
  [charts.memory, charts.busy].forEach((one) => (one.hidden = true)); // until a GPU has said something
  return charts;
}

export function trainCards(view) {
  const charts = makeCharts();
  const kernels = kernelCard(view);
  const layers = tableCard("Layers", "weights at the newest report", layerTable);
  const workers = tableCard("Workers", "share of time spent waiting for data", workerTable);
  const state = { marks: [], stepOf: new Map() };
  const refreshCurves = atMost(METRICS_EVERY_MS, view.signal, () => readCurves(view, charts, state));
  const refreshKernels = atMost(PICTURES_EVERY_MS, view.signal, () => kernels.picture.refresh());
  refreshCurves();
  return {
    cards: [...Object.values(charts), kernels, workers, layers],
    event(event) {
      noteMark(state, event);
      if (["metrics", "evaluated", "rate"].includes(event.kind)) refreshCurves();
      if (["checkpoint", "evaluated"].includes(event.kind)) refreshKernels();
      if (event.kind === "checkpoint") setText(kernels.note, `11 x 11 pixels each, step ${f.count(event.data.step)}`);
    },
    update(job, progress) {
      layers.update(progress?.figures.layers);
      workers.update(progress?.figures.waiting_by_rank);
      if (job.state !== state.jobState) refreshCurves();
      if (job.state !== state.jobState) refreshKernels();
      state.jobState = job.state;
    },
    destroy: () => Object.values(charts).forEach((one) => one.destroy()),
  };
}

function kernelCard(view) {
  const shown = picture(
    `${view.path}/artifacts/kernels.png`,
    "The 96 kernels of conv1 as small colour pictures",
    "No kernels yet; they are drawn with the first checkpoint.",
    view.signal,
  );
  const element = card("Kernels of conv1", "11 x 11 pixels each", shown);
  element.classList.add("kernels");
  element.picture = shown;
  return element;
}

/** A card that is hidden until `update(value)` brings something; drawn anew only when the value has changed. */
function tableCard(title, note, draw) {
  const place = h("div");
  const element = card(title, note, place);
  element.hidden = true;
  let shown = "";
  element.update = (value) => {
    const text = JSON.stringify(value ?? null);
    if (!value || text === shown) return;
    shown = text;
    element.hidden = false;
    place.replaceChildren(draw(value));
  };
  return element;
}

function layerTable(layers) {
  const columns = [
    { title: "layer" },
    { title: "norm of weights", number: true },
    { title: "of gradient", number: true },
    { title: "update / weights", number: true },
  ];
  const rows = Object.entries(layers).map(([name, norms]) => [
    name,
    f.figure(norms.weight_norm),
    f.figure(norms.gradient_norm),
    f.figure(norms.update_ratio),
  ]);
  return table("Norms by layer", columns, rows);
}

function workerTable(shares) {
  const most = Math.max(...shares);
  const rows = shares
    .slice(0, MAX_WORKERS)
    .map((share, rank) => [
      f.count(rank),
      f.percent(share),
      h("span.note", {}, shares.length > 1 && share === most ? "waits longest" : ""),
    ]);
  return table(
    "Waiting for data, by worker",
    [{ title: "rank" }, { title: "waiting", number: true }, { title: "note" }],
    rows,
  );
}

async function readCurves(view, charts, state) {
  const { series } = await getJson(`${view.path}/metrics`, view.signal);
  const of = (name) => series[name] ?? [];
  const steps = stepsAnEpoch(view.progress);
  const toEpochs = (points) => (steps ? points.map(([x, value]) => [x / steps, value]) : []);
  const atTheirSteps = (points) =>
    points.map(([epoch, value]) => [steps && state.stepOf.has(epoch) ? state.stepOf.get(epoch) / steps : epoch, value]);
  const epochs = view.progress?.figures?.epochs ?? null;
  const marks = [...divisions(of("learning_rate")), ...state.marks].sort((a, b) => a.x - b.x);
  const marksInEpochs = steps ? marks.map((mark) => ({ ...mark, x: mark.x / steps })) : [];
  const lastStep = steps && epochs ? Math.round(steps * epochs) : null;
  const errors = [toEpochs(of("train_top1_error")), atTheirSteps(of("top1_error")), atTheirSteps(of("top5_error"))];
  charts.error.update(errors, marksInEpochs, epochs);
  charts.loss.update([of("loss")], marks, lastStep);
  charts.rate.update([of("learning_rate")], [], lastStep);
  charts.speed.update([of("samples_per_s")], [], lastStep);
  charts.wait.update([of("data_wait_share")], [], lastStep);
  charts.norm.update([of("gradient_norm")], [], lastStep);
  charts.memory.hidden = !of("gpu_allocated_bytes").length;
  charts.memory.update([of("gpu_allocated_bytes"), of("gpu_peak_bytes")], [], lastStep);
  charts.busy.hidden = !of("gpu_utilisation").length;
  charts.busy.update([of("gpu_utilisation")], [], lastStep);
}

/** Steps in an epoch, from the share of the run that is done; null while that is unknown. */
export function stepsAnEpoch(progress) {
  const { step, epochs } = progress?.figures ?? {};
  if (!step || !epochs || !progress.total || !progress.done) return null;
  return step / ((progress.done / progress.total) * epochs);
}

/** Notes for the curves: the step at which each epoch was evaluated, and where something happened. */
function noteMark(state, event) {
  const { epoch, step } = event.data ?? {};
  if (step === undefined) return;
  if (event.kind === "evaluated" && epoch !== undefined) state.stepOf.set(epoch + 1, step);
  const label = { resumed: "resumed", "actor lost": "lost worker" }[event.kind];
  if (label) state.marks.push({ x: step, label });
}

/** Where the learning rate fell. */
function divisions(rates) {
  return rates.filter(([, rate], i) => i && rate < 0.99 * rates[i - 1][1]).map(([x]) => ({ x, label: "rate divided" }));
}
