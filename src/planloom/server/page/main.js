// Which part of the page is shown: the address after # says so. One part at a time, and it is told when to stop.

import { Problem, setToken, token } from "./api.js";
import { comparePage } from "./compare.js";
import { el, show } from "./dom.js";
import { runPage } from "./run.js";
import { runsPage } from "./runs.js";
import { submitPage } from "./submit.js";

const main = document.getElementById("main");
const crumbs = document.getElementById("crumbs");
const link = document.getElementById("link");
const forget = document.getElementById("forget");
let stop = new AbortController();

const LINK_WORDS = { idle: "", live: "live", reconnecting: "reconnecting …", ended: "ended", refused: "not allowed" };

const shell = {
  crumbs: (...parts) => show(crumbs, parts.map((part) => [el("span", { class: "slash", text: "/", "aria-hidden": "true" }), part])),
  title: (text) => { document.title = text ? `${text} · planloom` : "planloom"; },
  link: (state, seen) => {
    link.dataset.state = state;
    link.textContent = LINK_WORDS[state] ?? "";
    if (seen) Object.assign(link.dataset, seen);
  },
  fail: (error) => {
    if (error.name === "AbortError") return;
    if (error instanceof Problem && error.status === 401) askToken(error);
    else show(main, el("div", { class: "notice bad", role: "alert" },
      el("strong", { text: error.message }), el("p", { text: error.remedy || "" }),
      el("button", { type: "button", text: "Try again", on: { click: route } })));
  },
};

function askToken(error) {
  setToken(null);
  forget.hidden = true;
  const box = el("input", { type: "password", name: "token", autocomplete: "off", required: true, "aria-label": "Token" });
  const form = el("form", { class: "notice card", on: { submit: (event) => {
    event.preventDefault();
    setToken(box.value.trim());
    route();
  } } }, el("strong", { text: "This server asks for a token" }), el("p", { class: "muted", text: error.message }),
  el("div", { class: "row" }, box, el("button", { type: "submit", class: "primary", text: "Go on" })));
  show(main, form);
  box.focus();
}

function route() {
  stop.abort();
  stop = new AbortController();
  shell.link("idle");
  delete link.dataset.doubles;
  delete link.dataset.gaps;
  forget.hidden = !token();
  const parts = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const [place, first, second, ...rest] = parts;
  if (place === "runs" && first) {
    runPage(main, shell, first, second === "step" ? rest.join("/") : null, stop.signal).catch(shell.fail);
  } else if (place === "compare" && first && second) {
    comparePage(main, shell, first, second, stop.signal).catch(shell.fail);
  } else if (place === "new") {
    submitPage(main, shell, first ?? null, stop.signal).catch(shell.fail);
  } else {
    runsPage(main, shell, stop.signal).catch(shell.fail);
  }
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

forget.addEventListener("click", () => { setToken(null); route(); });
document.getElementById("skip").addEventListener("click", () => main.focus());
window.addEventListener("hashchange", () => {
  main.focus({ preventScroll: true }); // whoever reads with the keyboard or by ear begins with what is new
  window.scrollTo(0, 0);
  route();
});
route();
