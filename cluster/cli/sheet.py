"""Command line of the augmentation sheet: samples as stored, beside what the network sees of them."""

import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from augment.settings import LoaderSettings
from cluster.cli.flags import Json, print_json
from ingest.errors import UsageError

LOADER_DEFAULTS = LoaderSettings()
Flat = Parameter(name="*")
"""With --no-flip: here a person wants to see a sheet without mirrored views."""
Switch = Parameter(negative="")


def add_to(app: App) -> None:
    """Hang this command into the command line."""
    app.command(augment_sheet)


def augment_sheet(
    dataset: str,
    out: str,
    *,
    settings: Annotated[LoaderSettings, Flat] = LOADER_DEFAULTS,
    split: str = "train",
    samples: int | None = None,
    epochs: int | None = None,
    tile: int | None = None,
    conventions: Annotated[bool, Switch] = False,
    json: Json = False,
) -> int:
    """Draw what the network sees: stored pictures beside their augmented views, mean and division undone, as a PNG.

    The views are what the loader delivers for the first samples of the dataset. --order, --tail, --window,
    --global-batch, --border, --output and --divide-test do not change the sheet, nor do --mean and --colour with --conventions.

    Parameters
    ----------
    dataset
        Folder of the dataset.
    out
        PNG file to write; one that is there is replaced.
    split
        Split whose pictures are shown.
    samples
        Samples to show, a row each: 8 unless given, with --conventions 4.
    epochs
        Epochs to show, a column each, from epoch 0: 5 unless given.
    tile
        Side of a stored picture on the sheet in pixels: 256 unless given, with --conventions 128.
    conventions
        Show epoch 0 under every mean and colour convention, also as the centred values that the network gets.
    """
    from augment import sheet

    given: dict[str, Any] = {name: n for name, n in (("samples", samples), ("tile", tile)) if n is not None}
    if conventions and epochs is not None:
        raise UsageError(f"--epochs {epochs}: --conventions shows one epoch; leave one of them out")
    if conventions:
        pixels = sheet.convention_sheet(dataset, settings, split=split, **given)
    else:
        given |= {} if epochs is None else {"epochs": epochs}
        pixels = sheet.training_sheet(dataset, settings, split=split, **given)
    sheet.write_png(pixels, out)
    print(f"wrote {out}", file=sys.stderr)
    if json:
        print_json({"picture": out, "height": pixels.shape[0], "width": pixels.shape[1]})
    return 0
