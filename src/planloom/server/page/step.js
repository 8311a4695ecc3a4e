// All that is on record of one step, beside the run.

import { get, post, runPath, stepPath } from "./api.js";
import { el, show } from "./dom.js";
import { formOf } from "./form.js";
import { tallyText } from "./timeline.js";
import { STEP_LOOKS, clock, count, counted, duration, money, stateClass, valueText } from "./words.js";

const MOST_CHARS = 20_000;

const MOST_PARTS = 500;

export function stepPanel(runId, close, choose, signal) {
  const title = el("h2", { class: "mono" });
  const state = el("span", { class: "state" });
  const body = el("div", { class: "inside" });
  const panel = el("aside", { class: "card step", "aria-label": "Step", hidden: true },
    el("div", { class: "tools" }, title, state, el("span", { class: "gap" }),
      el("button", { type: "button", class: "quiet", text: "✕", "aria-label": "Close", on: { click: close } })), body);
  let key = null;
  let told = "";

  /** Show steps that are alike: how many stand how, and each of them to be chosen. */
  function openGroup(wanted, row, members) {
    const text = JSON.stringify([wanted, members]);
    if (text === told) return;
    if (key !== wanted) body.scrollTop = 0;
    [key, told] = [wanted, text];
    panel.hidden = false;
    title.textContent = row.label;
    title.title = row.label;
    looks(row.status);
    show(body, el("p", { text: `${counted(members.length, "step")} that do the same, between the same steps: ${tallyText(members)}.` }),
      facts([["Does", `${row.kind} · ${row.doer}`], ["Took", duration(row.seconds)], ["Tokens", row.tokens ? count(row.tokens) : ""], ["Cost", row.cost ? money(row.cost) : ""]]),
      section("Steps", partList(members)));
  }

  async function open(wanted, row, parts) {
    const text = JSON.stringify([wanted, row, parts]);
    if (text === told) return;
    if (key !== wanted) { body.scrollTop = 0; show(body); }
    [key, told] = [wanted, text];
    panel.hidden = false;
    title.textContent = wanted;
    title.title = wanted;
    if (row) looks(row.status);
    try {
      const step = await get(stepPath(runId, wanted), signal);
      if (key === wanted) draw(step, row, parts);
    } catch (error) {
      if (key !== wanted || error.name === "AbortError") return;
      told = "";
      show(body, el("p", { class: "muted", text: error.status === 404 ? "It has not come to this step yet." : error.message }));
    }
  }

  function looks(status) {
    const [symbol, word] = STEP_LOOKS[status] ?? ["○", status];
    state.className = `state ${stateClass(status)}`;
    show(state, el("i", { text: symbol, "aria-hidden": "true" }), word);
  }

  function draw(step, row, parts) {
    const usage = step.usage;
    const tokens = usage ? `${count(usage.input_tokens)} in, ${count(usage.output_tokens)} out` : "";
    const spec = step.metadata?.speculation;
    const known = [
      ["Does", step.kind === step.tool ? step.kind : `${step.kind} · ${step.tool}`],
      ["After", step.needs.join(", ")],
      ["Started", clock(step.started_at)],
      ["Took", duration(step.latency_ms === null ? null : step.latency_ms / 1000)],
      ["Attempts", step.attempts ? String(step.attempts) : ""],
      ["Tokens", tokens],
      ["Cost", step.cost ? money(step.cost) : ""],
      ["Model", step.metadata?.model ?? ""],
      ["Waits", step.waiting ?? ""],
      ["Skipped", (step.skip_reason ?? "").replaceAll("_", " ")],
    ];
    show(body,
      facts(known),
      step.labels.length ? el("p", { class: "labels" }, step.labels.map((label) => el("span", { class: "label", text: label }))) : null,
      step.error ? section("Error", el("pre", { class: "bad", text: step.error })) : row?.note ? section("Note", el("p", { text: row.note })) : null,
      step.hidden.length ? el("p", { class: "muted", text: `Not shown, for it is secret: ${step.hidden.join(", ")}.` }) : null,
      step.inputs === null ? null : section("Inputs", valueBox(step.inputs)),
      step.output === null && step.status !== "completed" ? null : step.hidden.includes("output") ? null : section("Output", valueBox(step.output)),
      step.status === "completed" && !step.hidden.includes("output") ? fork(step) : null,
      step.streamed ? section("So far", valueBox(step.streamed)) : null,
      step.parts?.length ? section(counted(step.parts.length, step.width === undefined ? "step" : "item"),
        partList(parts ?? step.parts.map((part) => ({ step: part.id, status: part.status })))) : null,
      step.errors?.length ? section("Failed items", valueBox(step.errors)) : null,
      row?.bars.some((bar) => bar.lane) ? section("Ahead of its turn", ahead(row)) : null,
      step.tries.length ? section("Attempts", tries(step.tries)) : null,
      spec ? section("Speculation", facts(Object.entries(spec).filter(([, value]) => value !== null).map(([name, value]) => [name.replaceAll("_", " "), valueText(value)]))) : null,
      step.calls.length ? section("Calls", calls(step.calls)) : null);
  }

  /** Another run from here: as if this step had come to what somebody writes. */
  function fork(step) {
    const isText = typeof step.output === "string";
    const output = formOf({ type: isText ? "string" : undefined, format: "multiline", title: "as if its output had been", default: step.output });
    const repeat = el("input", { type: "checkbox", id: "repeat-effects" });
    const problem = el("p", { class: "bad", role: "alert", hidden: true });
    return el("details", { class: "fork" }, el("summary", { text: "Go on from here in a new run" }),
      el("form", { class: "fields", on: { submit: async (event) => {
        event.preventDefault();
        try {
          const body = { step: step.id, output: output.value(), repeat_effects: repeat.checked };
          location.hash = `#/runs/${encodeURIComponent((await post(`${runPath(runId)}/fork`, body)).run_id)}`;
        } catch (error) {
          problem.hidden = false;
          problem.textContent = error.remedy ? `${error.message}. ${error.remedy}` : error.message;
        }
      } } }, output.node, problem, el("div", { class: "field check" }, repeat, el("label", { for: "repeat-effects", text: "effects may happen again" })),
      el("button", { type: "submit", class: "primary", text: "Fork" })));
  }

  const partList = (rows) => el("ul", { class: "members" }, [...rows].sort((one, other) => urgency(one) - urgency(other)).slice(0, MOST_PARTS).map((row) =>
    el("li", {}, el("button", { type: "button", class: `quiet mono ${stateClass(row.status)}`, "aria-label": `${row.step}, ${(STEP_LOOKS[row.status] ?? ["", row.status])[1]}`,
      on: { click: () => choose(row.step) } }, el("i", { text: (STEP_LOOKS[row.status] ?? ["○"])[0], "aria-hidden": "true" }), row.step)),
  ), rows.length > MOST_PARTS ? el("li", { class: "muted", text: `and ${count(rows.length - MOST_PARTS)} more; the timeline finds them` }) : null);

  return {
    panel, open, openGroup,
    get key() { return key; },
    close: () => { panel.hidden = true; [key, told] = [null, ""]; },
  };
}

const urgency = (row) => ({ failed: 0, timed_out: 0, blocked: 1, running: 2 })[row.status] ?? 3;

const facts = (known) => el("dl", { class: "facts" }, known.filter(([, value]) => value)
  .flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { class: "mono", text: value })]));

const section = (name, ...content) => el("section", {}, el("h3", { text: name }), ...content);

export function valueBox(value) {
  const text = valueText(value);
  if (text.length <= MOST_CHARS) return el("pre", { text });
  const box = el("pre", { text: `${text.slice(0, MOST_CHARS)}…` });
  const all = el("button", { type: "button", class: "quiet", text: `Show all ${count(text.length)} characters`,
    on: { click: () => { box.textContent = text; all.remove(); } } });
  return el("div", {}, box, all);
}

/** What ran on values that were not confirmed yet, and what came of it. */
function ahead(row) {
  return el("ol", { class: "tries" }, row.bars.filter((bar) => bar.lane).map((bar) => el("li", {},
    el("span", { class: `state ${OUTCOMES[bar.outcome]?.[0] ?? "s-running"}` }, el("i", { text: OUTCOMES[bar.outcome]?.[1] ?? "▶", "aria-hidden": "true" }),
      `${bar.lane === "draft" ? "a cheaper model's draft" : "ran ahead"}: ${OUTCOMES[bar.outcome]?.[2] ?? "not settled yet"}`),
    el("span", { class: "mono muted", text: duration(bar.end - bar.begin) }))));
}

const OUTCOMES = {
  confirmed: ["s-completed", "✓", "confirmed"],
  rolled_back: ["s-timed_out", "↶", "taken back, its result not used"],
  spent: ["s-skipped", "✓", "done with"],
};

function tries(found) {
  return el("ol", { class: "tries" }, found.map((one) => {
    const [symbol, word] = STEP_LOOKS[one.status] ?? ["○", one.status];
    const took = one.ended_at === null ? null : one.ended_at - one.started_at;
    const facts = [clock(one.started_at), duration(took), one.usage ? `${count(one.usage.total_tokens)} tokens` : "", one.cost_usd ? money(one.cost_usd) : "", one.cached ? "cached" : ""];
    return el("li", {}, el("span", { class: `state ${stateClass(one.status === "lost" ? "failed" : one.status)}` },
      el("i", { text: symbol, "aria-hidden": "true" }), `${one.number}. ${word}`),
    el("span", { class: "mono muted", text: facts.filter(Boolean).join(" · ") }),
    one.error ? el("pre", { class: "bad", text: one.error_kind ? `${one.error_kind}: ${one.error}` : one.error }) : null,
    one.retry_at ? el("span", { class: "muted small", text: `next attempt due ${clock(one.retry_at)}` }) : null);
  }));
}

function calls(found) {
  return el("ol", { class: "tries" }, found.map((one) => el("li", {},
    el("span", { class: `state ${one.error ? "s-failed" : "s-completed"}` }, el("i", { text: one.error ? "✗" : "✓", "aria-hidden": "true" }), `${one.kind} ${one.name}`),
    el("span", { class: "mono muted", text: [duration(one.ended_at - one.started_at), one.usage ? `${count(one.usage.total_tokens)} tokens` : "", one.cost_usd ? money(one.cost_usd) : ""].filter(Boolean).join(" · ") }),
    one.error ? el("pre", { class: "bad", text: one.error }) : null)));
}
