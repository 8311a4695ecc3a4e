// What a run asks people, with a form for each; what somebody has typed stays while the run goes on.

import { post, runPath } from "./api.js";
import { el } from "./dom.js";
import { formOf } from "./form.js";
import { valueBox } from "./step.js";
import { moment } from "./words.js";

const NAME = "planloom.name";

export function questionsPanel(runId, choose, answered) {
  const panel = el("section", { class: "questions", "aria-label": "Questions", hidden: true });
  const cards = new Map();

  function draw(questions) {
    const asked = new Set();
    for (const question of questions) {
      const key = JSON.stringify([question.step, question.kind, question.attempt, question.binding]);
      asked.add(key);
      if (!cards.has(key)) {
        cards.set(key, question.kind === "approval" ? approval(question) : unknown(question));
        panel.append(cards.get(key));
      }
    }
    for (const [key, card] of cards) if (!asked.has(key)) { card.remove(); cards.delete(key); }
    panel.hidden = cards.size === 0;
  }

  function heading(question, word) {
    return el("header", {}, el("span", { class: "state s-blocked" }, el("i", { text: "?", "aria-hidden": "true" }), word),
      el("button", { type: "button", class: "quiet mono", text: question.step, on: { click: () => choose(question.step) } }),
      el("span", { class: "gap" }), question.expires_at ? el("span", { class: "muted small", text: `until ${moment(question.expires_at)}` }) : null);
  }

  function approval(question) {
    const form = question.form ? formOf(question.form) : null;
    const person = el("input", { type: "text", placeholder: "your name", "aria-label": "Your name", autocomplete: "name", maxlength: 200 });
    person.value = localStorage.getItem(NAME) ?? "";
    const problem = el("p", { class: "bad", role: "alert", hidden: true });
    const answer = (approved) => act(card, problem, () => {
      localStorage.setItem(NAME, person.value);
      const body = { step: question.step, approved, by: person.value.trim() };
      if (question.binding) body.binding = question.binding;
      if (approved && form) body.output = form.value();
      return post(`${runPath(runId)}/answers`, body);
    });
    const card = el("form", { class: "card question", on: { submit: (event) => { event.preventDefault(); answer(true); } } },
      heading(question, "asks"),
      el("p", { class: "message", text: question.message || "May it go on?" }),
      question.tool ? el("p", { class: "mono", text: question.tool }) : null,
      question.arguments === null || question.arguments === undefined ? null : valueBox(question.arguments),
      question.labels.length ? el("p", { class: "labels" }, question.labels.map((label) => el("span", { class: "label", text: label }))) : null,
      form?.node, problem,
      el("div", { class: "row" }, person, el("span", { class: "gap" }),
        el("button", { type: "button", class: "danger", text: "Deny", on: { click: () => answer(false) } }),
        el("button", { type: "submit", class: "primary", text: "Approve" })));
    return card;
  }

  function unknown(question) {
    const problem = el("p", { class: "bad", role: "alert", hidden: true });
    const output = formOf({ title: "Its output", description: "if it was done" });
    const resolve = (how) => act(card, problem, () => {
      const body = { step: question.step, how };
      if (how === "output") body.output = output.value();
      return post(`${runPath(runId)}/resolutions`, body);
    });
    const button = (how, text, style) => el("button", { type: "button", class: style, text, on: { click: () => resolve(how) } });
    const card = el("div", { class: "card question" }, heading(question, "outcome unknown"),
      el("p", { class: "message", text: question.message }), output.node, problem,
      el("div", { class: "row" }, el("span", { class: "gap" }), button("fail", "It failed", "danger"), button("retry", "Do it again", ""), button("output", "It was done", "primary")));
    return card;
  }

  async function act(card, problem, send) {
    const buttons = card.querySelectorAll("button");
    for (const button of buttons) button.disabled = true;
    problem.hidden = true;
    try {
      await send();
      answered();
    } catch (error) {
      problem.textContent = error.remedy ? `${error.message}. ${error.remedy}` : error.message;
      problem.hidden = false;
      for (const button of buttons) button.disabled = false;
    }
  }

  return { panel, draw };
}
