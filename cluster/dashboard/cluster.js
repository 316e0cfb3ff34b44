// The cluster: its nodes, what is busy, and what runs where. What Ray does not tell is shown as unknown.

import * as f from "./format.js";
import { card, errorBox, facts, h, table } from "./elements.js";
import { getJson, pause } from "./http.js";
import { pairs } from "./job_cards.js";

const EVERY_MS = 3000;

export async function clusterPage(main, signal) {
  const place = h("div.cards");
  main.replaceChildren(h("div.page", {}, h("div.head", {}, h("h1", { tabindex: "-1" }, "Cluster")), place));
  let shown = "";
  while (!signal.aborted) {
    try {
      const cluster = await getJson("/v1/cluster", signal);
      const text = JSON.stringify(cluster);
      if (text !== shown) place.replaceChildren(...cards(cluster));
      place.classList.remove("old");
      shown = text;
    } catch (error) {
      if (signal.aborted) return;
      place.classList.add("old");
      if (!shown) place.replaceChildren(errorBox(error, "The cluster could not be read"));
    }
    await pause(EVERY_MS, signal);
  }
}

function cards(cluster) {
  const { nodes = [], ...rest } = cluster;
  const totals = card(
    "Now",
    cluster.reachable ? "" : "Ray cannot be reached: figures are the last known",
    h("p", {}, clusterLine(cluster)),
    facts(pairs(rest)),
  );
  const list = card(
    "Nodes",
    f.count(nodes.length),
    nodes.length ? nodeTable(nodes) : h("p.quiet", {}, "No node is known."),
  );
  totals.classList.add("wide");
  list.classList.add("wide");
  return [totals, list];
}

function nodeTable(nodes) {
  return table(
    "Nodes",
    [
      { title: "node" },
      { title: "address" },
      { title: "state" },
      { title: "CPUs", number: true },
      { title: "GPUs", number: true },
      { title: "memory", number: true },
    ],
    nodes.map((n) => [
      n.name,
      n.address,
      n.state,
      f.figure(n.cpus),
      f.figure(n.gpus),
      f.bytes(n.memory_bytes),
    ]),
  );
}

/** "3 nodes · 4 of 4 GPUs · 11 of 48 cores busy". */
export function clusterLine({ nodes, cpus, gpus, used_cpus, used_gpus }) {
  const words = [`${f.count(nodes.length)} ${nodes.length === 1 ? "node" : "nodes"}`];
  if (gpus) words.push(`${f.figure(used_gpus)} of ${f.figure(gpus)} GPUs`);
  words.push(`${f.figure(used_cpus)} of ${f.figure(cpus)} cores`);
  return `${words.join(" · ")} busy`;
}
