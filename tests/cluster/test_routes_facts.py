"""What a service tells of itself, of datasets and of runs: schemas, pictures, figures, probes."""

import io
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from cluster.api.views import JobView
from cluster.jobs import Job
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.rows import put_job
from tests.cluster.served import Answer, Served

ROUTES = [
    "/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/stop", "/v1/jobs/{job_id}/resume", "/v1/jobs/{job_id}/clone",
    "/v1/jobs/{job_id}/events", "/v1/jobs/{job_id}/logs", "/v1/jobs/{job_id}/metrics",
    "/v1/jobs/{job_id}/artifacts/{name}", "/v1/datasets", "/v1/datasets/{dataset_id}", "/v1/kinds", "/v1/cluster",
    "/healthz", "/readyz", "/metrics",
]  # fmt: skip


def picture(answer: Answer) -> Image.Image:
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    opened = Image.open(io.BytesIO(answer.body))
    assert opened.format == "PNG"
    opened.load()
    return opened


def test_every_setting_of_every_kind_has_a_role_words_and_its_bounds(served: Served) -> None:
    kinds = served.get("/v1/kinds").json()
    assert set(kinds) == {"ingest", "verify", "repair", "recentre", "train", "evaluate"}
    for kind, schema in kinds.items():
        assert schema["additionalProperties"] is False
        for name, setting in schema["properties"].items():
            assert setting["role"] in ("content", "execution"), (kind, name)
            assert len(setting["description"]) > 10, (kind, name)
    roles = {name: setting["role"] for name, setting in kinds["ingest"]["properties"].items()}
    assert (roles["seed"], roles["payload"], roles["num_actors"], roles["max_bad"]) == (
        "content", "content", "execution", "execution",
    )  # fmt: skip
    quality = kinds["ingest"]["properties"]["quality"]
    assert (quality["minimum"], quality["maximum"], quality["default"]) == (1, 100, 90)
    assert kinds["train"]["properties"]["num_workers"]["role"] == "execution"


def test_a_sealed_dataset_under_a_root_is_listed_with_what_its_manifest_says(
    served: Served, served_dataset: Path
) -> None:
    manifest = json.loads((served_dataset / "manifest.json").read_text())
    found = [d for d in served.get("/v1/datasets").json()["datasets"] if d["uri"] == str(served_dataset)]
    assert [d["dataset_id"] for d in found] == [manifest["dataset_id"]]
    assert (found[0]["name"], found[0]["num_samples"], found[0]["num_classes"]) == ("tiny", 90, 10)
    assert found[0]["bytes"] == sum(f.stat().st_size for s in ("train", "val") for f in (served_dataset / s).iterdir())
    shown = served.get(f"/v1/datasets/{manifest['dataset_id']}").json()
    assert [c["wnid"] for c in shown["classes"]] == sorted(c["wnid"] for c in shown["classes"])
    assert shown["splits"]["train"]["class_counts"] == [6] * 10
    assert shown["content_id"] == manifest["content_id"]
    assert {name: shown[name] for name in ("layout", "settings", "imaging", "versions")} == {
        name: manifest[name] for name in ("layout", "settings", "imaging", "versions")
    }
    assert (shown["damage"], len(shown["statistics"]["stdevs"])) == (None, 3)
    assert shown["num_quarantined"] == len(manifest["quarantine"]) == len(shown["quarantine"])


def test_every_answer_in_json_is_described_by_a_type_of_its_own(served: Served) -> None:
    described = served.get("/openapi.json").json()
    bare = []
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                schema = response.get("content", {}).get("application/json", {}).get("schema", {"$ref": ""})
                if "$ref" not in schema and "anyOf" not in schema:
                    bare.append((method, path, status))
    assert bare == [("get", "/v1/kinds", "200")]  # itself a description


def test_a_dataset_appears_when_it_is_sealed_and_goes_when_it_is_moved_away(
    served: Served, served_dataset: Path
) -> None:
    def names() -> list[str]:
        return [d["name"] for d in served.get("/v1/datasets").json()["datasets"]]

    assert "tiny" in names()
    manifest, aside = served_dataset / "manifest.json", served_dataset / "aside.json"
    manifest.rename(aside)
    assert "tiny" not in names()
    manifest.write_bytes(aside.read_bytes()[:-100])
    assert "tiny" not in names()
    aside.rename(manifest)
    assert "tiny" in names()


def test_pictures_of_a_dataset_are_png_and_the_mean_is_the_stored_one(served: Served, served_dataset: Path) -> None:
    import numpy as np

    dataset_id = json.loads((served_dataset / "manifest.json").read_text())["dataset_id"]
    mean = picture(served.get(f"/v1/datasets/{dataset_id}/mean.png"))
    stored = np.load(served_dataset / "statistics/mean.npy")
    assert np.abs(np.asarray(mean.convert("RGB")) - stored).max() <= 0.5
    assert picture(served.get(f"/v1/datasets/{dataset_id}/contact.png")).width > 256
    assert picture(served.get(f"/v1/datasets/{dataset_id}/pca.png")).width >= 3
    job = put_job(served.home, kind="ingest", state="succeeded", settings={"dataset": str(served_dataset)})
    assert picture(served.get(f"/v1/jobs/{job}/artifacts/mean.png")).tobytes() == mean.tobytes()
    assert picture(served.get(f"/v1/jobs/{job}/artifacts/sheet.png")).width > 256


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/datasets/none", 404), ("/v1/datasets/none/mean.png", 404), ("/v1/datasets/none/..%2F..%2Fx", 404),
     ("/v1/datasets/none/nosuch.png", 422)],
)  # fmt: skip
def test_a_dataset_or_picture_that_is_not_there_is_a_problem(served: Served, path: str, status: int) -> None:
    answer = served.get(path)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")


def test_a_job_without_pictures_or_logs_says_so(served: Served) -> None:
    job = served.submit("train")["id"]
    for path in ("artifacts/kernels.png", "artifacts/mean.png", "artifacts/..%2Frequest.json", "logs"):
        answer = served.get(f"/v1/jobs/{job}/{path}")
        assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_the_log_of_a_started_job_is_rays_and_unknown_while_ray_is_out_of_reach(served: Served) -> None:
    job = put_job(served.home, kind="verify", state="succeeded", attempt=1)
    answer = served.get(f"/v1/jobs/{job}/logs")
    assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json")
    assert "does not answer" in answer.json()["detail"]


def test_curves_of_a_training_run_over_all_its_attempts(served: Served) -> None:
    job = served.submit("train")["id"]
    place = Place(served.home / "runs" / job)
    other = {"learning_rate": 0.01, "samples_per_s": 9.0, "train_top1_error": 0.9, "data_wait_share": 0.0}
    for attempt, steps in enumerate(([10, 20], [20, 30]), start=1):
        run = RunWriter.begin(place, "train", {})
        if attempt > 1:
            run.event("resumed", "Goes on from step 10.", step=10)
        for step in steps:
            run.event("metrics", f"Step {step}.", step=step, loss=step / 10 + attempt, **other)
        run.flush() if attempt == 1 else run.finish("succeeded", 0)
    loss = served.eventually(f"/v1/jobs/{job}/metrics", lambda found: found["series"]["loss"])
    assert loss == [[10, 2.0], [20, 4.0], [30, 5.0]]


def test_the_process_is_healthy_and_not_ready_while_ray_is_out_of_reach(served: Served) -> None:
    assert (served.get("/healthz").status, served.get("/healthz").json()) == (200, {"status": "ok"})
    ready = served.get("/readyz")
    assert (ready.status, ready.json()) == (503, {"store": True, "watcher": True, "ray": False})
    cluster = served.get("/v1/cluster").json()
    assert (cluster["reachable"], cluster["nodes"], cluster["cpus"]) == (False, [], 0)


def test_the_description_of_the_service_is_valid_json_and_explains_every_route(served: Served) -> None:
    answer = served.get("/openapi.json")
    described = answer.json()
    assert described["openapi"].startswith("3.")
    assert set(ROUTES) <= set(described["paths"])
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert len(operation.get("description", "")) > 5, (method, path)
    schemas = described["components"]["schemas"]
    named = set(re.findall(r"#/components/schemas/(\w+)", answer.body.decode()))
    assert named <= set(schemas)
    assert set(schemas["JobRequest"]["properties"]) == {"kind", "settings", "after", "priority", "name", "max_attempts"}


def test_an_answer_about_a_job_has_all_that_the_store_knows_of_it(served: Served) -> None:
    assert set(JobView.model_fields) == {f.name for f in fields(Job)} | {
        "progress", "unknown", "has_ended", "last_attempt",
    }  # fmt: skip
    job = served.submit()
    assert set(job) == set(served.get(f"/v1/jobs/{job['id']}").json()) == set(JobView.model_fields)


def test_every_example_of_a_request_fits_its_kind(served: Served) -> None:
    described = served.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    examples = described["application/json"]["examples"]
    assert set(examples) == set(served.get("/v1/kinds").json())
    for kind, example in examples.items():
        assert example["value"]["kind"] == kind
        answer = served.ask("POST", "/v1/jobs?dry_run=true", example["value"])
        assert (answer.status, "outside of the service's roots" in answer.json()["detail"]) == (403, True), answer.body


def test_the_page_loads_nothing_from_elsewhere_and_all_that_it_names_is_there(served: Served) -> None:
    page = served.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="([^"#]+)"', page.body.decode())
    assert named
    for path in named:
        assert path.startswith("/"), path
        assert served.get(path).status == 200, path
