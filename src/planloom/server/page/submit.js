// A new run: of a plan that the server has, or of one that somebody brings along. What is wrong is told all at once.

import { get, post } from "./api.js";
import { el, show } from "./dom.js";
import { formOf } from "./form.js";
import { counted } from "./words.js";

const FIND_FROM = 8; // plans, from which on a box to find one pays
const FIRST = `planloom: 1
name: my plan
inputs:
  who: {type: string}
steps:
  - id: greet
    tool: a tool of yours
    with: {name: "\${{ inputs.who }}"}
`;
const LIMITS = { type: "object", properties: {
  max_total_cost_usd: { type: "number", title: "Cost, US dollars" }, max_total_tokens: { type: "integer", title: "Tokens" },
  max_tool_calls: { type: "integer", title: "Tool calls" }, timeout_seconds: { type: "number", title: "Time, seconds" },
  max_concurrent: { type: "integer", title: "Steps at once" },
} };

export async function submitPage(main, shell, wanted, signal) {
  shell.title("New run");
  shell.crumbs(el("a", { href: "#/", text: "Runs" }), el("span", { text: "New run", "aria-current": "page" }));
  const { plans } = await get("/plans", signal);
  if (signal.aborted) return;
  const inputs = inputsPart(signal);
  const problems = el("div", { class: "problems", role: "alert", hidden: true });
  const tell = (error, jump) => showProblems(problems, error, jump);
  const named = namedPart(plans, inputs, tell, signal);
  const brought = broughtPart(inputs, tell, signal);
  const own = plans.length === 0 || wanted === "";
  const radio = (value, text, on, part) => {
    const box = el("input", { type: "radio", name: "source", value, checked: on, on: { change: () => turn(part) } });
    return el("label", { class: "choice" }, box, el("span", { text }));
  };
  function turn(part) {
    for (const one of [named, brought]) one.node.hidden = one !== part;
    tell(null);
    inputs.clear();
    part.again();
  }
  show(main, el("div", { class: "bar" }, el("h1", { text: "New run" })), el("div", { class: "new" },
    el("section", { class: "card", "aria-label": "Plan" },
      el("div", { class: "tools" }, el("h2", { text: "Plan" }), el("span", { class: "gap" }),
        el("div", { class: "choices", role: "radiogroup", "aria-label": "Where the plan comes from" },
          radio("named", "of this server", !own, named), radio("own", "your own", own, brought))),
      named.node, brought.node, problems), inputs.node));
  turn(own ? brought : named);
  if (!own && wanted) named.choose(wanted);
}

/** Plans that the server has, by name. */
function namedPart(plans, inputs, tell, signal) {
  const list = el("div", { class: "plans", role: "radiogroup", "aria-label": "Plans of this server" });
  const find = el("input", { type: "search", placeholder: "find a plan", "aria-label": "Find a plan", spellcheck: "false", hidden: plans.length < FIND_FROM });
  const node = el("div", { class: "inside" }, find, plans.length ? list : el("p", { class: "muted" }, "This server has no plans of its own. Name their folder in planloom.toml: ",
    el("code", { text: "[server] plans = [\"plans\"]" })));
  let chosen = null;
  const cards = plans.map((plan) => {
    const box = el("input", { type: "radio", name: "plan", value: plan.name, on: { change: () => choose(plan.name) } });
    const title = plan.title === plan.name ? null : el("span", { class: "muted mono small", text: plan.name });
    return [plan, box, el("label", { class: "plan" }, box, el("span", {}, el("strong", { text: plan.title }), " ", title,
      plan.problem ? el("span", { class: "bad small", text: " ✗ cannot run as it is" }) : null,
      plan.description ? el("span", { class: "muted about", text: plan.description }) : null))];
  });
  show(list, cards.map(([, , card]) => card));
  find.addEventListener("input", () => {
    const text = find.value.trim().toLowerCase();
    for (const [plan, , card] of cards) card.hidden = !`${plan.name} ${plan.title} ${plan.description}`.toLowerCase().includes(text);
  });

  async function choose(name) {
    chosen = name;
    for (const [plan, box] of cards) box.checked = plan.name === name;
    tell(null);
    try {
      const told = await get(`/plans/${encodeURIComponent(name)}`, signal);
      if (chosen !== name || node.hidden) return;
      inputs.take({ name }, told.inputs, told.plan.name ?? name, told.plan.steps.length);
    } catch (error) {
      if (error.name === "AbortError" || chosen !== name || node.hidden) return;
      inputs.clear();
      tell(error);
    }
  }
  return { node, choose, again: () => (chosen === null ? inputs.take(null) : choose(chosen)) };
}

/** A plan that somebody writes, pastes, drops or opens. */
function broughtPart(inputs, tell, signal) {
  const text = el("textarea", { class: "mono source", rows: 16, spellcheck: "false", "aria-label": "Plan, as YAML or JSON", placeholder: FIRST, wrap: "off" });
  const file = el("input", { type: "file", accept: ".yaml,.yml,.json,.txt", "aria-label": "Plan file", class: "hidden", tabindex: "-1" });
  const checkButton = el("button", { type: "button", text: "Check", on: { click: () => check() } });
  const state = el("span", { class: "muted small", role: "status" });
  const node = el("div", { class: "inside" }, text, el("div", { class: "row" }, checkButton,
    el("button", { type: "button", text: "Open a file", on: { click: () => file.click() } }), file, state));
  let checked = null; // the text that was last asked about

  async function check() {
    const asked = text.value;
    if (asked.trim() === "") { state.textContent = "paste, write or open a plan first"; text.focus(); return; }
    checked = asked;
    state.textContent = "checking …";
    tell(null);
    try {
      const told = await post("/plans/check", { plan: asked }, { signal });
      if (text.value !== asked || node.hidden) return;
      state.textContent = "✓ nothing is wrong with it";
      inputs.take({ plan: asked }, told.inputs, told.name, told.steps);
    } catch (error) {
      if (error.name === "AbortError" || text.value !== asked || node.hidden) return;
      state.textContent = "";
      inputs.take(null);
      tell(error, jump);
    }
  }

  /** Put the cursor where something is wrong. */
  function jump(line, column) {
    const lines = text.value.split("\n");
    const at = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + Math.max(0, (column ?? 1) - 1);
    text.focus();
    text.setSelectionRange(at, Math.min(text.value.length, at + 1));
    text.scrollTop = Math.max(0, (line - 4) * (text.scrollHeight / Math.max(1, lines.length)));
  }

  async function opened(found) {
    if (!found) return;
    text.value = await found.text();
    check();
  }
  text.addEventListener("input", (event) => {
    inputs.take(null);
    state.textContent = text.value && checked !== null ? "changed since it was checked" : "";
    if (event.inputType === "insertFromPaste") check();
  });
  file.addEventListener("change", () => { opened(file.files[0]); file.value = ""; });
  text.addEventListener("dragover", (event) => event.preventDefault());
  text.addEventListener("drop", (event) => {
    if (event.dataTransfer.files.length === 0) return;
    event.preventDefault();
    opened(event.dataTransfer.files[0]);
  });
  return { node, again: () => (text.value.trim() ? check() : inputs.take(null)) };
}

/** What the run is given, and the button that begins it. */
function inputsPart(signal) {
  const about = el("p", { class: "muted" });
  const fields = el("div");
  const problems = el("div", { class: "problems", role: "alert", hidden: true });
  const limitsForm = formOf(LIMITS);
  const limits = el("details", { class: "fold", hidden: true }, el("summary", { text: "Limits" }),
    el("p", { class: "muted small", text: "What is left empty is as the plan says. At a limit the run stops; nothing is begun that could pass it." }), limitsForm.node);
  const run = el("button", { type: "submit", class: "primary", text: "Run", disabled: true });
  const node = el("form", { class: "card inputs", "aria-label": "Inputs", novalidate: true, on: { submit: (event) => { event.preventDefault(); begin(); } } },
    el("div", { class: "tools" }, el("h2", { text: "Inputs" })),
    el("div", { class: "inside" }, about, fields, limits, problems, el("div", { class: "row" }, el("span", { class: "gap" }), run)));
  let source = null;
  let form = null;
  let drawn = "";
  let sent = { text: "", key: "" };

  /** Go by this plan from now on; what somebody has filled in stays as long as the same is asked for. */
  function take(from, schema, name, steps) {
    source = from;
    run.disabled = from === null;
    showProblems(problems, null);
    if (from === null) {
      about.textContent = form === null ? "Choose a plan, or check your own: then this asks for what it needs." : "Waits for a plan that can run.";
      return;
    }
    limits.hidden = false;
    const text = JSON.stringify(schema);
    const free = !schema.properties;
    about.textContent = `${name}, ${counted(steps, "step")}${free ? ". It declares no inputs." : ""}`;
    if (text === drawn) return;
    drawn = text;
    form = formOf(free ? { title: "Inputs, as a JSON object", type: "object" } : schema);
    if (free) form.node.querySelector("textarea").setAttribute("rows", "2");
    show(fields, form.node);
  }

  function clear() {
    [form, drawn] = [null, ""];
    show(fields);
    limits.hidden = true;
    take(null);
  }

  /** Return what is filled in, or null where something is wrong with it: it is marked, and the cursor there. */
  function filled() {
    try {
      return { ...source, inputs: form.value() ?? {}, limits: limitsForm.value() };
    } catch {
      limits.open ||= limits.querySelector('[aria-invalid="true"]') !== null;
      node.querySelector('[aria-invalid="true"]')?.focus();
      return null;
    }
  }

  async function begin() {
    if (source === null || run.disabled) return;
    showProblems(problems, null);
    const body = filled();
    if (body === null) return;
    try {
      if (Object.keys(body.limits).length === 0) delete body.limits;
      const text = JSON.stringify(body);
      if (text !== sent.text) sent = { text, key: key() }; // the same again, after an answer that was lost, is the same run
      run.disabled = true;
      const told = await post("/runs", body, { signal, headers: { "Idempotency-Key": sent.key } });
      sent = { text: "", key: "" };
      location.hash = `#/runs/${encodeURIComponent(told.run_id)}`;
    } catch (error) {
      if (error.name === "AbortError") return;
      run.disabled = source === null;
      const rest = (error.problems ?? []).filter((one) => !told(one));
      if (error.problems?.length && rest.length === 0) {
        showProblems(problems, { message: `${counted(error.problems.length, "thing")} to put right above` });
        node.querySelector('[aria-invalid="true"]')?.focus();
      } else showProblems(problems, { message: error.message, remedy: error.remedy, problems: rest });
    }
  }

  /** Say a problem below the field that it is about; return whether there is one. */
  function told(one) {
    const path = one.path[0] === "body" ? one.path.slice(1) : one.path;
    const text = [one.detail, one.remedy].filter(Boolean).join(". ");
    if (path[0] === "inputs" && path.length > 1) return form.tell(path.slice(1), text);
    if (path[0] !== "limits" || !limitsForm.tell(path.slice(1), text)) return false;
    limits.open = true;
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) begin();
  }, { signal });
  return { node, take, clear };
}

const key = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Show all that is wrong, each with its place and what to do; `jump(line, column)` goes there. */
function showProblems(node, error, jump = null) {
  node.hidden = error === null;
  if (error === null) { show(node); return; }
  const all = error.problems ?? [];
  const lone = all.length === 1 && error.message === all[0].detail;
  show(node, el("p", {}, el("strong", { text: all.length > 1 ? counted(all.length, "problem") : lone ? "1 problem" : error.message })),
    all.length === 0 && error.remedy ? el("p", { text: error.remedy }) : null,
    all.length ? el("ol", {}, all.map((one) => el("li", {}, place(one, jump), el("span", { text: one.detail }),
      one.remedy ? el("span", { class: "remedy", text: one.remedy }) : null))) : null);
}

function place(one, jump) {
  const words = one.line ? `line ${one.line}${one.column ? `, column ${one.column}` : ""}` : one.where || (one.step ? `step ${one.step}` : "");
  if (!words) return null;
  if (!one.line || jump === null) return el("span", { class: "mono place", text: words });
  return el("button", { type: "button", class: "quiet mono place", text: words, on: { click: () => jump(one.line, one.column) } });
}
