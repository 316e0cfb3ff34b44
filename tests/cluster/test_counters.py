"""What Prometheus reads, and the Grafana dashboard that asks for it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.ray_api import GIB, TOKEN, RayApi, node, ray_api
from tests.cluster.rows import put_job
from tests.cluster.served import Served, serving

GRAFANA = Path(__file__).parents[2] / "docker" / "grafana"
SAMPLE = re.compile(
    r'^(?P<name>[a-z0-9_]+)(?:\{(?P<labels>(?:[a-z]+="[^"\\\n]*",?)+)\})? (?P<value>[0-9.e+-]+|\+?Inf)$'
)
OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


@pytest.fixture(scope="module")
def api() -> Iterator[RayApi]:
    busy = node("far", 4, gpus=1) | {
        "cpu": 50.0, "mem": [8 * GIB, 6 * GIB, 25.0, 2 * GIB],
        "gpus": [{"index": 0, "name": "H100", "utilizationGpu": 90, "memoryUsed": 1024, "memoryTotal": 81920}],
    }  # fmt: skip
    with ray_api(node("head", 2), busy) as played:
        yield played


@pytest.fixture(scope="module")
def scraped(api: RayApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with a training and an ingest at work."""
    home = tmp_path_factory.mktemp("scraped")
    with serving(home, api.url, ray_token=TOKEN) as served:
        for kind, phase, figures in (
            ("train", "training", {"loss": 2.5, "samples_per_s": 700.0, "data_wait_share": 0.125, "top1_error": 0.5,
                                   "top5_error": 0.25, "train_top1_error": 0.75, "learning_rate": 0.01, "epoch": 3}),
            ("ingest", "converting", {"samples": 90, "bytes": 12345, "quarantined": 2, "num_actors": 4}),
        ):  # fmt: skip
            job = put_job(home, id=f"the-{kind}", kind=kind, state="running", attempt=1)
            api.jobs[f"tench-{job}-1"] = {"submission_id": f"tench-{job}-1", "status": "RUNNING"}
            run = RunWriter.begin(Place(home / "runs" / job), kind, {}, attempt=1)
            run.progress(phase, 5, 100, "samples")
            run.progress(phase, 25, 100, "samples", force=True, **figures)
        yield served


def samples(served: Served) -> dict[tuple[str, str], float]:
    """Every sample by name and labels, read by the format's own rules: each has its HELP and its TYPE before it."""
    answer = served.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert answer.body.endswith(b"\n")
    found: dict[tuple[str, str], float] = {}
    helped, typed = set(), {}
    for line in answer.body.decode().splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            typed[line.split()[2]] = line.split()[3]
        else:
            sample = SAMPLE.match(line)
            assert sample is not None, line
            name = sample["name"]
            family = OF_HISTOGRAM.sub("", name) if OF_HISTOGRAM.sub("", name) in typed else name
            assert family in typed, line
            assert family in helped, line
            assert (name, sample["labels"] or "") not in found
            found[name, sample["labels"] or ""] = float(sample["value"])
    return found


def test_jobs_are_counted_by_kind_and_state(scraped: Served) -> None:
    found = samples(scraped)
    assert found["tench_jobs", 'kind="train",state="running"'] == 1
    assert found["tench_jobs", 'kind="verify",state="failed"'] == 0
    assert found["tench_ray_reachable", ""] == found["tench_store_usable", ""] == 1
    assert found["tench_watcher_silence_seconds", ""] < 30


def test_a_run_at_work_shows_the_figures_of_its_progress(scraped: Served) -> None:
    found = samples(scraped)
    assert found["tench_job_done", 'job="the-train",kind="train",unit="samples"'] == 25
    assert found["tench_job_total", 'job="the-ingest",kind="ingest",unit="samples"'] == 100
    of_training = {n.removeprefix("tench_training_"): v for (n, labels), v in found.items() if "tench_training" in n}
    assert of_training == {
        "loss": 2.5, "samples_per_second": 700, "data_wait_share": 0.125, "top1_error": 0.5, "top5_error": 0.25,
        "batch_top1_error": 0.75, "learning_rate": 0.01, "epoch": 3,
    }  # fmt: skip
    of_ingest = {n.removeprefix("tench_ingest_"): v for (n, labels), v in found.items() if "tench_ingest" in n}
    assert of_ingest == {"samples": 90, "bytes": 12345, "bad_pictures": 2, "actors": 4}


def test_nodes_and_gpus_show_how_busy_they_are_in_both_places(scraped: Served) -> None:
    found = samples(scraped)
    assert found["tench_node_cpu_share", 'node="far"'] == 0.5
    assert found["tench_node_memory_used_bytes", 'node="far"'] == 2 * GIB
    assert found["tench_gpu_utilisation", 'gpu="0",node="far"'] == 0.9
    assert found["tench_gpu_memory_bytes", 'gpu="0",node="far"'] == 80 * GIB
    assert ("tench_node_cpu_share", 'node="head"') not in found
    cluster = scraped.get("/v1/cluster").json()
    far = next(n for n in cluster["nodes"] if n["name"] == "far")
    assert (far["cpu_share"], far["host_memory_used_bytes"], far["host_memory_bytes"]) == (0.5, 2 * GIB, 8 * GIB)
    assert far["devices"] == [{"name": "H100", "utilisation": 0.9, "memory_used_bytes": GIB, "memory_bytes": 80 * GIB}]
    assert {(work["id"], work["state"]) for work in cluster["work"]} == {
        ("the-train", "running"), ("the-ingest", "running"),
    }  # fmt: skip


def test_requests_are_counted_by_route_and_not_by_what_was_asked_for(scraped: Served) -> None:
    for name in ("a", "b", "c"):
        assert scraped.get(f"/v1/jobs/none-{name}").status == 404
        assert scraped.get(f"/nowhere/{name}").status == 404
    scraped.ask("BREW", "/v1/jobs")
    found = samples(scraped)
    assert found["tench_requests_total", 'method="GET",route="/v1/jobs/{job_id}",status="404"'] == 3
    assert found["tench_request_seconds_count", 'method="GET",route="/v1/jobs/{job_id}"'] == 3
    assert not [labels for _, labels in found if "none-a" in labels or "nowhere" in labels or "BREW" in labels]


def expressions(value: Any) -> Iterator[str]:
    """Every query of the dashboard."""
    if isinstance(value, dict):
        yield from ([value["expr"]] if "expr" in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for inside in value:
            yield from expressions(inside)


def test_every_query_of_the_dashboard_asks_for_what_is_there(scraped: Served) -> None:
    assert scraped.get("/v1/kinds").status == 200
    there = {name for name, _ in samples(scraped)}
    dashboard = json.loads((GRAFANA / "tench.json").read_text())
    asked = [name for query in expressions(dashboard) for name in re.findall(r"\btench_[a-z0-9_]+", query)]
    assert len(asked) > 30
    assert set(asked) <= there
    panels = [panel["id"] for panel in dashboard["panels"]]
    assert len(panels) == len(set(panels))
