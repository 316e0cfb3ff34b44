"""A run begins with layers of another: the newest whole checkpoint's, by name; what does not fit is drawn fresh.

    RUN/initial/taken.json      what was taken, and why the other layers were not
    RUN/initial/<SHA-256>.pt    torch.load(weights_only=True) gives {"conv1.weight": ..., "conv1.bias": ...}

The layers are copied into the new run's folder at its start, so that every worker and every resume finds them there
and the other run is needed no more. Velocities are not taken: they start at zero.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ingest.errors import DamageError, RefusedError, UsageError
from ingest.progress import RunWriter, to_json
from ingest.storage import Place
from trainer import checkpoint
from trainer.networks import blank
from trainer.settings import TrainSettings
from trainer.switches import InitialWeights, NetworkSettings, Recipe

FORMAT_VERSION = 1
FOLDER, TAKEN = "initial", "initial/taken.json"
DRAWN = ("num_classes", "init", "bias_one", "bias_last")
"""Settings of a network that say how it is drawn, or what the head is: they may differ without a word."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """Layers to take, and for each of the others why it is drawn, in the order of the network."""

    taken: tuple[str, ...]
    fresh: dict[str, str]


def choose(
    offered: dict[str, Shape], wanted: dict[str, Shape], asked: Sequence[str] | None, same_classes: bool
) -> Choice:
    """Which layers of a network can be taken for another; both as shapes by parameter name ("fc8.weight").

    Unless `asked` names layers, all that fit are taken; the head only if it tells the same classes apart. Raises
    RefusedError for a layer that was asked for and does not fit, and if none fits.
    """
    layers = layers_of(wanted)
    reasons = {layer: _misfit(layer, offered, wanted) for layer in layers}
    for layer in asked or ():
        if reason := reasons.get(layer, f"this network has {', '.join(layers)}"):
            raise RefusedError(f"--initial-layers {layer}: cannot be taken ({reason}); leave it out to have it drawn")
    if asked is not None:
        reasons |= {layer: "was not asked for" for layer in layers if layer not in asked}
    elif not same_classes and not reasons[layers[-1]]:
        reasons[layers[-1]] = "tells other classes apart there"
    taken = tuple(layer for layer in layers if not reasons[layer])
    if not taken:
        raise RefusedError(f"--initial: no layer of that run fits: {_listed(reasons)}")
    return Choice(taken, {layer: reason for layer, reason in reasons.items() if reason})


def shapes(settings: NetworkSettings) -> dict[str, Shape]:
    """Shape of every parameter of a network; no memory is taken for them."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in blank(settings).state_dict().items()}


def layers_of(names: Iterable[str]) -> list[str]:
    """The layers of parameter names, in their order."""
    return list(dict.fromkeys(name.rsplit(".", 1)[0] for name in names))


def sides(shape: Shape) -> str:
    """96 x 3 x 11 x 11, for messages."""
    return " x ".join(f"{side}" for side in shape)


def begin(run: RunWriter, settings: TrainSettings, recipe: Recipe, classes: Sequence[str], resumes: bool) -> Recipe:
    """The recipe with what the run begins with. At the run's first start, that is copied into its folder.

    `classes` are the dataset's wnids; `resumes` says that the run has a checkpoint. Raises RefusedError (the other
    run or its layers do not fit, or the run was begun otherwise), DamageError, UsageError.
    """
    asked = _asked(settings)
    taken = begun_with(run.place)
    if taken is None:
        _refuse_layers_of_nothing(settings)
    if taken is None and settings.initial is not None:
        if resumes:
            raise RefusedError("--initial: the run was begun without it; leave it out, or train into a new folder")
        _take(run, settings.initial, asked, recipe, classes)
    elif taken is not None and settings.initial is not None:
        _refuse_another(settings.initial, (taken["source"] or {}).get("run"))
    if taken is not None and asked is not None and sorted(asked) != sorted(taken["initial"]["layers"]):
        raise RefusedError(
            f"--initial-layers {settings.initial_layers}: the run was begun with {','.join(taken['initial']['layers'])}; "
            "give the same, or leave it out"
        )
    return with_initial(recipe, run.place)


def with_initial(recipe: Recipe, run: Place) -> Recipe:
    """The recipe with what the run's folder says that it began with."""
    taken = begun_with(run)
    if taken is None:
        return recipe
    return recipe.model_copy(update={"initial": InitialWeights.model_validate(taken["initial"])})


def load_initial(network: nn.Module, run: Place) -> None:
    """Put the layers that were taken into a network that was just drawn. Raises DamageError if they changed."""
    taken = begun_with(run)
    if taken is None or taken["file"] is None:
        return
    path = taken["file"]
    try:
        data = run.get(path)
    except FileNotFoundError:
        raise DamageError(f"{run.name(path)}: is gone; begin the run anew in another folder") from None
    if hashlib.sha256(data).hexdigest() not in path:
        raise DamageError(f"{run.name(path)}: was changed; begin the run anew in another folder")
    tensors: dict[str, torch.Tensor] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    network.load_state_dict({**network.state_dict(), **tensors})


def planned(settings: TrainSettings, recipe: Recipe, classes: Sequence[str]) -> dict[str, Any] | None:
    """What a new run would begin with (`--dry-run`); None without --initial. Raises as `begin` does."""
    _refuse_layers_of_nothing(settings)
    if settings.initial is None:
        return None
    asked = _asked(settings)
    found, choice = _found(settings.initial, asked, recipe, classes)
    return {"step": found.state["step"], "layers": list(choice.taken), "fresh": choice.fresh}


def begun_with(run: Place) -> dict[str, Any] | None:
    """What a run's folder says that it began with: {"initial", "fresh", "file", "source"}; None if nothing."""
    if not run.exists(TAKEN):
        return None
    taken: dict[str, Any] = json.loads(run.get(TAKEN))
    if taken["format_version"] > FORMAT_VERSION:
        raise RefusedError(
            f"{run.name(TAKEN)}: format {taken['format_version']}, this Tench reads {FORMAT_VERSION}; update it"
        )
    return taken


def record(run: Place, initial: InitialWeights, fresh: dict[str, str], file: str | None, source: Any) -> None:
    """Note in a run's folder what it began with, once: what is there already stays."""
    facts = {"format_version": FORMAT_VERSION, "initial": initial.model_dump(mode="json"), "fresh": fresh}
    run.put_new(TAKEN, to_json({**facts, "file": file, "source": source}))


def _take(run: RunWriter, uri: str, asked: Sequence[str] | None, recipe: Recipe, classes: Sequence[str]) -> None:
    """Copy the layers into the run's folder, and say so. The note of it comes last: its presence makes it count."""
    found, choice = _found(uri, asked, recipe, classes)
    tensors = {
        f"{layer}.{part}": found.network[f"{layer}.{part}"] for layer in choice.taken for part in ("weight", "bias")
    }
    file = io.BytesIO()
    torch.save(tensors, file)
    data = file.getvalue()
    path = f"{FOLDER}/{hashlib.sha256(data).hexdigest()}.pt"
    run.place.put_new(path, data)
    initial = InitialWeights(weights_sha256=found.weights_sha256, layers=choice.taken)
    source = {name: found.state[name] for name in ("step", "epoch", "dataset_id")}
    source |= {"preset": found.state["recipe"]["preset"], "run": _name(uri)}
    record(run.place, initial, choice.fresh, path, source)
    drawn = f"; drawn fresh: {_listed(choice.fresh)}" if choice.fresh else ""
    run.event(
        "transferred", f"Begins with {', '.join(choice.taken)} of another run at its step {source['step']:,}{drawn}.",
        **initial.model_dump(mode="json"), fresh=choice.fresh, source=source,
    )  # fmt: skip
    if said := _other_function(found.state["recipe"]["network"], recipe.network):
        run.event("warning", f"The layers were learnt in a network with other switches: {'; '.join(said)}.")


def _refuse_another(initial: str, begun_with: str | None) -> None:
    """Raise RefusedError if a run goes on with another --initial than it was begun with, where that is known."""
    if begun_with not in (None, _name(initial)):
        raise RefusedError(
            f"--initial {initial}: the run was begun with {begun_with}; leave it out, or train into a new folder"
        )


def _name(uri: str) -> str:
    """A run's name: the last part of its place, which may be reached under other paths later."""
    return Place(uri).uri.rsplit("/", 1)[-1]


def _found(
    uri: str, asked: Sequence[str] | None, recipe: Recipe, classes: Sequence[str]
) -> tuple[checkpoint.Checkpoint, Choice]:
    """The other run's newest whole checkpoint, and which of its layers are taken."""
    other = Place(uri)
    found, _ = checkpoint.newest(other)
    if found is None:
        raise RefusedError(f"--initial {uri}: holds no checkpoint; give the folder of a run that has trained")
    offered = {name: tuple(tensor.shape) for name, tensor in found.network.items()}
    return found, choose(offered, shapes(recipe.network), asked, found.state["classes"] == list(classes))


def _asked(settings: TrainSettings) -> list[str] | None:
    if settings.initial_layers is None:
        return None
    return settings.initial_layers.split(",")


def _refuse_layers_of_nothing(settings: TrainSettings) -> None:
    if settings.initial is None and settings.initial_layers is not None:
        raise UsageError(f"--initial-layers {settings.initial_layers}: of which run? Give --initial RUN as well")


def _misfit(layer: str, offered: dict[str, Shape], wanted: dict[str, Shape]) -> str:
    """Why a layer cannot be taken; empty if it can."""
    names = (f"{layer}.weight", f"{layer}.bias")
    if not all(name in offered for name in names):
        return "that network has none"
    differ = [name for name in names if offered[name] != wanted[name]]
    return f"{sides(offered[differ[0]])} there, {sides(wanted[differ[0]])} here" if differ else ""


def _listed(reasons: dict[str, str]) -> str:
    return ", ".join(f"{layer} ({reason})" for layer, reason in reasons.items())


def _other_function(before: dict[str, Any], network: NetworkSettings) -> list[str]:
    """Switches in which two networks differ as functions of the same weights."""
    now = network.model_dump(mode="json")
    names = [name for name in now if name in before and name not in DRAWN and before[name] != now[name]]
    return [f"{name} {before[name]} there, {now[name]} here" for name in names]
