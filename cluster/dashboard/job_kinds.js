// What differs by kind of job: curves and kernels of a training, actors and quarantine of an ingest.

import * as f from "./format.js";
import { card, h, picture, setText, table } from "./elements.js";
import { chart } from "./charts.js";
import { getJson } from "./http.js";

const METRICS_EVERY_MS = 3000;
const PICTURES_EVERY_MS = 10_000;
const MAX_QUARANTINED = 100;
const MAX_ACTORS = 64;

/** {cards, event(event), update(job, progress), destroy()} for a job's kind. */
export function kindCards(view) {
  const make = { train: trainCards, ingest: ingestCards }[view.job.kind];
  return make ? make(view) : { cards: [], event() {}, update() {}, destroy() {} };
}

function trainCards(view) {
  const charts = {
    error: chart({
      title: "Error, top-1",
      note: "share of pictures",
      x: "epoch",
      zero: true,
      series: [
        { label: "validation", format: f.decimals },
        { label: "train", format: f.decimals },
      ].reverse(),
    }),
    loss: chart({
      title: "Loss",
      note: "nats a picture",
      x: "step",
      log: true,
      series: [{ label: "train", format: (v) => f.decimals(v, 3) }],
    }),
    rate: chart({
      title: "Learning rate",
      note: "of the weights",
      x: "step",
      log: true,
      zero: true,
      series: [{ label: "rate", format: f.figure }],
    }),
    speed: chart({
      title: "Speed",
      note: "samples a second",
      x: "step",
      zero: true,
      series: [{ label: "all workers", format: f.figure }],
    }),
    wait: chart({
      title: "Waiting for data",
      note: "share of the step's time",
      x: "step",
      zero: true,
      series: [{ label: "waiting", format: f.percent }],
    }),
  };
  const kernels = picture(
    `${view.path}/artifacts/kernels.png`,
    "The 96 kernels of conv1 as small colour pictures",
    "No kernels yet; they are drawn with the first checkpoint.",
    view.signal,
  );
  const kernelCard = card("Kernels of conv1", "11 x 11 pixels each", kernels);
  kernelCard.classList.add("kernels");
  const state = { marks: [], stepOf: new Map() };
  const refreshCurves = atMost(METRICS_EVERY_MS, view.signal, () => readCurves(view, charts, state));
  const refreshKernels = atMost(PICTURES_EVERY_MS, view.signal, () => kernels.refresh());
  refreshCurves();
  return {
    cards: [charts.error, charts.loss, charts.rate, charts.speed, charts.wait, kernelCard],
    event(event) {
      noteMark(state, event);
      if (["metrics", "evaluated", "rate"].includes(event.kind)) refreshCurves();
      if (["checkpoint", "evaluated"].includes(event.kind)) refreshKernels();
      if (event.kind === "checkpoint")
        setText(kernelCard.note, `11 x 11 pixels each, step ${f.count(event.data.step)}`);
    },
    update() {
      if (view.job.state !== state.jobState) refreshCurves();
      if (view.job.state !== state.jobState) refreshKernels();
      state.jobState = view.job.state;
    },
    destroy: () => Object.values(charts).forEach((one) => one.destroy()),
  };
}

async function readCurves(view, charts, state) {
  const { series } = await getJson(`${view.path}/metrics`, view.signal);
  const steps = stepsAnEpoch(view.progress);
  const toEpochs = (points) => (steps ? points.map(([x, value]) => [x / steps, value]) : []);
  const epochs = view.progress?.figures?.epochs ?? null;
  const marks = [...divisions(series.learning_rate ?? []), ...state.marks].sort((a, b) => a.x - b.x);
  const marksInEpochs = steps ? marks.map((mark) => ({ ...mark, x: mark.x / steps })) : [];
  const validated = (series.top1_error ?? []).map(([epoch, value]) => [
    steps && state.stepOf.has(epoch) ? state.stepOf.get(epoch) / steps : epoch,
    value,
  ]);
  const lastStep = steps && epochs ? steps * epochs : null;
  charts.error.update([toEpochs(series.train_top1_error ?? []), validated], marksInEpochs, epochs);
  charts.loss.update([series.loss ?? []], marks, lastStep);
  charts.rate.update([series.learning_rate ?? []], [], lastStep);
  charts.speed.update([series.samples_per_s ?? []], [], lastStep);
  charts.wait.update([series.data_wait_share ?? []], [], lastStep);
}

/** Steps in an epoch, from the share of the run that is done; null while that is unknown. */
function stepsAnEpoch(progress) {
  const { step, epochs } = progress?.figures ?? {};
  if (!step || !epochs || !progress.total || !progress.done) return null;
  return step / ((progress.done / progress.total) * epochs);
}

/** Notes for the curves: the step at which each epoch was evaluated, and where something happened. */
function noteMark(state, event) {
  const { epoch, step } = event.data ?? {};
  if (step === undefined) return;
  if (event.kind === "evaluated" && epoch !== undefined) state.stepOf.set(epoch, step);
  const label = { resumed: "resumed", "actor lost": "lost worker" }[event.kind];
  if (label) state.marks.push({ x: step, label });
}

/** Where the learning rate fell. */
function divisions(rates) {
  return rates.filter(([, rate], i) => i && rate < 0.99 * rates[i - 1][1]).map(([x]) => ({ x, label: "rate divided" }));
}

function ingestCards(view) {
  const actors = new Map();
  const quarantined = [];
  const actorPlace = h("div", {}, h("p.quiet", {}, "No shard is finished yet."));
  const actorCard = card("Actors", "", actorPlace);
  const badPlace = h("div", {}, h("p.quiet", {}, "No picture has been put aside."));
  const badCard = card("Quarantine", "", badPlace);
  const mean = picture(
    `${view.path}/artifacts/mean.png`,
    "Mean image of the training split",
    "Drawn when the dataset is sealed.",
    view.signal,
  );
  const sheet = picture(
    `${view.path}/artifacts/sheet.png`,
    "Samples of the dataset, one column a class",
    "Drawn when the dataset is sealed.",
    view.signal,
  );
  const meanCard = card("Mean image", "of the training split", mean);
  meanCard.classList.add("mean");
  const sheetCard = card("Contact sheet", "one column a class", sheet);
  const showActors = atMost(500, view.signal, () => actorPlace.replaceChildren(actorTable(actors, actorCard)));
  const showBad = atMost(500, view.signal, () => badPlace.replaceChildren(quarantineTable(quarantined)));
  let state = view.job.state;
  return {
    cards: [actorCard, badCard, meanCard, sheetCard],
    event(event) {
      if (event.kind === "shard") {
        noteShard(actors, event);
        showActors();
      }
      if (event.kind === "quarantined") {
        quarantined.unshift(event);
        showBad();
      }
    },
    update(job, progress) {
      const bad = progress?.figures?.quarantined ?? quarantined.length;
      const of = progress?.done ? `${f.count(bad)} of ${f.count(progress.done)}` : "";
      setText(badCard.note, `${of}${of ? " · " : ""}budget ${job.settings.max_bad ?? "0.1%"}`);
      if (job.state !== state) {
        mean.refresh();
        sheet.refresh();
      }
      state = job.state;
    },
    destroy() {},
  };
}

function noteShard(actors, { data, at }) {
  const name = String(data.actor ?? "unknown");
  const before = actors.get(name) ?? { name, shards: 0, samples: 0 };
  const speed = data.seconds > 0 ? data.num_samples / data.seconds : null;
  actors.set(name, {
    name,
    at,
    speed,
    shards: before.shards + 1,
    samples: before.samples + (data.num_samples ?? 0),
    shard: `${data.split ?? ""} ${String(data.shard ?? "").padStart(5, "0")}`,
  });
}

function actorTable(actors, actorCard) {
  const names = new Intl.Collator("en", { numeric: true });
  const shown = [...actors.values()].sort((a, b) => names.compare(a.name, b.name)).slice(0, MAX_ACTORS);
  setText(actorCard.note, `${shown.length} of ${actors.size} shown`);
  return table(
    "Actors and what each has finished",
    [
      { title: "actor" },
      { title: "shards", number: true },
      { title: "samples", number: true },
      { title: "samples/s", number: true },
      { title: "newest shard" },
    ],
    shown.map((a) => [a.name, f.count(a.shards), f.count(a.samples), f.figure(a.speed), a.shard]),
  );
}

function quarantineTable(events) {
  return table(
    "Pictures put aside, newest first",
    [{ title: "key" }, { title: "reason" }, { title: "bytes", number: true }],
    events
      .slice(0, MAX_QUARANTINED)
      .map(({ data, text }) => [
        h("span.wrap", {}, data.key ?? text),
        h("span", {}, h("span.badge", { "data-state": "failed" }, data.code ?? "unknown"), " ", data.message ?? ""),
        f.count(data.size ?? null),
      ]),
  );
}

/** At most one call in `ms`; a call in between is made at the end of that time. */
function atMost(ms, signal, call) {
  let timer = null;
  let again = false;
  const run = async () => {
    timer = setTimeout(() => {
      timer = null;
      if (again && !signal.aborted) {
        again = false;
        run();
      }
    }, ms);
    try {
      await call();
    } catch (error) {
      if (!signal.aborted) again = true; // the next turn tries again
    }
  };
  return () => (timer === null ? void run() : void (again = true));
}
