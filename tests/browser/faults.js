// What keeps people from using a page, as a list of texts: see `faults` in doing.py.
() => {
  const wrong = [];
  const seen = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && node.getClientRects().length > 0;
  const told = (node) => `${node.localName}.${node.getAttribute("class") ?? ""} ${(node.textContent ?? "").trim().slice(0, 40)}`;
  for (const node of document.querySelectorAll("button, a, input, select, textarea, summary, [role=button], [role=treeitem], [role=meter], [role=region], dialog")) {
    if (!seen(node)) continue;
    const labels = [...(node.labels ?? [])].map((one) => one.textContent).join(" ");
    const by = (node.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
    const field = ["input", "select", "textarea"].includes(node.localName);
    const name = node.getAttribute("aria-label") || by.trim() || labels || (field ? "" : node.textContent);
    if (!name.trim()) wrong.push(`no name: ${told(node)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) wrong.push(`twice: #${id}`);
  if ([...document.querySelectorAll("h1")].filter(seen).length !== 1) wrong.push("not one h1");
  if (!document.documentElement.lang) wrong.push("no language");

  for (const node of document.querySelectorAll("button, .button, select, summary, textarea, input:not([type=checkbox], [type=radio])")) {
    if (!seen(node) || node.closest(".hidden, .skip") || node.matches(".hidden")) continue;
    const box = node.getBoundingClientRect();
    if (box.height < 22 || box.width < 22) wrong.push(`hard to hit, ${box.width.toFixed(0)} by ${box.height.toFixed(0)}: ${told(node)}`);
  }

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) => [0, 1, 2].map((place) => top[place] * top[3] / 255 + below[place] * (1 - top[3] / 255)).concat(255);
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 255) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), rgba(getComputedStyle(document.body).backgroundColor));
  };
  const light = ([red, green, blue]) => {
    const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((first, second) => first - second);
    return (high + 0.05) / (low + 0.05);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const tried = new Set();
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || tried.has(node) || !seen(node) || node.closest(".hidden, :disabled, title, desc, noscript, option, .strip")) continue;
    tried.add(node);
    const style = getComputedStyle(node);
    const drawn = node instanceof SVGElement;
    const card = drawn ? (node.closest("g[data-step]")?.querySelector(".pl-card") ?? node.ownerSVGElement.querySelector(".pl-page")) : null;
    const below = drawn ? rgba(getComputedStyle(card).fill) : ground(node);
    const found = contrast(over(rgba(drawn ? style.fill : style.color), below), below);
    const least = parseFloat(style.fontSize) >= 18 || node.matches("i, .twist, .slash") ? 3 : 4.5;
    if (!node.matches(".slash") && found < least) wrong.push(`contrast ${found.toFixed(2)}: ${told(node)}`);
  }
  return [...new Set(wrong)];
}
