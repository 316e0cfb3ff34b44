"""Weights as files: torchvision's network written out plainly gives the same logits; safetensors read byte by byte."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from augment.loader import Loader
from augment.settings import LoaderSettings
from cluster.cli.app import run as tench
from ingest.dataset import Dataset
from ingest.errors import DamageError, RefusedError, TenchError, UsageError
from ingest.storage import Place
from tests.trainer.runs import Left, train_here
from trainer import checkpoint
from trainer.evaluate import evaluate_run
from trainer.exchange import export, import_weights
from trainer.networks import build
from trainer.presets import recipe
from trainer.settings import EvaluateSettings, TrainSettings
from trainer.switches import Recipe

SMALL: dict[str, Any] = {"preset": "cifar", "epochs": 1, "switch": ()}
FIRST, LAST = "step-00000000.0001", "step-00000002.0001"
# torchvision's published numbers, on values from 0 to 1.
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
Tensors = dict[str, torch.Tensor]


class Published(nn.Module):
    """AlexNet as torchvision 0.28 writes it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


@pytest.fixture(scope="module")
def published() -> Published:
    """The plain network with weights drawn by torch, then scaled as He has it: its logits differ between pictures."""
    torch.manual_seed(5)
    network = Published(10).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(6**0.5 if parameter.dim() > 1 else 1)
    return network


@pytest.fixture(scope="module")
def imported(published: Published, tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """The run that its weights become."""
    folder = tmp_path_factory.mktemp("imported")
    torch.save(published.state_dict(), folder / "alexnet.pth")
    facts = import_weights(str(folder / "alexnet.pth"), str(folder / "run"), tiny_dataset, None)
    assert (facts["preset"], facts["num_parameters"]) == ("torchvision", 57_044_810)
    yield Left(folder / "run")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def small(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A trained run of the small network."""
    folder = tmp_path_factory.mktemp("small")
    train_here(tiny_dataset, folder, **SMALL)
    return Left(folder)


def logits_of(run: Left, name: str, dataset: str) -> torch.Tensor:
    """What a run's network says of the validation split, by its own recipe's loader."""
    chosen = Recipe.model_validate(run.state(name)["recipe"])
    network = build(chosen.network, 0)
    network.load_state_dict(run.tensors(name)["network"])
    with Loader(dataset, chosen.loader, split="val", views=1) as loader, torch.inference_mode():
        return torch.cat([network(batch.images) for batch in loader])


def published_logits(network: nn.Module, dataset: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the plain network says of the centre crops, normalised here, and their labels."""
    with Loader(dataset, LoaderSettings(output="uint8"), split="val", views=1) as loader:
        (batch,) = loader
    crops = batch.images.numpy().transpose(0, 2, 3, 1) / 255
    pictures = torch.from_numpy(((crops - MEAN) / STD).transpose(0, 3, 1, 2)).float()
    with torch.inference_mode():
        return network(pictures), batch.labels


def state_dict_of_zeros(num_classes: int) -> Tensors:
    """torchvision's names and shapes in a file of a few kilobytes: every tensor repeats one zero."""
    shapes = {
        "features.0": (64, 3, 11, 11), "features.3": (192, 64, 5, 5), "features.6": (384, 192, 3, 3),
        "features.8": (256, 384, 3, 3), "features.10": (256, 256, 3, 3), "classifier.1": (4096, 9216),
        "classifier.4": (4096, 4096), "classifier.6": (num_classes, 4096),
    }  # fmt: skip
    tensors = {f"{layer}.weight": torch.zeros(1).expand(shape) for layer, shape in shapes.items()}
    return tensors | {f"{layer}.bias": torch.zeros(1).expand(shape[0]) for layer, shape in shapes.items()}


def with_recipe(run: Left, dataset: str, into: Path, **settings: Any) -> Left:
    """A run folder whose checkpoint says that it was made by another recipe."""
    chosen = recipe(TrainSettings(**settings), Dataset.open(dataset))
    state = {**run.state(run.names[-1]), "recipe": chosen.model_dump(mode="json")}
    checkpoint.save(Place(into), 1, state, run.tensors(run.names[-1])["network"], {})
    return Left(into)


def test_an_imported_network_says_of_the_same_pictures_what_torchvisions_says(
    published: Published, imported: Left, tiny_dataset: str, tmp_path: Path
) -> None:
    expected, labels = published_logits(published, tiny_dataset)
    found = logits_of(imported, FIRST, tiny_dataset)
    assert expected.std(dim=0).mean() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    facts = evaluate_run(tiny_dataset, str(imported.folder), EvaluateSettings(device="cpu"), None)
    assert facts["top1_error"] == pytest.approx((expected.argmax(dim=1) != labels).double().mean().item())


def test_exported_weights_are_the_imported_ones_bit_for_bit(
    published: Published, imported: Left, tmp_path: Path
) -> None:
    facts = export(str(imported.folder), str(tmp_path / "out.pth"), None)
    found = torch.load(tmp_path / "out.pth", weights_only=True)
    expected = published.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert facts["bytes"] == (tmp_path / "out.pth").stat().st_size
    with pytest.raises(RefusedError, match="is there already"):
        export(str(imported.folder), str(tmp_path / "out.pth"), None)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["outputs", "inputs"])
def test_a_network_with_the_dropout_of_2012_is_exported_with_halved_weights(
    imported: Left, tiny_dataset: str, tmp_path: Path, place: str
) -> None:
    switches = ("network.dropout=mask", f"network.dropout_place={place}", "network.norm_first=true")
    masked = with_recipe(imported, tiny_dataset, tmp_path / "run", preset="torchvision", switch=switches)
    export(str(masked.folder), str(tmp_path / "out.pt"), None)
    network = Published(10).eval()
    network.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True))
    expected, _ = published_logits(network, tiny_dataset)
    torch.testing.assert_close(logits_of(masked, FIRST, tiny_dataset), expected, rtol=0, atol=1e-4)
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "museum145"}, r"network.widths is 96-256-384-384-256, there 64-192-384-256-256"),
        ({"preset": "convnet2"}, r"network.conv1_border is after, there around.*network.lrn is True, there False"),
        (
            {"preset": "torchvision", "switch": ("loader.mean=centre",)},
            r"run's: loader.mean is centre, there published",
        ),
        ({"preset": "torchvision", "switch": ("network.input_scale=null",)}, r"run's: network.input_scale is None"),
        ({"preset": "torchvision", "variant": ("sixth",)}, r"run's: network.sixth is True, there False"),
    ],
)
def test_a_network_that_is_not_torchvisions_is_refused_with_the_reason(
    small: Left, tiny_dataset: str, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    other = with_recipe(small, tiny_dataset, tmp_path / "run", **settings)
    with pytest.raises(RefusedError, match=said):
        export(str(other.folder), str(tmp_path / "out.bin"), "torchvision")
    assert not (tmp_path / "out.bin").exists()


def test_a_safetensors_file_holds_the_tensors_and_says_what_they_are(
    small: Left, tiny_dataset: str, tmp_path: Path
) -> None:
    """Read without the library: length of the header, header, tensors."""
    export(str(small.folder), str(tmp_path / "small.safetensors"), None)
    data = (tmp_path / "small.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    told = json.loads(header.pop("__metadata__")["tench"])
    expected = small.tensors(LAST)["network"]
    assert header.keys() == expected.keys()
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        found = np.frombuffer(data[8 + length + first : 8 + length + last], "<f4").reshape(entry["shape"])
        assert entry["dtype"] == "F32"
        assert np.array_equal(found, expected[name].numpy())
    state = small.state(LAST)
    assert {name: told[name] for name in ("classes", "dataset_id", "errors", "step")} == {
        name: state[name] for name in ("classes", "dataset_id", "errors", "step")
    }
    assert told["recipe"]["network"] == state["recipe"]["network"]
    assert "cache" not in told["recipe"]["loader"]


def test_a_run_comes_back_out_of_its_safetensors_file(small: Left, tiny_dataset: str, tmp_path: Path) -> None:
    file = str(tmp_path / "small.safetensors")
    export(str(small.folder), file, None)
    import_weights(file, str(tmp_path / "run"), tiny_dataset, None)
    back = Left(tmp_path / "run")
    before, after = small.tensors(LAST)["network"], back.tensors(FIRST)["network"]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(logits_of(back, FIRST, tiny_dataset), logits_of(small, LAST, tiny_dataset))
    chosen, kept = back.state(FIRST)["recipe"], small.state(LAST)["recipe"]
    assert chosen.pop("initial")["layers"] == ["conv1", "conv2", "conv3", "fc4"]
    assert chosen == {name: value for name, value in kept.items() if name != "initial"}
    # And it can be trained on, from its first step.
    train_here(tiny_dataset, tmp_path / "run", **SMALL)
    assert back.names[-1] == "step-00000002.0002"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("features.3.bias"), r"does not fit the network: features.3.bias is missing$"),
        (lambda t: t.update(extra=torch.zeros(1)), r"extra is not of this network$"),
        (lambda t: t.update(state_dict_of_zeros(1000)), r"classifier.6.weight is 1000 x 4096, expected 10 x 4096; cl"),
        (lambda t: t.update({"features.0.bias": torch.zeros(64).long()}), r"features.0.bias is torch.int64, expected"),
        (lambda t: t.update({"features.0.bias": torch.full((64,), torch.nan)}), r"features.0.bias holds values that"),
    ],
)
def test_tensors_that_are_missing_extra_or_unfit_are_refused_by_name(
    tiny_dataset: str, tmp_path: Path, change: Any, said: str
) -> None:
    tensors = state_dict_of_zeros(10)
    change(tensors)
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(RefusedError, match=said):
        import_weights(str(tmp_path / "weights.pth"), str(tmp_path / "run"), tiny_dataset, None)
    assert not (tmp_path / "run").exists()


class Intruder:
    """Would make a folder if it were unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_nothing_is_unpickled(tiny_dataset: str, tmp_path: Path) -> None:
    torch.save({"features.0.weight": Intruder(str(tmp_path / "harm"))}, tmp_path / "weights.pth")
    with pytest.raises(RefusedError, match=r"is not a plain state dict .*nothing was unpickled"):
        import_weights(str(tmp_path / "weights.pth"), str(tmp_path / "run"), tiny_dataset, None)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\xff" * 64, b'{"a": 1}'])
def test_a_file_of_anything_else_is_refused(tiny_dataset: str, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RefusedError, match=name):
        import_weights(str(tmp_path / name), str(tmp_path / "run"), tiny_dataset, None)


def test_a_recipe_from_outside_names_no_folder_and_no_impossible_network(
    small: Left, tiny_dataset: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    export(str(small.folder), str(tmp_path / "good.safetensors"), None)
    data = (tmp_path / "good.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told = json.loads(header["__metadata__"]["tench"])
    tensors = small.tensors(LAST)["network"]

    def imported_with(name: str, **changed: Any) -> Left:
        text = json.dumps({**told, **changed})
        save_file(tensors, tmp_path / f"{name}.safetensors", {"tench": text})
        import_weights(str(tmp_path / f"{name}.safetensors"), str(tmp_path / name), tiny_dataset, None)
        return Left(tmp_path / name)

    loader = {**told["recipe"]["loader"], "cache": "/elsewhere"}
    found = imported_with("cache", recipe={**told["recipe"], "loader": loader})
    assert found.state(FIRST)["recipe"]["loader"]["cache"] == "~/.cache/tench"
    network = told["recipe"]["network"]
    with pytest.raises(RefusedError, match=r"its recipe does not fit this Tench: network.pool"):
        imported_with("pool", recipe={**told["recipe"], "network": {**network, "pool": 7}})
    with pytest.raises(RefusedError, match="its recipe describes no network"):
        imported_with("odd", recipe={**told["recipe"], "network": {**network, "architecture": "alexnet", "side": 224}})
    with pytest.raises(RefusedError, match="its network takes pictures of 48 pixels, its loader crops 32"):
        imported_with("side", recipe={**told["recipe"], "network": {**network, "side": 48}})
    with pytest.raises(RefusedError, match="tells 10 classes apart that are not the 10 of"):
        imported_with("classes", classes=told["classes"][::-1])
    with pytest.raises(RefusedError, match="format 99, this Tench reads 1; update it"):
        imported_with("newer", format_version=99)


def test_what_cannot_be_done_is_refused_before_anything_is_written(
    small: Left, tiny_dataset: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "w.safetensors")
    export(str(small.folder), file, None)
    cases: list[tuple[type[TenchError], str, Any]] = [
        (UsageError, "names no format; expected .safetensors", lambda: export(str(small.folder), "w.bin", None)),
        (RefusedError, "holds no checkpoint", lambda: export(str(tmp_path), str(tmp_path / "x.pt"), None)),
        (RefusedError, "is a folder", lambda: export(str(small.folder), str(tmp_path), "safetensors")),
        (RefusedError, "no such file", lambda: import_weights("gone.pth", str(tmp_path / "r"), tiny_dataset, None)),
        (RefusedError, "holds a run already", lambda: import_weights(file, str(small.folder), tiny_dataset, None)),
        (RefusedError, "weight is missing", lambda: import_weights(file, str(tmp_path / "r"), tiny_dataset, "torchvision")),
    ]  # fmt: skip
    for error, said, act in cases:
        with pytest.raises(error, match=said):
            act()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.safetensors"]


def test_a_changed_checkpoint_is_not_exported(small: Left, tmp_path: Path) -> None:
    shutil.copytree(small.folder, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / LAST / "weights.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DamageError, match="does not have the hash"):
        export(str(tmp_path / "run"), str(tmp_path / "out.safetensors"), None)


def test_the_commands_print_what_they_made(
    small: Left, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = str(tmp_path / "w.safetensors"), str(tmp_path / "run")
    assert tench(["export", str(small.folder), file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_parameters"] == 89_578
    assert tench(["import", file, folder, "--dataset", tiny_dataset, "--from", "tench"]) == 0
    assert not Path(folder, "figures").exists()  # nothing was trained, so there are no curves
    assert "cifar" in capsys.readouterr().out
    assert tench(["import", file, folder, "--dataset", tiny_dataset]) == 3
    assert "holds a run already; give another folder" in capsys.readouterr().err
    assert tench(["evaluate", tiny_dataset, folder, "--device", "cpu", "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)
    assert errors["top1_error"] == small.state(LAST)["errors"]["top1_error"]
    assert tench(["evaluate", tiny_dataset, folder, "--device", "cpu", "--views", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == 10
