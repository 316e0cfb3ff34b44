"""Kubernetes manifests and the schemas of KubeRay's own definitions, made strict: an unknown field is an error."""

import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

KUBERAY = Path(__file__).resolve().parents[2] / "docker" / "kuberay"
Node = dict[str, Any]


def documents() -> list[Node]:
    """Every document of docker/kuberay/."""
    return [d for file in sorted(KUBERAY.glob("*.yaml")) for d in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> list[Node]:
    """The documents of one kind."""
    return [d for d in documents() if d["kind"] == kind]


def one(kind: str) -> Node:
    """The only document of a kind."""
    (found,) = of_kind(kind)
    return found


def cluster_schema(shared_data: Path) -> Node:
    """The schema of a RayCluster v1, strict."""
    packed = (shared_data / "kuberay" / "ray.io_rayclusters.yaml.xz").read_bytes()
    definition = yaml.load(lzma.decompress(packed), yaml.CSafeLoader)
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1")
    # Any metadata is let through by the definition itself: Kubernetes checks it, by the rules stated here.
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    words = {name: {"type": "string"} for name in ("name", "namespace")}
    schema["properties"]["metadata"] = {
        "type": "object", "properties": {**words, "labels": labels, "annotations": labels}
    }  # fmt: skip
    return strict(schema)


def strict(schema: Any) -> Any:
    """The same schema, where an object with named properties takes no others, and a quantity may be a number or text."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(part) for name, part in schema.items() if name != "format"}
    named = isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields")
    if named and "additionalProperties" not in schema and schema.get("type") == "object":
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def part(schema: Node, *path: str) -> Node:
    """The schema of a field below another, by names; `[]` is an array's items."""
    for name in path:
        schema = schema["items"] if name == "[]" else schema["properties"][name]
    return schema


def misfits(value: Any, schema: Node) -> list[str]:
    """What is wrong with a value, each with its place."""
    found = Draft202012Validator(schema).iter_errors(value)
    return [f"{'.'.join(str(p) for p in e.absolute_path)}: {e.message}" for e in found]


def pod_templates() -> Iterator[Node]:
    """The pods of the cluster and of the service."""
    spec = one("RayCluster")["spec"]
    yield spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["template"]
    yield one("Deployment")["spec"]["template"]


def selects(selector: Node, labels: Node) -> bool:
    """Whether a label selector takes a pod with these labels."""
    exact = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
    rules = selector.get("matchExpressions", [])
    assert all(rule["operator"] == "In" for rule in rules)
    return exact and all(labels.get(rule["key"]) in rule["values"] for rule in rules)
