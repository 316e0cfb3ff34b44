"""Command line of weights: a run's as a file for others, a file of others as a run."""

import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cluster.cli.flags import Json
from cluster.cli.run import say


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(export)
    app.command(import_weights, name="import")


def export(
    run: str, out: str, *, format: Literal["safetensors", "torchvision"] | None = None, json: Json = False
) -> int:
    """Write the weights of a run's newest checkpoint to a file, for use without Tench.

    Parameters
    ----------
    run
        Folder of the training run.
    out
        New file: .safetensors, or .pth or .pt for torchvision.
    format
        safetensors (any network; recipe, classes and data ids in its metadata), or torchvision (the state dict of
        torchvision's AlexNet, for networks of its shape). By the suffix unless given.
    """
    from trainer.exchange import export as write

    facts = write(run, out, format)
    print(f"wrote {out}", file=sys.stderr)
    return say(facts, json)


def import_weights(
    weights: str,
    run: str,
    *,
    dataset: str,
    origin: Annotated[Literal["tench", "torchvision"] | None, Parameter(name="--from")] = None,
    json: Json = False,
) -> int:
    """Make a run of a file of weights: `tench evaluate` measures it, `tench train --initial` begins with it.

    Parameters
    ----------
    weights
        State dict of torchvision's AlexNet (.pth, .pt or .safetensors), or what `tench export` wrote. Nothing in it is
        unpickled.
    run
        Folder of the new run.
    dataset
        Folder of a dataset with the same classes, in the same order.
    origin
        Whose names the tensors have; by what the file says unless given.
    """
    from trainer.exchange import import_weights as read

    return say(read(weights, run, dataset, origin), json)
