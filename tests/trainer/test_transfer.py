"""A run that begins with layers of another: which are taken, that they are the same, that the other is needed no more."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.entry import read_request
from ingest.dataset import Dataset
from ingest.errors import DamageError, Interrupted, RefusedError, UsageError
from ingest.storage import Place
from tests.trainer.runs import Left, train_here
from trainer import checkpoint
from trainer.launch import plan_only
from trainer.presets import recipe
from trainer.settings import TrainSettings
from trainer.transfer import choose, shapes

# The small network for 32-pixel pictures: conv1 to conv3 and fc4, 60 samples in two steps.
SMALL: dict[str, Any] = {"preset": "cifar", "epochs": 1, "switch": ()}
FROZEN: dict[str, Any] = {**SMALL, "switch": ('rule.layer_rates={"conv1": [[0, 0]]}',)}
LAST = "step-00000002.0001"


@pytest.fixture(scope="module")
def taught(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A run of the small network over ten classes."""
    folder = tmp_path_factory.mktemp("taught")
    train_here(tiny_dataset, folder, **SMALL, seed=1)
    return Left(folder)


@pytest.fixture
def beginner(taught: Left, tiny_dataset: str, tmp_path: Path) -> Left:
    """A run of other initial weights that begins with all layers but fc4, trained for one epoch with conv1 frozen."""
    train_here(
        tiny_dataset, tmp_path / "beginner", **FROZEN, seed=2, initial=str(taught.folder),
        initial_layers="conv1,conv2,conv3", checkpoint_minutes=1e-9,
    )  # fmt: skip
    return Left(tmp_path / "beginner")


def sha256_of(run: Left) -> str:
    return hashlib.sha256((run.folder / "checkpoints" / LAST / "weights.pt").read_bytes()).hexdigest()


def saved_with(run: Left, into: Path, **changed: Any) -> Left:
    """A run folder with the checkpoint of another, its state changed."""
    tensors = run.tensors(LAST)
    state = {**run.state(LAST), **changed}
    checkpoint.save(Place(into), 1, state, tensors["network"], tensors["velocity"])
    return Left(into)


def test_a_frozen_layer_stays_what_it_was_in_the_other_run_and_the_others_learn_from_there(
    taught: Left, beginner: Left
) -> None:
    before, after = taught.tensors(LAST)["network"], beginner.tensors(LAST)["network"]
    first = beginner.tensors("step-00000001.0001")
    for part in ("weight", "bias"):
        assert torch.equal(after[f"conv1.{part}"], before[f"conv1.{part}"])
        assert not torch.equal(after[f"conv3.{part}"], before[f"conv3.{part}"])
        # v = -e g after the first step: the weights of before are those of now less the velocity, which began at 0.
        began = first["network"][f"conv2.{part}"] - first["velocity"][f"conv2.{part}"]
        torch.testing.assert_close(began, before[f"conv2.{part}"], rtol=0, atol=1e-7)
    assert (after["fc4.weight"] - before["fc4.weight"]).abs().mean() > 0.008  # two draws of deviation 0.01


def test_a_run_records_what_it_took_by_hash_and_says_what_was_drawn(taught: Left, beginner: Left) -> None:
    taken = {"weights_sha256": sha256_of(taught), "layers": ["conv1", "conv2", "conv3"]}
    assert beginner.state(LAST)["recipe"]["initial"] == taken
    (event,) = beginner.events("transferred")
    assert {name: event[name] for name in taken} == taken
    assert event["fresh"] == {"fc4": "was not asked for"}
    (said,) = beginner.texts("transferred")
    assert said == (
        "Begins with conv1, conv2, conv3 of another run at its step 2; drawn fresh: fc4 (was not asked for)."
    )
    assert str(taught.folder) not in str(beginner.state(LAST))


def test_a_resume_does_not_need_the_other_run(taught: Left, tiny_dataset: str, tmp_path: Path) -> None:
    """Stopped after the first step, or killed before it: the layers are in the run's own folder."""
    gone = tmp_path / "gone"
    shutil.copytree(taught.folder, gone)
    folder = tmp_path / "run"
    chosen = {**SMALL, "initial": str(gone), "initial_layers": "conv1,conv2,conv3"}
    with pytest.raises(Interrupted):
        train_here(tiny_dataset, folder, stop=True, **chosen)
    shutil.rmtree(gone)
    train_here(tiny_dataset, folder, **chosen)
    killed = tmp_path / "killed"
    shutil.copytree(folder, killed)
    shutil.rmtree(killed / "checkpoints")
    train_here(tiny_dataset, killed, **SMALL)
    name = "step-00000002"
    one, other = Left(folder).tensors(f"{name}.0002"), Left(killed).tensors(f"{name}.0003")
    assert all(torch.equal(tensor, other["network"][key]) for key, tensor in one["network"].items())
    with pytest.raises(RefusedError, match=r"--initial-layers conv1: the run was begun with conv1,conv2,conv3"):
        train_here(tiny_dataset, folder, **{**chosen, "initial_layers": "conv1"})
    with pytest.raises(
        RefusedError, match=rf"--initial /elsewhere/other: the run was begun with {gone.name}; leave it"
    ):
        train_here(tiny_dataset, folder, **{**chosen, "initial": "/elsewhere/other"})


def test_changed_layers_are_damage(beginner: Left, tiny_dataset: str) -> None:
    (path,) = (beginner.folder / "initial").glob("*.pt")
    shutil.rmtree(beginner.folder / "checkpoints")
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(DamageError, match=f"{path.name}: was changed"):
        train_here(tiny_dataset, beginner.folder, **FROZEN, seed=2)


def test_the_head_is_drawn_where_it_tells_other_classes_apart(taught: Left, tiny_dataset: str, tmp_path: Path) -> None:
    wnids = taught.state(LAST)["classes"]
    others = saved_with(taught, tmp_path / "others", classes=[*wnids[:-1], "n99999999"])
    same = plan_only(tiny_dataset, TrainSettings(**SMALL, initial=str(taught.folder)))
    assert same["initial"] == {"step": 2, "layers": ["conv1", "conv2", "conv3", "fc4"], "fresh": {}}
    told = plan_only(tiny_dataset, TrainSettings(**SMALL, initial=str(others.folder)))
    assert told["initial"]["fresh"] == {"fc4": "tells other classes apart there"}


def test_a_layer_that_was_asked_for_and_does_not_fit_is_refused(taught: Left, tiny_dataset: str) -> None:
    chosen = {**SMALL, "initial": str(taught.folder)}
    wider = {**chosen, "switch": ("network.widths=[32, 48, 64]",)}
    with pytest.raises(RefusedError, match=r"--initial-layers conv2: .*32 x 32 x 5 x 5 there, 48 x 32 x 5 x 5 here"):
        plan_only(tiny_dataset, TrainSettings(**wider, initial_layers="conv1,conv2"))
    found = plan_only(tiny_dataset, TrainSettings(**wider))["initial"]
    assert found["layers"] == ["conv1", "fc4"]
    assert found["fresh"] == {
        "conv2": "32 x 32 x 5 x 5 there, 48 x 32 x 5 x 5 here", "conv3": "64 x 32 x 5 x 5 there, 64 x 48 x 5 x 5 here",
    }  # fmt: skip
    with pytest.raises(RefusedError, match=r"--initial-layers fc9: .*this network has conv1, conv2, conv3, fc4"):
        plan_only(tiny_dataset, TrainSettings(**chosen, initial_layers="fc9"))
    with pytest.raises(UsageError, match="of which run"):
        plan_only(tiny_dataset, TrainSettings(**SMALL, initial_layers="conv1"))


def test_a_folder_without_a_checkpoint_is_refused_and_so_is_a_run_begun_without(
    taught: Left, tiny_dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="holds no checkpoint; give the folder of a run that has trained"):
        plan_only(tiny_dataset, TrainSettings(**SMALL, initial=str(tmp_path)))
    folder = tmp_path / "run"
    shutil.copytree(taught.folder, folder)
    with pytest.raises(RefusedError, match="was begun without it"):
        train_here(tiny_dataset, folder, **SMALL, seed=1, initial=str(taught.folder))


def test_layers_of_a_network_with_other_switches_are_taken_with_a_warning(
    taught: Left, tiny_dataset: str, tmp_path: Path
) -> None:
    tanh = {**SMALL, "switch": ("network.activation=tanh",)}
    train_here(tiny_dataset, tmp_path / "run", **tanh, initial=str(taught.folder))
    (warning,) = [text for text in Left(tmp_path / "run").texts("warning") if "other switches" in text]
    assert warning.endswith("in a network with other switches: activation relu there, tanh here.")


def test_the_chain_of_cnn_star_takes_the_convolutions_and_draws_the_rest(tiny_dataset: str) -> None:
    """Shapes only: #145 -> the net with the sixth convolution on more classes -> fine-tuning on fewer."""
    opened = Dataset.open(tiny_dataset)
    plain, star = (recipe(TrainSettings(preset=name), opened).network for name in ("museum145", "cnn_star"))
    many = star.model_copy(update={"num_classes": 21_843})
    first = choose(shapes(plain), shapes(many), ["conv1", "conv2", "conv3", "conv4", "conv5"], same_classes=False)
    assert sorted(first.fresh) == ["conv6", "fc6", "fc7", "fc8"]
    then = choose(shapes(many), shapes(star), None, same_classes=False)
    assert then.taken == ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7")
    assert then.fresh == {"fc8": "21843 x 4096 there, 10 x 4096 here"}


def test_a_service_holds_the_other_run_to_its_roots(tmp_path: Path) -> None:
    settings = {"dataset": str(tmp_path / "data"), "initial": "/elsewhere/run"}
    with pytest.raises(RefusedError, match=r"initial: /elsewhere/run: lies outside of the service's roots"):
        read_request({"kind": "train", "settings": settings, "roots": [str(tmp_path)]})


def test_the_path_of_the_other_run_is_no_content_and_the_layers_are() -> None:
    settings = TrainSettings(initial="/somewhere/run", initial_layers="conv1,conv2")
    assert settings.content()["initial_layers"] == "conv1,conv2"
    assert "initial" not in settings.content()


def test_the_next_attempt_keeps_what_the_first_one_took(taught: Left, tiny_dataset: str, tmp_path: Path) -> None:
    """The other run has gone on meanwhile."""
    growing = tmp_path / "growing"
    shutil.copytree(taught.folder, growing)
    folder = tmp_path / "run"
    chosen = {**SMALL, "initial": str(growing), "initial_layers": "conv1"}
    with pytest.raises(Interrupted):
        train_here(tiny_dataset, folder, stop=True, **chosen)
    later = taught.tensors(LAST)["network"]
    checkpoint.save(Place(growing), 1, {**taught.state(LAST), "step": 9}, later, {})
    shutil.rmtree(folder / "checkpoints")
    train_here(tiny_dataset, folder, **chosen)
    (name,) = Left(folder).names
    assert Left(folder).state(name)["recipe"]["initial"]["weights_sha256"] == sha256_of(taught)
