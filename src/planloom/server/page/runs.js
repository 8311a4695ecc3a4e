// The list of runs, newest first, with a filter; two of them can be compared.

import { get } from "./api.js";
import { el, show } from "./dom.js";
import { RUN_LOOKS, ago, count, duration, moment } from "./words.js";

const EVERY_MS = 2_000;
const PAGE = 50;

export function statusMark(status) {
  const [look, symbol, word] = RUN_LOOKS[status] ?? ["pending", "○", status];
  return el("span", { class: `state s-${look}` }, el("i", { text: symbol, "aria-hidden": "true" }), word);
}

export async function runsPage(main, shell, signal) {
  shell.title("Runs");
  shell.crumbs(el("span", { text: "Runs", "aria-current": "page" }));
  const chosen = new Set();
  let shown = PAGE;
  let latest = { runs: [], next: null };

  const status = el("select", { "aria-label": "Status" }, el("option", { value: "", text: "every status" }),
    Object.entries(RUN_LOOKS).filter(([name]) => name !== "paused").map(([name, look]) => el("option", { value: name, text: look[2] })));
  const names = el("datalist", { id: "plan-names" });
  const plan = el("input", { type: "search", placeholder: "name of a plan", "aria-label": "Plan, its whole name", spellcheck: "false", list: "plan-names" });
  const compare = el("button", { type: "button", text: "Compare two", disabled: true });
  const body = el("tbody");
  const more = el("button", { type: "button", class: "more", text: "Older runs", hidden: true });
  const empty = el("p", { class: "empty", hidden: true });
  const head = ["", "Status", "Plan", "Run", "Started", "Took", "Events"];
  show(main,
    el("div", { class: "bar list" }, el("h1", { text: "Runs" }), el("a", { class: "button primary", href: "#/new", text: "New run" }),
      status, plan, names, el("span", { class: "gap" }), compare),
    el("div", { class: "card flush" }, el("table", { class: "runs" },
      el("thead", {}, el("tr", {}, head.map((text, place) => el("th", { text, scope: "col", class: place > 4 ? "num" : null })))),
      body), empty), more);

  function row(run) {
    const href = `#/runs/${encodeURIComponent(run.run_id)}`;
    const box = el("input", { type: "checkbox", "aria-label": `Compare run ${run.run_id}` });
    box.checked = chosen.has(run.run_id);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(run.run_id);
      else chosen.delete(run.run_id);
      compare.disabled = chosen.size !== 2;
    });
    const ended = !["running", "waiting"].includes(run.status);
    return el("tr", { on: { click: (event) => { if (!event.target.closest("a, input")) location.hash = href; } } },
      el("td", { class: "tick" }, box), el("td", {}, statusMark(run.status)),
      el("td", { class: "name" }, el("a", { href, text: run.plan })), el("td", { class: "mono muted id", text: run.run_id }),
      el("td", { class: "when", title: moment(run.started_at) }, el("span", { class: "mono", text: moment(run.started_at) }),
        el("span", { class: "muted ago", text: ago(run.started_at) })),
      el("td", { class: "num mono", text: ended ? duration(run.updated_at - run.started_at) : "…" }),
      el("td", { class: "num mono muted", text: count(run.last_seq) }));
  }

  let told = "";
  function draw() {
    const text = JSON.stringify([latest, Math.floor(Date.now() / 10_000)]);
    if (text === told || body.contains(document.activeElement)) return; // nobody's place in the list is taken away
    told = text;
    show(body, latest.runs.map(row));
    more.hidden = latest.next === null;
    empty.hidden = latest.runs.length > 0;
    if (status.value || plan.value) show(empty, "No run fits.");
    else show(empty, el("strong", { text: "No run yet" }), el("br"), "Begin one ", el("a", { href: "#/new", text: "here" }), ", with ",
      el("code", { text: "planloom run" }), " on this journal, or with ", el("code", { text: "POST /v1/runs" }), ".");
    show(names, [...new Set(latest.runs.map((run) => run.plan))].map((value) => el("option", { value })));
  }

  async function load() {
    const query = new URLSearchParams({ limit: String(Math.min(shown, 500)) });
    if (status.value) query.set("status", status.value);
    if (plan.value.trim()) query.set("plan", plan.value.trim());
    latest = await get(`/runs?${query}`, signal);
    draw();
  }

  const again = () => { document.activeElement?.closest("tbody") && document.activeElement.blur(); load().catch(shell.fail); };
  status.addEventListener("change", again);
  plan.addEventListener("input", again);
  more.addEventListener("click", () => { shown += 100; again(); });
  compare.addEventListener("click", () => { location.hash = `#/compare/${[...chosen].map(encodeURIComponent).join("/")}`; });
  await load();
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    if (signal.aborted || document.hidden) continue;
    try {
      await load();
      shell.link("live");
    } catch (error) {
      if (error.status === 401) { shell.fail(error); return; }
      if (error.name !== "AbortError") shell.link("reconnecting");
    }
  }
}
