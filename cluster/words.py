"""Our words for values that do not fit: what was found, what was expected, by the name a person used."""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

Naming = Callable[[str], str]


def flag(field: str) -> str:
    """`samples_per_shard` as `--samples-per-shard`."""
    return f"--{field.replace('_', '-')}"


def misfit_words(error: ValidationError, model: type[BaseModel], naming: Naming = flag) -> list[tuple[str, str]]:
    """(field, sentence) for each value that does not fit the model."""
    return [problem_words(p, model, naming) for p in error.errors(include_url=False, include_context=False)]


def problem_words(problem: Any, model: type[BaseModel], naming: Naming = flag) -> tuple[str, str]:
    """(field, sentence) for one entry of pydantic's `errors()`."""
    field = str(problem["loc"][0]) if problem["loc"] else ""
    return field, _sentence(field, naming(field), problem, model.model_json_schema().get("properties", {}))


def _sentence(field: str, name: str, problem: Any, properties: dict[str, Any]) -> str:
    if problem["type"] == "missing":
        return f"{name}: is missing; {expected(properties.get(field, {}))}"
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; there are {', '.join(sorted(properties))}"
    if problem["type"] == "value_error":  # one of our own checks, in our words already
        words = str(problem["msg"]).removeprefix("Value error, ")
        return f"{name}: {words}" if field else words
    schema = properties.get(field, {})
    one_of_a_list = len(problem["loc"]) > 1 and "items" in schema
    return f"{name} {problem['input']}: {expected(schema['items'] if one_of_a_list else schema)}"


def expected(schema: dict[str, Any]) -> str:
    """What a field of a JSON schema takes: `expected a whole number from 1 to 100`."""
    options = [o for o in schema.get("anyOf", [schema]) if o.get("type") != "null"]
    return "expected " + " or ".join(_one(option) for option in options)


def _one(schema: dict[str, Any]) -> str:
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return _listed(choices)
    if schema.get("pattern") == r"^(\d+|\d+(\.\d+)?%)$":
        return "a count (25) or a share (0.1%)"
    kinds = {
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "string": "a text",
        "array": "a list",
        "object": "an object",
    }
    return kinds.get(schema.get("type", ""), "a value") + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = []
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    if low is not None:
        parts.append(f"at least {low:,}")
    if above is not None:
        parts.append(f"above {above:,}")
    if high is not None:
        parts.append(f"at most {high:,}")
    if below is not None:
        parts.append(f"below {below:,}")
    if schema.get("pattern"):
        parts.append(f"like {schema['pattern']}")
    return f" {' and '.join(parts)}" if parts else ""


def _listed(choices: Iterable[Any]) -> str:
    words = [str(c) for c in choices]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
