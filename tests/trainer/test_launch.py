"""Training under Ray Train: the numbers of one process, errors of ours as what they are, no folder of Ray's left."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from augment.loader import Loader
from ingest.dataset import Dataset
from ingest.errors import DamageError, RefusedError, TenchError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.augment.stored import Stored
from tests.conftest import RAY_CPUS
from tests.trainer.runs import AFTER_EVERY_STEP, RECIPE, Left, train_here
from trainer.launch import _device, _let_the_others_go, _with_ray, plan_only
from trainer.presets import recipe
from trainer.settings import TrainSettings, takes_gpus

FIRST_STEP, FIRST_EPOCH = "step-00000001.0001", "step-00000002.0001"


def damage_a_picture_of_rank_1(dataset: str) -> str:
    """Flip a bit of the last picture that rank 1 of 2 takes in the first step; its key."""
    opened = Dataset.open(dataset)
    with Loader(opened, recipe(TrainSettings(**RECIPE), opened).loader, rank=1, world_size=2) as loader:
        row = Stored(Path(dataset)).index[int(loader.share(0).rows[-1])]
    shard = sorted(Path(dataset, "train").glob("*.arrow"))[row["shard"]]
    with shard.open("r+b") as file:
        file.seek(row["offset"] + 100)
        byte = file.read(1)[0]
        file.seek(row["offset"] + 100)
        file.write(bytes([byte ^ 1]))
    return str(row["key"])


def test_two_workers_train_like_one_process(tiny_dataset: str, unbroken: Left, folder: Path) -> None:
    facts = train_here(tiny_dataset, folder, epochs=1, num_workers=2, cpus_per_worker=1, **AFTER_EVERY_STEP)
    left, during = Left(folder), unbroken.events("evaluated")[0]
    assert (facts["world_size"], facts["epochs"], facts["steps"], facts["num_samples"]) == (2, 1, 2, 30)
    assert facts["loss"] == pytest.approx(during["loss"], rel=1e-4)
    assert (facts["top1_error"], facts["top5_error"]) == pytest.approx(
        (during["top1_error"], during["top5_error"]), abs=1 / 30
    )
    assert left.names == [FIRST_STEP, FIRST_EPOCH]
    ours, one = left.state(FIRST_STEP)["epoch_sums"], unbroken.state(FIRST_STEP)["epoch_sums"]
    assert (ours["samples"], ours["correct"]) == (40, pytest.approx(one["correct"], abs=1))
    assert ours["loss"] == pytest.approx(one["loss"], rel=1e-5)
    velocities, plain = left.tensors(FIRST_EPOCH)["velocity"], unbroken.tensors(FIRST_EPOCH)["velocity"]
    # Sums over other parts round differently, and a ReLU or a maximum beside zero may then choose otherwise.
    apart = {name: float((velocities[name] - plain[name]).norm() / plain[name].norm()) for name in plain}
    assert max(apart.values()) < 0.05, apart

    assert [event["step"] for event in left.events("evaluated")] == [2]
    assert (left.progress()["done"], left.progress()["total"]) == (60, 60)
    written = {
        "attempts", "checkpoints", "events", "model_card.json", "model_card.md", "progress", "request.json", "tensorboard",
        "workers",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == written


def test_an_error_of_one_worker_ends_the_others_and_comes_back_as_it_was(
    tiny_dataset: str, folder: Path, tmp_path: Path
) -> None:
    copy = str(shutil.copytree(tiny_dataset, tmp_path / "copy"))
    key = damage_a_picture_of_rank_1(copy)
    with pytest.raises(DamageError, match=key) as caught:
        train_here(copy, folder, num_workers=2, cpus_per_worker=1)
    assert caught.value.exit_code == 4
    assert [path.name for path in (folder / "workers/0001").iterdir()] == ["00001.json"]
    assert Left(folder).names == []
    assert not (folder / "ray").exists()


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"num_workers": RAY_CPUS + 1, "cpus_per_worker": 1}, f"the cluster has {RAY_CPUS} CPUs; take fewer workers"),
        ({"num_workers": 1, "device": "gpu"}, "GPUs, one is needed for each"),
    ],
)
def test_workers_that_the_cluster_cannot_hold_are_refused(
    tiny_dataset: str, folder: Path, chosen: dict[str, Any], words: str
) -> None:
    import ray

    if chosen.get("device") == "gpu" and ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(RefusedError, match=words):
        train_here(tiny_dataset, folder, **chosen)


@pytest.mark.parametrize(
    ("chosen", "gpus", "taken"),
    [
        ({"num_workers": 2}, 1, False),
        ({"num_workers": 2}, 2, True),
        ({"num_workers": 4, "min_workers": 1}, 1, True),
        ({"num_workers": 4, "min_workers": 2}, 1, False),
        ({"num_workers": 2, "device": "cpu"}, 2, False),
        ({"num_workers": 2, "device": "gpu"}, 1, True),
    ],
)
def test_workers_take_gpus_where_each_of_the_least_number_can_have_its_own(
    chosen: dict[str, Any], gpus: int, taken: bool
) -> None:
    settings = TrainSettings(**chosen)
    assert takes_gpus(settings.device, settings.min_workers or settings.num_workers, gpus) == taken


def test_a_worker_without_a_gpu_of_its_own_trains_on_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert _device(False) == torch.device("cpu")


def test_under_nccl_a_rank_with_an_error_fails_in_ray_so_that_the_others_end() -> None:
    with pytest.raises(RuntimeError, match="a picture is damaged"):
        _let_the_others_go("nccl", "a picture is damaged")


def test_rays_record_of_a_run_in_an_object_store_has_a_folder_of_its_own_which_goes_with_the_job(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path] = []

    def fit(trainer: Any, run: RunWriter) -> None:
        places.append(Path(trainer.run_config.storage_path))
        assert places[-1].is_dir()

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("trainer.launch._fit", fit)
    run = RunWriter.begin(Place(tmp_path / "run"), "train", {})
    run.place.is_local = False
    for _ in range(2):
        with pytest.raises(TenchError, match="ended without saying how"):
            _with_ray(Dataset.open(tiny_dataset), TrainSettings(num_workers=1, cpus_per_worker=1), run)
    first, second = places
    assert first != second
    assert first.parent == second.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_plan_counts_what_a_run_would_do(tiny_dataset: str) -> None:
    plan = plan_only(tiny_dataset, TrainSettings(**RECIPE))
    assert (plan["steps_per_epoch"], plan["steps"], plan["samples"]) == (2, 4, 120)
    # Five convolutions of AlexNet, a last map of one pixel, then 64, 32 and 10 units.
    assert plan["num_parameters"] == 2_334_080 + 257 * 64 + 65 * 32 + 33 * 10
    assert plan["misfits"] == []
    assert plan["recipe"]["loader"]["global_batch"] == 40
