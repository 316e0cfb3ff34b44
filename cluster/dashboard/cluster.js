// The cluster: what it has, what the jobs at work hold of it, its nodes and GPUs. What Ray does not tell is unknown.

import * as f from "./format.js";
import { badge, card, errorBox, h, table } from "./elements.js";
import { getJson, pause } from "./http.js";

const EVERY_MS = 3000;

export async function clusterPage(main, signal) {
  const place = h("div");
  main.replaceChildren(h("div.page", {}, h("div.head", {}, h("h1", { tabindex: "-1" }, "Cluster")), place));
  let shown = "";
  while (!signal.aborted) {
    try {
      const cluster = await getJson("/v1/cluster", signal);
      const text = JSON.stringify(cluster);
      if (text !== shown) place.replaceChildren(...parts(cluster));
      place.classList.toggle("old", !cluster.reachable);
      shown = text;
    } catch (error) {
      if (signal.aborted) return;
      place.classList.add("old");
      if (!shown) place.replaceChildren(errorBox(error, "The cluster could not be read"));
    }
    await pause(EVERY_MS, signal);
  }
}

function parts(cluster) {
  const cards = [workCard(cluster.work ?? []), nodeCard(cluster), gpuCard(cluster.nodes)].filter(Boolean);
  cards.forEach((element) => element.classList.add("wide"));
  return [!cluster.reachable && unreachable(cluster), tiles(cluster), h("div.cards", {}, cards)].filter(Boolean);
}

function unreachable({ error }) {
  return h(
    "div.error",
    { role: "alert" },
    h("strong", {}, "Ray cannot be reached"),
    error && h("p", {}, error),
    h(
      "p",
      {},
      "What is shown below is the last that was known. Jobs that were at work are unknown: none is moved or started again until Ray answers.",
    ),
  );
}

function tiles({ nodes, cpus, gpus, used_cpus, used_gpus, jobs }) {
  const tile = (name, value) => h("div.tile", {}, h("span.name", {}, name), h("span.value", {}, value));
  return h(
    "div.tiles",
    {},
    tile(nodes.length === 1 ? "node" : "nodes", f.count(nodes.length)),
    tile("CPUs held by jobs", `${f.figure(used_cpus)} of ${f.figure(cpus)}`),
    tile("GPUs held by jobs", gpus ? `${f.figure(used_gpus)} of ${f.figure(gpus)}` : "there is none"),
    tile("jobs running", f.count(jobs.running ?? 0)),
    tile("jobs waiting", f.count(jobs.queued ?? 0)),
  );
}

function workCard(work) {
  if (!work.length) return card("At work", "", h("p.quiet", {}, "No job is at work."));
  const columns = [
    { title: "job" },
    { title: "state" },
    { title: "CPUs", number: true },
    { title: "GPUs", number: true },
    { title: "memory", number: true },
  ];
  const rows = work.map((job) => [
    h(
      "span.wrap",
      {},
      h("a", { href: `#/jobs/${encodeURIComponent(job.id)}`, "data-line": "" }, `${job.kind} · ${job.name || job.id}`),
    ),
    badge(job),
    f.figure(job.grant.cpus),
    f.figure(job.grant.gpus),
    f.bytes(job.grant.memory),
  ]);
  return card("At work", "and what it holds", table("Jobs at work", columns, rows));
}

function nodeCard({ nodes }) {
  if (!nodes.length) return card("Nodes", "", h("p.quiet", {}, "No node is known."));
  const columns = [
    { title: "node" },
    { title: "address" },
    { title: "state" },
    { title: "CPUs", number: true },
    { title: "busy", number: true },
    { title: "GPUs", number: true },
    { title: "memory in use", number: true },
  ];
  const rows = nodes.map((n) => [
    h("span", {}, n.name, n.is_head && h("span.note", {}, " head")),
    n.address,
    n.state,
    f.figure(n.cpus),
    f.percent(n.cpu_share),
    f.figure(n.gpus),
    memoryWords(n.host_memory_used_bytes, n.host_memory_bytes ?? n.memory_bytes),
  ]);
  return card("Nodes", f.count(nodes.length), table("Nodes", columns, rows));
}

const memoryWords = (used, all) => `${f.bytes(used)} of ${f.bytes(all)}`;

function gpuCard(nodes) {
  const rows = nodes.flatMap((n) =>
    (n.devices ?? []).map((gpu, i) => [
      n.name,
      f.count(i),
      gpu.name,
      f.percent(gpu.utilisation),
      memoryWords(gpu.memory_used_bytes, gpu.memory_bytes),
    ]),
  );
  if (!rows.length) return null;
  const columns = [
    { title: "node" },
    { title: "number", number: true },
    { title: "GPU" },
    { title: "busy", number: true },
    { title: "memory in use", number: true },
  ];
  return card("GPUs", f.count(rows.length), table("GPUs", columns, rows));
}

/** "3 nodes · 4 of 4 GPUs · 11 of 48 cores busy". */
export function clusterLine({ nodes, cpus, gpus, used_cpus, used_gpus, reachable }) {
  if (!reachable) return "Ray cannot be reached";
  const words = [`${f.count(nodes.length)} ${nodes.length === 1 ? "node" : "nodes"}`];
  if (gpus) words.push(`${f.figure(used_gpus)} of ${f.figure(gpus)} GPUs`);
  words.push(`${f.figure(used_cpus)} of ${f.figure(cpus)} cores`);
  return `${words.join(" · ")} busy`;
}
