// The plan as a picture. Where things stand in it was worked out by the server; here steps can be found and chosen.

import { el, picture, show } from "./dom.js";
import { groupKey, isGroup } from "./timeline.js";

const HEADER = 58; // the picture's own heading, which the page has already
const LEAST = 0.35;
const READABLE = 0.7; // what fits sideways is not made smaller than this to fit in height
const SHARE = 0.44;

export function graphPanel(choose) {
  const stage = el("div", { class: "stage", tabindex: "-1" });
  const percent = el("output", { class: "mono muted" });
  const button = (text, label, change) => el("button", { type: "button", class: "quiet", text, "aria-label": label, on: { click: change } });
  const panel = el("section", { class: "card graph", "aria-label": "Graph" },
    el("div", { class: "tools" }, el("h2", { text: "Graph" }), el("span", { class: "gap" }), percent,
      button("−", "Smaller", () => zoom(scale / 1.25)), button("+", "Larger", () => zoom(scale * 1.25)),
      button("Fit", "Fit into the page", () => { fitted = true; fit(); })), stage);
  let svg = null;
  let natural = { width: 1, height: 1 };
  let scale = 1;
  let fitted = true;
  let nodes = new Map();
  let boxOf = new Map(); // of a step that is drawn with others: the key of their box
  let groups = {};
  let selected = null;

  function draw(text, grouped) {
    groups = grouped;
    boxOf = new Map(Object.entries(grouped).flatMap(([first, members]) => members.map((one) => [one, first])));
    const focused = document.activeElement?.closest?.("g[data-step]")?.dataset.step;
    const { scrollLeft, scrollTop } = stage;
    svg = picture(text);
    if (svg === null) return;
    const width = Number(svg.getAttribute("width"));
    natural = { width, height: Number(svg.getAttribute("height")) - HEADER };
    svg.setAttribute("viewBox", `0 ${HEADER} ${natural.width} ${natural.height}`);
    svg.setAttribute("role", "group");
    nodes = new Map();
    for (const node of svg.querySelectorAll("g[data-step]")) {
      nodes.set(node.dataset.step, node);
      node.setAttribute("tabindex", "-1");
      node.setAttribute("role", "button");
      node.setAttribute("aria-label", node.querySelector("title")?.textContent ?? node.dataset.step);
    }
    nodes.values().next().value?.setAttribute("tabindex", "0");
    show(stage, svg);
    if (fitted) fit();
    else size();
    stage.scrollTo(scrollLeft, scrollTop);
    mark(selected);
    if (focused) nodes.get(focused)?.focus({ preventScroll: true });
  }

  function size() {
    svg.setAttribute("width", natural.width * scale);
    svg.setAttribute("height", natural.height * scale);
    percent.textContent = `${Math.round(scale * 100)} %`;
  }

  function fit() {
    if (svg === null) return;
    const wide = Math.min(1, (stage.clientWidth - 2) / natural.width);
    const high = Math.max(READABLE, (window.innerHeight * SHARE) / natural.height);
    scale = Math.max(LEAST, Math.min(wide, high));
    size();
  }

  function zoom(to) {
    fitted = false;
    scale = Math.max(0.1, Math.min(3, to));
    if (svg !== null) size();
  }

  function mark(key) {
    selected = key;
    for (const node of stage.querySelectorAll(".is-selected")) node.classList.remove("is-selected");
    if (key !== null) nodes.get(boxFor(key))?.classList.add("is-selected");
  }

  const boxFor = (key) => (isGroup(key) ? key.slice(1) : boxOf.get(key) ?? key);
  const keyOf = (box) => (Object.hasOwn(groups, box) ? groupKey(box) : box);

  /** Return the step that lies next to this one in a direction, by where they stand. */
  function beside(key, direction) {
    const from = centre(nodes.get(key));
    let best = null;
    let least = Infinity;
    for (const [other, node] of nodes) {
      if (other === key) continue;
      const to = centre(node);
      const [dx, dy] = [to.x - from.x, to.y - from.y];
      const [along, across] = { ArrowRight: [dx, dy], ArrowLeft: [-dx, dy], ArrowDown: [dy, dx], ArrowUp: [-dy, dx] }[direction];
      const far = along + 2.5 * Math.abs(across);
      if (along > 4 && far < least) [best, least] = [other, far];
    }
    return best;
  }

  function centre(node) {
    const box = node.getBoundingClientRect();
    return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
  }

  function focus(key) {
    const node = nodes.get(key);
    if (!node) return;
    for (const other of stage.querySelectorAll('g[tabindex="0"]')) other.setAttribute("tabindex", "-1");
    node.setAttribute("tabindex", "0");
    node.focus();
    node.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  stage.addEventListener("click", (event) => {
    const node = event.target.closest("g[data-step]");
    if (node) choose(keyOf(node.dataset.step));
  });
  stage.addEventListener("keydown", (event) => {
    const key = document.activeElement?.closest?.("g[data-step]")?.dataset.step;
    if (key === undefined) return;
    if (event.key.startsWith("Arrow")) {
      const next = beside(key, event.key);
      if (next !== null) { focus(next); choose(keyOf(next), true); }
    } else if (event.key === "Enter" || event.key === " ") choose(keyOf(key));
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const watch = new ResizeObserver(() => { if (fitted) fit(); });
  watch.observe(stage);

  return { panel, draw, mark, focus, stop: () => watch.disconnect() };
}
