// Shows openapi.json and lets one try each operation. Uses nothing from elsewhere; writes text only, never markup.
"use strict";

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

function example(spec, schema) {
  if (schema.$ref) return example(spec, schema.$ref.slice(2).split("/").reduce((at, part) => at[part], spec));
  if (schema.type === "object") {
    const out = {};
    for (const [name, property] of Object.entries(schema.properties || {})) out[name] = example(spec, property);
    return out;
  }
  if (schema.enum) return schema.default || schema.enum[0];
  return schema.type === "integer" ? 0 : "";
}

async function send(method, path, body, into) {
  const headers = {};
  const token = document.getElementById("token").value.trim();
  if (token) headers["Authorization"] = "Bearer " + token;
  if (body) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(path, { method: method.toUpperCase(), headers, body: body || undefined });
    const text = await answer.text();
    into.textContent = answer.status + " " + answer.statusText + "\n\n" + text;
    const made = answer.ok && text.startsWith("{") ? JSON.parse(text) : {};
    if (made.access_token) document.getElementById("token").value = made.access_token;
  } catch (error) {
    into.textContent = String(error);
  }
}

function show(spec, path, method, operation) {
  const box = element("details", undefined, document.getElementById("operations"));
  const summary = element("summary", undefined, box);
  element("span", method, summary).className = "method";
  element("code", path, summary);
  element("span", " " + operation.summary, summary);
  const table = element("table", undefined, box);
  for (const [status, response] of Object.entries(operation.responses)) {
    const row = element("tr", undefined, table);
    element("th", status, row);
    element("td", response.description, row);
  }
  const fields = {};
  for (const parameter of operation.parameters || []) {
    element("label", parameter.name, box);
    fields[parameter.name] = element("input", undefined, box);
  }
  let body = null;
  if (operation.requestBody) {
    element("label", "Body", box);
    body = element("textarea", undefined, box);
    body.rows = 5;
    const schema = operation.requestBody.content["application/json"].schema;
    body.value = JSON.stringify(example(spec, schema), null, 2);
  }
  const button = element("button", "Send", box);
  const answer = element("pre", "", box);
  button.addEventListener("click", () => {
    const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(fields[name].value));
    send(method, filled, body && body.value, answer);
  });
}

fetch("/openapi.json").then((answer) => answer.json()).then((spec) => {
  document.getElementById("about").textContent = spec.info.description + " Version " + spec.info.version + ".";
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(methods)) show(spec, path, method, operation);
  }
});
