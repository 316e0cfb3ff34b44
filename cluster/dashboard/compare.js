// Trainings side by side: their curves over one another, their errors, their settings with what differs.
// The runs stand in the address, #/compare/a,b, so that the page can be passed on.

import * as f from "./format.js";
import { errorBox, h, notice, setText } from "./elements.js";
import { chart } from "./charts.js";
import { SERIES_COLOURS } from "./chart_paint.js";
import { getJson, pause, Problem } from "./http.js";
import { errorsCard, settingsCard } from "./compare_tables.js";
import { stepsAnEpoch } from "./training_cards.js";

const EVERY_MS = 4000;
const MOST = SERIES_COLOURS.length;
const LETTERS = "ABCDEF";

export async function comparePage(main, signal, ids = "") {
  const chosen = [...new Set(ids.split(",").filter(Boolean))].slice(0, MOST);
  const view = { chosen, signal, runs: new Map(), charts: null, ...skeleton() };
  main.replaceChildren(view.element);
  signal.addEventListener("abort", () => destroyCharts(view));
  await offer(view);
  while (!signal.aborted) {
    await refresh(view);
    await pause(EVERY_MS, signal);
  }
}

function skeleton() {
  const list = h("div.picks");
  const count = h("span.note");
  const picker = h("details.card.picker", {}, h("summary", {}, "Choose trainings ", count), list);
  const message = h("div", { "aria-live": "polite" });
  const curves = h("div.cards");
  const errors = h("div.cards.above");
  const tables = h("div.cards.below");
  const element = h(
    "div.page.compare-page",
    {},
    h("div.head", {}, h("h1", { tabindex: "-1" }, "Compare trainings"), h("div.buttons", {}, copyButton())),
    picker,
    message,
    errors,
    curves,
    tables,
  );
  return { element, list, count, picker, message, errors, curves, tables };
}

function copyButton() {
  const copy = async () => {
    await navigator.clipboard.writeText(location.href);
    notice("The address of this comparison is copied.");
  };
  return h("button", { type: "button", on: { click: copy } }, "Copy address");
}

/** Every training with a box to tick; choosing changes the address without leaving the page. */
async function offer(view) {
  const { jobs } = await getJson("/v1/jobs?kind=train&limit=200", view.signal);
  const known = new Set(jobs.map((job) => job.id));
  const extra = view.chosen.filter((id) => !known.has(id)).map((id) => ({ id, kind: "train", state: "" }));
  view.list.replaceChildren(...[...extra, ...jobs].map((job) => pick(view, job)));
  if (!jobs.length) view.list.replaceChildren(h("p.quiet", {}, "There is no training yet."));
  view.picker.open = view.chosen.length < 2;
  showCount(view);
}

function pick(view, job) {
  const box = h("input", { type: "checkbox", value: job.id, checked: view.chosen.includes(job.id) });
  box.addEventListener("change", () => choose(view, box));
  const words = h("span", {}, job.name || (job.settings ? f.subject(job) : job.id));
  return h("label.pick", {}, box, words, h("span.quiet", {}, ` ${job.id} ${job.state && f.stateWords(job)}`));
}

function choose(view, box) {
  if (box.checked && view.chosen.length >= MOST) {
    box.checked = false;
    notice(`At most ${MOST} trainings can be told apart on one chart.`, "bad");
    return;
  }
  view.chosen = box.checked ? [...view.chosen, box.value] : view.chosen.filter((id) => id !== box.value);
  history.replaceState(null, "", `#/compare/${view.chosen.map(encodeURIComponent).join(",")}`);
  showCount(view);
  destroyCharts(view);
  refresh(view);
}

const showCount = (view) => setText(view.count, `${view.chosen.length} of at most ${MOST} chosen`);

async function refresh(view) {
  const wanted = [...view.chosen];
  const found = await Promise.allSettled(wanted.map((id) => readRun(view, id)));
  if (view.signal.aborted || String(wanted) !== String(view.chosen)) return;
  const lost = found.filter(({ status }) => status === "rejected").map(({ reason }) => reason);
  view.element.classList.toggle(
    "old",
    lost.some((error) => !(error instanceof Problem)),
  );
  const runs = wanted.map((id) => view.runs.get(id)).filter(Boolean);
  showMessage(view, runs, lost);
  if (runs.length)
    show(
      view,
      runs.map((run, i) => ({ ...run, letter: LETTERS[i], hue: i })),
    );
}

/** A run's row and its curves; those of an ended run are read once. */
async function readRun(view, id) {
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  const job = await getJson(path, view.signal);
  if (job.kind !== "train")
    throw new Problem(422, {
      title: "No training",
      detail: `${id} is a job of kind ${job.kind}; only trainings can be compared.`,
    });
  const before = view.runs.get(id);
  const settled = before && before.job.version === job.version && f.TERMINAL.includes(job.state);
  const series = settled ? before.series : (await getJson(`${path}/metrics`, view.signal)).series;
  view.runs.set(id, { job, series, steps: stepsAnEpoch(job.progress) });
}

function showMessage(view, runs, lost) {
  const problems = lost.filter((error) => error instanceof Problem).map((error) => errorBox(error));
  const hint = runs.length < 2 && !problems.length && [h("p.quiet", {}, "Choose two or more trainings above.")];
  const text = JSON.stringify([problems.map((p) => p.textContent), Boolean(hint)]);
  if (view.said === text) return;
  view.said = text;
  view.message.replaceChildren(...problems, ...(hint || []));
}

function show(view, runs) {
  const key = runs.map(({ job }) => job.id).join();
  if (view.shown !== key || !view.charts) makeCharts(view, runs);
  view.shown = key;
  const inEpochs = runs.every(({ steps }) => steps);
  const overSteps = (name) => runs.map((run) => scaled(run.series[name] ?? [], inEpochs ? run.steps : 1));
  const { charts } = view;
  charts.top1.update(runs.map((run) => run.series.top1_error ?? []));
  charts.top5.update(runs.map((run) => run.series.top5_error ?? []));
  charts.loss.update(overSteps("loss"));
  charts.train.update(overSteps("train_top1_error"));
  charts.rate.update(overSteps("learning_rate"));
  charts.speed.update(overSteps("samples_per_s"));
  const text = JSON.stringify(
    runs.map(({ job }) => [job.version, job.state, job.progress?.figures?.top1_error, job.unknown]),
  );
  if (text === view.tabled && view.tables.children.length) return;
  view.tabled = text;
  const open = view.tables.querySelector("details")?.open;
  view.errors.replaceChildren(errorsCard(runs));
  view.tables.replaceChildren(settingsCard(runs, open));
}

const scaled = (points, steps) => points.map(([x, y]) => [x / steps, y]);

function makeCharts(view, runs) {
  destroyCharts(view);
  const inEpochs = runs.every(({ steps }) => steps);
  const one = (title, note, format, more = {}) =>
    chart({
      title,
      note,
      x: inEpochs ? "epoch" : "step",
      series: runs.map(({ letter }) => ({ label: letter, format })),
      ...more,
    });
  const share = { zero: true, x: "epoch" };
  view.charts = {
    top1: one("Error, top-1", "validation, share of pictures", f.decimals, share),
    top5: one("Error, top-5", "validation, share of pictures", f.decimals, share),
    loss: one("Loss", "training, nats a picture", f.decimals, { log: true }),
    train: one("Training error, top-1", "share of pictures", f.decimals, { zero: true }),
    rate: one("Learning rate", "of the weights", f.figure, { log: true, zero: true }),
    speed: one("Speed", "samples a second, all workers", f.figure, { zero: true }),
  };
  view.curves.replaceChildren(...Object.values(view.charts));
}

function destroyCharts(view) {
  Object.values(view.charts ?? {}).forEach((one) => one.destroy());
  view.charts = null;
  if (!view.chosen.length) [view.errors, view.curves, view.tables].forEach((place) => place.replaceChildren());
}
