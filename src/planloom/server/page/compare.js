// Two runs side by side, step by step: how each ended, how long it took, what it cost, what came of it.

import { get, runPath } from "./api.js";
import { el, show } from "./dom.js";
import { statusMark } from "./runs.js";
import { valueBox } from "./step.js";
import { STEP_LOOKS, count, duration, money, stateClass } from "./words.js";

export async function comparePage(main, shell, first, second, signal) {
  shell.title("Compare");
  shell.crumbs(el("a", { href: "#/", text: "Runs" }), el("span", { text: "Compare" }));
  const runs = await Promise.all([get(runPath(first), signal), get(runPath(second), signal)]);
  const [left, right] = runs.map((run) => new Map(flat(run.steps).map((step) => [step.id, step])));
  const keys = [...new Set([...left.keys(), ...right.keys()])];
  const differing = el("input", { type: "checkbox", id: "differing" });
  const body = el("tbody");
  const draw = () => show(body, keys.filter((key) => !differing.checked || differs(left.get(key), right.get(key)))
    .slice(0, 2_000).flatMap((key) => line(key, left.get(key), right.get(key))));
  differing.addEventListener("change", draw);
  const links = runs.map((run) => el("a", { class: "mono", href: `#/runs/${encodeURIComponent(run.run_id)}`, text: run.run_id }));
  const facts = [
    ["Run", links], ["Plan", runs.map((run) => run.plan)], ["Status", runs.map((run) => statusMark(run.status))],
    ["Took", runs.map((run) => duration(run.latency_ms / 1000))], ["Cost", runs.map((run) => money(run.cost) || "–")],
    ["Tokens", runs.map((run) => count(run.usage.total_tokens))], ["Tool calls", runs.map((run) => count(run.tool_calls))],
  ];
  show(main, el("div", { class: "bar" }, el("h1", { text: "Compare two runs" }),
    runs[0].plan_hash === runs[1].plan_hash ? el("span", { class: "muted", text: "of the same plan" }) : el("span", { class: "muted", text: "of different plans" }),
    el("span", { class: "gap" }), differing, el("label", { for: "differing", text: "only what differs" })),
  el("div", { class: "card flush" }, el("table", { class: "versus" },
    el("tbody", {}, facts.map(([name, values]) => el("tr", {}, el("th", { scope: "row", text: name }), values.map((value) => el("td", { class: "mono" }, value))))))),
  el("div", { class: "card flush" }, el("table", { class: "versus" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Step" }), links.map((_, place) =>
      [el("th", { scope: "col", text: place ? "Second" : "First" }), el("th", { class: "num", scope: "col", text: "took" }), el("th", { class: "num", scope: "col", text: "cost" })]),
    el("th", { scope: "col", text: "Output" }))), body)));
  draw();
}

function flat(steps) {
  return steps.flatMap((step) => [step, ...flat(step.parts ?? [])]);
}

const same = (one, other) => JSON.stringify(one?.output) === JSON.stringify(other?.output);
const differs = (one, other) => one?.status !== other?.status || !same(one, other);

function line(key, one, other) {
  const sides = [one, other].flatMap((step) => [
    el("td", {}, step ? mark(step.status) : el("span", { class: "muted", text: "not there" })),
    el("td", { class: "num mono", text: step?.latency_ms == null ? "" : duration(step.latency_ms / 1000) }),
    el("td", { class: "num mono", text: step?.cost ? money(step.cost) : "" }),
  ]);
  const detail = el("tr", { class: "outputs", hidden: true }, el("td", { colspan: 4 }, valueBox(one?.output ?? null)), el("td", { colspan: 4 }, valueBox(other?.output ?? null)));
  const button = el("button", { type: "button", class: "quiet", "aria-expanded": "false", text: same(one, other) ? "same" : "differs",
    on: { click: () => { detail.hidden = !detail.hidden; button.setAttribute("aria-expanded", String(!detail.hidden)); } } });
  return [el("tr", { class: differs(one, other) ? "differs" : "" }, el("th", { scope: "row", class: "mono", text: key }), sides, el("td", {}, button)), detail];
}

function mark(status) {
  const [symbol, word] = STEP_LOOKS[status] ?? ["○", status];
  return el("span", { class: `state ${stateClass(status)}` }, el("i", { text: symbol, "aria-hidden": "true" }), word);
}
