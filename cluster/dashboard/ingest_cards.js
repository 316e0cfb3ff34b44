// Cards of an ingest: its actors, the pictures put aside, and what the sealed dataset looks like.

import * as f from "./format.js";
import { card, h, picture, setText, table } from "./elements.js";
import { atMost } from "./http.js";

const MAX_QUARANTINED = 100;
const MAX_ACTORS = 64;

export function ingestCards(view) {
  const actors = new Map();
  const quarantined = [];
  const actorPlace = h("div", {}, h("p.quiet", {}, "No shard is finished yet."));
  const actorCard = card("Actors", "", actorPlace);
  const badPlace = h("div", {}, h("p.quiet", {}, "No picture has been put aside."));
  const badCard = card("Quarantine", "", badPlace);
  const mean = picture(
    `${view.path}/artifacts/mean.png`,
    "Mean image of the training split",
    whyMissing(view.job),
    view.signal,
  );
  const sheet = picture(
    `${view.path}/artifacts/sheet.png`,
    "Samples of the dataset, one column a class",
    whyMissing(view.job),
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
        mean.refresh(whyMissing(job));
        sheet.refresh(whyMissing(job));
      }
      state = job.state;
    },
    destroy() {},
  };
}

const whyMissing = (job) =>
  job.has_ended && job.state !== "succeeded"
    ? `No dataset was sealed: the job ${job.state === "stopped" ? "was stopped" : job.state}.`
    : "Drawn when the dataset is sealed.";

function noteShard(actors, { data, at }) {
  const name = String(data.actor ?? "unknown");
  const before = actors.get(name) ?? { name, shards: 0, samples: 0 };
  const speed = data.seconds > 0 ? data.num_samples / data.seconds : null;
  actors.set(name, {
    name,
    at,
    speed,
    shards: before.shards + 1,
    host: data.host ?? f.UNKNOWN,
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
      { title: "host" },
      { title: "shards", number: true },
      { title: "samples", number: true },
      { title: "samples/s", number: true },
      { title: "newest shard" },
    ],
    shown.map((a) => [a.name, a.host, f.count(a.shards), f.count(a.samples), f.figure(a.speed), a.shard]),
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
