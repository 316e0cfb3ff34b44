"""Figures of training runs: the door to them. In: run folders. Out: PNG files, and the numbers that they show.

Of the paper: figure 1 (`relu_tanh_figure`), 3 (`kernels_figure`), 4 (`retrieval_figure`), tables 1 and 2
(`results_figure`). Each is made of a room that knows the numbers and one that draws. They raise RefusedError if a
folder does not hold what is to be shown.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ingest.dataset import Dataset
from ingest.errors import RefusedError
from ingest.png import png_bytes
from ingest.storage import Place
from trainer import checkpoint
from trainer.figures import curves, record, relu_tanh, results, results_sheet
from trainer.figures.canvas import LARGE, SOFT_INK, Canvas
from trainer.figures.kernels import Pixels, columns_of, kernel_sheet
from trainer.figures.record import series_of, thinned
from trainer.settings import EvaluateSettings

__all__ = [
    "Figure", "curves_figure", "curves_png", "kernels_figure", "kernels_png", "relu_tanh_figure", "results_figure",
    "retrieval_figure", "run_png", "series", "series_of", "thinned",
]  # fmt: skip

MARGIN, HEAD = 24, 84


@dataclass(frozen=True)
class Figure:
    """A PNG file, and JSON-able facts that it shows."""

    png: bytes
    facts: dict[str, Any]


def kernels_figure(run_folder: str) -> Figure:
    """The kernels of the first layer of the newest checkpoint; of two columns, the first's above the second's."""
    found = _newest(run_folder)
    if found is None:
        raise RefusedError(f"{run_folder}: holds no checkpoint; `tench train DATASET {run_folder}` writes them")
    weights, columns = found.network["conv1.weight"], columns_of(found.network)
    (run,), (num, channels, height, width) = curves.run_names([run_folder]), weights.shape
    title = f"{num} kernels of conv1, {height} x {width} x {channels}"
    where = "; the first column's above, the second's below" if columns == 2 else ""
    note = f"{run}, step {found.state['step']:,}; each on its own scale, grey is zero{where}"
    facts = {
        "run": run, "step": found.state["step"], "num_kernels": num, "kernel_height": height, "kernel_width": width,
        "columns": columns,
    }  # fmt: skip
    return Figure(png_bytes(_captioned(kernel_sheet(weights, columns), title, note)), facts)


def curves_figure(run_folders: Sequence[str]) -> Figure:
    """Training loss, validation errors and learning rate of runs, in one picture."""
    found = dict(zip(curves.run_names(run_folders), map(series, run_folders), strict=True))
    return Figure(curves.curves_chart(found), {"series": found})


def retrieval_figure(
    dataset: str,
    run_folder: str,
    settings: EvaluateSettings,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Figure:
    """Pictures with their best labels, and pictures with the training pictures that the network finds most alike.

    `on_progress` is called with the training pictures that were looked at, and their number.
    """
    # Only here, because it loads the decoder, which the service's other pictures do without.
    from trainer.figures import retrieval, retrieval_sheet

    opened = Dataset.open(dataset)
    found = retrieval.retrieve(opened, run_folder, settings, seed, on_progress)
    return Figure(png_bytes(retrieval_sheet.drawn(found, opened)), retrieval_sheet.told(found, opened))


def results_figure(run_folders: Sequence[str]) -> Figure:
    """The errors of runs beside those of the paper, of the 2012 logs and of other reproductions."""
    facts = results.gathered(run_folders)
    return Figure(png_bytes(results_sheet.drawn(results.sections(facts))), facts)


def relu_tanh_figure(run_folders: Sequence[str]) -> Figure:
    """Training errors of runs with ReLU and with tanh, and the epochs until both are at 25 %."""
    facts = relu_tanh.measured(run_folders)
    return Figure(relu_tanh.chart(facts), facts)


def series(run_folder: str) -> dict[str, list[list[float]]]:
    """`series_of` over the events of all attempts of a run."""
    return series_of(record.events_of(run_folder))


def curves_png(run_folder: str) -> bytes:
    """The curves of one run as a PNG."""
    return curves_figure([run_folder]).png


def kernels_png(run_folder: str) -> bytes | None:
    """The bare kernels of the first layer of the newest checkpoint as a PNG; None while there is no checkpoint."""
    found = _newest(run_folder)
    return png_bytes(kernel_sheet(found.network["conv1.weight"], columns_of(found.network))) if found else None


def run_png(run_folder: str) -> bytes:
    """Curves above, kernels of the first layer below, on white, as one PNG."""
    from PIL import Image

    parts = [curves_png(run_folder), kernels_png(run_folder)]
    images = [Image.open(io.BytesIO(part)).convert("RGB") for part in parts if part is not None]
    width = max(image.width for image in images)
    sheet = Image.new("RGB", (width, sum(image.height + MARGIN for image in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, ((width - image.width) // 2, top))
        top += image.height + MARGIN
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _newest(run_folder: str) -> checkpoint.Checkpoint | None:
    found, _ = checkpoint.newest(Place(run_folder))
    return found


def _captioned(pixels: Pixels, title: str, note: str) -> Pixels:
    """A picture under a title and a line of text; as wide as the picture, so that long text is cut."""
    height, width = pixels.shape[:2]
    canvas = Canvas(width + 2 * MARGIN, height + HEAD + MARGIN)
    canvas.words((MARGIN, MARGIN, width), title, size=LARGE)
    canvas.words((MARGIN, MARGIN + 25, width), note, colour=SOFT_INK)
    canvas.paste(MARGIN, HEAD, pixels)
    return canvas.pixels
