// The one way to the server. A token, if one is needed, is kept for as long as the tab is open and sent as a header.

const TOKEN = "planloom.token";
const SILENCE_MS = 45_000; // three heartbeats

export class Problem extends Error {
  constructor(status, told) {
    super(told.detail || told.title || `the server answered ${status}`);
    this.status = status;
    this.remedy = told.remedy || "";
    this.problems = Array.isArray(told.problems) ? told.problems : [];
  }
}

export const token = () => sessionStorage.getItem(TOKEN);
export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

function headers(more = {}) {
  return token() ? { ...more, Authorization: `Bearer ${token()}` } : more;
}

async function problem(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // something between here and the server answered
  }
  return new Problem(response.status, told);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(`/v1${path}`, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("the server cannot be reached"), { remedy: "try again once it is back" });
  }
  if (!response.ok) throw await problem(response);
  return response;
}

export async function get(path, signal) {
  return (await ask(path, { headers: headers(), signal })).json();
}

export async function post(path, body = {}, { signal, headers: more = {} } = {}) {
  const sent = { method: "POST", headers: headers({ "Content-Type": "application/json", ...more }), body: JSON.stringify(body), signal };
  return (await ask(path, sent)).json();
}

export async function blob(path) {
  return (await ask(path, { headers: headers() })).blob();
}

export const runPath = (runId) => `/runs/${encodeURIComponent(runId)}`;
export const stepPath = (runId, key) => `${runPath(runId)}/steps/${key.split("/").map(encodeURIComponent).join("/")}`;

/**
 * Follow a run's events from `after` on, until it ends or `signal` says stop; connects again by itself.
 * `told.events(list)` hears of each event once, in order; `told.link(state)` of the connection;
 * `told.ended(last)` says whether nothing can follow this event.
 */
export async function follow(runId, after, told, signal) {
  let last = after;
  let wait = 250;
  const seen = { doubles: 0, gaps: 0 };
  while (!signal.aborted) {
    try {
      const ended = await once(runId, () => last, (events) => {
        const fresh = [];
        for (const event of events) {
          if (event.seq <= last) { seen.doubles += 1; continue; }
          if (event.seq !== last + 1) seen.gaps += 1;
          last = event.seq;
          fresh.push(event);
        }
        wait = 250;
        if (fresh.length) told.events(fresh, seen);
      }, () => told.link("live"), signal);
      if (ended || told.ended(last)) { told.link("ended"); return; }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status < 500 && error.status !== 429) { told.link("refused", error); return; }
    }
    told.link("reconnecting");
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 5_000);
  }
}

/** One connection; returns whether the run's last event came over it. */
async function once(runId, last, take, open, signal) {
  const quiet = new AbortController();
  const stop = () => quiet.abort();
  signal.addEventListener("abort", stop);
  let timer = setTimeout(stop, SILENCE_MS);
  try {
    const asked = headers({ Accept: "text/event-stream", "Last-Event-ID": String(last()) });
    const response = await ask(`${runPath(runId)}/events`, { headers: asked, signal: quiet.signal });
    open();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let ended = false;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return ended;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE_MS);
      rest += value;
      const frames = rest.split(/\r?\n\r?\n/);
      rest = frames.pop();
      const events = frames.map(parsed).filter((event) => event !== null);
      if (events.some((event) => event.event === "run_finished")) ended = true;
      if (events.length) take(events);
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}

function parsed(frame) {
  const lines = frame.split(/\r?\n/);
  const found = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, ""));
  if (!found.length || !lines.some((line) => line.startsWith("id:"))) return null; // a heartbeat
  const event = JSON.parse(found.join("\n"));
  return Number.isInteger(event.seq) ? event : null;
}
