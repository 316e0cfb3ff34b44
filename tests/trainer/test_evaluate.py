"""Errors of a split against a NumPy count over logits gathered by plain loops; refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from augment.loader import Loader
from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from ingest.errors import Interrupted, RefusedError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.trainer.runs import Left
from trainer import checkpoint
from trainer.evaluate import evaluate, evaluate_run, pick_device
from trainer.networks import build
from trainer.settings import EvaluateSettings
from trainer.switches import NetworkSettings

LAST = "step-00000004.0001"
DEMO = LoaderSettings(global_batch=1, crop=64, mean="channel", divide_test=60.0)
Floats = npt.NDArray[np.float64]


class Coarse(nn.Module):
    """A few colours of a picture, weighted at random: quick, and right about some pictures."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(12, num_classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = nn.functional.adaptive_avg_pool2d(images.contiguous(), 2).flatten(1)
        return means @ self.weights


def gathered(network: nn.Module, dataset: str, split: str, views: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """float64 (samples, views, classes) logits and the labels, one picture and one view at a time."""
    logits, labels = [], []
    with Loader(dataset, DEMO, split=split, views=views) as loader, torch.no_grad():
        for batch in loader:
            (picture,) = batch.images if views == 10 else batch.images[None]
            logits.append([network(view[None])[0].double().numpy() for view in picture])
            labels.append(int(batch.labels[0]))
    return np.array(logits), np.array(labels)


def counted(logits: Floats, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Shares of errors and mean loss of the views' averaged probabilities."""
    shares = np.exp(logits - logits.max(axis=2, keepdims=True))
    shares = (shares / shares.sum(axis=2, keepdims=True)).mean(axis=1)
    rank = np.array([(row > row[label]).sum() for row, label in zip(shares, labels, strict=True)])
    loss = -np.log([row[label] for row, label in zip(shares, labels, strict=True)]).mean()
    return {"top1_error": (rank > 0).mean(), "top5_error": (rank > 4).mean(), "loss": loss, "num_samples": len(labels)}


@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize(("split", "batch"), [("val", 7), ("train", 64)])
def test_errors_equal_a_count_over_all_samples(tiny_dataset: str, split: str, batch: int, views: int) -> None:
    network = Coarse()
    settings = DEMO.model_copy(update={"global_batch": batch, "tail": "drop"})
    with Loader(tiny_dataset, settings, split=split, views=views) as loader:
        found = evaluate(network, loader, "fp32")
    expected = counted(*gathered(network, tiny_dataset, split, views))
    assert found.to_json() == pytest.approx(expected, rel=1e-5)
    assert 0 < found.top5_error < found.top1_error < 1


def test_ten_views_are_not_the_centre_alone(tiny_dataset: str) -> None:
    network = Coarse()
    centre, ten = (gathered(network, tiny_dataset, "val", views)[0] for views in (1, 10))
    assert np.array_equal(ten[:, 2], centre[:, 0])
    assert counted(ten, np.zeros(30, np.int64))["loss"] != counted(centre, np.zeros(30, np.int64))["loss"]


def test_with_fewer_than_five_classes_every_label_is_among_the_first(tiny_dataset: str) -> None:
    with Loader(tiny_dataset, DEMO, split="val", views=1) as loader:
        loader.split.label = np.zeros(30, np.int32)
        assert evaluate(Coarse(num_classes=2), loader, "fp32").top5_error == 0


class Undecided(nn.Module):
    """All classes alike."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.level.expand(len(images), 10)


@pytest.mark.parametrize(
    ("ties", "top1", "top5"), [(None, 0.9, 0.5), ("fractional", 0.9, 0.5), ("better", 1, 1), ("order", 0.9, 0.5)]
)
def test_equal_scores_count_as_the_rule_for_ties_says(tiny_dataset: str, ties: Any, top1: float, top5: float) -> None:
    with Loader(tiny_dataset, DEMO.model_copy(update={"global_batch": 30}), split="val", views=1) as loader:
        found = evaluate(Undecided(), loader, "fp32", **({"ties": ties} if ties else {}))
    assert (found.top1_error, found.top5_error) == pytest.approx((top1, top5))


def test_a_runs_newest_checkpoint_is_measured_and_named(tiny_dataset: str, unbroken: Left, tmp_path: Path) -> None:
    run = RunWriter.begin(Place(tmp_path), "evaluate", {})
    facts = evaluate_run(tiny_dataset, str(unbroken.folder), EvaluateSettings(device="cpu", batch=16), run)
    run.flush()
    network = build(NetworkSettings(**unbroken.state(LAST)["recipe"]["network"]), 0)
    network.load_state_dict(unbroken.tensors(LAST)["network"])
    expected = counted(*gathered(network, tiny_dataset, "val", 1))
    assert {name: facts[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    during = unbroken.events("evaluated")[-1]
    assert {name: facts[name] for name in expected} == pytest.approx(
        {name: during[name] for name in expected}, rel=1e-4
    )
    named = {"split": "val", "views": 1, "checkpoint": f"checkpoints/{LAST}", "epoch": 2, "step": 4}
    assert {name: facts[name] for name in named} == named
    assert facts["dataset_id"] == Dataset.open(tiny_dataset).dataset_id
    assert Left(tmp_path).events("evaluated") == [facts]
    assert (Left(tmp_path).progress()["phase"], Left(tmp_path).progress()["total"]) == ("evaluating", 30)


def test_an_evaluation_ends_when_it_is_asked_to(tiny_dataset: str, tmp_path: Path) -> None:
    run = RunWriter.begin(Place(tmp_path), "evaluate", {})
    run.request_stop()
    with Loader(tiny_dataset, DEMO, split="val", views=1) as loader, pytest.raises(Interrupted):
        evaluate(Coarse(), loader, "fp32", run)


def test_a_folder_without_checkpoints_is_refused(tiny_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="holds no checkpoint; `tench train DATASET"):
        evaluate_run(tiny_dataset, str(tmp_path), EvaluateSettings(), None)


@pytest.mark.parametrize("how", ["others", "order"])
def test_a_dataset_of_other_classes_is_refused(tiny_dataset: str, unbroken: Left, tmp_path: Path, how: str) -> None:
    state = unbroken.state(LAST)
    classes = state["classes"]
    state["classes"] = [*classes[1:], "n90009999"] if how == "others" else classes[::-1]
    checkpoint.save(Place(tmp_path), 1, json.loads(json.dumps(state)), {}, {})
    with pytest.raises(RefusedError, match="was trained on 10 classes that are not the 10 of"):
        evaluate_run(tiny_dataset, str(tmp_path), EvaluateSettings(), None)


def test_a_split_that_is_not_there_is_refused(tiny_dataset: str, unbroken: Left) -> None:
    with pytest.raises(RefusedError, match="has no split 'test'"):
        evaluate_run(tiny_dataset, str(unbroken.folder), EvaluateSettings(split="test"), None)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert pick_device("gpu").type == pick_device("auto").type == "cuda"
        return
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(RefusedError, match="no usable NVIDIA GPU; take --device cpu"):
        pick_device("gpu")
