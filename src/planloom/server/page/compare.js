// Two runs side by side, step by step: how each ended, how long it took, what it cost, what came of it.

import { get, runPath } from "./api.js";
import { el, show } from "./dom.js";
import { statusMark } from "./runs.js";
import { valueBox } from "./step.js";
import { STEP_LOOKS, count, counted, duration, money, stateClass } from "./words.js";

const MOST_LINES = 2_000;

export async function comparePage(main, shell, first, second, signal) {
  shell.title("Compare");
  shell.crumbs(el("a", { href: "#/", text: "Runs" }), el("span", { text: "Compare", "aria-current": "page" }));
  const runs = await Promise.all([get(runPath(first), signal), get(runPath(second), signal)]);
  if (signal.aborted) return;
  const [left, right] = runs.map((run) => new Map(flat(run.steps).map((step) => [step.id, step])));
  const pairs = [...new Set([...left.keys(), ...right.keys()])].map((key) => pairOf(key, left.get(key), right.get(key)));
  const longest = Math.max(1e-9, ...pairs.flatMap((pair) => pair.both.map((step) => step?.latency_ms ?? 0)));
  const different = pairs.filter((pair) => pair.words !== "");
  const differing = el("input", { type: "checkbox", id: "differing" });
  const body = el("tbody");
  const rest = el("p", { class: "muted small", role: "status" });
  const draw = () => {
    const shown = differing.checked ? different : pairs;
    show(body, shown.slice(0, MOST_LINES).flatMap((pair) => line(pair, longest)));
    rest.textContent = shown.length > MOST_LINES ? `${counted(shown.length - MOST_LINES, "step")} more` : shown.length ? "" : "Nothing differs.";
  };
  differing.addEventListener("change", draw);
  show(main,
    el("div", { class: "bar" }, el("h1", { text: "Compare two runs" }),
      el("span", { class: "muted", text: sort(...runs) }), el("span", { class: "gap" }),
      el("span", { class: "field check" }, differing, el("label", { for: "differing", text: "only what differs" }))),
    el("p", { class: "verdict", text: verdict(pairs, different) }),
    el("div", { class: "card flush", tabindex: "0", role: "region", "aria-label": "The two runs" }, facts(runs)),
    el("div", { class: "card flush", tabindex: "0", role: "region", "aria-label": "Step by step" }, el("table", { class: "versus steps" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Step" }), ["First", "Second"].map((name) =>
        [el("th", { scope: "col", text: name }), el("th", { class: "num", scope: "col", text: "took" }), el("th", { class: "num", scope: "col", text: "cost" })]),
      el("th", { scope: "col", text: "What differs" }))), body), rest));
  draw();
}

function sort(one, other) {
  if (one.plan_hash === other.plan_hash) return "of the same plan";
  return one.plan === other.plan ? "of two versions of a plan" : "of different plans";
}

function facts(runs) {
  const links = runs.map((run) => el("a", { class: "mono", href: `#/runs/${encodeURIComponent(run.run_id)}`, text: run.run_id }));
  const told = [
    ["Plan", runs.map((run) => run.plan)], ["Status", runs.map((run) => statusMark(run.status))],
    ["Inputs", runs.map((run) => JSON.stringify(run.inputs))], ["Output", runs.map((run) => shortly(run.result))],
    ["Took", runs.map((run) => duration(run.latency_ms / 1000))], ["Cost", runs.map((run) => money(run.cost) || "–")],
    ["Tokens", runs.map((run) => count(run.usage.total_tokens))], ["Tool calls", runs.map((run) => count(run.tool_calls))],
  ];
  const differs = (name, [one, other]) => ["Plan", "Inputs", "Output"].includes(name) ? one !== other : name === "Status" && runs[0].status !== runs[1].status;
  return el("table", { class: "versus" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Run" }), links.map((link, place) => el("th", { scope: "col" }, place ? "Second: " : "First: ", link)))),
    el("tbody", {}, told.map(([name, values]) => el("tr", { class: differs(name, values) ? "differs" : "" }, el("th", { scope: "row", text: name }),
      values.map((value) => el("td", { class: "mono" }, value))))));
}

function shortly(value) {
  const text = value === null || value === undefined ? "–" : JSON.stringify(value);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

function flat(steps) {
  return steps.flatMap((step) => [step, ...flat(step.parts ?? [])]);
}

/** What one step came to in both runs, and in words what differs; "" if nothing does but time and cost. */
function pairOf(key, one, other) {
  if (!one || !other) return { key, both: [one, other], words: one ? "only in the first" : "only in the second" };
  const found = [
    one.kind !== other.kind || one.tool !== other.tool ? "what it does" : "",
    one.status !== other.status ? "status" : "",
    JSON.stringify(one.output) !== JSON.stringify(other.output) ? "output" : "",
    one.error !== other.error ? "error" : "",
  ].filter(Boolean);
  return { key, both: [one, other], words: found.length ? `${found.join(", ")} differ${found.length > 1 ? "" : "s"}` : "" };
}

function verdict(pairs, different) {
  if (different.length === 0) return `All of ${counted(pairs.length, "step")} came to the same.`;
  const alone = different.filter((pair) => pair.both.includes(undefined)).length;
  const words = [`${count(different.length)} of ${counted(pairs.length, "step")} differ${different.length === 1 ? "s" : ""}`];
  if (alone) words.push(`${count(alone)} of them ${alone === 1 ? "is" : "are"} in one of the runs only`);
  return `${words.join("; ")}.`;
}

function line({ key, both, words }, longest) {
  const sides = both.flatMap((step) => [
    el("td", {}, step ? mark(step.status) : el("span", { class: "muted", text: "not there" })),
    el("td", { class: "num mono" }, step?.latency_ms == null ? null : [duration(step.latency_ms / 1000), pace(step, longest)]),
    el("td", { class: "num mono", text: step?.cost ? money(step.cost) : "" }),
  ]);
  const detail = el("tr", { class: "outputs", hidden: true }, el("td"), both.map((step) => el("td", { colspan: 3 }, outcome(step))), el("td"));
  const button = el("button", { type: "button", class: "quiet", "aria-expanded": "false", "aria-label": `${key}: ${words || "same"}`, text: words || "same",
    on: { click: () => { detail.hidden = !detail.hidden; button.setAttribute("aria-expanded", String(!detail.hidden)); } } });
  return [el("tr", { class: words ? "differs" : "" }, el("th", { scope: "row", class: "mono", text: key }), sides, el("td", {}, button)), detail];
}

/** How long it took, beside the longest step of both runs. */
function pace(step, longest) {
  const bar = el("span", { class: `pace ${stateClass(step.status)}`, "aria-hidden": "true" });
  bar.style.width = `max(2px, calc(${step.latency_ms / longest} * 64px))`;
  return bar;
}

function outcome(step) {
  if (!step) return null;
  return [step.error ? el("pre", { class: "bad", text: step.error }) : null, step.status === "completed" || !step.error ? valueBox(step.output ?? null) : null];
}

function mark(status) {
  const [symbol, word] = STEP_LOOKS[status] ?? ["○", status];
  return el("span", { class: `state ${stateClass(status)}` }, el("i", { text: symbol, "aria-hidden": "true" }), word);
}
