"""Whatever is sent to any route, with jobs and a dataset there or not: no failure of the service, and the answer is one
that its OpenAPI description has. Requests are made up by schemathesis from that description, the same ones each time.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.ray_api import TOKEN, ray_api
from tests.cluster.rows import put_job
from tests.cluster.served import Served, serving

pytestmark = pytest.mark.slow
PLENTY = ("--posts-per-minute", "100000", "--reads-per-second", "100000")
OPERATIONS = [
    "POST /v1/jobs", "GET /v1/jobs", "GET /v1/jobs/{job_id}", "POST /v1/jobs/{job_id}/stop",
    "POST /v1/jobs/{job_id}/resume", "POST /v1/jobs/{job_id}/clone", "GET /v1/jobs/{job_id}/events",
    "GET /v1/jobs/{job_id}/logs", "GET /v1/jobs/{job_id}/metrics", "GET /v1/jobs/{job_id}/moves",
    "GET /v1/jobs/{job_id}/artifacts/{name}",
    "GET /v1/datasets", "GET /v1/datasets/{dataset_id}", "GET /v1/datasets/{dataset_id}/{name}",
    "GET /v1/datasets/{dataset_id}/quarantine", "GET /v1/datasets/{dataset_id}/quarantine/{split}/{row}.png",
    "GET /v1/kinds", "GET /v1/cluster", "GET /healthz", "GET /readyz", "GET /metrics", "DELETE /v1/datasets/{dataset_id}",
]  # fmt: skip
# A description cannot say which settings go with which kind, nor that a place has to lie inside a root: what fits the
# schema may be refused for these. And a stranger's key, cursor or mark is a text like any other.
EXCLUDED: list[Any] = [checks.positive_data_acceptance]


@dataclass(frozen=True)
class Described:
    """A service, with what its routes can be aimed at."""

    served: Served
    known: dict[str, list[str]]
    """By path parameter, values that name something."""


@pytest.fixture(scope="module")
def described(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    home = tmp_path_factory.mktemp("described")
    with ray_api() as api, serving(home, api.url, *PLENTY, ray_token=TOKEN) as served:
        dataset = Path(shutil.copytree(tiny_dataset, served.root / "tiny"))
        done = {"state": "succeeded", "attempt": 1, "ended_at": 1.0}
        jobs = [
            put_job(home, kind="ingest", settings={"dataset": str(dataset)}, **done),
            put_job(home, kind="train", **done),
        ]
        for job in jobs:
            run = RunWriter.begin(Place(home / "runs" / job), "train", {})
            run.event("phase", "one")
            run.progress("training", 3, 12, "samples", force=True, loss=0.5)
            run.finish("succeeded", 0)
            api.jobs[f"tench-{job}-1"], api.logs[f"tench-{job}-1"] = {"status": "SUCCEEDED"}, "a line\nanother: ü\n"
        datasets = [d["dataset_id"] for d in served.get("/v1/datasets").json()["datasets"]]
        yield Described(served, {"job_id": jobs, "dataset_id": datasets})


@pytest.fixture(scope="module")
def api_schema(described: Described) -> Any:
    return schemathesis.openapi.from_url(f"{described.served.url}/openapi.json")


def aimed(case: schemathesis.Case[Any], known: dict[str, list[str]]) -> None:
    """Let two of three requests ask for something that is there."""
    for name, values in known.items():
        if name in case.path_parameters and (turn := len(str(case.path_parameters[name])) % 3):
            case.path_parameters[name] = values[turn % len(values)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_one_that_is_described(operation: str, api_schema: Any, described: Described) -> None:
    method, path = operation.split()
    takes_anything = method == "POST" or "{" in path or path == "/v1/jobs"
    modes = list(schemathesis.GenerationMode) if takes_anything else [schemathesis.GenerationMode.POSITIVE]

    @settings(
        max_examples=50, derandomize=True, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(*(api_schema[path][method].as_strategy(generation_mode=mode) for mode in modes)))
    def ask(case: schemathesis.Case[Any]) -> None:
        aimed(case, described.known)
        case.call_and_validate(excluded_checks=EXCLUDED, timeout=20)

    ask()


def test_every_operation_is_asked(api_schema: Any) -> None:
    found = {f"{result.ok().method.upper()} {result.ok().path}" for result in api_schema.get_all_operations()}
    assert found == set(OPERATIONS)
