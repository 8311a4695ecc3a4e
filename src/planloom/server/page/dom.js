// Elements, made without HTML: every text is set as text, so that nothing a run holds can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. `options`: class, text, title, on: {event: handler}; anything else is an attribute. */
export function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, ...children);
  return node;
}

export function add(node, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child); // a string becomes a text node
  }
  return node;
}

export function show(node, ...children) {
  node.replaceChildren();
  return add(node, ...children);
}

// What observe/svg_parts.py writes, and nothing else: no style, no script, no handler, no link to elsewhere.
const ELEMENTS = new Set(["svg", "g", "path", "rect", "circle", "text", "title", "desc", "defs", "symbol", "use", "marker"]);
const ATTRIBUTES = new Set([
  "x", "y", "width", "height", "rx", "cx", "cy", "r", "d", "transform", "class", "viewBox", "fill", "stroke-width",
  "stroke-linecap", "stroke-linejoin", "text-anchor", "refX", "refY", "markerWidth", "markerHeight", "orient", "id",
  "data-step", "role", "aria-labelledby",
]);

/** Return a picture as elements of this page; null if the text is no picture. */
export function picture(text) {
  // Its <style> is the page's picture.css, and this page's policy takes none from within.
  const bare = text.replace(/<style>[^<]*<\/style>/, "");
  const parsed = new DOMParser().parseFromString(bare, "image/svg+xml").documentElement;
  return parsed.localName === "svg" ? adopted(parsed) : null;
}

function adopted(from) {
  const node = document.createElementNS(SVG, from.localName);
  for (const { name, value } of from.attributes) {
    const known = ATTRIBUTES.has(name)
      || (name === "href" && /^#pl-[\w-]+$/.test(value))
      || (name === "marker-end" && /^url\(#pl-[\w-]+\)$/.test(value));
    if (known) node.setAttribute(name, value);
  }
  for (const child of from.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) node.append(child.data);
    else if (child.nodeType === Node.ELEMENT_NODE && ELEMENTS.has(child.localName)) node.append(adopted(child));
  }
  return node;
}
