
"use strict";
// The page of a server: what it serves, and a form that sends real requests. What
// comes from the server goes into the page as text only, never as HTML.

const $ = (id) => document.getElementById(id);
const answerHeaders = ["x-millrace-version", "x-millrace-route", "x-millrace-cache",
  "x-millrace-outlier-score", "x-millrace-outlier", "x-request-id"];
const longAnswer = 200000; // characters that are still laid out
const longCommand = 4000;  // characters of a body that still fit a shell's line
const drafts = new Map();  // what was typed, by method and path

let description = null; // the OpenAPI document
let sending = null;     // the AbortController of the request under way

// el makes an element. Properties that are functions become listeners.
function el(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (typeof value === "boolean") node.toggleAttribute(name, value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// JSON is read as tokens, not as values: an INT64 keeps its digits, and NaN, which
// is none, its name.
const token = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

// jsonTokens returns the tokens of a JSON text, or throws a SyntaxError.
function jsonTokens(text) {
  JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g,
    (part) => part[0] === '"' ? part : "0"));
  return text.match(token);
}

// pretty breaks JSON into lines that people can read: what fits one line stays on it.
function pretty(text) {
  const width = 58; // columns that a form has room for
  const tokens = jsonTokens(text);
  let at = 0;
  const value = (indent) => {
    const open = tokens[at++];
    if (open !== "{" && open !== "[") return open;
    const deeper = indent + "  ";
    const parts = [];
    for (; tokens[at] !== "}" && tokens[at] !== "]"; at += tokens[at] === "," ? 1 : 0) {
      const key = open === "{" ? tokens[at] + ": " : "";
      at += open === "{" ? 2 : 0;
      parts.push(key + value(deeper));
    }
    const close = tokens[at++];
    const line = parts.join(", ");
    if (!line.includes("\n") && indent.length + line.length < width) return open + line + close;
    const broken = open === "[" && !/[\n{[]/.test(line)
      ? filled(parts, width - deeper.length) : parts;
    return open + "\n" + deeper + broken.join(",\n" + deeper) + "\n" + indent + close;
  };
  return value("");
}

// filled puts as many short values on each line as fit.
function filled(parts, width) {
  const lines = [];
  for (const part of parts) {
    const last = lines.length - 1;
    if (last >= 0 && lines[last].length + part.length + 2 <= width) lines[last] += ", " + part;
    else lines.push(part);
  }
  return lines;
}

// readable is pretty, or the text as it is where it is not JSON.
function readable(text) {
  if (text.length > longAnswer) {
    return text.slice(0, longAnswer / 10) + `\n… ${text.length} characters in all`;
  }
  try {
    return pretty(text);
  } catch {
    return text;
  }
}

// sample makes a value of a JSON Schema, for inputs that are too large for an
// example in the document.
function sample(schema) {
  if (schema.$ref) {
    return sample(schema.$ref.slice(2).split("/").reduce((at, key) => at[key], description));
  }
  if ("const" in schema) return schema.const;
  if ("default" in schema) return schema.default;
  if (schema.anyOf) return sample(schema.anyOf[0]);
  switch ([schema.type].flat()[0]) {
  case "object":
    return Object.fromEntries((schema.required ?? []).map(
      (name) => [name, sample(schema.properties[name])]));
  case "array": {
    if (schema.prefixItems) return schema.prefixItems.map(sample);
    const kinds = schema.items?.anyOf ?? [schema.items ?? {}];
    const made = kinds.map(sample);
    return Array.from({length: schema.minItems ?? 1}, (_, i) => made[i % made.length]);
  }
  case "number": return 0.5;
  case "integer": return 0;
  case "boolean": return false;
  case "string": return "a";
  }
  return null;
}

// example is the body that an operation starts with, null where it takes none.
function example(operation) {
  const media = operation.requestBody?.content["application/json"];
  if (!media) return null;
  return pretty(JSON.stringify(media.example ?? sample(media.schema)));
}

// services lists what the search leaves.
function services() {
  const wanted = $("search").value.trim().toLowerCase();
  return description["x-millrace-services"].filter(
    (s) => (s.name + " " + s.kind + " " + s.description).toLowerCase().includes(wanted));
}

const route = (service) => "#/" + service.kind + "/" + encodeURIComponent(service.name);

function showList() {
  const all = description["x-millrace-services"];
  const found = services();
  $("services").replaceChildren(...found.map((s) => el("li", null,
    el("a", {href: route(s), "data-testid": "service-item", "data-name": s.name},
      el("span", null, s.name), el("span", {class: "badge " + s.kind}, s.kind)))));
  $("count").textContent = all.length === 0 ? "No models"
    : found.length === all.length ? `${all.length} served` : `${found.length} of ${all.length}`;
  markCurrent();
}

function markCurrent() {
  for (const link of document.querySelectorAll("nav li a")) {
    if (link.getAttribute("href") === location.hash) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

// message shows a state in place of a service.
function message(testid, title, text, ...more) {
  $("main").replaceChildren(el("section", {class: "card message", "data-testid": testid,
    role: testid === "error" ? "alert" : "status"},
  el("h1", null, title), el("p", null, text), ...more));
}

// show shows what the address names.
function show() {
  sending?.abort();
  markCurrent();
  if (location.hash === "#/server") return showServer();
  const all = description["x-millrace-services"];
  const chosen = all.find((s) => route(s) === location.hash);
  if (chosen) return showService(chosen);
  if (all.length === 0) {
    return message("empty", "No models", "This server serves no model that is ready. "
      + "Once one is, it is listed here.", el("button", {click: load}, "Look again"));
  }
  if (location.hash.length > 2) {
    return message("unknown", "Not here", "What the address names is not served, or not ready.",
      el("button", {click: load}, "Look again"));
  }
  history.replaceState(null, "", route(all[0]));
  return show();
}

function heading(title, ...more) {
  document.title = title + " · " + description.info.title;
  return el("h1", {tabindex: "-1", "data-testid": "service-title"}, el("span", null, title),
    ...more);
}

function showService(s) {
  const about = [s.version && "version " + s.version,
    s.maxBatchSize > 0 && "up to " + s.maxBatchSize + " rows a request", s.description];
  $("main").replaceChildren(
    heading(s.name, el("span", {class: "badge " + s.kind}, s.kind)),
    el("p", {class: "about quiet"}, about.filter(Boolean).join(" · ")),
    el("div", {class: "pair"},
      tensorCard("Inputs", s.inputs, "Features", (t) => t.columns.map(
        (c) => c.name + (c.optional ? " (optional)" : "")).join(", ")),
      tensorCard("Outputs", s.outputs, "Classes", (t) => t.labels.join(", ")
        + (t.classes > t.labels.length ? ` … ${t.classes} in all` : ""))),
    ...tryIt(s.operations));
}

function showServer() {
  const operations = [];
  for (const [path, item] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      if (operation.tags.includes("server") && !path.includes("{")) {
        operations.push({label: path, method, path});
      }
    }
  }
  operations.sort((a, b) => a.path < b.path ? -1 : a.path > b.path ? 1 : 0);
  $("main").replaceChildren(heading("The server itself"),
    el("p", {class: "about quiet"}, description.info.title + " " + description.info.version),
    ...tryIt(operations));
}

// tensorCard is a table of inputs or outputs; extra is a column that is left out
// where it is empty.
function tensorCard(title, list, extraTitle, extra) {
  const columns = [
    ["Name", (t) => t.name + (t.optional ? " (optional)" : "")],
    ["Datatype", (t) => t.datatype],
    ["Shape", (t) => "[" + t.shape.map((d, i) => d < 0 && t.dimNames[i] || d).join(", ") + "]"],
  ];
  if (list.some((t) => extra(t) !== "")) columns.push([extraTitle, extra]);
  const kinds = [{}, {class: "mono"}, {class: "mono"}, {}];
  const free = list.flatMap((t) => t.shape.map((d, i) => d < 0 && (t.dimNames[i] || "-1")))
    .filter(Boolean);
  return el("section", {class: "card", "data-testid": title.toLowerCase()},
    el("h2", null, title),
    el("div", {class: "scroll"}, el("table", null,
      el("thead", null, el("tr", null, ...columns.map(([name]) => el("th", {scope: "col"}, name)))),
      el("tbody", null, ...list.map((t) => el("tr", null,
        ...columns.map(([, of], i) => el("td", kinds[i], of(t)))))))),
    free.length > 0 ? el("p", {class: "hint"},
      [...new Set(free)].join(", ") + " in a shape: any size") : null);
}

// tryIt is the choice of an operation, its form, the answer and the command line.
function tryIt(operations) {
  const form = el("section", {class: "card"});
  const answer = el("div");
  const said = el("p", {class: "unseen", role: "status"}); // for those who listen
  const command = el("section", {class: "card"});
  const choose = (link) => {
    sending?.abort();
    showForm({...link, form, answer, said, command});
  };
  choose(operations[0]);
  const choices = operations.map((link, i) => el("label", null,
    el("input", {type: "radio", name: "operation", checked: i === 0,
      "data-testid": "operation", "data-path": link.path, change: () => choose(link)}),
    el("span", null, link.label)));
  return [el("fieldset", null, el("legend", null, "Ask by"),
    el("div", {class: "choices"}, ...choices)),
  el("div", {class: "pair"}, form, el("section", {class: "card", "data-testid": "answer"},
    el("h2", null, "Answer"), said, answer)), command];
}

// showForm fills the form of a call: an operation with the places of its parts.
function showForm(call) {
  const key = call.method + " " + call.path;
  const first = example(description.paths[call.path][call.method]);
  const hint = el("p", {class: "hint", role: "status", "data-testid": "body-hint"});
  const body = first === null ? null : el("textarea", {id: "body", spellcheck: "false",
    rows: "4", "data-testid": "body"});
  const headers = el("textarea", {id: "headers", rows: "2", spellcheck: "false",
    placeholder: "name: value, one a line", "data-testid": "headers"});
  const changed = () => {
    if (body) {
      drafts.set(key, body.value);
      body.rows = Math.min(18, Math.max(4, body.value.split("\n").length));
      hint.textContent = bodyFault(body.value);
      hint.classList.toggle("bad", hint.textContent !== "");
    }
    showCommand(call);
  };
  const shortcut = (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    send(call);
  };
  for (const input of [body, headers]) {
    input?.addEventListener("input", changed);
    input?.addEventListener("keydown", shortcut);
  }
  const reset = body && el("button", {type: "button", "data-testid": "reset", click: () => {
    body.value = first;
    changed();
  }}, "Example");
  Object.assign(call, {body, headers, button: el("button", {class: "first", type: "button",
    "data-testid": "send", title: "Ctrl+Enter", click: () => send(call)}, "Send")});
  if (body) body.value = drafts.get(key) ?? first;
  call.form.replaceChildren(el("h2", null, "Request"),
    el("p", {class: "target mono", "data-testid": "target"},
      el("b", null, call.method.toUpperCase()), " " + call.path),
    ...body ? [el("label", {for: "body"}, "Body"), body, hint] : [],
    el("details", null, el("summary", null, "Headers"),
      el("label", {for: "headers"}, "Headers of the request"), headers),
    el("div", {class: "row"}, call.button, reset));
  call.answer.replaceChildren(el("p", {class: "quiet"}, "Nothing was sent yet."));
  changed();
}

// bodyFault says what keeps a body from being JSON, "" where it is.
function bodyFault(text) {
  if (text.trim() === "") return "";
  try {
    jsonTokens(text);
    return "";
  } catch (error) {
    return "Not JSON: " + error.message;
  }
}

// headersOf reads the headers that were typed, one a line.
function headersOf(call) {
  const lines = call.headers.value.split("\n").filter((line) => line.includes(":"));
  const typed = lines.map((line) => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
  });
  return call.body ? [["Content-Type", "application/json"], ...typed] : typed;
}

// send sends the request and shows what comes back.
async function send(call) {
  sending?.abort();
  const own = sending = new AbortController();
  call.button.disabled = true;
  call.answer.setAttribute("aria-busy", "true");
  call.said.textContent = "Sending …";
  const began = performance.now();
  let shown = null;
  try {
    const response = await fetch(call.path, {method: call.method.toUpperCase(),
      headers: headersOf(call), body: call.body?.value, signal: own.signal});
    const text = await response.text();
    shown = answerOf(response, text, performance.now() - began);
  } catch (error) {
    shown = [el("p", {"data-testid": "status"},
      el("span", {class: "status bad"}, "No answer")),
    el("p", {"data-testid": "answer-body"}, "The request could not be sent: " + error.message)];
  }
  if (own.signal.aborted) return; // another request or form has the place
  call.button.disabled = false;
  call.answer.removeAttribute("aria-busy");
  call.answer.replaceChildren(...shown);
  call.said.textContent = call.answer.querySelector(".status").textContent;
}

function answerOf(response, text, milliseconds) {
  const facts = [
    ["Status", el("span", {class: "status " + (response.ok ? "good" : "bad"),
      "data-testid": "status"}, `${response.status} ${response.statusText}`.trim())],
    ["Time", el("span", {"data-testid": "time"},
      milliseconds.toFixed(milliseconds < 100 ? 1 : 0) + " ms")],
  ];
  for (const name of answerHeaders) {
    const value = response.headers.get(name);
    if (value) facts.push([name, el("span", {class: "mono", "data-testid": name}, value)]);
  }
  return [el("dl", null, ...facts.map(([name, value]) => el("div", null,
    el("dt", null, name), el("dd", null, value)))),
  el("pre", {tabindex: "0", "aria-label": "Body of the answer", "data-testid": "answer-body"},
    text === "" ? "(no body)" : readable(text))];
}

// quoted is a text as one word of a shell.
const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

// showCommand shows the line that does the same in a shell.
function showCommand(call) {
  const words = ["curl -s " + quoted(location.origin + call.path)];
  if (call.method === "post" && !call.body) words.push("-X POST");
  for (const [name, value] of headersOf(call)) words.push("-H " + quoted(name + ": " + value));
  let note = null;
  if (call.body) {
    const text = call.body.value;
    const line = bodyFault(text) || text.trim() === "" ? text : jsonTokens(text).join("");
    if (line.length > longCommand) {
      note = el("p", {class: "hint"}, "The body is too long for a line: save it as body.json.");
    }
    words.push(note ? "-d @body.json" : "--data-raw " + quoted(line));
  }
  const text = words.join(" \\\n  ");
  const code = el("pre", {tabindex: "0", "aria-label": "Command", "data-testid": "curl"}, text);
  const copy = el("button", {type: "button", "data-testid": "copy",
    click: () => copyText(text, code, copy)}, "Copy");
  call.command.replaceChildren(
    el("div", {class: "between"}, el("h2", null, "The same from a shell"), copy), code,
    note ?? "");
}

// copyText copies, or marks the text where the browser does not let a page copy:
// it does so for pages that come over HTTPS or from the machine itself.
async function copyText(text, code, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Marked: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// load reads the description and shows it.
async function load() {
  try {
    const response = await fetch("/openapi.json");
    if (!response.ok) throw new Error("the server answered " + response.status);
    description = await response.json();
  } catch (error) {
    return message("error", "The description cannot be read", "/openapi.json: " + error.message,
      el("button", {click: load, "data-testid": "retry"}, "Try again"));
  }
  $("title").textContent = document.title = description.info.title;
  $("server-version").textContent = description.info.version;
  showList();
  show();
}

addEventListener("hashchange", () => {
  if (!description) return;
  show();
  document.querySelector("h1")?.focus();
});
addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  $("search").focus();
});
$("search").addEventListener("input", () => description && showList());
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && description && services().length > 0) {
    location.hash = route(services()[0]);
  }
});
load();
