// Requests to the service. The token, if there is one, travels as a header: never in an address.
// Failures become Problem (the service answered, RFC 9457) or Unreachable (it did not).

const TOKEN_KEY = "tench-token";
const SILENT_MS = 45_000; // the service speaks at least every 15 s on an open stream
const BUSY_PAUSE_MS = 2000; // of a service that asks to come again
const RETRY_MS = [500, 1000, 2000, 5000, 10_000];

let clockOffset = 0; // ms that the service's clock is ahead of this one
const listeners = { link: [], token: [] };

export class Unreachable extends Error {}

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `the service answered ${status}`);
    this.status = status;
    this.title = body.title || `Status ${status}`;
    this.fields = body.errors ?? []; // [{field, detail}]
  }
}

export const onLink = (listener) => listeners.link.push(listener);
export const onTokenNeeded = (listener) => listeners.token.push(listener);
export const useToken = (token) => sessionStorage.setItem(TOKEN_KEY, token.trim());
export const serviceNow = () => Date.now() + clockOffset;

const tell = (what, ...values) => listeners[what].forEach((listener) => listener(...values));

export async function getJson(path, signal) {
  return (await request(path, { signal })).json();
}

/** The same, with whole numbers that are too large for a Number as BigInt (where the browser tells their digits). */
export async function getExactJson(path, signal) {
  return JSON.parse(await getText(path, signal), (_, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source ? BigInt(context.source) : value,
  );
}

export async function getText(path, signal) {
  return (await request(path, { signal })).text();
}

/** A picture, drawn without an object URL, so that the page's content policy stays strict. null: there is none yet. */
export async function getPicture(path, signal, tries = 5) {
  try {
    return await createImageBitmap(await (await request(path, { signal, cache: "no-cache" })).blob());
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return null;
    if (!(error instanceof Problem && error.status === 503) || tries <= 1) throw error;
    await pause(BUSY_PAUSE_MS, signal);
    return getPicture(path, signal, tries - 1);
  }
}

export async function postJson(path, body, headers = {}) {
  const response = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: exactJson(body),
  });
  return response.status === 204 ? null : response.json();
}

/** A key that makes a repeated POST the same POST. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** JSON in which whole numbers beyond 2^53 (seeds) keep all digits. */
export function exactJson(value) {
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return `[${value.map(exactJson).join(",")}]`;
  if (value && typeof value === "object") {
    const members = Object.entries(value).filter(([, v]) => v !== undefined);
    return `{${members.map(([k, v]) => `${JSON.stringify(k)}:${exactJson(v)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

/**
 * Follow a stream of server-sent events until `signal` aborts. After a break it goes on from the last id.
 * handler.message(type, data), handler.state("live" | "lost"), handler.ended(): true when the stream may stay closed.
 */
export async function follow(path, handler, signal) {
  let lastId = null;
  let failures = 0;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) };
      await readStream(
        path,
        headers,
        signal,
        (type, data, id) => {
          lastId = id ?? lastId;
          failures = 0;
          handler.message(type, data);
        },
        () => handler.state("live"),
      );
      if (handler.ended()) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && [401, 403, 404].includes(error.status)) throw error;
      handler.state("lost");
    }
    await pause(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)], signal);
  }
}

async function request(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const headers = {
    Accept: "application/json",
    ...(token ? { Authorization: `Bearer ${token}` } : {}),
    ...options.headers,
  };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    tell("link", "lost");
    throw new Unreachable("The service does not answer; this page tries again.");
  }
  noteClock(response);
  tell("link", "live");
  if (response.ok) return response;
  const problem = new Problem(response.status, await response.json().catch(() => ({})));
  if (problem.status === 401) tell("token", token !== null);
  throw problem;
}

function noteClock(response) {
  const at = Date.parse(response.headers.get("Date") ?? "");
  if (!Number.isNaN(at) && Math.abs(at - Date.now()) > 2000) clockOffset = at - Date.now();
  else if (!Number.isNaN(at)) clockOffset = 0;
}

async function readStream(path, headers, signal, onMessage, onOpen) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENT_MS);
  };
  heard();
  try {
    const response = await request(path, {
      headers,
      signal: AbortSignal.any([signal, silence.signal]),
      cache: "no-store",
    });
    onOpen();
    const parse = streamParser(onMessage);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      heard();
      parse(part.value);
    }
  } finally {
    clearTimeout(timer);
  }
}

/** Feed text in any pieces; calls back once for each message. */
export function streamParser(onMessage) {
  let rest = "";
  let message = { type: "message", data: [], id: null };
  const line = (text) => {
    if (text === "") {
      if (message.data.length) onMessage(message.type, JSON.parse(message.data.join("\n")), message.id);
      message = { type: "message", data: [], id: null };
      return;
    }
    const colon = text.indexOf(":");
    if (colon === 0) return; // a comment: a sign of life
    const name = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
    if (name === "data") message.data.push(value);
    else if (name === "event") message.type = value;
    else if (name === "id") message.id = value;
  };
  return (piece) => {
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    lines.forEach(line);
  };
}

export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}

/** At most one call in `ms`; a call in between is made at the end of that time. */
export function atMost(ms, signal, call) {
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
