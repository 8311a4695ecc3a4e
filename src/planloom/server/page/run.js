// One run, live: events say that something happened, the view says how it stands.

import { blob, follow, get, post, runPath } from "./api.js";
import { el, show } from "./dom.js";
import { graphPanel } from "./graph.js";
import { questionsPanel } from "./questions.js";
import { statusMark } from "./runs.js";
import { stepPanel } from "./step.js";
import { isGroup, timelinePanel } from "./timeline.js";
import { clock, count, duration, moment, money } from "./words.js";

const LEAST_GAP_MS = 250; // at most four views a second
const EVENTS_KEPT = 500;

export async function runPage(main, shell, runId, wanted, signal) {
  const path = runPath(runId);
  shell.title(runId);
  shell.crumbs(el("a", { href: "#/", text: "Runs" }), el("span", { class: "mono", text: runId }));
  let view = await get(`${path}/view`, signal);
  if (signal.aborted) return;
  let svgHash = "";
  let cursor = null;

  const head = el("div", { class: "bar run" });
  const spoken = el("p", { class: "hidden", role: "status" });
  const problem = el("p", { class: "notice bad", role: "alert", hidden: true });
  const totals = el("dl", { class: "totals card" });
  const budget = el("section", { class: "budget card", "aria-label": "Budget" });
  const log = eventLog();
  const graph = graphPanel(choose);
  const timeline = timelinePanel(choose);
  const step = stepPanel(runId, close, choose, signal);
  const questions = questionsPanel(runId, choose, () => refresh());
  const board = el("div", { class: "board" }, el("div", { class: "column" }, graph.panel, timeline.panel, log.panel), step.panel);
  show(main, head, spoken, problem, el("div", { class: "strip-row" }, totals, budget), questions.panel, board);

  function draw() {
    const { run } = view;
    shell.title(run.plan);
    drawHead(run);
    const words = told(view);
    problem.hidden = words === "";
    problem.textContent = words;
    drawTotals(totals, view);
    drawBudget(budget, view.budget);
    questions.draw(view.questions);
    if (view.graph.svg !== null) graph.draw(view.graph.svg, view.graph.groups);
    svgHash = view.graph.hash;
    timeline.draw(view);
    if (step.key !== null) openStep(step.key);
  }

  let headTold = "";
  function drawHead(run) {
    const text = JSON.stringify([run.status, run.paused, run.plan, run.from_run, run.driven]);
    if (text === headTold) return;
    headTold = text;
    spoken.textContent = `${run.plan}: ${run.word}`;
    const act = (name, label, style, body) => el("button", { type: "button", class: style, text: label, on: { click: (event) => say(name, event.target, body) } });
    show(head, el("h1", { text: run.plan }), statusMark(run.paused ? "paused" : run.status),
      run.from_run ? el("a", { class: "small", href: `#/runs/${encodeURIComponent(run.from_run)}`, text: run.edited ? `from ${run.from_run}, ${run.edited} edited` : `from ${run.from_run}` }) : null,
      run.from_run ? el("a", { class: "small", href: `#/compare/${encodeURIComponent(run.from_run)}/${encodeURIComponent(runId)}`, text: "compare" }) : null,
      el("span", { class: "gap" }),
      el("button", { type: "button", class: "quiet", text: "Record", "aria-label": "Download the record", title: "Download the record: every event, as NDJSON", on: { click: download } }),
      run.status === "failed" ? act("resume", "Run the rest", "", { failed: true }) : null,
      run.ended ? null : run.paused || (run.status === "running" && run.driven === false) ? act("resume", "Resume", "") : act("pause", "Pause", ""),
      run.ended ? null : el("button", { type: "button", class: "danger", text: "Cancel …", on: { click: () => cancelling(say, signal) } }));
  }

  async function say(what, button, body) {
    button.disabled = true;
    try {
      const told = await post(`${path}/${what}`, body);
      if (told.run_id !== runId) { location.hash = `#/runs/${encodeURIComponent(told.run_id)}`; return; }
      await refresh();
    } catch (error) {
      problem.hidden = false;
      problem.textContent = error.message;
    }
    button.disabled = false;
  }

  async function download() {
    const url = URL.createObjectURL(await blob(`${path}/record`));
    el("a", { href: url, download: `${runId}.ndjson` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // --- one step ---

  function openStep(key) {
    const row = timeline.row(key);
    const parts = timeline.parts(key)?.map((part) => timeline.row(part)) ?? null;
    if (!isGroup(key)) step.open(key, row, parts);
    else if (row) step.openGroup(key, row, parts);
  }

  /** `moved`: the cursor only; the panel goes with it if it is open. */
  function choose(key, moved = false) {
    cursor = key;
    graph.mark(key);
    timeline.mark(key);
    if (moved && step.key === null) return;
    board.classList.add("with-step");
    openStep(key);
    const place = isGroup(key) ? "" : `/step/${key.split("/").map(encodeURIComponent).join("/")}`;
    history.replaceState(null, "", `#/runs/${encodeURIComponent(runId)}${place}`);
  }

  function close() {
    step.close();
    board.classList.remove("with-step");
    history.replaceState(null, "", `#/runs/${encodeURIComponent(runId)}`);
    if (cursor !== null) timeline.focus(cursor);
  }

  function keyed(event) {
    if (event.target.closest?.("input, select, textarea, form") && event.key !== "Escape") return;
    if (event.metaKey || event.ctrlKey || event.altKey) return;
    if (event.key === "Escape" && step.key !== null) close();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const next = timeline.beside(cursor, event.key === "ArrowDown");
      if (next === null) return;
      choose(next, true);
      timeline.focus(next);
    } else if (cursor !== null && (event.key === "ArrowRight" || event.key === "ArrowLeft") && event.target.closest?.(".lines")) {
      const shut = event.key === "ArrowLeft";
      const above = timeline.aboveOf(cursor);
      if (!timeline.fold(cursor, shut) && shut && above !== null) choose(above, true);
      timeline.focus(cursor);
    } else if (event.key === "Enter" && cursor !== null && !event.target.closest?.("button, a, summary")) choose(cursor);
    else return;
    event.preventDefault();
  }
  document.addEventListener("keydown", keyed, { signal });
  signal.addEventListener("abort", graph.stop);

  // --- live ---

  let loading = null;
  let again = false;
  function refresh() {
    if (loading !== null) { again = true; return loading; }
    loading = (async () => {
      do {
        again = false;
        const begun = performance.now();
        try {
          view = await get(`${path}/view?known=${svgHash}`, signal);
          if (signal.aborted) return;
          draw();
        } catch (error) {
          if (error.status !== undefined && error.status < 500 && error.status !== 429) { shell.fail(error); return; }
          again = again || !signal.aborted; // the server is away: asked again until it is back
        }
        // Never more than half of the time, however large the run is.
        await new Promise((resolve) => setTimeout(resolve, Math.max(LEAST_GAP_MS, performance.now() - begun)));
      } while (again && !signal.aborted);
    })().finally(() => { loading = null; });
    return loading;
  }

  draw();
  if (wanted !== null) choose(wanted);
  const after = Math.max(0, view.run.last_seq - EVENTS_KEPT);
  await follow(runId, after, {
    events: (events, seen) => {
      log.add(events);
      shell.link("live", seen);
      if (events.at(-1).seq > view.run.last_seq) refresh();
    },
    ended: (last) => view.run.ended && last >= view.run.last_seq,
    link: (state, error) => {
      if (error) { shell.fail(error); return; }
      shell.link(state);
    },
  }, signal);
}

/** What is to be said of the whole run: why it failed, which limit stopped it. */
function told({ run, budget }) {
  const limits = run.exceeded_limits.map((name) => budget.find((one) => one.name === name)?.label ?? name);
  const reached = limits.length ? `Stopped at a limit: ${limits.join(", ")}. To come further, raise it in the plan, or for a new run.` : "";
  const error = run.error ? `${run.failed_step ? `${run.failed_step}: ` : ""}${run.error}` : "";
  return [error, reached].filter(Boolean).join(" — ");
}

function drawTotals(node, view) {
  const { run, totals } = view;
  const done = totals.by_status.completed ?? 0;
  const unknown = totals.cost_unknown.length ? `; not known of ${totals.cost_unknown.join(", ")}` : "";
  const facts = [
    ["steps", `${count(done)} / ${count(totals.steps)}`, "completed, of all"],
    ["started", moment(run.started_at), "local time"],
    ["took", duration(totals.seconds), "the time it was under way, without pauses"],
    ["cost", totals.cost === null ? "–" : `${money(totals.cost)}${unknown ? " +?" : ""}`, `US dollars, by the price list${unknown}`],
    ["tokens", count(totals.tokens), "in and out, of all model calls"],
    ["tool calls", count(totals.tool_calls), "retries included"],
    ["retries", count(totals.retries), "attempts beyond the first of each step"],
    ["speedup", `${totals.speedup.toFixed(2)}×`, "time of all steps one after the other, by the time it took"],
  ];
  if (view.speculation) {
    const { hits, misses, rolled_back: back } = view.speculation;
    facts.push(["drafts", `${count(hits)} right, ${count(misses)} wrong, ${count(back)} taken back`,
      "guesses of a cheaper model that steps ran ahead on; what ran ahead and is not used is taken back"]);
  }
  show(node, facts.map(([name, value, about]) => el("div", { title: about }, el("dt", { text: name }), el("dd", { class: "mono", text: value }))));
}

function drawBudget(node, budget) {
  node.hidden = budget.length === 0;
  const holds = budget.some((one) => one.reserved > 0);
  show(node, budget.map((one) => {
    const [used, reserved] = [one.used, one.reserved].map((part) => (one.limit > 0 ? Math.min(1, part / one.limit) : 0));
    const amount = (value) => (one.unit === "USD" ? money(value) : one.unit === "s" ? duration(value) : count(value));
    const spent = el("span", { class: `used ${used >= 1 ? "full" : used > 0.8 ? "near" : ""}` });
    const held = el("span", { class: "held" });
    spent.style.width = `${used * 100}%`;
    held.style.left = `${used * 100}%`;
    held.style.width = `${Math.min(reserved, 1 - used) * 100}%`;
    const words = `${amount(one.used)} of ${amount(one.limit)} used${one.reserved ? `, ${amount(one.reserved)} set aside for what is under way` : ""}`;
    return el("div", { class: "limit", title: `${one.name}: ${words}` }, el("span", { text: one.label }),
      el("span", { class: "meter", role: "meter", "aria-label": one.label, "aria-valuenow": one.used, "aria-valuemin": 0, "aria-valuemax": one.limit, "aria-valuetext": words }, spent, held),
      el("span", { class: "mono amount", "aria-hidden": "true" }, amount(one.used), one.reserved ? el("span", { class: "aside", text: `+${amount(one.reserved)}` }) : null, ` / ${amount(one.limit)}`));
  }), el("p", { class: "key-of-bars", "aria-hidden": "true" }, el("span", { class: "swatch is-used" }), "used",
    holds ? [el("span", { class: "swatch is-held" }), "set aside for what is under way"] : null, el("span", { class: "swatch is-left" }), "left"));
}

/** Ask whether a run is to be cancelled, and why. */
function cancelling(say, signal) {
  const reason = el("input", { type: "text", maxlength: 500, id: "cancel-reason", placeholder: "for the record (optional)" });
  const dialog = el("dialog", { "aria-labelledby": "cancel-title", on: { close: () => dialog.remove() } },
    el("form", { method: "dialog", on: { submit: (event) => {
      event.preventDefault();
      dialog.close();
      if (event.submitter?.value === "cancel") say("cancel", event.submitter, { reason: reason.value });
    } } },
    el("h2", { id: "cancel-title", text: "Cancel this run?" }),
    el("p", { class: "muted", text: "What is under way is stopped, nothing new begins. It cannot be taken up again." }),
    el("div", { class: "field" }, el("label", { for: "cancel-reason", text: "Why" }), reason),
    el("div", { class: "row" }, el("span", { class: "gap" }), el("button", { type: "submit", value: "keep", text: "Keep it running", formnovalidate: true }),
      el("button", { type: "submit", class: "primary stop", value: "cancel", text: "Cancel the run" }))));
  signal.addEventListener("abort", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  reason.focus();
}

function eventLog() {
  const list = el("ol", { class: "events mono" });
  const number = el("span", { class: "muted" });
  const panel = el("details", { class: "card log" }, el("summary", {}, el("h2", { text: "Events" }), number), list);
  let all = [];
  function drawn(event) {
    const what = event.step ?? event.by ?? event.status ?? "";
    const more = [event.attempt ? `#${event.attempt}` : "", event.error ?? event.reason ?? ""].filter(Boolean).join(" ");
    return el("li", { "data-seq": event.seq }, el("span", { class: "muted num", text: String(event.seq) }), el("span", { class: "muted", text: clock(event.at) }),
      el("span", { text: event.event }), el("span", { text: String(what) }), el("span", { class: "muted", text: String(more) }));
  }
  // Nobody sees what is shut, so it is not drawn.
  panel.addEventListener("toggle", () => show(list, panel.open ? all.map(drawn) : []));
  return {
    panel,
    add(events) {
      all = all.concat(events).slice(-EVENTS_KEPT);
      number.textContent = count(all.at(-1).seq);
      if (!panel.open) return;
      list.append(...events.slice(-EVENTS_KEPT).map(drawn));
      while (list.childElementCount > EVENTS_KEPT) list.firstChild.remove();
    },
  };
}
