// A form from a JSON Schema: the kinds that people fill in every day; anything else is a box for JSON.

import { el } from "./dom.js";
import { valueText } from "./words.js";

const DEEPEST = 3;
let made = 0;

/** Return {node, value()}: the form, and what is filled in; value() throws an Error that says what is wrong. */
export function formOf(schema) {
  return field(schema ?? {}, "", true, 0);
}

function field(schema, name, required, depth) {
  if (schema === null || typeof schema !== "object") return jsonField({}, name, required);
  if ("const" in schema) return labelled(schema, name, required, el("input", { readonly: true, value: valueText(schema.const) }), () => schema.const);
  if (Array.isArray(schema.enum)) return enumField(schema, name, required);
  const type = Array.isArray(schema.type) ? schema.type.filter((one) => one !== "null")[0] : schema.type;
  if (type === "object" && schema.properties && depth < DEEPEST) return objectField(schema, name, depth);
  if (type === "boolean") return booleanField(schema, name);
  if (type === "string") return stringField(schema, name, required);
  if (type === "number" || type === "integer") return numberField(schema, name, required, type);
  return jsonField(schema, name, required);
}

function objectField(schema, name, depth) {
  const needed = new Set(Array.isArray(schema.required) ? schema.required : []);
  const parts = Object.entries(schema.properties).map(([key, inner]) => [key, field(inner, key, needed.has(key), depth + 1)]);
  const inside = parts.map(([, part]) => part.node);
  const node = name ? el("fieldset", {}, el("legend", { text: schema.title ?? name }), inside) : el("div", { class: "fields" }, inside);
  return { node, value: () => {
    const found = {};
    for (const [key, part] of parts) {
      const value = part.value();
      if (value !== undefined) Object.defineProperty(found, key, { value, enumerable: true, writable: true, configurable: true });
    }
    return found;
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
  const long = schema.maxLength > 200 || schema.format === "multiline";
  const box = long ? el("textarea", { rows: 4 }) : el("input", { type: "text" });
  box.value = typeof schema.default === "string" ? schema.default : "";
  return labelled(schema, name, required, box, () => {
    if (box.value === "" && !required) return undefined;
    if (box.value === "" && (schema.minLength ?? 0) > 0) throw new Error(`${name || "the value"} is needed`);
    return box.value;
  });
}

function numberField(schema, name, required, type) {
  const box = el("input", { type: "text", inputmode: type === "integer" ? "numeric" : "decimal", class: "mono" });
  box.value = typeof schema.default === "number" ? String(schema.default) : "";
  return labelled(schema, name, required, box, () => {
    const text = box.value.trim();
    if (text === "") {
      if (required) throw new Error(`${name || "the value"} is needed`);
      return undefined;
    }
    const number = Number(text);
    if (!Number.isFinite(number) || (type === "integer" && !Number.isSafeInteger(number))) throw new Error(`${name || "the value"}: ${text} is no ${type}`);
    return number;
  });
}

function jsonField(schema, name, required) {
  const box = el("textarea", { rows: 3, class: "mono", spellcheck: "false", placeholder: "JSON" });
  if ("default" in schema) box.value = JSON.stringify(schema.default);
  return labelled(schema, name, required, box, () => {
    if (box.value.trim() === "") {
      if (required && name) throw new Error(`${name} is needed`);
      return name ? undefined : null;
    }
    try {
      return JSON.parse(box.value);
    } catch (error) {
      throw new Error(`${name || "the value"} is no JSON: ${error.message}`);
    }
  });
}

function labelled(schema, name, required, box, value, style = "") {
  made += 1;
  box.id = `field-${made}`;
  if (name) box.name = name;
  if (required) box.setAttribute("aria-required", "true");
  const words = el("label", { for: box.id }, schema.title ?? (name || "Answer"), required ? null : el("span", { class: "muted", text: style ? "" : " (optional)" }));
  const help = schema.description ? el("small", { class: "muted", text: schema.description }) : null;
  return { node: el("div", { class: `field ${style}` }, style ? [box, words] : [words, box], help), value };
}
