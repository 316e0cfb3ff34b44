"""Jobs that go on with what another job made: its dataset, which must be the same one, or the weights it learnt."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import execute
from cluster.settings import TrainRequest
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.served import Served
from tests.cluster.test_entry import asked, enter, result
from tests.trainer.runs import HERE, RECIPE, train_here


@pytest.mark.parametrize("fits", [True, False])
def test_a_job_finds_the_dataset_that_it_was_pinned_to_or_refuses(
    tmp_path: Path, tiny_dataset: str, manifest_of: Any, fits: bool
) -> None:
    dataset = shutil.copytree(tiny_dataset, tmp_path / "d")
    made = manifest_of(tiny_dataset)["dataset_id"] if fits else "f" * 64
    pinned = {"dataset_id": made, "by": "the-parent"}
    run = asked(tmp_path / "runs" / "the-child", settings={"dataset": str(dataset)}, pinned=pinned)
    code, _ = enter(run)
    if fits:
        assert (code, result(run)["state"]) == (0, "succeeded")
        return
    said = result(run)["error"]
    assert (code, result(run)["state"], result(run)["exit_code"]) == (3, "failed", 3)
    assert all(word in said for word in (str(dataset), "the-parent", "f" * 16, "ask for a new job"))


def test_a_training_may_begin_with_the_weights_of_another_training_job(served: Served) -> None:
    def send(status: int, **settings: Any) -> Any:
        values = {"dataset": f"{served.root}/d", "preset": "demo", **settings}
        answer = served.ask("POST", "/v1/jobs", {"kind": "train", "settings": values})
        assert answer.status == status, answer.body
        return answer

    trained, verified = send(201).json()["id"], served.submit()["id"]
    assert send(201, initial=f"run:{trained}").json()["settings"]["initial"] == f"run:{trained}"
    for nothing in ("no-such-job", verified):
        words = send(422, initial=f"run:{nothing}").errors()["initial"]
        assert f"{nothing}: there is no training job" in words
    for strange in (f"run:../runs/{trained}", "run:", f"run:{trained}/x"):
        assert "expected a full path" in send(422, initial=strange).errors()["initial"]
    assert "expected a full path" in send(422, dataset=f"run:{trained}").errors()["dataset"]


@pytest.mark.slow
def test_a_run_that_is_named_by_its_id_is_looked_for_beside_the_run(tmp_path: Path, tiny_dataset: str) -> None:
    train_here(tiny_dataset, tmp_path / "the-teacher")
    run = RunWriter.begin(Place(tmp_path / "the-pupil"), "train", {})
    request = TrainRequest(dataset=tiny_dataset, initial="run:the-teacher", **{**RECIPE, **HERE, "epochs": 1})
    outcome = execute(request, run)
    assert (outcome.state, outcome.error) == ("succeeded", None)
    taken = json.loads((tmp_path / "the-pupil/initial/taken.json").read_text())
    assert set(taken["initial"]["layers"]) >= {"conv1", "fc6"}
    assert (taken["fresh"], taken["source"]["step"]) == ({}, 4)
