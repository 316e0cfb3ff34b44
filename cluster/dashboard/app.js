// The page: which part is shown, whether the service is heard, the token, the keys.

import { errorBox, h, setText } from "./elements.js";
import { getJson, onLink, onTokenNeeded, pause, useToken } from "./http.js";
import { clusterLine, clusterPage } from "./cluster.js";
import { comparePage } from "./compare.js";
import { datasetPage, datasetsPage } from "./datasets.js";
import { newJobPage } from "./forms.js";
import { jobPage } from "./job.js";
import { jobsPage } from "./jobs.js";

const CLUSTER_EVERY_MS = 5000;
const main = document.getElementById("main");
let current = new AbortController();
let pageLink = null; // what a job's own stream says; it goes before what single requests say

async function route() {
  current.abort();
  current = new AbortController();
  pageLink = null;
  const { signal } = current;
  const [path, search] = (location.hash.slice(1) || "/jobs").split("?");
  const [page, ...rest] = path.split("/").filter(Boolean).map(decodeURIComponent);
  markPage(["new", "compare"].includes(page) ? "jobs" : page);
  try {
    const shown = open(page, rest, new URLSearchParams(search), signal);
    focusTitle(signal);
    await shown;
  } catch (error) {
    if (signal.aborted) return;
    if (error.status !== 401)
      main.replaceChildren(h("div.page", {}, h("h1", { tabindex: "-1" }, "Not shown"), errorBox(error), retryButton()));
  }
}

function open(page, [id], query, signal) {
  document.title = `${page ?? "jobs"} · Tench`;
  if (page === "new") return newJobPage(main, signal, id, query);
  if (page === "datasets") return id ? datasetPage(main, signal, id) : datasetsPage(main, signal);
  if (page === "compare") return comparePage(main, signal, id);
  if (page === "cluster") return clusterPage(main, signal);
  if (page === "jobs" || page === undefined)
    return id
      ? jobPage(main, signal, id, (state, words) => {
          pageLink = state;
          showLink(state, words);
        })
      : jobsPage(main, signal);
  throw new Error(`There is no page "${page}".`);
}

const retryButton = () => h("p", {}, h("button", { type: "button", on: { click: route } }, "Try again"));

function markPage(page) {
  for (const link of document.querySelectorAll("nav [data-page]")) {
    if (link.dataset.page === (page ?? "jobs")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** After a change of page the reader stands at its title; the first view keeps the browser's own place. */
let first = true;
async function focusTitle(signal) {
  if (first) return void (first = false);
  const before = main.querySelector("h1");
  for (let i = 0; i < 40 && !signal.aborted; i += 1) {
    const title = main.querySelector("h1");
    if (title && title !== before) return title.focus({ preventScroll: false });
    await pause(50, signal);
  }
  return undefined;
}

const LINK_WORDS = { live: "live", lost: "connection lost, reconnecting", stale: "stale" };

function showLink(state, words = "") {
  document.getElementById("link").dataset.link = state;
  setText(document.getElementById("link-words"), words || LINK_WORDS[state]);
}

/** A banner while the service is silent; it leaves by itself when the service answers again. */
function showGone(gone) {
  const place = document.getElementById("gone");
  if (gone === Boolean(place.firstChild)) return;
  const since = new Date().toLocaleTimeString("en-GB");
  const words = `The service has not answered since ${since}. What is shown is as of then; this page tries again by itself. On its machine: `;
  place.replaceChildren(...(gone ? [h("p", {}, words, h("code", {}, "tench serve"), ".")] : []));
}

onLink((state) => showGone(state === "lost"));
onLink((state) => showLink(pageLink && state === "live" ? pageLink : state));

async function watchCluster() {
  for (;;) {
    try {
      setText(document.getElementById("cluster-line"), clusterLine(await getJson("/v1/cluster")));
    } catch {
      setText(document.getElementById("cluster-line"), ""); // unknown is not shown as a figure; the dot says the rest
    }
    await pause(CLUSTER_EVERY_MS);
  }
}

function askForToken(refused) {
  const dialog = document.getElementById("token-dialog");
  if (dialog.open) return;
  if (refused)
    setText(
      document.getElementById("token-reason"),
      "The service does not accept this token: it is unknown or was revoked.",
    );
  dialog.showModal();
}

onTokenNeeded(askForToken);
document.getElementById("token-form").addEventListener("submit", () => {
  useToken(document.getElementById("token").value);
  document.getElementById("token").value = "";
  route();
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address belongs to the pages
  main.focus();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape") return back(typing);
  if (typing) return undefined;
  const act = {
    "/": focusFilter,
    j: () => move(1),
    k: () => move(-1),
    "?": showKeys,
    n: () => {
      location.hash = "#/new";
    },
  }[event.key];
  if (act) event.preventDefault();
  return act?.();
});

function back(typing) {
  if (typing) return typing.blur();
  const up = location.hash.split("?")[0].split("/").slice(0, -1).join("/");
  if (/^#\/\w+\/./.test(location.hash)) location.hash = up;
  else if (location.hash === "#/new") location.hash = "#/jobs";
  return undefined;
}

const focusFilter = () => document.getElementById("filter")?.focus();
const showKeys = () => document.getElementById("keys-dialog").showModal();

function move(by) {
  const lines = [...main.querySelectorAll(".jobs .title, a[data-line], a.choice")];
  const now = lines.indexOf(document.activeElement);
  lines[Math.max(0, Math.min(lines.length - 1, now < 0 ? 0 : now + by))]?.focus();
}

addEventListener("hashchange", route);
route();
watchCluster();
