"""A run in one process: resumed equals unbroken, sums are exact, a stop and a divergence end as they should."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from augment.reader import PayloadReader
from ingest.dataset import Dataset
from ingest.errors import Interrupted, RefusedError, TenchError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.trainer.runs import AFTER_EVERY_STEP, HERE, RECIPE, Left, assert_same_checkpoint, train_here
from trainer import checkpoint
from trainer import fit as fit_module
from trainer.dropout import DropoutKey
from trainer.evaluate import evaluate_run
from trainer.figures import curves_png, kernels_png
from trainer.figures.record import evaluations
from trainer.fit import LOSS, ROWS, RankContext, Training, prepare, train_step
from trainer.launch import train
from trainer.networks import build
from trainer.presets import recipe
from trainer.scores import Errors
from trainer.settings import EvaluateSettings, TrainSettings
from trainer.training import restore

YOUNGER_SWITCH = "crop_positions"
STEPS = [f"step-{step:08d}.0001" for step in (1, 2, 3, 4)]


def prepared(dataset: str) -> Training:
    opened, settings = Dataset.open(dataset), TrainSettings(**RECIPE, **HERE)
    return prepare(RankContext(0, 1, torch.device("cpu"), 2), opened, recipe(settings, opened), settings, None)


def test_a_run_leaves_a_checkpoint_after_every_step_and_epoch(unbroken: Left) -> None:
    assert unbroken.names == STEPS
    states = [unbroken.state(name) for name in STEPS]
    assert [(s["epoch"], s["step"], s["loader"]["step"]) for s in states] == [
        (0, 1, 1),
        (1, 2, 0),
        (1, 3, 1),
        (2, 4, 0),
    ]
    assert [s["epoch_sums"]["samples"] for s in states] == [40, 0, 40, 0]
    assert [s["errors"] and s["errors"]["num_samples"] for s in states] == [None, 30, 30, 30]


def test_a_checkpoint_from_before_a_switch_existed_goes_on_with_its_default(unbroken: Left, tiny_dataset: str) -> None:
    found, _ = checkpoint.newest(Place(unbroken.folder))
    assert found is not None
    training, loader = prepared(tiny_dataset), found.state["recipe"]["loader"]
    with training.loader:
        del loader[YOUNGER_SWITCH]
        restore(training, found)
        assert training.step == 4
        loader[YOUNGER_SWITCH] = "paper"
        with pytest.raises(RefusedError, match=f"{YOUNGER_SWITCH} was paper, now all"):
            restore(training, found)


def test_a_run_that_was_stopped_in_mid_epoch_goes_on_to_the_unbroken_end(
    tiny_dataset: str, unbroken: Left, folder: Path
) -> None:
    with pytest.raises(Interrupted, match="Stopped after step 1; the checkpoint there is complete") as stopped:
        train_here(tiny_dataset, folder, stop=True)
    assert stopped.value.exit_code == 130
    left = Left(folder)
    assert left.names == STEPS[:1]
    assert_same_checkpoint(left, unbroken, STEPS[0])
    assert left.progress()["done"] == 40

    train_here(tiny_dataset, folder)
    assert [event["step"] for event in left.events("resumed", 2)] == [1]
    assert left.names == [STEPS[0], "step-00000002.0002", "step-00000004.0002"]
    assert_same_checkpoint(left, unbroken, "step-00000002.0002", STEPS[1])
    assert_same_checkpoint(left, unbroken, "step-00000004.0002", STEPS[3])
    assert left.events("evaluated", 2) == unbroken.events("evaluated")


def test_a_checkpoint_says_with_which_micro_batch_it_was_made(tiny_dataset: str, folder: Path) -> None:
    quick: dict[str, Any] = {"preset": "cifar", "switch": (), "epochs": 1}
    with pytest.raises(Interrupted):
        train_here(tiny_dataset, folder, **quick, stop=True, micro_batch=20)
    train_here(tiny_dataset, folder, **quick, micro_batch=10)
    left = Left(folder)
    assert [left.state(name)["execution"]["micro_batch"] for name in left.names] == [20, 10]


def test_a_stop_in_the_evaluation_is_heard_and_a_resume_evaluates_first(
    tiny_dataset: str, unbroken: Left, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = fit_module._evaluate

    def asked_to_stop(training: Training) -> Errors:
        assert training.run is not None
        training.run.request_stop()
        return evaluate(training)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "_evaluate", asked_to_stop)
        with pytest.raises(Interrupted, match="in the evaluation after step 2; the checkpoint there is complete"):
            train_here(tiny_dataset, folder, **AFTER_EVERY_STEP)
    left = Left(folder)
    assert left.names == STEPS[:2]
    assert left.events("evaluated") == []
    due, _ = checkpoint.newest(Place(folder))
    assert due is not None
    assert (due.state["step"], due.state["epoch"], due.state["evaluation_due"]) == (2, 1, True)
    looked_at = Path(shutil.copytree(folder, folder.with_name("looked-at")))
    assert evaluations(str(looked_at)) == []
    for png in (curves_png(str(looked_at)), kernels_png(str(looked_at))):
        assert png is not None
        assert png.startswith(b"\x89PNG")
    facts = evaluate_run(tiny_dataset, str(looked_at), EvaluateSettings(device="cpu", views=1), None)
    (card,) = [json.loads(path.read_text()) for path in looked_at.glob("model_card.json")]
    assert (card["checkpoint"], facts["epoch"]) == (f"checkpoints/{STEPS[1]}", 1)

    train_here(tiny_dataset, folder, **AFTER_EVERY_STEP)
    assert [event["step"] for event in left.events("resumed", 2)] == [2]
    assert left.events("evaluated", 2) == unbroken.events("evaluated")
    later = [f"step-{step:08d}.0002" for step in (2, 3, 4)]
    assert left.names == [STEPS[0], STEPS[1], *later]
    for name, expected in zip(later, STEPS[1:], strict=True):
        assert_same_checkpoint(left, unbroken, name, expected)


def test_a_run_that_died_in_its_last_evaluation_only_evaluates(
    tiny_dataset: str, unbroken: Left, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "evaluate", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_here(tiny_dataset, folder, epochs=1)
    # As if Ray had begun the same attempt anew: what it wrote before is completed, not written again.
    opened, settings = Dataset.open(tiny_dataset), TrainSettings(**{**RECIPE, **HERE, "epochs": 1})
    run = RunWriter.join(Place(folder), 1)
    training = prepare(RankContext(0, 1, torch.device("cpu"), 2), opened, recipe(settings, opened), settings, run)
    weights = folder / "checkpoints" / STEPS[1] / "weights.pt"
    written = weights.stat().st_mtime_ns
    facts = fit_module.fit(training, checkpoint.newest(run.place)[0])
    run.flush()
    assert (facts["steps"], facts["epochs"], facts["num_samples"]) == (2, 1, 30)
    assert weights.stat().st_mtime_ns == written
    assert sorted(path.name for path in weights.parent.iterdir()) == ["hashes.json", "state.json", "weights.pt"]
    found, expected = Left(folder).state(STEPS[1]), unbroken.state(STEPS[1])
    assert found == {**expected, "recipe": {**expected["recipe"], "epochs": 1}}


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_older_one(
    tiny_dataset: str, unbroken: Left, folder: Path
) -> None:
    for name in STEPS[2:]:
        unbroken.copy_checkpoint(name, folder)
    damaged = folder / "checkpoints" / STEPS[3] / "weights.pt"
    damaged.unlink()
    damaged.write_bytes(b"PK")
    RunWriter.begin(Place(folder), "train", {})
    facts = train_here(tiny_dataset, folder)
    left = Left(folder)
    assert any(f"{STEPS[3]}/weights.pt" in text and "older" in text for text in left.texts("warning", 2))
    assert_same_checkpoint(left, unbroken, "step-00000004.0002", STEPS[3])
    assert (facts["steps"], facts["epochs"], facts["num_samples"]) == (4, 2, 30)
    # Only what was left of the epoch counts: 20 samples.
    assert facts["samples_per_s"] * facts["seconds"] == pytest.approx(20, rel=0.05)
    progress = left.progress(2)
    assert (progress["done"], progress["total"], progress["unit"]) == (120, 120, "samples")


def test_progress_events_and_checkpoints_tell_the_same(unbroken: Left) -> None:
    progress, metrics, evaluated = unbroken.progress(), unbroken.events("metrics"), unbroken.events("evaluated")
    assert [(e["epoch"], e["step"], e["num_samples"]) for e in evaluated] == [(0, 2, 30), (1, 4, 30)]
    assert [e["path"] for e in unbroken.events("checkpoint")] == [f"checkpoints/{name}" for name in STEPS]
    assert (progress["phase"], progress["done"], progress["total"]) == ("training", 120, 120)
    last = {**metrics[-1], "epoch": 2, "epochs": 2}
    assert progress["figures"] == {**last, **{name: evaluated[-1][name] for name in ("top1_error", "top5_error")}}
    assert metrics[-1]["step"] == 4
    assert all(event["learning_rate"] == 0.005 and 0 <= event["data_wait_share"] <= 1 for event in metrics)
    state = unbroken.state(STEPS[3])
    assert state["errors"] == {name: evaluated[-1][name] for name in state["errors"]}


def test_each_epoch_proves_that_it_was_delivered_whole(
    tiny_dataset: str, unbroken: Left, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = unbroken.events("delivered")
    assert [(event["epoch"], event["num_samples"], event["num_replaced"]) for event in told] == [(0, 60, 0), (1, 60, 0)]
    assert len({event["digest"] for event in told}) == 2
    # A sample that comes twice, and another not at all.
    plain = PayloadReader.payload
    monkeypatch.setattr(PayloadReader, "payload", lambda self, row: plain(self, 8 if row == 7 else row))
    with pytest.raises(TenchError, match=r"60 samples .* the order asks for 60 .* lost, repeated or changed"):
        train_here(tiny_dataset, folder)


def test_a_step_gives_the_mean_gradient_of_its_global_batch(tiny_dataset: str) -> None:
    """Whole and in micro-batches, against plain autograd on the same pictures with the same masks."""
    training = prepared(tiny_dataset)
    with training.loader:
        batch = next(iter(training.loader))
        whole: list[torch.Tensor] = []
        micro: list[torch.Tensor] = []
        for found, size in ((whole, None), (micro, 7)):
            settings = training.settings.model_copy(update={"micro_batch": size})
            sums = train_step(dataclasses.replace(training, settings=settings), batch, stop=False, save=False)
            assert sums[ROWS] == 40
            found += [
                torch.tensor(sums[LOSS] / 40),
                *(t.grad.clone() for t in training.network.parameters() if t.grad is not None),
            ]
    network = build(training.recipe.network, training.recipe.seed)
    loss = F.cross_entropy(network(batch.images, dropout=DropoutKey(0, 0, batch.places.numpy())), batch.labels)
    expected = [loss.detach(), *torch.autograd.grad(loss, list(network.parameters()))]
    for plain, *ours in zip(expected, whole, micro, strict=True):
        for gradient in ours:
            assert (gradient - plain).norm() <= 1e-5 * plain.norm()


def test_a_run_that_diverges_says_so_and_keeps_nothing_of_it(tiny_dataset: str, folder: Path) -> None:
    with pytest.raises(TenchError, match=r"step [23]: the loss is (nan|inf); the run diverged.*lower --learning-rate"):
        train_here(tiny_dataset, folder, learning_rate=100.0, global_batch=20)
    assert Left(folder).names == []
    assert all("NaN" not in path.read_text() for path in folder.rglob("*.json*"))


def test_an_attempt_that_was_overtaken_ends(tiny_dataset: str, unbroken: Left, folder: Path) -> None:
    old = RunWriter.begin(Place(unbroken.copy_checkpoint(STEPS[3], folder)), "train", {})
    RunWriter.begin(Place(folder), "train", {})
    with pytest.raises(Interrupted, match="attempt 2 has taken over"):
        train(tiny_dataset, str(folder), TrainSettings(**{**RECIPE, **HERE, "epochs": 4}), old)
