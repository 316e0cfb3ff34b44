// Figures and times in words. Everything unknown reads as "–" or "unknown", never as 0.

import { serviceNow } from "./http.js";

export const UNKNOWN = "–";
export const TERMINAL = ["succeeded", "failed", "stopped"];

const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

/** 1331167 -> "1,331,167". */
export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : UNKNOWN);

/** Three significant digits without exponents for everyday sizes: 0.417, 2.31, 1,240. */
export function figure(value, digits = 3) {
  if (!known(value)) return UNKNOWN;
  if (typeof value !== "number") return String(value);
  if (value !== 0 && Math.abs(value) < 1e-5) return value.toExponential(1);
  if (Number.isInteger(value)) return count(value);
  return Number(value.toPrecision(digits)).toLocaleString("en-US", { maximumFractionDigits: 8 });
}

/** Losses and errors: a fixed number of decimals, so that the text does not jump. */
export const decimals = (value, places = 3) => (known(value) ? value.toFixed(places) : UNKNOWN);

export const percent = (share) => (known(share) ? `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %` : UNKNOWN);

export function bytes(value) {
  if (!known(value)) return UNKNOWN;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  const power = value < 1 ? 0 : Math.min(Math.floor(Math.log10(value) / 3), units.length - 1);
  return `${Number((value / 1000 ** power).toPrecision(3)).toLocaleString("en-US")} ${units[power]}`;
}

export function rate(value, unit) {
  return known(value) ? `${figure(value)} ${unit}/s` : UNKNOWN;
}

/** 84 -> "1 min 24 s", 4000 -> "1 h 07 min". */
export function duration(seconds) {
  if (!known(seconds)) return UNKNOWN;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  if (s < 2 * 86_400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** Unix seconds or an ISO text -> Unix milliseconds, null if unknown. */
export function millis(at) {
  if (!known(at) || at === "") return null;
  if (typeof at === "number") return at * 1000;
  const parsed = Date.parse(/[zZ]|[+-]\d\d:?\d\d$/.test(at) ? at : `${at}Z`);
  return Number.isNaN(parsed) ? null : parsed;
}

export const ageSeconds = (at) => (millis(at) === null ? null : (serviceNow() - millis(at)) / 1000);

export function ago(at) {
  const age = ageSeconds(at);
  if (age === null) return UNKNOWN;
  return age < 3 ? "just now" : `${duration(age)} ago`;
}

export const clock = (at) => (millis(at) === null ? UNKNOWN : new Date(millis(at)).toLocaleTimeString("en-GB"));

export function absolute(at) {
  const ms = millis(at);
  return ms === null ? "time unknown" : `${new Date(ms).toLocaleString("en-GB")} (${new Date(ms).toISOString()})`;
}

/** Seconds that a job has run or ran. */
export function ranFor(job) {
  const start = millis(job.started_at);
  if (start === null) return null;
  return ((millis(job.ended_at) ?? serviceNow()) - start) / 1000;
}

/** samples_per_shard -> "Samples per shard". */
export function label(name) {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The last part of a path or URI. */
export const lastPart = (uri) =>
  String(uri ?? "")
    .replace(/\/+$/, "")
    .split("/")
    .pop() || String(uri ?? "");

/** A setting as a person writes it; null is left to the kind's own default. */
export function settingWords(value) {
  if (value === null || value === undefined || (Array.isArray(value) && !value.length)) return "not set";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return Array.isArray(value) ? value.map(String).join(" · ") : String(value);
}

/** What a job is about: "museum145 on imagenet-2012-jpeg". */
export function subject(job) {
  const s = job.settings ?? {};
  if (job.kind === "train") return `${s.preset ?? "museum145"} on ${lastPart(s.dataset)}`;
  if (job.kind === "ingest") return `${lastPart(s.source)} to ${lastPart(s.dataset)}`;
  if (job.kind === "evaluate") return `${s.views ?? 1} view${s.views === 10 ? "s" : ""} of ${lastPart(s.run)}`;
  return lastPart(s.dataset);
}

/** The state as people read it. */
export function stateWords(job) {
  if (job.unknown) return "unknown";
  if (job.stop_requested && !TERMINAL.includes(job.state)) return "stopping";
  return job.state;
}
