// All that is on record of one step, beside the run.

import { get, post, runPath, stepPath } from "./api.js";
import { el, show } from "./dom.js";
import { formOf } from "./form.js";
import { STEP_LOOKS, clock, count, counted, duration, money, stateClass, valueText } from "./words.js";

const MOST_CHARS = 20_000;

export function stepPanel(runId, close, choose, signal) {
  const title = el("h2", { class: "mono" });
  const state = el("span", { class: "state" });
  const body = el("div", { class: "inside" });
  const panel = el("aside", { class: "card step", "aria-label": "Step", hidden: true },
    el("div", { class: "tools" }, title, state, el("span", { class: "gap" }),
      el("button", { type: "button", class: "quiet", text: "✕", "aria-label": "Close", on: { click: close } })), body);
  let key = null;
  let told = "";

  async function open(wanted, row, members) {
    const text = JSON.stringify([wanted, row]);
    if (text === told) return;
    if (key !== wanted) { body.scrollTop = 0; show(body); }
    [key, told] = [wanted, text];
    panel.hidden = false;
    title.textContent = wanted;
    title.title = wanted;
    if (row) looks(row.status);
    try {
      const step = await get(stepPath(runId, wanted), signal);
      if (key === wanted) draw(step, row, members);
    } catch (error) {
      if (key !== wanted || error.name === "AbortError") return;
      told = "";
      show(body, members ? memberList(members) : null, el("p", { class: "muted", text: error.status === 404 ? "It has not come to this step yet." : error.message }));
    }
  }

  function looks(status) {
    const [symbol, word] = STEP_LOOKS[status] ?? ["○", status];
    state.className = `state ${stateClass(status)}`;
    show(state, el("i", { text: symbol, "aria-hidden": "true" }), word);
  }

  function draw(step, row, members) {
    const usage = step.usage;
    const tokens = usage ? `${count(usage.input_tokens)} in, ${count(usage.output_tokens)} out` : "";
    const spec = step.metadata?.speculation;
    const facts = [
      ["Does", step.kind === step.tool ? step.kind : `${step.kind} · ${step.tool}`],
      ["After", step.needs.join(", ")],
      ["Started", clock(step.started_at)],
      ["Took", duration(step.latency_ms === null ? null : step.latency_ms / 1000)],
      ["Attempts", step.attempts ? String(step.attempts) : ""],
      ["Tokens", tokens],
      ["Cost", step.cost ? money(step.cost) : ""],
      ["Model", step.metadata?.model ?? ""],
      ["Speculation", spec ? Object.entries(spec).map(([name, value]) => `${name}: ${valueText(value)}`).join(", ") : ""],
      ["Waits", step.waiting ?? ""],
      ["Skipped", (step.skip_reason ?? "").replaceAll("_", " ")],
    ].filter(([, value]) => value);
    show(body,
      members ? memberList(members) : null,
      el("dl", { class: "facts" }, facts.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { class: "mono", text: value })])),
      step.labels.length ? el("p", { class: "labels" }, step.labels.map((label) => el("span", { class: "label", text: label }))) : null,
      step.error ? section("Error", el("pre", { class: "bad", text: step.error })) : row?.note ? section("Note", el("p", { text: row.note })) : null,
      step.hidden.length ? el("p", { class: "muted", text: `Not shown, for it is secret: ${step.hidden.join(", ")}.` }) : null,
      step.inputs === null ? null : section("Inputs", valueBox(step.inputs)),
      step.output === null && step.status !== "completed" ? null : step.hidden.includes("output") ? null : section("Output", valueBox(step.output)),
      step.status === "completed" && !step.hidden.includes("output") ? fork(step) : null,
      step.streamed ? section("So far", valueBox(step.streamed)) : null,
      step.parts?.length ? section(counted(step.parts.length, step.width === undefined ? "step" : "item"), memberList(step.parts.map((part) => part.id))) : null,
      step.errors?.length ? section("Failed items", valueBox(step.errors)) : null,
      step.tries.length ? section("Attempts", tries(step.tries)) : null,
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

  const memberList = (keys) => el("div", { class: "members" }, keys.slice(0, 500).map((one) =>
    el("button", { type: "button", class: "quiet mono", text: one, on: { click: () => choose(one) } })));

  return {
    panel, open,
    get key() { return key; },
    close: () => { panel.hidden = true; [key, told] = [null, ""]; },
  };
}

const section = (name, ...content) => el("section", {}, el("h3", { text: name }), ...content);

export function valueBox(value) {
  const text = valueText(value);
  if (text.length <= MOST_CHARS) return el("pre", { text });
  const box = el("pre", { text: `${text.slice(0, MOST_CHARS)}…` });
  const all = el("button", { type: "button", class: "quiet", text: `Show all ${count(text.length)} characters`,
    on: { click: () => { box.textContent = text; all.remove(); } } });
  return el("div", {}, box, all);
}

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
