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
    reachable(cluster) ? "" : "Ray cannot be reached: figures are the last known",
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

const reachable = (cluster) => (cluster.reachable ?? cluster.ray_reachable ?? !cluster.unknown) !== false;

function nodeTable(nodes) {
  const of = (node, name) =>
    node.resources?.[name] ?? node[`num_${name.toLowerCase()}s`] ?? node[`${name.toLowerCase()}s`] ?? null;
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
      n.name ?? n.node_id ?? n.id ?? f.UNKNOWN,
      n.address ?? f.UNKNOWN,
      n.state ?? (n.alive === undefined ? "unknown" : n.alive ? "alive" : "gone"),
      f.figure(of(n, "CPU")),
      f.figure(of(n, "GPU") ?? 0),
      f.bytes(n.resources?.memory ?? n.memory ?? n.memory_bytes ?? null),
    ]),
  );
}

/** "3 nodes · 4 of 4 GPUs · 11 of 48 cores busy"; empty while nothing is known. */
export function clusterLine(cluster) {
  const nodes = cluster.nodes?.length;
  const words = [
    nodes === undefined ? null : `${f.count(nodes)} ${nodes === 1 ? "node" : "nodes"}`,
    busy(cluster, "gpu", "GPUs"),
    busy(cluster, "cpu", "cores"),
  ];
  const known = words.filter(Boolean);
  return known.length ? `${known.join(" · ")}${known.length > 1 ? " busy" : ""}` : "";
}

function busy(cluster, name, words) {
  const total =
    cluster.total?.[`num_${name}s`] ?? cluster.total?.[name] ?? cluster[`num_${name}s`] ?? cluster[`${name}s`];
  const used =
    cluster.used?.[`num_${name}s`] ?? cluster.used?.[name] ?? cluster[`used_${name}s`] ?? cluster[`${name}s_used`];
  if (!Number.isFinite(total) || (name === "gpu" && total === 0)) return null;
  return `${Number.isFinite(used) ? f.figure(used) : "?"} of ${f.figure(total)} ${words}`;
}
