// The list of jobs: one line each, newest first. The service filters by state and kind, the page by text.

import * as f from "./format.js";
import { badge, bar, command, errorBox, h, notice, reconcile, setText } from "./elements.js";
import { sparkline } from "./chart_paint.js";
import { getJson, pause, Problem } from "./http.js";

const EVERY_MS = 2000;
const MS_PER_JOB = 10; // a long list is read less often: 1,000 jobs cost the service half a second
const PAGE = 100; // jobs at first, and more at each wish for older ones
const MOST = 1000; // jobs in one answer of the service
const SPARKS = 12; // lines that get a curve
const SPARK_EVERY_MS = 15_000;

const kept = { text: "", state: "", kind: "" }; // the filter survives a visit to a job

export async function jobsPage(main, signal) {
  const page = skeleton();
  main.replaceChildren(page.element);
  const view = { page, sparks: new Map(), left: signal, changed: new AbortController() };
  page.text.addEventListener("input", () => {
    keep(page);
    show(view);
  });
  [page.state, page.kind].forEach((input) =>
    input.addEventListener("input", () => {
      keep(page);
      watch(view);
    }),
  );
  page.more.addEventListener("click", () => loadOlder(view));
  await watch(view);
}

/** Read the list from its first page, again and again, until state or kind is chosen anew or the page is left. */
async function watch(view) {
  view.changed.abort();
  view.changed = new AbortController();
  const signal = AbortSignal.any([view.left, view.changed.signal]);
  Object.assign(view, { signal, read: false, jobs: [], next: null, oldest: Infinity, sparksAt: 0 });
  view.page.list.classList.add("old");
  view.page.more.hidden = true;
  while (!signal.aborted) {
    await refresh(view, signal);
    await pause(Math.max(EVERY_MS, MS_PER_JOB * view.jobs.length), signal);
  }
}

function skeleton() {
  const text = h("input", {
    type: "search",
    placeholder: "Filter  ( / )",
    "aria-label": "Filter the jobs that are loaded by name, kind or id",
    id: "filter",
    value: kept.text,
  });
  const state = choice(
    "State",
    ["queued", "starting", "running", "stopping", "lost", "succeeded", "failed", "stopped"],
    kept.state,
  );
  const kind = choice("Kind", ["ingest", "recentre", "verify", "repair", "train", "evaluate"], kept.kind);
  const list = h("ul.jobs", { "aria-label": "Jobs, newest first" });
  const message = h("div", { "aria-live": "polite" }, h("p.quiet", {}, "Reading the list …"));
  const more = h("button", { type: "button", hidden: true }, "Older jobs");
  const element = h(
    "div.page",
    {},
    h(
      "div.head",
      {},
      h("h1", { tabindex: "-1" }, "Jobs"),
      h(
        "div.buttons",
        {},
        h("a.button", { href: "#/compare" }, "Compare trainings"),
        h("a.button.primary", { href: "#/new" }, "New job"),
      ),
    ),
    h("div.filters", { role: "search" }, text, state, kind),
    message,
    list,
    more,
  );
  return { element, list, message, more, text, state, kind };
}

function choice(name, values, chosen) {
  return h(
    "select",
    { "aria-label": name },
    h("option", { value: "" }, `any ${name.toLowerCase()}`),
    values.map((value) => h("option", { value, selected: value === chosen }, value)),
  );
}

function keep(page) {
  Object.assign(kept, { text: page.text.value, state: page.state.value, kind: page.kind.value });
}

async function refresh(view, signal) {
  try {
    take(view, await readJobs(view, signal));
    await refreshSparks(view, signal);
  } catch (error) {
    if (signal.aborted) return;
    view.page.list.classList.add("old");
    if (error instanceof Problem && error.status !== 401) say(view.page, errorBox(error, "The list could not be read"));
  }
}

async function loadOlder(view) {
  const { page, signal } = view;
  page.more.disabled = true;
  try {
    take(view, await readJobs(view, signal, PAGE));
    view.oldest = view.jobs.at(-1)?.created_at ?? Infinity;
  } catch (error) {
    if (!signal.aborted) notice(`Older jobs could not be read: ${error.message}`, "bad");
  }
  page.more.disabled = false;
}

/** Every job on the page anew, so that none stays old: as many as are shown and `extra` more, and down to the oldest that
 * was asked for, however many new ones stand before it. */
async function readJobs(view, signal, extra = 0) {
  const wanted = view.jobs.length + extra;
  const jobs = [];
  let next = null;
  do {
    const limit = Math.min(Math.max(wanted - jobs.length, PAGE), MOST);
    const answer = await getJson(address(limit, next), signal);
    jobs.push(...answer.jobs);
    next = answer.next;
  } while (next && (jobs.length < wanted || jobs.at(-1).created_at > view.oldest));
  return { jobs, next };
}

function address(limit, cursor) {
  const query = { state: kept.state, kind: kept.kind, limit, cursor };
  return `/v1/jobs?${new URLSearchParams(Object.entries(query).filter(([, value]) => value))}`;
}

function take(view, { jobs, next }) {
  Object.assign(view, { jobs, next, read: true });
  view.page.list.classList.remove("old");
  show(view);
}

function show(view) {
  if (!view.read) return;
  const { page } = view;
  const shown = view.jobs.filter(matches);
  reconcile(
    page.list,
    shown,
    (job) => job.id,
    makeLine,
    (line, job) => line.update(job, view.sparks.get(job.id)),
  );
  page.more.hidden = !view.next;
  say(page, remark(view, shown));
}

/** Only what is new is put on the page: a screen reader reads all of it out. */
function say({ message }, element) {
  if (message.textContent !== (element?.textContent ?? "")) message.replaceChildren(element ?? "");
}

function remark({ jobs, next }, shown) {
  if (!jobs.length) return kept.state || kept.kind ? h("p.quiet", {}, "No job fits the filter.") : welcome();
  if (!kept.text || (shown.length && !next)) return null;
  const searched = `the ${f.count(jobs.length)} jobs that are loaded${next ? "; older ones were not searched" : ""}`;
  return h("p.quiet", {}, `Found in ${f.count(shown.length)} of ${searched}.`);
}

function matches(job) {
  const words = `${job.id} ${job.name ?? ""} ${job.kind} ${f.subject(job)} ${f.stateWords(job)}`.toLowerCase();
  return words.includes(kept.text.toLowerCase());
}

function welcome() {
  return h(
    "section.card.welcome",
    {},
    h("h2", {}, "No jobs yet"),
    h(
      "p",
      {},
      "A job converts archives into a dataset, verifies one, trains a network on it, or measures the network's error. ",
      "Begin with an ingest:",
    ),
    h("p", {}, h("a.button.primary", { href: "#/new/ingest" }, "New ingest")),
    h("p.quiet", {}, "Or see everything at work on a small source that is made for you:"),
    command("tench demo"),
    h("p.quiet", {}, "Or from a terminal, against this very service:"),
    command(`tench submit ingest --source /data/imagenet --dataset /data/imagenet-jpeg --server ${location.origin}`),
  );
}

function makeLine(job) {
  const parts = {
    title: h("a.title", { href: `#/jobs/${encodeURIComponent(job.id)}` }),
    kind: h("span.kind", {}, job.kind),
    badge: badge(job),
    bar: bar(`Progress of ${job.kind} ${f.subject(job)}`),
    time: h("span.when"),
    figure: h("span.main-figure"),
    spark: h("span.spark-place"),
    when: h("span.made"),
  };
  const line = h(
    "li.job",
    {},
    parts.badge,
    h("span.names", {}, parts.kind, " ", parts.title),
    parts.bar,
    parts.time,
    parts.figure,
    parts.spark,
    parts.when,
  );
  line.update = (next, spark) => updateLine(parts, next, spark);
  return line;
}

function updateLine(parts, job, spark) {
  parts.badge.update(job);
  parts.bar.update(job.progress, job);
  setText(parts.title, job.name || f.subject(job));
  setText(parts.time, timeWords(job));
  setText(parts.figure, mainFigure(job));
  setText(parts.when, f.ago(job.created_at));
  parts.when.title = f.absolute(job.created_at);
  if (spark && parts.points !== spark.length) {
    parts.points = spark.length;
    parts.spark.replaceChildren(sparkline(spark, "loss so far"));
  }
}

function timeWords(job) {
  if (f.TERMINAL.includes(job.state))
    return f.ranFor(job) === null ? "did not start" : `took ${f.duration(f.ranFor(job))}`;
  if (job.state === "queued") return job.after ? "waits for its parent" : "waits for its turn";
  const left = job.progress?.seconds_left;
  return left === null || left === undefined ? "time left unknown" : `${f.duration(left)} left`;
}

/** The one figure that matters: an error for networks, speed for the rest, the reason when it failed. */
export function mainFigure(job) {
  const figures = { ...job.progress?.figures, ...job.result };
  if (job.state === "failed") return `exit ${job.exit_code ?? "unknown"}`;
  if (["verify", "repair"].includes(job.kind) && figures.ok !== undefined) return figures.ok ? "undamaged" : "damaged";
  if (f.TERMINAL.includes(job.state) || job.kind === "evaluate" || job.kind === "train") {
    if (figures.top1_error !== undefined && figures.top1_error !== null)
      return `top-1 error ${f.decimals(figures.top1_error)}`;
    if (figures.num_samples !== undefined) return `${f.count(figures.num_samples)} samples`;
  }
  return job.progress && job.state === "running" ? f.rate(job.progress.rate, job.progress.unit) : "";
}

async function refreshSparks(view, signal) {
  if (Date.now() - view.sparksAt < SPARK_EVERY_MS) return;
  view.sparksAt = Date.now();
  const wanted = view.jobs
    .filter((job) => job.kind === "train")
    .slice(0, SPARKS)
    .filter((job) => !(f.TERMINAL.includes(job.state) && view.sparks.has(job.id)));
  for (const job of wanted) {
    const { series } = await getJson(`/v1/jobs/${encodeURIComponent(job.id)}/metrics`, signal);
    view.sparks.set(job.id, series.loss ?? []);
  }
  if (wanted.length) show(view);
}
