// When each step ran: a line for each, a bar for each attempt. Lines that did not change are left alone.

import { el, show } from "./dom.js";
import { STEP_LOOKS, count, counted, duration, money, stateClass } from "./words.js";

export function timelinePanel(choose) {
  const find = el("input", { type: "search", placeholder: "find a step", "aria-label": "Find a step", spellcheck: "false" });
  const chips = el("div", { class: "chips" });
  const axis = el("div", { class: "axis", "aria-hidden": "true" });
  const list = el("div", { class: "lines", role: "listbox", "aria-label": "Steps" });
  const left = el("p", { class: "muted small" });
  const panel = el("section", { class: "card timeline", "aria-label": "Timeline" },
    el("div", { class: "tools" }, el("h2", { text: "Timeline" }), chips, el("span", { class: "gap" }), find),
    axis, list, left);
  const lines = new Map();
  let rows = [];
  let only = null;
  let selected = null;
  let chipsTold = "";
  let span = 0;

  function draw(view) {
    rows = view.rows;
    span = Math.max(view.span_s, 1e-6);
    list.style.setProperty("--span", String(span));
    const known = new Set();
    let before = null;
    for (const row of rows) {
      known.add(row.step);
      const line = lineOf(row);
      const place = before === null ? list.firstChild : before.nextSibling;
      if (line !== place) list.insertBefore(line, place);
      before = line;
    }
    for (const [key, { line }] of lines) if (!known.has(key)) { line.remove(); lines.delete(key); }
    left.textContent = view.rows_left_out ? `${counted(view.rows_left_out, "step")} more` : "";
    drawAxis();
    drawChips();
    filter();
  }

  function lineOf(row) {
    const text = JSON.stringify(row);
    const known = lines.get(row.step);
    if (known?.text === text) return known.line;
    const line = known?.line ?? el("div", { role: "option", tabindex: "-1" });
    line.dataset.step = row.step;
    line.className = `line ${stateClass(row.status)}`;
    line.classList.toggle("is-selected", row.step === selected);
    line.setAttribute("aria-selected", String(row.step === selected));
    line.title = row.note;
    const facts = [];
    if (row.attempts > 1) facts.push(el("b", { class: "retried", text: `×${row.attempts}`, title: counted(row.attempts, "attempt") }));
    const bars = row.bars.map(barOf);
    const name = el("span", { class: "what" }, el("i", { text: row.symbol, "aria-hidden": "true" }),
      el("span", { class: "key", text: row.step }), ...facts, el("span", { class: "doer muted", text: row.doer }),
      el("span", { class: "hidden", text: `, ${row.word}` }));
    name.style.paddingInlineStart = `${Math.min(row.depth, 4) * 12}px`;
    show(line, name, el("span", { class: "track" }, bars), el("span", { class: "num mono", text: duration(row.seconds) }),
      el("span", { class: "num mono tokens muted", text: row.tokens ? count(row.tokens) : "" }),
      el("span", { class: "num mono cost", text: row.cost ? money(row.cost) : "" }));
    lines.set(row.step, { line, text });
    return line;
  }

  function barOf(bar) {
    const node = el("span", { class: `strip ${stateClass(bar.status)}${bar.lane ? ` lane-${bar.lane === "draft" ? "draft" : "ahead"}` : ""}`, title: bar.words });
    node.style.left = `calc(${bar.begin} / var(--span) * 100%)`;
    node.style.width = `max(3px, calc(${Math.max(0, bar.end - bar.begin)} / var(--span) * 100%))`;
    return node;
  }

  function drawAxis() {
    let step = 1e-4;
    for (let turn = 0; span / step > 5; turn += 1) step *= [2, 2.5, 2][turn % 3];
    const ticks = [];
    for (let at = 0; at <= span * 0.92; at += step) {
      const tick = el("span", { class: "mono", text: at === 0 ? "0" : duration(at) });
      tick.style.left = `${(at / span) * 100}%`;
      ticks.push(tick);
    }
    show(axis, el("span", { class: "ruler" }, ticks));
  }

  function drawChips() {
    const counts = {};
    for (const row of rows) counts[row.status] = (counts[row.status] ?? 0) + 1;
    const text = JSON.stringify([counts, only]);
    if (text === chipsTold) return;
    chipsTold = text;
    show(chips, Object.entries(STEP_LOOKS).filter(([status]) => counts[status]).map(([status, [symbol, word]]) =>
      el("button", { type: "button", class: `chip ${stateClass(status)}`, "aria-pressed": String(only === status), title: `only: ${word}`,
        on: { click: () => { only = only === status ? null : status; chipsTold = ""; drawChips(); filter(); } } },
      el("i", { text: symbol, "aria-hidden": "true" }), el("span", { class: "mono", text: count(counts[status]) }), word)));
  }

  function filter() {
    const wanted = find.value.trim().toLowerCase();
    for (const row of rows) {
      const hidden = (only !== null && row.status !== only) || (wanted !== "" && !`${row.step} ${row.doer}`.toLowerCase().includes(wanted));
      const { line } = lines.get(row.step);
      if (line.hidden !== hidden) line.hidden = hidden;
    }
  }

  function mark(key) {
    if (selected !== null) set(selected, false);
    selected = key;
    if (key !== null) set(key, true);
  }

  function set(key, on) {
    const line = lines.get(key)?.line;
    line?.classList.toggle("is-selected", on);
    line?.setAttribute("aria-selected", String(on));
  }

  /** Put the cursor on a step's line. */
  function focus(key) {
    const line = lines.get(key)?.line;
    line?.focus({ preventScroll: true });
    line?.scrollIntoView({ block: "nearest" });
  }

  /** Return the step above or below, of those that are shown. */
  function beside(key, down) {
    const keys = rows.map((row) => row.step).filter((step) => !lines.get(step).line.hidden);
    const place = keys.indexOf(key);
    if (place < 0) return keys[down ? 0 : keys.length - 1] ?? null;
    return keys[Math.max(0, Math.min(keys.length - 1, place + (down ? 1 : -1)))];
  }

  find.addEventListener("input", filter);
  list.addEventListener("click", (event) => {
    const line = event.target.closest(".line");
    if (line) choose(line.dataset.step);
  });
  return { panel, draw, mark, focus, beside };
}
