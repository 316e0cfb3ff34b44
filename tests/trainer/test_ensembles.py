"""Several runs together against NumPy averages over each network's own probabilities; what does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from augment.loader import Loader
from ingest.dataset import Dataset
from ingest.errors import Interrupted, RefusedError, TenchError, UsageError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.trainer.saved_runs import saved_run
from trainer import checkpoint, ensemble
from trainer.evaluate import evaluate_run, evaluate_runs
from trainer.networks import build
from trainer.settings import EvaluateSettings
from trainer.switches import Recipe

Floats = npt.NDArray[np.float64]
ON_CPU = EvaluateSettings(device="cpu", batch=70)


@pytest.fixture(scope="module")
def runs(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three runs that see pictures differently: other crops, means and divisions."""
    place = tmp_path_factory.mktemp("ensemble")
    return [
        saved_run(place / "demo", tiny_dataset, seed=1),
        saved_run(place / "caffe", tiny_dataset, "loader.crop=67", "loader.divide_test=50", preset="caffe", seed=2),
        saved_run(place / "paper", tiny_dataset, "loader.divide_test=70", preset="paper", seed=3),
    ]


def probabilities(run: str, dataset: str, views: int) -> Floats:
    """(30, 10): softmax of every view of every picture, averaged over views, by one run's network and loader."""
    (weights,) = Path(run).glob("checkpoints/*/weights.pt")
    recipe = Recipe.model_validate(json.loads((weights.parent / "state.json").read_text())["recipe"])
    network = build(recipe.network, 0)
    network.load_state_dict(torch.load(weights, weights_only=True)["network"])
    settings = recipe.loader.model_copy(update={"global_batch": 1})
    found = []
    with Loader(dataset, settings, split="val", views=views) as loader, torch.no_grad():
        for batch in loader:
            logits = network(batch.images.reshape(views, *batch.images.shape[-3:])).double().numpy()
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            found.append((shares / shares.sum(axis=1, keepdims=True)).mean(axis=0))
    return np.array(found)


def expected(shares: Floats, labels: npt.NDArray[np.int32]) -> dict[str, Any]:
    own = shares[np.arange(len(labels)), labels]
    rank = (shares > own[:, None]).sum(axis=1)
    return {"top1_error": (rank > 0).mean(), "top5_error": (rank > 4).mean(), "loss": -np.log(own).mean()}


def picked(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("top1_error", "top5_error", "loss")}


@pytest.mark.parametrize(("views", "in_memory"), [(1, True), (10, False)])
def test_runs_answer_together_by_the_mean_of_their_probabilities(
    runs: list[str], tiny_dataset: str, views: Any, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr(ensemble, "LARGEST_IN_MEMORY", 0)
    facts = evaluate_runs(tiny_dataset, runs, ON_CPU.model_copy(update={"views": views}), None)
    labels = Dataset.open(tiny_dataset).split("val").label
    alone = [probabilities(run, tiny_dataset, views) for run in runs]
    assert picked(facts) == pytest.approx(expected(np.mean(alone, axis=0), labels), rel=1e-4)
    for member, run, shares in zip(facts["members"], runs, alone, strict=True):
        assert (member["run"], member["checkpoint"]) == (run, "checkpoints/step-00000007.0001")
        assert picked(member) == pytest.approx(expected(shares, labels), rel=1e-4)
    assert (facts["num_networks"], facts["num_samples"], "step" in facts) == (3, 30, False)
    assert len({member["loss"] for member in facts["members"]} | {facts["loss"]}) == 4


def test_batches_change_no_figure(runs: list[str], tiny_dataset: str) -> None:
    found = [evaluate_run(tiny_dataset, runs[0], ON_CPU.model_copy(update={"batch": n}), None) for n in (7, 64)]
    assert picked(found[0]) == pytest.approx(picked(found[1]), rel=1e-5)
    assert found[0]["step"] == 7


def test_an_ensemble_shows_how_far_all_its_members_are(runs: list[str], tiny_dataset: str, tmp_path: Path) -> None:
    run = RunWriter.begin(Place(tmp_path), "evaluate", {})
    evaluate_runs(tiny_dataset, runs[:2], ON_CPU, run)
    run.flush()
    progress = json.loads((tmp_path / "progress/0001.json").read_text())
    assert (progress["phase"], progress["total"]) == ("evaluating", 60)


def test_an_ensemble_ends_when_it_is_asked_to(runs: list[str], tiny_dataset: str, tmp_path: Path) -> None:
    run = RunWriter.begin(Place(tmp_path), "evaluate", {})
    run.request_stop()
    with pytest.raises(Interrupted):
        evaluate_runs(tiny_dataset, runs, ON_CPU, run)


def changed(run: str, folder: Path, **values: Any) -> str:
    """A copy of a run whose checkpoint says something else."""
    (path,) = Path(run).glob("checkpoints/*/state.json")
    weights = torch.load(path.parent / "weights.pt", weights_only=True)
    checkpoint.save(Place(folder), 1, {**json.loads(path.read_text()), **values}, weights["network"], {})
    return str(folder)


def test_the_member_with_other_classes_is_named(runs: list[str], tiny_dataset: str, tmp_path: Path) -> None:
    classes = [c.wnid for c in Dataset.open(tiny_dataset).classes]
    other = changed(runs[1], tmp_path / "other", classes=classes[::-1])
    with pytest.raises(RefusedError, match=f"^{other}: was trained on 10 classes that are not the 10 of"):
        evaluate_runs(tiny_dataset, [runs[0], other], ON_CPU, None)


def test_the_member_whose_crop_does_not_fit_is_named(runs: list[str], tiny_dataset: str, tmp_path: Path) -> None:
    large = saved_run(tmp_path / "large", tiny_dataset, "loader.crop=300")
    with pytest.raises(UsageError, match=f"^{large}: crop: 300 pixels, but the pictures of"):
        evaluate_runs(tiny_dataset, [runs[0], large], ON_CPU, None)


def test_a_run_that_is_named_twice_is_refused(runs: list[str], tiny_dataset: str) -> None:
    with pytest.raises(RefusedError, match="is named twice"):
        evaluate_runs(tiny_dataset, [runs[0], runs[1], f"{runs[0]}/"], ON_CPU, None)


def test_a_network_that_diverged_has_no_error(runs: list[str], tiny_dataset: str, tmp_path: Path) -> None:
    (path,) = Path(runs[0]).glob("checkpoints/*/state.json")
    network = torch.load(path.parent / "weights.pt", weights_only=True)["network"]
    network["fc8.bias"][0] = torch.nan
    checkpoint.save(Place(tmp_path), 1, json.loads(path.read_text()), network, {})
    with pytest.raises(TenchError, match="no number, since its run diverged"):
        evaluate_run(tiny_dataset, str(tmp_path), ON_CPU, None)
