// When each step ran: a line for each, a bar for each attempt. Lines that did not change are left alone.
// What belongs together (the items of a map, the steps of a sub-plan, steps that are alike) can be folded into one line.

import { el, show } from "./dom.js";
import { STEP_LOOKS, count, counted, duration, money, stateClass } from "./words.js";

const FOLD_FROM = 13; // parts from which a line is folded at first
const WORST_FIRST = ["failed", "timed_out", "blocked", "running", "ready", "pending", "cancelled", "skipped", "completed"];
const MOST_TROUBLE = 60; // bars of failed parts, shown on a folded line
const GROUP = "\u0000";

/** The key of the line that stands for steps that are alike; no step has such a key. */
export const groupKey = (first) => GROUP + first;
export const isGroup = (key) => key.startsWith(GROUP);

const LEGEND = [
  ["failed", "an attempt that failed", (bar) => !bar.lane && bar.status === "failed"],
  ["wait", "waits to try again", null],
  ["draft", "a cheaper model's draft", (bar) => bar.lane === "draft"],
  ["ahead", "ran ahead, on values not yet confirmed", (bar) => bar.lane === "ahead" && bar.outcome !== "confirmed"],
  ["confirmed", "ran ahead, and was confirmed", (bar) => bar.lane === "ahead" && bar.outcome === "confirmed"],
  ["back", "taken back: its result was not used", (bar) => bar.outcome === "rolled_back"],
];

export function timelinePanel(choose) {
  const find = el("input", { type: "search", placeholder: "find a step", "aria-label": "Find a step", spellcheck: "false" });
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Show only" });
  const axis = el("div", { class: "axis", "aria-hidden": "true" });
  const list = el("div", { class: "lines", role: "tree", "aria-label": "Steps, in the order of their starts" });
  const legend = el("ul", { class: "legend", "aria-label": "What the bars mean" });
  const left = el("p", { class: "muted small", role: "status" });
  const panel = el("section", { class: "card timeline", "aria-label": "Timeline" },
    el("div", { class: "tools" }, el("h2", { text: "Timeline" }), chips, el("span", { class: "gap" }), find),
    axis, list, left, legend);
  const lines = new Map();
  const folded = new Map(); // what somebody folded, or opened
  let rows = new Map();
  let parts = new Map();
  let roots = [];
  let shown = [];
  let only = null;
  let selected = null;
  let told = {};
  let span = 0;
  let leftOut = 0;

  function draw(view) {
    span = Math.max(view.span_s, 1e-6);
    leftOut = view.rows_left_out;
    list.style.setProperty("--span", String(span));
    arrange(view);
    drawAxis(view.rows);
    drawChips(view.rows);
    drawLegend(view.rows);
    fill();
  }

  /** Put every row below what it is a part of. */
  function arrange(view) {
    rows = new Map(view.rows.map((row) => [row.step, row]));
    parts = new Map();
    roots = [];
    const group = new Map();
    for (const [first, members] of Object.entries(view.graph.groups)) for (const one of members) group.set(one, first);
    for (const row of view.rows) {
      const first = row.parent === "" ? group.get(row.step) : undefined;
      const above = rows.has(row.parent) ? row.parent : first === undefined ? null : groupKey(first);
      if (above === null) { roots.push(row.step); continue; }
      if (!parts.has(above)) {
        parts.set(above, []);
        if (isGroup(above)) roots.push(above);
      }
      parts.get(above).push(row.step);
    }
    for (const [key, members] of parts) if (isGroup(key)) rows.set(key, groupRow(key, members.map((one) => rows.get(one))));
  }

  function isFolded(key) {
    return folded.get(key) ?? (parts.get(key)?.length ?? 0) >= FOLD_FROM;
  }

  /** Put those lines there that are to be seen. */
  function fill() {
    const wanted = find.value.trim().toLowerCase();
    const fits = (row) => !isGroup(row.step) && (only === null || row.status === only) && (wanted === "" || `${row.step} ${row.doer}`.toLowerCase().includes(wanted));
    const filtered = only !== null || wanted !== "";
    shown = [];
    const walk = (keys, depth) => {
      for (const key of keys) {
        const inside = parts.get(key);
        if (!filtered || fits(rows.get(key))) shown.push([key, depth]);
        if (inside && (filtered || !isFolded(key))) walk(inside, depth + 1);
      }
    };
    walk(roots, 0);
    const known = new Set(shown.map(([key]) => key));
    let before = null;
    for (const [key, depth] of shown) {
      const line = lineOf(rows.get(key), depth, filtered);
      const place = before === null ? list.firstChild : before.nextSibling;
      if (line !== place) list.insertBefore(line, place);
      before = line;
    }
    for (const [key, { line }] of lines) if (!known.has(key)) { line.remove(); lines.delete(key); }
    if (list.querySelector('[tabindex="0"]') === null) list.firstChild?.setAttribute("tabindex", "0");
    const words = [filtered ? `${counted(shown.length, "step")} of ${count(rows.size)}` : "", leftOut ? `${counted(leftOut, "step")} more` : ""];
    left.textContent = words.filter(Boolean).join(", ");
  }

  function lineOf(row, depth, filtered) {
    const inside = filtered ? undefined : parts.get(row.step);
    const isShut = inside === undefined ? null : isFolded(row.step);
    const trouble = isShut ? troubleIn(inside) : [];
    const text = JSON.stringify([row, depth, isShut, trouble]);
    const known = lines.get(row.step);
    if (known?.text === text) return known.line;
    const line = known?.line ?? el("div", { role: "treeitem", tabindex: "-1" });
    if (isGroup(row.step)) line.dataset.group = row.step.slice(1);
    else line.dataset.step = row.step;
    line.className = `line ${stateClass(row.status)}`;
    line.classList.toggle("is-selected", row.step === selected);
    line.setAttribute("aria-selected", String(row.step === selected));
    line.setAttribute("aria-level", String(depth + 1));
    if (isShut === null) line.removeAttribute("aria-expanded");
    else line.setAttribute("aria-expanded", String(!isShut));
    line.title = row.note;
    const name = el("span", { class: "what" },
      el("span", { class: "twist", text: isShut === null ? "" : isShut ? "▸" : "▾", "aria-hidden": "true" }),
      el("i", { text: row.symbol, "aria-hidden": "true" }),
      el("span", { class: "key", text: row.label ?? row.step }),
      row.attempts > 1 ? el("b", { class: "retried", text: `×${row.attempts}`, title: counted(row.attempts, "attempt"), "aria-hidden": "true" }) : null,
      guess(row),
      inside ? el("b", { class: "tally", text: count(inside.length), "aria-hidden": "true" }) : null,
      el("span", { class: "doer muted", text: row.doer }),
      el("span", { class: "hidden", text: spoken(row, inside) }));
    name.style.paddingInlineStart = `${Math.min(depth, 4) * 14}px`;
    show(line, name, el("span", { class: "track", "aria-hidden": "true" }, waits(row.bars), row.bars.map((bar) => barOf(bar, row.attempts > 1)), trouble.map((bar) => barOf(bar, false))),
      el("span", { class: "num mono", text: duration(row.seconds) }),
      el("span", { class: "num mono tokens muted", text: row.tokens ? count(row.tokens) : "" }),
      el("span", { class: "num mono cost", text: row.cost ? money(row.cost) : "" }));
    lines.set(row.step, { line, text });
    return line;
  }

  function troubleIn(keys) {
    return keys.flatMap((key) => rows.get(key).bars.filter((bar) => bar.status === "failed" || bar.status === "timed_out")).slice(0, MOST_TROUBLE);
  }

  function barOf(bar, numbered) {
    const lane = bar.lane ? ` lane-${bar.lane === "draft" ? "draft" : "ahead"}${{ rolled_back: " taken-back", confirmed: " confirmed" }[bar.outcome] ?? ""}` : "";
    const node = el("span", { class: `strip ${stateClass(bar.status)}${lane}`, title: bar.words, text: numbered && !bar.lane ? String(bar.attempt) : null });
    node.style.left = `calc(${bar.begin} / var(--span) * 100%)`;
    node.style.width = `max(3px, calc(${Math.max(0, bar.end - bar.begin)} / var(--span) * 100%))`;
    return node;
  }

  function drawAxis(all) {
    let step = 1e-4;
    for (let turn = 0; span / step > 5; turn += 1) step *= [2, 2.5, 2][turn % 3];
    const ticks = [];
    for (let at = 0; at <= span * 0.92; at += step) {
      const tick = el("span", { class: "mono", text: at === 0 ? "0" : duration(at) });
      tick.style.left = `${(at / span) * 100}%`;
      ticks.push(tick);
    }
    panel.classList.toggle("no-tokens", !all.some((row) => row.tokens));
    panel.classList.toggle("no-cost", !all.some((row) => row.cost));
    show(axis, el("span", { class: "ruler" }, ticks), el("span", { class: "num", text: "took" }),
      el("span", { class: "num tokens", text: "tokens" }), el("span", { class: "num cost", text: "cost" }));
  }

  function drawChips(all) {
    const counts = {};
    for (const row of all) counts[row.status] = (counts[row.status] ?? 0) + 1;
    if (!isNew("chips", [counts, only])) return;
    show(chips, Object.entries(STEP_LOOKS).filter(([status]) => counts[status]).map(([status, [symbol, word]]) =>
      el("button", { type: "button", class: `chip ${stateClass(status)}`, "aria-pressed": String(only === status), title: `only: ${word}`,
        on: { click: () => { only = only === status ? null : status; drawChips(all); fill(); } } },
      el("i", { text: symbol, "aria-hidden": "true" }), el("span", { class: "mono", text: count(counts[status]) }), word)));
  }

  function drawLegend(all) {
    const bars = all.flatMap((row) => row.bars);
    const found = LEGEND.filter(([, , fits]) => (fits ? bars.some(fits) : all.some((row) => waits(row.bars).length)));
    if (!isNew("legend", found.map(([kind]) => kind))) return;
    legend.hidden = found.length === 0;
    show(legend, found.map(([kind, words]) => el("li", {}, el("span", { class: `swatch is-${kind}`, "aria-hidden": "true" }), words)));
  }

  function isNew(what, value) {
    const text = JSON.stringify(value);
    if (told[what] === text) return false;
    told = { ...told, [what]: text };
    return true;
  }

  function mark(key) {
    if (selected !== null) set(selected, false);
    selected = key;
    if (key === null) return;
    reveal(key);
    for (const line of list.querySelectorAll('[tabindex="0"]')) line.setAttribute("tabindex", "-1");
    set(key, true);
  }

  function set(key, on) {
    const line = lines.get(key)?.line;
    line?.classList.toggle("is-selected", on);
    line?.setAttribute("aria-selected", String(on));
    if (on) line?.setAttribute("tabindex", "0");
  }

  /** Open what a step is folded into. */
  function reveal(key) {
    if (lines.has(key) || !rows.has(key)) return;
    for (let above = aboveOf(key); above !== null; above = aboveOf(above)) folded.set(above, false);
    fill();
  }

  function aboveOf(key) {
    for (const [above, inside] of parts) if (inside.includes(key)) return above;
    return null;
  }

  /** Fold, or open, a line; false if there is nothing to be done. */
  function fold(key, shut) {
    if (!parts.has(key) || isFolded(key) === shut || !lines.get(key)?.line.hasAttribute("aria-expanded")) return false;
    folded.set(key, shut);
    fill();
    return true;
  }

  /** Put the cursor on a step's line. */
  function focus(key) {
    const line = lines.get(key)?.line;
    line?.focus({ preventScroll: true });
    line?.scrollIntoView({ block: "nearest" });
  }

  /** Return the line above or below, of those that are shown. */
  function beside(key, down) {
    const keys = shown.map(([one]) => one);
    const place = keys.indexOf(key);
    if (place < 0) return keys[down ? 0 : keys.length - 1] ?? null;
    return keys[Math.max(0, Math.min(keys.length - 1, place + (down ? 1 : -1)))];
  }

  find.addEventListener("input", fill);
  list.addEventListener("click", (event) => {
    const line = event.target.closest(".line");
    if (!line) return;
    const key = line.dataset.step ?? groupKey(line.dataset.group);
    if (event.target.closest(".twist") && parts.has(key)) fold(key, !isFolded(key));
    else choose(key);
  });
  list.addEventListener("dblclick", (event) => {
    const line = event.target.closest(".line[aria-expanded]");
    const key = line?.dataset.step ?? (line ? groupKey(line.dataset.group) : "");
    if (line) fold(key, !isFolded(key));
  });
  return {
    panel, draw, mark, focus, beside, fold, aboveOf,
    row: (key) => rows.get(key), parts: (key) => parts.get(key) ?? null,
  };
}

/** One line for many steps that are alike: how the worst of them stands, from the first start to the last end. */
function groupRow(key, members) {
  const status = WORST_FIRST.find((one) => members.some((row) => row.status === one)) ?? "pending";
  const bars = members.flatMap((row) => row.bars.filter((bar) => !bar.lane));
  const begin = Math.min(...bars.map((bar) => bar.begin));
  const end = Math.max(...bars.map((bar) => bar.end));
  const known = (name) => members.reduce((sum, row) => sum + (row[name] ?? 0), 0);
  const calm = ["failed", "timed_out"].includes(status) ? "completed" : status;
  return {
    step: key, label: `${key.slice(1)} … ${members.at(-1).step}`, kind: members[0].kind, doer: members[0].doer, status,
    symbol: STEP_LOOKS[status][0], word: STEP_LOOKS[status][1], note: tallyText(members), attempts: 0,
    cost: known("cost"), tokens: known("tokens"), seconds: bars.length ? end - begin : null,
    bars: bars.length ? [{ begin, end, status: calm, words: tallyText(members), attempt: 0, lane: "", outcome: "" }] : [],
  };
}

/** "318 completed, 2 failed": how many of these rows stand how. */
export function tallyText(members) {
  const counts = {};
  for (const row of members) counts[row.status] = (counts[row.status] ?? 0) + 1;
  return Object.entries(STEP_LOOKS).filter(([status]) => counts[status]).map(([status, [, word]]) => `${count(counts[status])} ${word}`).join(", ");
}

/** Whether a step ran on values that nobody had confirmed, and what came of it. */
function guess(row) {
  const ahead = row.bars.findLast((bar) => bar.lane === "ahead");
  if (!ahead) return null;
  const [word, style] = { rolled_back: ["taken back", "guess back"], confirmed: ["ran ahead ✓", "guess"] }[ahead.outcome] ?? ["runs ahead", "guess"];
  return el("b", { class: style, text: word, title: ahead.words, "aria-hidden": "true" });
}

/** What a line says beside its key to those who do not see its bars. */
function spoken(row, inside) {
  const bars = row.bars.length > 1 || row.bars.some((bar) => bar.lane) ? row.bars.map((bar) => bar.words.replace(`${row.step}, `, "")) : [];
  const words = [row.word, inside ? `${counted(inside.length, "part")}` : "", row.note, ...bars];
  return words.filter(Boolean).join("; ");
}

/** The time between two attempts of one step. */
function waits(bars) {
  const tries = bars.filter((bar) => !bar.lane && bar.attempt > 0);
  return tries.slice(1).flatMap((bar, place) => {
    const from = tries[place].end;
    if (bar.begin - from <= 0) return [];
    const node = el("span", { class: "between" });
    node.style.left = `calc(${from} / var(--span) * 100%)`;
    node.style.width = `calc(${bar.begin - from} / var(--span) * 100%)`;
    return [node];
  });
}
