"""Jobs over HTTP, at a service whose Ray is out of reach: requests are checked, noted once, stopped, resumed, listed."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.rows import put_job
from tests.cluster.served import Answer, Served
from tests.conftest import TinySource

OUR_WORDS_ONLY = ("Input should", "Field required", "Extra inputs", "String should", "pydantic")


def post(served: Served, kind: str = "verify", key: str | None = None, **settings: Any) -> Answer:
    settings = {"dataset": f"{served.root}/d", **settings}
    headers = {"Idempotency-Key": key} if key is not None else {}
    return served.ask("POST", "/v1/jobs", {"kind": kind, "settings": settings}, headers)


def listed(served: Served, query: str) -> list[Any]:
    """All jobs of a listing, page after page."""
    found: list[Any] = []
    cursor = ""
    while True:
        page = served.get(f"/v1/jobs?{query}{cursor}").json()
        found += page["jobs"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


@pytest.mark.parametrize(
    ("kind", "settings", "field", "words"),
    [
        ("verify", {"depp": True}, "depp", ["no such setting", "dataset, deep"]),
        ("ingest", {"side": 5}, "side", ["side 5", "a whole number from 8 to 1,024"]),
        ("ingest", {"source": None}, "source", ["source None", "a text"]),
        ("ingest", {"max_bad": "-1"}, "max_bad", ["max_bad -1", "a count (25) or a share (0.1%)"]),
        ("ingest", {"format": "zip"}, "format", ["format zip", "arrow or tfrecord"]),
        ("train", {"epochs": 0}, "epochs", ["epochs 0", "from 1 to 100,000"]),
        ("train", {"learning_rate": 0}, "learning_rate", ["learning_rate 0", "above 0", "at most 100"]),
        ("evaluate", {"run": "../x"}, "run", ["run ../x", "expected"]),
        ("evaluate", {"run": "no-such-run"}, "run", ["no-such-run", "no training job"]),
        ("verify", {"dataset": "relative/d"}, "dataset", ["relative/d", "a full path (/data/...)"]),
        ("verify", {"dataset": "file:///etc"}, "dataset", ["file:///etc", "a full path"]),
        ("verify", {"dataset": "/a\nb"}, "dataset", ["expected a text"]),
        ("nosuch", {}, "kind", ["nosuch", "ingest, verify, repair, recentre, train, evaluate"]),
    ],
)
def test_a_setting_at_fault_is_named_with_what_was_found_and_expected(
    served: Served, kind: str, settings: dict[str, Any], field: str, words: list[str]
) -> None:
    answer = post(served, kind, **({"source": f"{served.root}/s"} if kind == "ingest" else {}) | settings)
    assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json")
    said = answer.errors()[field]
    assert all(word in said for word in words), said
    assert not any(word in answer.body.decode() for word in OUR_WORDS_ONLY), answer.body


def test_all_settings_at_fault_are_named_at_once(served: Served) -> None:
    answer = post(served, "ingest", side=5, quality=101, nosuch=1)
    assert set(answer.errors()) == {"side", "quality", "nosuch", "source"}
    assert "source: is missing" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"priority": 1000}, "priority", ["priority 1000", "from -100 to 100"]),
        ({"nosuch": 1}, "nosuch", ["no such setting", "kind, max_attempts, name, priority"]),
        ({"settings": 3}, "settings", ["settings 3", "an object"]),
        ({"after": "../x"}, "after", ["after ../x"]),
        ({"after": "no-such-job"}, "after", ["no-such-job", "no job of this id"]),
        ({"name": "two\nlines"}, "name", ["expected a text"]),
    ],
)
def test_a_field_of_the_request_at_fault_is_named(
    served: Served, body: dict[str, Any], field: str, words: list[str]
) -> None:
    whole = {"kind": "verify", "settings": {"dataset": f"{served.root}/d"}, **body}
    answer = served.ask("POST", "/v1/jobs", whole)
    assert answer.status == 422
    assert all(word in answer.errors()[field] for word in words), answer.body
    assert not any(word in answer.body.decode() for word in OUR_WORDS_ONLY), answer.body


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"NaN", b"[" * 10_000])
def test_a_body_that_is_no_request_is_refused_and_the_service_goes_on(served: Served, body: bytes) -> None:
    answer = served.ask("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
    assert answer.status in (400, 422)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert served.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("place", ["/etc", "{root}/../secret", "{root}-beside/d", "{root}/link/d", "s3://bucket/d"])
def test_a_place_outside_of_the_roots_is_refused(served: Served, place: str) -> None:
    link = served.root / "link"
    if not link.is_symlink():
        link.symlink_to("/etc")
    answer = post(served, dataset=place.format(root=served.root))
    assert answer.status == 403
    assert "lies outside of the service's roots" in answer.errors()["dataset"]
    web = post(served, "ingest", source="http://elsewhere/data")
    assert (web.status, set(web.errors())) == (403, {"source"})


def test_a_key_sent_again_gives_the_same_job_and_with_another_body_a_refusal(served: Served) -> None:
    first, again = post(served, key="a-key"), post(served, key="a-key")
    assert (first.status, again.status) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = post(served, key="a-key", deep=True)
    assert other.status == 422
    assert "Idempotency-Key" in other.json()["detail"]
    assert post(served).json()["id"] != post(served).json()["id"]
    for bad in ("", "x" * 201):
        assert post(served, key=bad).status == 422


def test_one_key_sent_many_times_at_once_makes_one_job(served: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(served, key="at-once"), range(16)))
    assert sorted(a.status for a in answers) == [200] * 15 + [201]
    assert len({a.json()["id"] for a in answers}) == 1


def test_an_evaluation_measures_a_training_and_a_child_waits_for_its_parent(served: Served) -> None:
    trained = served.submit("train")
    settings = {"dataset": f"{served.root}/d", "run": trained["id"]}
    child = served.submit("evaluate", settings=settings, after=trained["id"], name="child", priority=7)
    assert (child["after"], child["name"], child["priority"], child["state"]) == (trained["id"], "child", 7, "queued")
    assert post(served, "evaluate", run=child["id"]).errors()["run"].startswith(f"run {child['id']}")
    served.stopped(trained["id"])
    ended = served.job_once(child["id"], "stopped")
    assert trained["id"] in ended["error"]


def test_a_queued_job_is_stopped_without_ray_and_resumed(served: Served) -> None:
    job_id = served.submit()["id"]
    refused = served.ask("POST", f"/v1/jobs/{job_id}/resume")
    assert (refused.status, "is queued; only a failed or stopped" in refused.json()["detail"]) == (409, True)
    stopped = served.stopped(job_id)
    assert (stopped["error"], stopped["attempt"], stopped["has_ended"]) == ("Stopped before it started.", 0, True)
    assert served.ask("POST", f"/v1/jobs/{job_id}/stop").status == 409
    assert served.ask("POST", f"/v1/jobs/{job_id}/resume").status == 200
    again = served.job_once(job_id, "queued")
    assert (again["error"], again["stop_requested"], again["resume_requested"]) == (None, False, False)


def test_who_stopped_and_who_resumed_a_job_is_told_with_every_move(served: Served) -> None:
    job_id = served.submit()["id"]
    served.stopped(job_id)
    served.ask("POST", f"/v1/jobs/{job_id}/resume")
    again = served.job_once(job_id, "queued")
    assert (again["stop_by"], again["resume_by"]) == (None, "local")
    moves = served.get(f"/v1/jobs/{job_id}/moves").json()["moves"]
    assert [(m["number"], m["state_before"], m["state"], m["by"]) for m in moves] == [
        (0, "", "queued", "local"), (1, "queued", "stopped", "local"), (2, "stopped", "queued", "local"),
    ]  # fmt: skip
    assert all(m["reason"] and m["at"] for m in moves)


def test_a_job_whose_places_are_not_allowed_any_more_is_not_resumed(served: Served) -> None:
    job = put_job(served.home, state="stopped", settings={"dataset": "/elsewhere/d"}, attempt=1)
    answer = served.ask("POST", f"/v1/jobs/{job}/resume")
    assert (answer.status, list(answer.errors())) == (403, ["dataset"])
    assert not served.get(f"/v1/jobs/{job}").json()["resume_requested"]


def test_a_job_with_as_many_attempts_as_may_be_is_resumed_and_cloned_after_an_interruption(served: Served) -> None:
    dataset = f"{served.root}/d"
    job = put_job(
        served.home, state="stopped", settings={"dataset": dataset}, attempt=3, max_attempts=1000, uncounted=2
    )
    assert served.get(f"/v1/jobs/{job}").json()["last_attempt"] == 1002
    clone = served.ask("POST", f"/v1/jobs/{job}/clone")
    assert (clone.status, clone.json()["max_attempts"]) == (201, 1000)
    assert served.ask("POST", f"/v1/jobs/{job}/resume").status == 200


def test_a_clone_is_a_new_job_of_the_same_request(served: Served) -> None:
    job = served.submit(name="first", priority=3, max_attempts=50)
    served.stopped(job["id"])
    answer = served.ask("POST", f"/v1/jobs/{job['id']}/clone")
    clone = answer.json()
    assert (answer.status, clone["state"]) == (201, "queued")
    assert clone["id"] != job["id"]
    assert all(clone[name] == job[name] for name in ("kind", "settings", "name", "priority", "max_attempts"))


@pytest.mark.parametrize(
    "path", ["", "/events", "/events?after=0.0", "/logs", "/metrics", "/moves", "/artifacts/mean.png"]
)
def test_a_job_that_is_not_there_is_a_404_everywhere(served: Served, path: str) -> None:
    answer = served.get(f"/v1/jobs/no-such-job{path}")
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert "'no-such-job'" in answer.json()["detail"]
    for what in ("stop", "resume", "clone"):
        assert served.ask("POST", f"/v1/jobs/no-such-job/{what}").status == 404


def test_lists_are_newest_first_in_pages_and_by_state_and_kind(served: Served) -> None:
    made = [served.submit(kind)["id"] for kind in ("verify", "train", "verify", "train", "train")]
    served.stopped(made[1])
    ids = [job["id"] for job in listed(served, "limit=2")]
    assert ids[:5] == made[::-1]
    assert len(ids) == len(set(ids))
    assert ids == [job["id"] for job in listed(served, "limit=1000")]
    assert served.get(f"/v1/jobs?limit={len(ids)}").json()["next"] is None
    assert served.get(f"/v1/jobs?limit={len(ids) - 1}").json()["next"] == ids[-2]
    assert {job["kind"] for job in listed(served, "limit=3&kind=train")} == {"train"}
    stopped = listed(served, "limit=3&state=stopped&kind=train")
    assert made[1] in [job["id"] for job in stopped]
    assert {job["state"] for job in stopped} == {"stopped"}


def test_pages_miss_no_job_and_repeat_none_while_jobs_are_added(served: Served) -> None:
    before = [served.submit()["id"] for _ in range(5)]
    found: list[str] = []
    cursor = ""
    while not set(before) <= set(found):
        page = served.get(f"/v1/jobs?limit=2{cursor}").json()
        found += [job["id"] for job in page["jobs"]]
        served.submit()
        cursor = f"&cursor={page['next']}"
    assert found[:5] == before[::-1]


@pytest.mark.parametrize(
    ("query", "status"), [("limit=0", 422), ("limit=1001", 422), ("state=nosuch", 422), ("kind=nosuch", 422),
                          ("cursor=no-such-job", 404)],
)  # fmt: skip
def test_a_query_at_fault_is_named(served: Served, query: str, status: int) -> None:
    answer = served.get(f"/v1/jobs?{query}")
    assert answer.status == status
    assert query.split("=")[1] in answer.json()["detail"]


@pytest.fixture
def source(served: Served, tiny_source: TinySource) -> Iterator[Path]:
    copied = Path(shutil.copytree(tiny_source.folders, served.root / "source"))
    yield copied
    shutil.rmtree(copied)


def test_a_dry_run_of_an_ingest_says_what_it_would_do_and_does_nothing(served: Served, source: Path) -> None:
    before = len(listed(served, "limit=1000"))
    settings = {"source": str(source), "dataset": f"{served.root}/new", "samples_per_shard": 16}
    answer = served.ask("POST", "/v1/jobs?dry_run=true", {"kind": "ingest", "settings": settings})
    facts = answer.json()
    assert answer.status == 200, facts
    assert facts["splits"] == {
        "train": {"num_entries": 60, "num_shards": 4},
        "val": {"num_entries": 30, "num_shards": 2},
    }
    assert facts["settings"]["samples_per_shard"] == 16
    assert facts["settings"]["payload"] == "jpeg"
    assert not (served.root / "new").exists()
    assert len(listed(served, "limit=1000")) == before
    missing = {**settings, "source": f"{served.root}/missing"}
    answer = served.ask("POST", "/v1/jobs?dry_run=true", {"kind": "ingest", "settings": missing})
    assert (answer.status, f"{served.root}/missing" in answer.json()["detail"]) == (422, True)


def test_a_source_that_cannot_be_read_is_told_not_a_mistake_of_the_service(served: Served) -> None:
    settings = {"source": f"{served.root}/{'x' * 300}", "dataset": f"{served.root}/new"}
    answer = served.ask("POST", "/v1/jobs?dry_run=true", {"kind": "ingest", "settings": settings})
    assert (answer.status, "File name too long" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("switch", ["loader.crop=4", "network.widths=[1]", "network.widths=[1,1,1,1,1]"])
def test_switches_that_do_not_go_together_are_told_in_a_dry_run(
    switch: str, served: Served, served_dataset: Path
) -> None:
    settings = {"dataset": str(served_dataset), "switch": [switch]}
    answer = served.ask("POST", "/v1/jobs?dry_run=true", {"kind": "train", "settings": settings})
    assert answer.status == 422, answer.json()


def test_a_dry_run_of_a_training_counts_steps_and_parameters(served: Served, served_dataset: Path) -> None:
    settings = {"dataset": str(served_dataset), "preset": "demo", "epochs": 3, "global_batch": 25}
    facts = served.ask("POST", "/v1/jobs?dry_run=true", {"kind": "train", "settings": settings}).json()
    assert (facts["steps_per_epoch"], facts["steps"]) == (3, 9)
    assert facts["num_parameters"] > 50_000_000
    assert facts["recipe"]["network"]["num_classes"] == 10
