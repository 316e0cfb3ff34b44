"""Training under Ray Train: the numbers of one process, errors of ours as what they are, no folder of Ray's left."""

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from augment.loader import Loader
from ingest.dataset import Dataset
from ingest.errors import DamageError, LostError, RefusedError, TenchError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.augment.stored import Stored
from tests.conftest import RAY_CPUS
from tests.trainer.runs import AFTER_EVERY_STEP, RECIPE, Left, train_here
from trainer.launch import _device, _ended_by_ray, _failure_config, _let_the_others_go, _resources, _with_ray, plan_only
from trainer.presets import recipe
from trainer.settings import TrainSettings, takes_gpus

Nodes = list[tuple[int, int]]
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
        "attempts", "checkpoints", "events", "figures", "model_card.json", "model_card.md", "progress", "request.json",
        "tensorboard", "workers",
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
        (
            {"num_workers": RAY_CPUS + 1, "cpus_per_worker": 1},
            f"holds {RAY_CPUS} of these, it has 1 node of {RAY_CPUS} CPUs",
        ),
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


@pytest.mark.parametrize(
    ("nodes", "chosen", "granted", "share"),
    [
        (
            [(4, 0)] * 3,
            {"num_workers": 4},
            None,
            (2, False),
        ),  # three CPUs each, of twelve, would leave one without a place
        ([(4, 0)] * 3, {"num_workers": 1}, None, (4, False)),
        ([(4, 0)] * 3, {"num_workers": 2}, "6", (3, False)),
        ([(4, 0)] * 3, {"num_workers": 2}, "1", (1, False)),
        ([(16, 1)], {"num_workers": 4, "min_workers": 1}, None, (4, True)),  # its share when it has grown
        ([(4, 0)], {"num_workers": 8, "min_workers": 2}, None, (1, False)),
        ([(16, 2), (2, 2)], {"num_workers": 4}, None, (1, True)),
        ([(4, 0), (4, 0)], {"num_workers": 2, "cpus_per_worker": 3}, "2", (3, False)),
    ],
)
def test_workers_share_out_the_cpus_of_each_node(
    monkeypatch: pytest.MonkeyPatch, nodes: Nodes, chosen: dict[str, Any], granted: str | None, share: tuple[int, bool]
) -> None:
    monkeypatch.delenv("TENCH_CPUS", raising=False)
    if granted is not None:
        monkeypatch.setenv("TENCH_CPUS", granted)
    assert _resources(TrainSettings(**chosen), nodes) == share


@pytest.mark.parametrize(
    ("nodes", "chosen", "words"),
    [
        (
            [(4, 0), (8, 0), (4, 0)], {"num_workers": 5, "cpus_per_worker": 3},
            "--num-workers 5 with 3 CPUs each, on one node: the cluster holds 4 of these, it has 1 node of 8 CPUs, 2 nodes "
            "of 4 CPUs; take fewer workers or a smaller --cpus-per-worker",
        ),
        (
            [(1, 2), (4, 0)], {"num_workers": 4, "min_workers": 2, "device": "gpu"},
            "--min-workers 2 with 1 CPU and 1 GPU each, on one node: the cluster holds 1 of these, it has 1 node of 4 CPUs, "
            "1 node of 1 CPU and 2 GPUs; take fewer workers or a smaller --cpus-per-worker",
        ),
        ([], {"num_workers": 1}, "holds none of these, it has no nodes;"),
    ],
)  # fmt: skip
def test_workers_that_no_node_holds_are_refused_with_the_nodes(
    nodes: Nodes, chosen: dict[str, Any], words: str
) -> None:
    with pytest.raises(RefusedError, match=re.escape(words)):
        _resources(TrainSettings(**chosen), nodes)


def test_starts_that_find_no_place_come_to_an_end_which_names_what_is_there(
    monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    from ray.train import ControllerError, ScalingConfig
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2._internal.execution.failure_handling import FailureDecision, create_failure_policy

    monkeypatch.setattr("trainer.launch._nodes", lambda: [(4, 1), (2, 0)])
    error = ControllerError(WorkerGroupStartupTimeoutError(2))
    for chosen, tries in ((TrainSettings(num_workers=2), 10), (TrainSettings(num_workers=2, min_workers=2), 100)):
        policy = create_failure_policy(_failure_config(chosen))
        decisions = [policy.make_decision(error) for _ in range(tries + 1)]
        assert decisions == [FailureDecision.RETRY] * tries + [FailureDecision.RAISE]
    ended = _ended_by_ray(
        error, ScalingConfig(num_workers=(2, 3), resources_per_worker={"CPU": 3, "GPU": 1}, use_gpu=True)
    )
    assert isinstance(ended, LostError)
    assert "for 2 workers, each with 3 CPUs and 1 GPU on one node" in ended.message
    assert "the cluster has 1 node of 4 CPUs and 1 GPU, 1 node of 2 CPUs" in ended.message


@pytest.mark.slow
def test_a_failure_that_comes_back_after_a_restart_ends_the_run(
    tiny_dataset: str, unbroken: Left, folder: Path
) -> None:
    """A checkpoint that lacks a part, as of a Tench to come, cannot be gone on from, however often it is tried."""
    unbroken.copy_checkpoint(FIRST_STEP, folder)
    place = folder / "checkpoints" / FIRST_STEP
    state = unbroken.state(FIRST_STEP)
    del state["schedule"]
    told = {"state.json": json.dumps(state), "hashes.json": json.loads((place / "hashes.json").read_text())}
    told["hashes.json"] = json.dumps(
        told["hashes.json"] | {"state.json": sha256(told["state.json"].encode()).hexdigest()}
    )
    for name, text in told.items():
        (place / name).unlink()
        (place / name).write_text(text)
    met = "Rank 0 failed before its first step with KeyError: 'schedule'."
    with pytest.raises(TenchError, match=rf"^{met} The workers had been started anew .* not tried again"):
        train_here(tiny_dataset, folder, num_workers=1, cpus_per_worker=1)
    assert Left(folder).texts("warning") == [met, met]


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
