// One field of a form: its type out of a JSON schema, its value, and whether the value is within bounds. No DOM.

/** The property without its null alternative and references: {type, enum, minimum, ..., nullable}. */
export function typeOf(property, definitions = {}) {
  const resolve = (part) => (part.$ref ? { ...definitions[part.$ref.split("/").pop()], ...part } : part);
  const { anyOf, ...rest } = property;
  if (!anyOf) return resolve(rest);
  const parts = anyOf.map(resolve);
  const main = parts.find((part) => part.type !== "null") ?? {};
  return { ...main, ...rest, nullable: parts.some((part) => part.type === "null") };
}

const between = (spec) => (spec.items?.enum ? /\s+/ : /\s*\n\s*/); // free texts may hold spaces: one a line

export function toText(value, spec = {}) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.join(spec.items?.enum ? " " : "\n");
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) return ""; // digits were lost on the way here
  return String(value);
}

/** The value to send: undefined leaves the field to its default. */
export function fromText({ spec, input }) {
  if (spec.type === "boolean" && !spec.enum) return input.checked;
  const text = input.value.trim();
  if (text === "") return undefined;
  if (spec.type === "array") return text.split(between(spec));
  if (spec.enum) return spec.enum.find((one) => String(one) === text);
  if (spec.type === "integer") return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
  return spec.type === "number" ? Number(text) : text;
}

/** What is wrong with a field, in words; null if nothing is. */
export function check({ spec, required, input }) {
  if (spec.enum || spec.type === "boolean") return null;
  const text = input.value.trim();
  if (text === "") return required ? "This is needed." : null;
  if (spec.type === "array") return checkItems(spec.items ?? {}, text.split(between(spec)));
  if (spec.type === "integer" && !/^[+-]?\d+$/.test(text)) return `"${text}" is not a whole number.`;
  if (spec.type === "number" && !Number.isFinite(Number(text))) return `"${text}" is not a number.`;
  if (["integer", "number"].includes(spec.type)) return checkBounds(spec, Number(text));
  return checkText(spec, text);
}

function checkItems(spec, items) {
  const odd = spec.enum && items.find((item) => !spec.enum.includes(item));
  return odd ? `"${odd}" is none of ${spec.enum.join(", ")}.` : null;
}

function checkBounds(spec, value) {
  if (spec.minimum !== undefined && value < spec.minimum)
    return `${value} is too small: it has to be at least ${spec.minimum}.`;
  if (spec.maximum !== undefined && value > spec.maximum)
    return `${value} is too large: it may be at most ${spec.maximum}.`;
  if (spec.exclusiveMinimum !== undefined && value <= spec.exclusiveMinimum)
    return `${value} is too small: it has to be above ${spec.exclusiveMinimum}.`;
  if (spec.exclusiveMaximum !== undefined && value >= spec.exclusiveMaximum)
    return `${value} is too large: it has to be below ${spec.exclusiveMaximum}.`;
  return null;
}

function checkText(spec, text) {
  if (spec.maxLength !== undefined && text.length > spec.maxLength)
    return `It has ${text.length} characters; at most ${spec.maxLength} are allowed.`;
  if (spec.minLength !== undefined && text.length < spec.minLength)
    return `It has ${text.length} characters; at least ${spec.minLength} are needed.`;
  if (spec.pattern && !new RegExp(spec.pattern, "u").test(text))
    return `"${text}" does not have the form ${spec.pattern}.`;
  return null;
}
