// A form from a JSON Schema: the kinds that people fill in every day; anything else is a box for JSON.
// All that is wrong is told at once, each thing below its field.

import { el } from "./dom.js";
import { valueText } from "./words.js";

const DEEPEST = 3;
const SHORT = 200; // characters: a text that may be longer gets a box of several lines
let made = 0;

class Wrong extends Error {}

/**
 * Return {node, value(), tell(path, text)}: the form; what is filled in, or an Error that says all that is wrong with it;
 * and a way to say what somebody else found wrong with one of its fields (false: it has no such field).
 */
export function formOf(schema) {
  const root = field(schema ?? {}, "", true, 0);
  return { node: root.node, tell: root.tell, value: () => {
    const wrong = [];
    const value = root.value(wrong);
    if (wrong.length === 0) return value;
    wrong[0].box.focus();
    throw new Error(wrong.map((one) => one.text).join("; "));
  } };
}

function field(schema, name, required, depth) {
  if (schema === null || typeof schema !== "object") return jsonField({}, name, required);
  if ("const" in schema) return labelled(schema, name, required, el("input", { readonly: true, value: valueText(schema.const) }), () => schema.const);
  if (Array.isArray(schema.enum)) return enumField(schema, name, required);
  const type = Array.isArray(schema.type) ? schema.type.filter((one) => one !== "null")[0] : schema.type;
  if (type === "object" && schema.properties && depth < DEEPEST) return objectField(schema, name, required, depth);
  if (type === "boolean") return booleanField(schema, name);
  if (type === "string") return stringField(schema, name, required);
  if (type === "number" || type === "integer") return numberField(schema, name, required, type);
  return jsonField(schema, name, required);
}

function objectField(schema, name, required, depth) {
  const needed = new Set(Array.isArray(schema.required) ? schema.required : []);
  const parts = new Map(Object.entries(schema.properties).map(([key, inner]) => [key, field(inner, key, needed.has(key), depth + 1)]));
  const inside = [...parts.values()].map((part) => part.node);
  const node = name ? el("fieldset", {}, el("legend", { text: schema.title ?? name }), inside) : el("div", { class: "fields" }, inside);
  return { node, tell: ([key, ...rest], text) => parts.get(key)?.tell(rest, text) ?? false, value: (wrong) => {
    const found = {};
    const before = wrong.length;
    for (const [key, part] of parts) {
      const value = part.value(wrong);
      if (value !== undefined) Object.defineProperty(found, key, { value, enumerable: true, writable: true, configurable: true });
    }
    if (required || Object.values(found).some((value) => value !== false)) return found;
    wrong.splice(before); // left out as a whole, so nothing in it is missed
    for (const part of parts.values()) part.tell([], "");
    return undefined;
  } };
}

function enumField(schema, name, required) {
  const box = el("select", {}, required ? null : el("option", { value: "", text: "–" }),
    schema.enum.map((one, place) => el("option", { value: String(place), text: valueText(one) })));
  const preset = schema.enum.indexOf(schema.default);
  if (preset >= 0) box.value = String(preset);
  return labelled(schema, name, required, box, () => (box.value === "" ? undefined : schema.enum[Number(box.value)]));
}

function booleanField(schema, name) {
  const box = el("input", { type: "checkbox" });
  box.checked = schema.default === true;
  return labelled(schema, name, false, box, () => box.checked, "check");
}

function stringField(schema, name, required) {
  const lines = schema.maxLength > SHORT || schema.format === "multiline" ? 4 : schema.maxLength || schema.format ? 0 : 1;
  const box = lines ? el("textarea", { rows: lines, class: "grows" }) : el("input", { type: "text" });
  box.value = typeof schema.default === "string" ? schema.default : "";
  return labelled(schema, name, required, box, () => {
    if (box.value === "" && !required) return undefined;
    if (box.value === "" && schema.minLength !== 0 && schema.default !== "") throw new Wrong(`${name || "the value"} is needed`);
    return box.value;
  });
}

function numberField(schema, name, required, type) {
  const box = el("input", { type: "text", inputmode: type === "integer" ? "numeric" : "decimal", class: "mono" });
  box.value = typeof schema.default === "number" ? String(schema.default) : "";
  return labelled(schema, name, required, box, () => {
    const text = box.value.trim();
    if (text === "") {
      if (required) throw new Wrong(`${name || "the value"} is needed`);
      return undefined;
    }
    const number = Number(text);
    if (!Number.isFinite(number) || (type === "integer" && !Number.isSafeInteger(number))) throw new Wrong(`${name || "the value"}: ${text} is no ${type}`);
    return number;
  });
}

function jsonField(schema, name, required) {
  const box = el("textarea", { rows: 3, class: "mono grows", spellcheck: "false", placeholder: schema.type === "array" ? "[…]" : "JSON" });
  if ("default" in schema) box.value = JSON.stringify(schema.default);
  return labelled(schema, name, required, box, () => {
    if (box.value.trim() === "") {
      if (required && name) throw new Wrong(`${name} is needed`);
      return name ? undefined : null;
    }
    try {
      return JSON.parse(box.value);
    } catch (error) {
      throw new Wrong(`${name || "the value"} is no JSON: ${error.message}`);
    }
  });
}

function labelled(schema, name, required, box, read, style = "") {
  made += 1;
  box.id = `field-${made}`;
  if (name) box.name = name;
  if (required) box.setAttribute("aria-required", "true");
  const words = el("label", { for: box.id }, schema.title ?? (name || "Answer"), required || style ? null : el("span", { class: "muted", text: " (optional)" }));
  const help = schema.description ? el("small", { class: "muted", id: `${box.id}-help`, text: schema.description }) : null;
  const problem = el("small", { class: "bad", id: `${box.id}-problem`, hidden: true });
  box.setAttribute("aria-describedby", [help, problem].filter(Boolean).map((one) => one.id).join(" "));
  const tell = (_, text) => {
    problem.textContent = text;
    problem.hidden = text === "";
    if (text === "") box.removeAttribute("aria-invalid");
    else box.setAttribute("aria-invalid", "true");
    return true;
  };
  const value = (wrong) => {
    tell([], "");
    try {
      return read();
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      tell([], error.message);
      wrong.push({ box, text: error.message });
      return undefined;
    }
  };
  return { node: el("div", { class: `field ${style}` }, style ? [box, words] : [words, box], help, problem), value, tell };
}
