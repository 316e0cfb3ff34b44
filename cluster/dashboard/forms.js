// A form for each kind of job, drawn from its JSON schema: labels, help, defaults and bounds are the model's own.

import * as f from "./format.js";
import { errorBox, h, notice } from "./elements.js";
import { getExactJson, getJson, newKey, postJson, Problem } from "./http.js";
import { check, fromText, toText, typeOf } from "./fields.js";
import { dryRunCard } from "./dry_run.js";

export async function newJobPage(main, signal, kind, query) {
  const kinds = await getJson("/v1/kinds", signal);
  if (!kind) return main.replaceChildren(chooser(kinds));
  const schema = kinds[kind];
  if (!schema) throw new Error(`There is no kind of job named "${kind}". There are: ${Object.keys(kinds).join(", ")}.`);
  const cloned = query.get("clone")
    ? await getExactJson(`/v1/jobs/${encodeURIComponent(query.get("clone"))}`, signal)
    : null;
  const given = { ...cloned?.settings, ...Object.fromEntries(query) }; // #/new/train?dataset=... fills one field
  const form = buildForm(kind, schema, given, cloned ?? {});
  main.replaceChildren(
    h(
      "div.page",
      {},
      h("div.head", {}, h("h1", { tabindex: "-1" }, `New ${kind}`)),
      h(
        "nav.kinds",
        { "aria-label": "Kind of job" },
        Object.keys(kinds).map((k) => h("a", { href: `#/new/${k}`, "aria-current": k === kind ? "page" : null }, k)),
      ),
      h(
        "p.quiet",
        {},
        schema.description ?? "",
        cloned ? ` With the settings of ${cloned.id}; change what you like, then start it.` : "",
      ),
      form.element,
    ),
  );
  return suggest(form, signal);
}

function chooser(kinds) {
  return h(
    "div.page",
    {},
    h("div.head", {}, h("h1", { tabindex: "-1" }, "New job")),
    h(
      "div.cards",
      {},
      Object.entries(kinds).map(([kind, schema]) =>
        h("a.card.choice", { href: `#/new/${kind}` }, h("h2", {}, kind), h("p", {}, schema.description ?? "")),
      ),
    ),
  );
}

/** Settings of the job itself, whatever its kind. */
function ownFields(cloned) {
  const id = "^[a-z0-9-]{1,64}$";
  const after = {
    type: "string",
    nullable: true,
    description: "Id of a job that has to succeed first.",
    pattern: id,
    list: "known-jobs",
  };
  const priority = {
    type: "integer",
    default: 0,
    minimum: -100,
    maximum: 100,
    description: "Jobs of higher priority start first.",
  };
  const attempts = {
    type: "integer",
    default: 3,
    minimum: 1,
    maximum: 1000,
    description: "Attempts, if processes are lost: each goes on from what is finished.",
  };
  const name = {
    type: "string",
    nullable: true,
    maxLength: 200,
    description: "What you call it; without one, kind and places are shown.",
  };
  return {
    name: makeField("name", name, false, cloned.name || undefined),
    after: makeField("after", after, false),
    priority: makeField("priority", priority, false, cloned.priority),
    max_attempts: makeField("max_attempts", attempts, false, cloned.max_attempts),
  };
}

function buildForm(kind, schema, given, cloned) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties).map(([name, property]) =>
    makeField(name, typeOf(property, schema.$defs), required.has(name), given[name]),
  );
  const own = ownFields(cloned);
  const outcome = h("div", { "aria-live": "polite" });
  const start = h("button.primary", { type: "submit" }, "Start");
  const dry = h("button", { type: "button", title: "Say what it would do, and do nothing" }, "Dry run");
  const of = (role) => fields.filter((field) => !field.required && (field.spec.role ?? "content") === role);
  const element = h(
    "form.job-form",
    { novalidate: true },
    group(
      "Where",
      fields.filter((field) => field.required),
      "fields.places",
    ),
    group("What it makes", of("content")),
    folded("How it runs", [...of("execution"), ...Object.values(own)]),
    outcome,
    h("div.buttons.sticky", {}, start, dry),
    lists(),
  );
  const form = { kind, element, fields, own, outcome, buttons: [start, dry], key: newKey() };
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form, false);
  });
  element.addEventListener("input", () => {
    form.key = newKey();
  });
  dry.addEventListener("click", () => send(form, true));
  return form;
}

function group(title, fields, as = "fields") {
  return fields.length
    ? h(
        "fieldset",
        {},
        h("legend", {}, title),
        h(
          `div.${as}`,
          {},
          fields.map((field) => field.element),
        ),
      )
    : null;
}

/** Settings that most people leave alone; open from the start when one of them is not at its default. */
function folded(title, fields) {
  const note = h("span.note");
  const count = () => {
    const changed = fields.filter(isChanged).length;
    note.textContent = changed
      ? `${changed} of ${fields.length} changed`
      : `${fields.length} settings, all at their defaults`;
    return changed;
  };
  const places = h(
    "div.fields",
    {},
    fields.map((field) => field.element),
  );
  const element = h("details.card.fold", { open: count() > 0 }, h("summary", {}, title, " ", note), places);
  element.addEventListener("input", count);
  return element;
}

const isChanged = ({ spec, input }) =>
  input.type === "checkbox" ? input.checked !== (spec.default === true) : input.value !== toText(spec.default, spec);

function makeField(name, spec, required, given) {
  const id = `field-${name}`;
  const value = given !== undefined ? given : spec.default;
  const input = makeInput(id, name, spec, value);
  const fault = h("p.fault", { id: `${id}-fault`, hidden: true });
  const help = h(
    "p.help",
    { id: `${id}-help` },
    [spec.description, boundWords(spec), listWords(spec)].filter(Boolean).join(" "),
  );
  input.setAttribute("aria-describedby", `${id}-fault ${id}-help`);
  if (required) input.setAttribute("aria-required", "true");
  const words = h("label", { for: id }, f.label(name), required ? h("span.must", {}, " needed") : null);
  const element = h("div.field", { "data-name": name }, words, input, fault, help);
  const field = { name, spec, required, input, fault, element };
  input.addEventListener("change", () => setFault(field, check(field)));
  return field;
}

function makeInput(id, name, spec, value) {
  if (spec.enum) {
    const none = spec.nullable ? [h("option", { value: "" }, "not set")] : [];
    return h(
      "select",
      { id, name },
      none,
      spec.enum.map((one) => h("option", { value: String(one), selected: one === value }, String(one))),
    );
  }
  if (spec.type === "boolean") return h("input", { id, name, type: "checkbox", checked: value === true });
  if (spec.type === "array" && !spec.items?.enum) {
    const area = h("textarea", { id, name, rows: 2, autocomplete: "off", spellcheck: "false" });
    area.value = toText(value, spec);
    return area;
  }
  const numeric = ["integer", "number"].includes(spec.type);
  const known = { dataset: "known-datasets", run: "known-runs" }[name] ?? spec.list;
  return h("input", {
    id,
    name,
    type: "text",
    value: toText(value, spec),
    autocomplete: "off",
    spellcheck: "false",
    list: known,
    inputmode: numeric ? (spec.type === "integer" ? "numeric" : "decimal") : null,
    placeholder: spec.nullable ? "not set" : null,
  });
}

function boundWords(spec) {
  const safe = (v) => v !== undefined && Math.abs(v) <= Number.MAX_SAFE_INTEGER;
  const low = safe(spec.minimum)
    ? `from ${f.figure(spec.minimum, 12)}`
    : safe(spec.exclusiveMinimum)
      ? `above ${f.figure(spec.exclusiveMinimum)}`
      : "";
  const high = safe(spec.maximum)
    ? `${low.startsWith("above") ? "up " : ""}to ${f.figure(spec.maximum, 12)}`
    : safe(spec.exclusiveMaximum)
      ? `below ${f.figure(spec.exclusiveMaximum)}`
      : "";
  const bounds = [low, high].filter(Boolean).join(" ");
  return bounds ? `(${bounds})` : "";
}

/** How a list is typed into its field. */
function listWords(spec) {
  if (spec.type !== "array") return "";
  return spec.items?.enum
    ? `(any number, with spaces between: ${spec.items.enum.join(", ")})`
    : "(any number, one a line)";
}

function setFault(field, text) {
  field.fault.hidden = !text;
  field.fault.textContent = text ?? "";
  if (text) field.element.closest("details")?.setAttribute("open", "");
  if (text) field.input.setAttribute("aria-invalid", "true");
  else field.input.removeAttribute("aria-invalid");
}

async function send(form, dryRun) {
  const all = [...form.fields, ...Object.values(form.own)];
  all.forEach((field) => setFault(field, check(field)));
  const wrong = all.find((field) => !field.fault.hidden);
  if (wrong) return wrong.input.focus();
  form.buttons.forEach((button) => {
    button.disabled = true;
  });
  try {
    const answer = await postJson(
      `/v1/jobs${dryRun ? "?dry_run=true" : ""}`,
      body(form),
      dryRun ? {} : { "Idempotency-Key": form.key },
    );
    if (dryRun) form.outcome.replaceChildren(dryRunCard(answer));
    else {
      notice(`Job ${answer.id} is queued.`);
      location.hash = `#/jobs/${encodeURIComponent(answer.id)}`;
    }
  } catch (error) {
    showRefusal(form, all, error);
  } finally {
    form.outcome.scrollIntoView({ block: "nearest" });
    form.buttons.forEach((button) => {
      button.disabled = false;
    });
  }
  return undefined;
}

function body(form) {
  const settings = {};
  for (const field of form.fields) {
    const value = fromText(field);
    if (value !== undefined) settings[field.name] = value;
  }
  const own = Object.fromEntries(Object.entries(form.own).map(([name, field]) => [name, fromText(field)]));
  return { kind: form.kind, settings, ...own };
}

/** Faults that the service names go to their fields, the rest above the buttons. */
function showRefusal(form, all, error) {
  const byName = new Map(all.map((field) => [field.name, field]));
  const named = error instanceof Problem ? error.fields.filter(({ field }) => byName.has(field)) : [];
  named.forEach(({ field, detail }) => setFault(byName.get(field), detail));
  form.outcome.replaceChildren(errorBox(error, "The job was not accepted"));
  (named.length ? byName.get(named[0].field).input : form.buttons[0]).focus();
}

const lists = () => ["known-datasets", "known-runs", "known-jobs"].map((id) => h("datalist", { id }));

/** Known datasets and runs as suggestions; the form works without them. */
async function suggest(form, signal) {
  const [datasets, jobs] = await Promise.allSettled([getJson("/v1/datasets", signal), getJson("/v1/jobs", signal)]);
  const fill = (id, options) =>
    form.element.querySelector(`#${id}`).append(...options.map(([value, words]) => h("option", { value }, words)));
  const places = new Map((datasets.value?.datasets ?? []).map((d) => [d.uri, d.name]));
  const known = jobs.value?.jobs ?? [];
  fill("known-datasets", [...places]);
  fill(
    "known-runs",
    known.filter((job) => job.kind === "train").map((job) => [job.id, f.subject(job)]),
  );
  fill(
    "known-jobs",
    known
      .filter((job) => !["failed", "stopped"].includes(job.state))
      .map((job) => [job.id, `${job.kind}: ${f.subject(job)}`]),
  );
}
