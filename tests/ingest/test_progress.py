"""A run's record: attempts that fence each other, events in order, a stop that reaches every process."""

import json
import time
from pathlib import Path

import pytest

from ingest.errors import Interrupted, RefusedError
from ingest.progress import RunReader, RunWriter, new_run_id
from ingest.storage import Place


@pytest.fixture
def run(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_reader_sees_events_progress_and_result_of_the_latest_attempt(run: Place) -> None:
    first = RunWriter.begin(run, "train", {"settings": {"seed": 1}})
    first.finish("failed", 1, error="lost its disk")
    second = RunWriter.begin(run, "train", {"settings": {"seed": 2}})
    second.event("metrics", "Step 5.", step=5)
    second.progress("training", 50, 100, "samples", force=True, loss=2.25)
    second.finish("succeeded", 0, top1_error=0.25)

    reader = RunReader(run)
    assert reader.latest_attempt() == 2
    assert reader.request() == {"format_version": 1, "kind": "train", "settings": {"seed": 1}}
    assert [e.kind for e in reader.events()] == ["started", "metrics"]
    progress, result = reader.progress(), reader.result()
    assert progress is not None
    assert result is not None
    assert (progress.done, progress.total, progress.figures) == (50, 100, {"loss": 2.25})
    assert (result.state, result.facts) == ("succeeded", {"top1_error": 0.25})
    failed = reader.result(1)
    assert failed is not None
    assert failed.error == "lost its disk"


def test_sequence_numbers_rise_over_events_progress_and_a_second_process(run: Place) -> None:
    driver = RunWriter.begin(run, "train", {})
    driver.progress("starting", 0, None, "steps", force=True)
    driver.flush()
    rank0 = RunWriter.join(run, driver.attempt)
    rank0.event("metrics", "Step 1.")
    rank0.flush()
    again = RunWriter.join(run, driver.attempt)
    again.event("metrics", "Step 2.")
    again.flush()
    numbers = [e.seq for e in RunReader(run).events()]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 2
    assert [e.text for e in RunReader(run).events(after_seq=numbers[-2])] == ["Step 2."]


def test_an_attempt_ends_itself_once_a_later_one_has_started(run: Place) -> None:
    old = RunWriter.begin(run, "ingest", {})
    RunWriter.begin(run, "ingest", {})
    old.event("shard", "one more")
    with pytest.raises(Interrupted, match="attempt 2 has taken over"):
        old.flush()


def test_an_attempt_ends_itself_though_the_next_one_never_began(run: Place) -> None:
    old = RunWriter.begin(run, "ingest", {})
    RunWriter.begin(run, "ingest", {}, attempt=3)
    with pytest.raises(Interrupted, match="attempt 3 has taken over"):
        old.flush()


def test_two_drivers_cannot_start_the_same_attempt(run: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    RunWriter.begin(run, "ingest", {})
    monkeypatch.setattr(RunReader, "latest_attempt", lambda self: 0)
    with pytest.raises(RefusedError, match="another driver"):
        RunWriter.begin(run, "ingest", {})


def test_a_stop_reaches_another_writer_of_the_attempt(run: Place) -> None:
    driver = RunWriter.begin(run, "train", {})
    rank0 = RunWriter.join(run, driver.attempt)
    assert not rank0.stop_requested()
    driver.request_stop()
    deadline = time.monotonic() + 5
    while not rank0.stop_requested() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rank0.stop_requested()
    assert not RunWriter.begin(run, "train", {}).stop_requested()


def test_a_record_of_a_newer_format_is_refused(run: Place) -> None:
    run.put_new("request.json", json.dumps({"format_version": 99}).encode())
    with pytest.raises(RefusedError, match="format 99"):
        RunReader(run).request()


def test_run_ids_fit_every_place_they_go_to() -> None:
    ids = {new_run_id("train") for _ in range(100)}
    assert len(ids) == 100
    assert all(len(i) <= 64 and set(i) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for i in ids)
