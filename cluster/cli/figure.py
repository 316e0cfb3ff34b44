"""Command line of the figures: `tench figure NAME ...`, PNG files of training runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from cluster.cli.flags import Json, print_json
from ingest.errors import UsageError

if TYPE_CHECKING:
    from trainer.figures import Figure

Out = Annotated[str | None, Parameter(help="PNG file to write; RUN/figures/NAME.png unless given.")]
Runs = Annotated[
    str,
    Parameter(
        name="RUNS",
        help="Folders of training runs. A last word that ends in .png is the file to write; "
        "figures/NAME.png in the first run's folder unless given.",
    ),
]
Run = Annotated[str, Parameter(help="Folder of the training run.")]

figure = App(name="figure", help="Draw training runs as PNG files: the figures of the paper, curves, results.")


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(figure)


@figure.command
def kernels(run: Run, out: Out = None, *, json: Json = False) -> int:
    """Draw what the first layer has learnt (figure 3 of the paper), the two columns one above the other."""
    from trainer.figures import kernels_figure

    return _write(kernels_figure(run), "kernels", run, out, json)


@figure.command
def curves(*runs: Runs, json: Json = False) -> int:
    """Draw training loss, validation errors and learning rate; several runs in one picture (curves-compared.png).

    Drawn into its own folder, the picture of one run shows on the run's model card.
    """
    from ingest.storage import Place
    from trainer.figures import curves_figure
    from trainer.model_card import show_curves

    folders, out = _split(runs)
    alone = len(folders) == 1
    exit_code = _write(curves_figure(folders), "curves" if alone else "curves-compared", folders[0], out, json)
    if out is None and alone:
        show_curves(Place(folders[0]))
    return exit_code


@figure.command
def retrieval(
    dataset: str,
    run: Run,
    out: Out = None,
    *,
    split: Literal["val", "test"] = "val",
    seed: int = 0,
    json: Json = False,
) -> int:
    """Draw pictures with their five best labels, and the training pictures most alike (figure 4 of the paper).

    Looks at every picture of the training split once.

    Parameters
    ----------
    dataset
        Folder of a dataset with the run's classes.
    split
        Split whose pictures are shown.
    seed
        Seed of the choice of pictures.
    """
    from cluster.cli.display import step_bar
    from trainer.figures import retrieval_figure
    from trainer.settings import EvaluateSettings

    on_progress, end = step_bar("looking at training pictures")
    try:
        drawn = retrieval_figure(dataset, run, EvaluateSettings(split=split), seed, on_progress)
    finally:
        end()
    return _write(drawn, "retrieval", run, out, json)


@figure.command
def results(*runs: Runs, json: Json = False) -> int:
    """Draw a table: the latest evaluations of runs beside the paper, the logs of 2012 and other reproductions."""
    from trainer.figures import results_figure

    folders, out = _split(runs)
    return _write(results_figure(folders), "results", folders[0], out, json)


@figure.command
def relu_tanh(*runs: Runs, json: Json = False) -> int:
    """Draw the training errors of runs with ReLU and with tanh, and how long both take to 25 % (figure 1 of the paper).

    Each activation counts with its own best learning rate, and there with the median of its runs.
    """
    from trainer.figures import relu_tanh_figure

    folders, out = _split(runs)
    return _write(relu_tanh_figure(folders), "relu-tanh", folders[0], out, json)


def _split(words: tuple[str, ...]) -> tuple[list[str], str | None]:
    """Run folders, and the file to write if the last word is one."""
    out = words[-1] if words and words[-1].lower().endswith(".png") else None
    folders = list(words[:-1] if out else words)
    if not folders:
        raise UsageError("no run is given; name the folder of one run or more before the picture")
    return folders, out


def _write(drawn: "Figure", name: str, run: str, out: str | None, as_json: bool) -> int:
    from ingest.storage import Place

    if out is None:
        place = Place(run)
        place.replace(f"figures/{name}.png", drawn.png)
        out = place.name(f"figures/{name}.png")
    else:
        Path(out).write_bytes(drawn.png)
    print(f"wrote {out}", file=sys.stderr)
    if as_json:
        print_json({"picture": out, **drawn.facts})
    return 0
