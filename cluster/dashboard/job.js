// One job: what it is doing now, from its stream of events; tiles first, then curves, pictures, events and logs.

import * as f from "./format.js";
import { badge, bar, h, notice, setField, setText } from "./elements.js";
import { follow, getJson, pause, postJson } from "./http.js";
import { eventsCard, logsCard, resultCard, settingsCard } from "./job_cards.js";
import { kindCards } from "./job_kinds.js";
import { tilesOf } from "./tiles.js";

const STALE_S = 30; // a running job writes its progress every half second; older than this, its figures turn dim
const TICK_MS = 1000;
const ENDED_POLL_MS = 5000;

export async function jobPage(main, signal, id, link) {
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  const job = await getJson(path, signal);
  const view = { id, path, job, progress: job.progress, signal, link, seen: new Set(), streamed: "waiting" };
  view.parts = skeleton(view);
  main.replaceChildren(view.parts.element);
  signal.addEventListener("abort", () => view.parts.kind.destroy());
  show(view);
  const timer = setInterval(() => tick(view), TICK_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  await watch(view);
}

/** Follow the job; after its end look now and then whether somebody resumed it. */
async function watch(view) {
  while (!view.signal.aborted) {
    await follow(
      `${view.path}/events`,
      {
        message: (type, data) => receive(view, type, data),
        state: (state) => {
          view.streamed = state;
          tick(view);
        },
        ended: () => f.TERMINAL.includes(view.job.state),
      },
      view.signal,
    );
    view.streamed = "ended";
    view.parts.logs.refresh();
    tick(view);
    while (!view.signal.aborted && f.TERMINAL.includes(view.job.state)) {
      await pause(ENDED_POLL_MS, view.signal);
      await reread(view);
    }
  }
}

async function reread(view) {
  try {
    setJob(view, await getJson(view.path, view.signal));
    view.streamed = "ended";
  } catch (error) {
    if (!view.signal.aborted) view.streamed = "lost";
  }
}

function receive(view, type, data) {
  if (type === "job") setJob(view, data);
  if (type === "progress") setProgress(view, data);
  if (type === "event" && !view.seen.has(`${data.attempt}.${data.seq}`)) {
    view.seen.add(`${data.attempt}.${data.seq}`); // after a break the service may say it again
    view.parts.events.add(data);
    view.parts.kind.event(data, view);
  }
}

function setJob(view, job) {
  view.job = job;
  if (job.progress) setProgress(view, job.progress);
  else show(view);
}

/** Progress only moves on: an older one that arrives late is left out. */
function setProgress(view, progress) {
  const now = view.progress;
  const older = now && (progress.attempt < now.attempt || (progress.attempt === now.attempt && progress.seq < now.seq));
  if (!older) view.progress = progress;
  show(view);
}

function skeleton(view) {
  const { job } = view;
  const parts = {
    title: h("h1", { tabindex: "-1" }),
    badge: badge(job),
    about: h("span.about"),
    age: h("span.age", { role: "status" }),
    bar: bar(`Progress of this ${job.kind}`),
    doing: h("p.doing"),
    doingWords: h("span"),
    doneWords: h("span"),
    tiles: h("div.tiles"),
    error: h("div"),
    stop: button("Stop", () => act(view, "stop")),
    resume: button("Resume", () => act(view, "resume")),
    events: eventsCard(),
    logs: logsCard(view),
    result: resultCard(),
    settings: settingsCard(job),
  };
  parts.badge.dataset.field = "state";
  parts.doing.append(parts.doingWords, parts.doneWords);
  if (job.kind === "train")
    parts.doneWords.append(" ", (parts.done = h("span", { "data-field": "samples_done" })), (parts.step = h("span")));
  parts.kind = kindCards(view);
  const clone = h(
    "a.button",
    { href: `#/new/${job.kind}?clone=${encodeURIComponent(job.id)}`, title: "Open the form with these settings" },
    "Clone",
  );
  parts.element = h(
    "article.page.job-page",
    { "data-job": job.id },
    h(
      "div.head",
      {},
      h("div", {}, parts.title, h("p.sub", {}, parts.badge, " ", parts.about, " ", parts.age)),
      h("div.buttons", {}, compareLink(job), clone, parts.resume, parts.stop),
    ),
    parts.bar,
    parts.doing,
    parts.error,
    parts.tiles,
    h("div.cards", {}, parts.kind.cards, parts.result, parts.events, parts.settings, parts.logs),
  );
  return parts;
}

const compareLink = (job) =>
  job.kind === "train" &&
  h("a.button", { href: `#/compare/${encodeURIComponent(job.id)}`, title: "See it beside other trainings" }, "Compare");

const button = (words, click) => h("button", { type: "button", on: { click } }, words);

function show(view) {
  const { job, progress, parts } = view;
  const title = `${job.kind} · ${job.name || f.subject(job)}`;
  setText(parts.title, title);
  document.title = `${f.stateWords(job)} · ${title} · Tench`;
  parts.badge.update(job);
  setText(parts.about, aboutWords(job));
  parts.bar.update(progress, job);
  setText(parts.doingWords, doingWords(job, progress));
  showDone(parts, progress);
  parts.element.dataset.attempt = progress?.attempt ?? "";
  parts.element.dataset.seq = progress?.seq ?? "";
  tilesOf(parts.tiles, job, progress);
  showButtons(view);
  showError(view);
  parts.result.update(job);
  parts.kind.update(job, progress);
  tick(view);
}

function aboutWords(job) {
  const words = [job.id];
  if (job.attempt > 1) words.push(`attempt ${job.attempt} of at most ${job.last_attempt}`);
  if (job.after) words.push(`after ${job.after}`);
  if (f.TERMINAL.includes(job.state) && job.ended_at) words.push(`ended ${f.ago(job.ended_at)}`);
  return words.join(" · ");
}

function doingWords(job, progress) {
  if (job.unknown)
    return `Ray cannot be reached, so it is unknown whether this job runs. Last known state: ${job.state}.`;
  if (job.state === "queued")
    return job.after ? `Waits until ${job.after} has succeeded.` : "Waits until enough CPUs and GPUs are free.";
  if (job.state === "starting") return "Ray is starting its process.";
  if (job.state === "lost") return "Its process is gone without a result; it is started again after a short while.";
  if (f.TERMINAL.includes(job.state)) return "";
  const asked = job.stop_requested ? "A stop was asked for; it ends at its next safe point. " : "";
  return asked + (progress ? `It is ${progress.phase}.` : "No progress has been written yet.");
}

/** A training counts in samples of the whole run: a sentence instead of a tile. */
function showDone(parts, progress) {
  if (!parts.done) return;
  parts.doneWords.hidden = !progress;
  if (!progress) return;
  setField(parts.done, f.count(progress.done), progress.done);
  const step = progress.figures.step;
  setText(
    parts.step,
    ` of ${f.count(progress.total)} ${progress.unit}${step === undefined ? "" : `, step ${f.count(step)}`}`,
  );
}

function showButtons({ job, parts, busy }) {
  const ended = f.TERMINAL.includes(job.state);
  parts.stop.hidden = ended;
  parts.stop.disabled = Boolean(busy || job.stop_requested);
  parts.resume.hidden = !["failed", "stopped"].includes(job.state);
  parts.resume.disabled = Boolean(busy);
}

function showError({ job, parts }) {
  const text = ["failed", "stopped", "lost"].includes(job.state) ? job.error : null;
  if (parts.shownError === text) return;
  parts.shownError = text;
  if (!text) return parts.error.replaceChildren();
  if (job.state === "failed") {
    parts.tiles.before(parts.logs); // the reason first, then the last words
    parts.logs.open();
  }
  const [first, ...rest] = text.trim().split("\n");
  return parts.error.replaceChildren(
    h(
      job.state === "failed" ? "div.error" : "div.error.mild",
      { role: "alert", "data-field": "error" },
      h("strong", {}, job.state === "failed" ? `Failed, exit ${job.exit_code ?? "unknown"}` : job.state),
      h("p", {}, first),
      rest.length ? h("details", {}, h("summary", {}, "the whole text"), h("pre", {}, text)) : null,
      h("p.quiet", {}, nextStep(job)),
    ),
  );
}

/** What to do next, by exit code (the same list as in the README). */
function nextStep(job) {
  if (job.state !== "failed") return "Resume goes on from what is finished.";
  const steps = {
    2: "A setting is wrong: Clone opens the form with these settings.",
    3: "It refused to start because a source, target or plan does not fit: change what is named, then Clone.",
    4: "Verification found damage: the result names each damaged file.",
    5: "More pictures were bad than the budget allows: look at the reasons, then Clone with a larger Max bad, which goes on.",
  };
  return steps[job.exit_code] ?? "Look at the last lines of the log below; Resume goes on from what is finished.";
}

async function act(view, wish) {
  view.busy = true;
  showButtons(view);
  try {
    await postJson(`${view.path}/${wish}`, {});
    notice(wish === "stop" ? "Asked for a stop; it ends at its next safe point." : "It is queued again.");
    await reread(view);
  } catch (error) {
    notice(error.message, "bad");
  }
  view.busy = false;
  showButtons(view);
}

/** Once a second: ages, and whether what is shown is still true. */
function tick({ job, progress, parts, streamed, link }) {
  const running = ["running", "stopping"].includes(job.state);
  const age = running && progress ? f.ageSeconds(progress.at) : null;
  const stale = age !== null && age > STALE_S;
  const lost = streamed === "lost";
  parts.element.classList.toggle("old", stale || lost || Boolean(job.unknown));
  setText(parts.age, lost ? "· connection lost, reconnecting" : stale ? `· no sign for ${f.duration(age)}` : "");
  link(lost ? "lost" : stale ? "stale" : "live", stale ? `stale, last sign ${f.duration(age)} ago` : "");
}
