"""Weights as files for others, and files of others as runs: safetensors, and the state dict of torchvision's AlexNet.

A checkpoint becomes one file (`export`); a file becomes the folder of a run that `tench evaluate` accepts and a
training can go on from or begin with (`import_weights`). No file is unpickled: `torch.load(weights_only=True)`.

A safetensors file holds the tensors by our names and, in its metadata under `tench`, the recipe, the classes, the
data ids and the errors. torchvision's network is the one of its preset, for pictures from which the published mean
was subtracted; a network with 2012's dropout goes into it with the weights behind it halved, which is exact.
"""

import hashlib
import io
import json
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import torch as safetensors

from ingest.dataset import Dataset
from ingest.errors import RefusedError, UsageError
from ingest.progress import RunReader, RunWriter
from ingest.storage import Place
from trainer import checkpoint, model_card, torchvision_layout, transfer, weight_files
from trainer.presets import recipe
from trainer.settings import TrainSettings
from trainer.switches import InitialWeights, Recipe
from trainer.training import RankContext, prepare, save_checkpoint

Format = Literal["safetensors", "torchvision"]
Origin = Literal["tench", "torchvision"]
SUFFIXES: dict[str, Format] = {".safetensors": "safetensors", ".pth": "torchvision", ".pt": "torchvision"}


def export(run_folder: str, out: str, form: Format | None) -> dict[str, Any]:
    """Write the weights of a run's newest checkpoint to a new file, in the format of its suffix unless told.

    Raises RefusedError (no checkpoint, a file is there already, a network that is not torchvision's), DamageError,
    UsageError (no format given).
    """
    form = form or _format_of(out)
    place, name = weight_files.target(out)
    run = Place(run_folder)
    found = checkpoint.needed(run)
    chosen = Recipe.model_validate(found.state["recipe"])
    data = _safetensors(found, chosen, run) if form == "safetensors" else _torchvision(found, chosen)
    if not place.put_new(name, data):
        raise RefusedError(f"{out}: is there already; give another name, or remove it")
    return {
        "file": out,
        "format": form,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "checkpoint": found.path,
        "num_parameters": sum(tensor.numel() for tensor in found.network.values()),
    }


def import_weights(weights: str, run_folder: str, dataset: str, origin: Origin | None) -> dict[str, Any]:
    """Make a run folder of a file of weights, for a dataset of the same classes. Returns the facts of the run.

    `origin` says whose names the tensors have; unless told, ours if the file says so, else torchvision's. Raises
    RefusedError naming what does not fit: the file, its tensors, the classes, a folder with a run in it.
    """
    opened, place = Dataset.open(dataset), Place(run_folder)
    if RunReader(place).latest_attempt() or checkpoint.complete(place):
        raise RefusedError(f"{place.uri}: holds a run already; give another folder")
    if "train" not in opened.split_names:
        raise RefusedError(f"{opened.uri}: has no training split")
    read = weight_files.read(weights)
    chosen = _recipe(weights, read, opened, origin)
    layers = transfer.layers_of(transfer.shapes(chosen.network))
    names = {layer: layer if _is_ours(read, origin) else torchvision_layout.LAYERS[layer] for layer in layers}
    tensors = weight_files.fitting(weights, read.tensors, chosen.network, names)
    initial = InitialWeights(weights_sha256=read.sha256, layers=tuple(layers))
    run = RunWriter.begin(place, "import", {"settings": {"weights": weights, "dataset": opened.uri, "from": origin}})
    source = {name: (read.told or {}).get(name) for name in ("dataset_id", "epoch", "step", "errors")}
    transfer.record(place, initial, {}, None, source)
    return _written(run, opened, chosen.model_copy(update={"initial": initial}), tensors)


def _written(run: RunWriter, opened: Dataset, chosen: Recipe, tensors: weight_files.Tensors) -> dict[str, Any]:
    """Write the first checkpoint of an imported run: its weights, velocities at zero, nothing trained yet."""
    settings = TrainSettings(preset=chosen.preset, num_workers=0, device="cpu")
    training = prepare(RankContext(0, 1, torch.device("cpu"), 1), opened, chosen, settings, run)
    with training.loader:
        training.network.load_state_dict(tensors)
        save_checkpoint(training)
    model_card.write(run.place, opened, run)
    facts = {
        "run": run.place.uri,
        "preset": chosen.preset,
        "num_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "weights_sha256": chosen.initial.weights_sha256 if chosen.initial else None,
        "dataset_id": opened.dataset_id,
    }
    run.event("imported", f"The weights of a file are the run's first checkpoint ({chosen.preset}).", **facts)
    run.finish("succeeded", 0, None, **facts)
    return facts


def _safetensors(found: checkpoint.Checkpoint, chosen: Recipe, run: Place) -> bytes:
    told = {name: found.state[name] for name in ("classes", "dataset_id", "content_id", "epoch", "step", "errors")}
    told |= {"format_version": weight_files.FORMAT_VERSION, "recipe": model_card.recipe_content(chosen)}
    told |= {"measured": model_card.measured(run), "versions": found.state["versions"]}
    return safetensors.save(found.network, {"format": "pt", "tench": json.dumps(told, ensure_ascii=False)})


def _torchvision(found: checkpoint.Checkpoint, chosen: Recipe) -> bytes:
    """torchvision's state dict as `torch.save` writes it. Raises RefusedError for another network."""
    if said := torchvision_layout.other_than_torchvision(chosen):
        raise RefusedError(
            f"torchvision's AlexNet is another network than this run's: {'; '.join(said)}. --format safetensors takes any"
        )
    torchvision_layout.refuse_other_order(found.state["classes"], "this run's")
    tensors = torchvision_layout.without_mask(found.network, chosen.network)
    names = {
        f"{ours}.{part}": f"{theirs}.{part}"
        for ours, theirs in torchvision_layout.LAYERS.items()
        for part in weight_files.PARTS
    }
    file = io.BytesIO()
    torch.save({names[name]: tensor for name, tensor in tensors.items()}, file)
    return file.getvalue()


def _recipe(path: str, read: weight_files.Weights, dataset: Dataset, origin: Origin | None) -> Recipe:
    """The recipe that a file of ours carries, or that of torchvision's preset. Raises RefusedError for other classes."""
    wnids = [known.wnid for known in dataset.classes]
    if not _is_ours(read, origin):
        torchvision_layout.refuse_other_order(wnids, f"those of {dataset.uri}")
        return recipe(TrainSettings(preset="torchvision"), dataset)
    if read.told is None:
        raise RefusedError(f"{path}: does not say how its network is made; only what `tench export` wrote does")
    if read.told["classes"] != wnids:
        raise RefusedError(
            f"{path}: tells {len(read.told['classes'])} classes apart that are not the {len(wnids)} of {dataset.uri}; give a "
            "dataset of the same classes"
        )
    return _told_recipe(path, read.told["recipe"])


def _told_recipe(path: str, told: Any) -> Recipe:
    """A recipe from a file: only what determines numbers is taken, so that it can name no folder of this machine."""
    try:
        chosen = Recipe.model_validate(model_card.recipe_content(Recipe.model_validate(told)))
        transfer.shapes(chosen.network)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise RefusedError(f"{path}: its recipe does not fit this Tench: {where}: {problem['msg'].lower()}") from None
    except ValueError as error:
        raise RefusedError(f"{path}: its recipe describes no network ({error})") from None
    if chosen.network.side != chosen.loader.crop:
        raise RefusedError(
            f"{path}: its network takes pictures of {chosen.network.side} pixels, its loader crops {chosen.loader.crop}"
        )
    return chosen


def _is_ours(read: weight_files.Weights, origin: Origin | None) -> bool:
    return origin == "tench" or (origin is None and read.told is not None)


def _format_of(out: str) -> Format:
    for suffix, form in SUFFIXES.items():
        if out.endswith(suffix):
            return form
    raise UsageError(f"{out}: its suffix names no format; expected {', '.join(SUFFIXES)}, or give --format")
