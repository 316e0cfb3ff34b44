"""Pictures of a run: its curves, and the kernels that the first layer has learnt."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ingest.progress import Event, RunReader
from ingest.storage import Place
from trainer import checkpoint

Pixels = npt.NDArray[np.uint8]
COLUMNS, GAP, SCALE, MARGIN = 16, 2, 6, 24
MAX_TICKS = 10


def kernel_sheet(weights: torch.Tensor) -> Pixels:
    """uint8 (height, width, 3): the kernels of conv1, (96, 3, 11, 11), sixteen a row, each on its own scale.

    Grey is zero; the largest value of a kernel, positive or negative, is full light or dark in its channel.
    """
    kernels = weights.detach().float().permute(0, 2, 3, 1).numpy()
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    tiles = (127.5 + 127.5 * kernels / np.where(largest > 0, largest, 1)).round().astype(np.uint8)
    tiles = tiles.repeat(SCALE, 1).repeat(SCALE, 2)
    side = tiles.shape[1]
    rows = -(-len(tiles) // COLUMNS)
    sheet = np.full((rows * (side + GAP) + GAP, COLUMNS * (side + GAP) + GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // COLUMNS * (side + GAP), GAP + i % COLUMNS * (side + GAP)
        sheet[top : top + side, left : left + side] = tile
    return sheet


def kernels_png(run_folder: str) -> bytes | None:
    """The first layer of the newest checkpoint as a PNG; None while there is no checkpoint."""
    from ingest.png import png_bytes

    found, _ = checkpoint.newest(Place(run_folder))
    return png_bytes(kernel_sheet(found.network["conv1.weight"])) if found else None


def series(run_folder: str) -> dict[str, list[list[float]]]:
    """`series_of` over the events of all attempts of a run."""
    reader = RunReader(Place(run_folder))
    return series_of([e for attempt in range(1, reader.latest_attempt() + 1) for e in reader.events(attempt)])


def series_of(events: Sequence[Event]) -> dict[str, list[list[float]]]:
    """Curves: loss, learning_rate, samples_per_s, train_top1_error, data_wait_share over the step; top1_error and
    top5_error over the epoch (from 1). Each a list of [x, y], in order of x; a repeated step counts once, the latest."""
    over_step = ("loss", "learning_rate", "samples_per_s", "train_top1_error", "data_wait_share")
    points: dict[str, dict[float, float]] = {name: {} for name in (*over_step, "top1_error", "top5_error")}
    for event in events:
        if event.kind == "metrics":
            for name in over_step:
                points[name][event.data["step"]] = event.data[name]
        elif event.kind == "evaluated" and "epoch" in event.data:
            for name in ("top1_error", "top5_error"):
                points[name][event.data["epoch"] + 1] = event.data[name]
    return {name: [[x, y] for x, y in sorted(values.items())] for name, values in points.items()}


def curves_png(run_folder: str, scale: float = 2.0) -> bytes:
    """Loss over the steps, and errors over the epochs, side by side, as a PNG."""
    import altair as alt
    import vl_convert

    found = series(run_folder)
    losses = [{"step": x, "loss": y} for x, y in found["loss"]]
    errors = [
        {"epoch": x, "error": y, "of": words}
        for name, words in (("top1_error", "top-1"), ("top5_error", "top-5"))
        for x, y in found[name]
    ]
    last = max((int(x) for x, _ in found["top1_error"]), default=1)
    epochs = list(range(1, last + 1, -(-last // MAX_TICKS)))
    loss = alt.Chart(_data(losses)).mark_line().encode(x="step:Q", y="loss:Q")
    error = (
        alt.Chart(_data(errors))
        .mark_line(point=True)
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(values=epochs, format="d")),
            y=alt.Y("error:Q", title="validation error", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("of:N", title=None),
        )
    )
    size: dict[str, Any] = {"width": 320, "height": 200}
    chart = loss.properties(title="Training loss", **size) | error.properties(title="Validation", **size)
    png: bytes = vl_convert.vegalite_to_png(chart.to_dict(), scale=scale)
    return png


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


def _data(values: list[dict[str, Any]]) -> Any:
    import altair as alt

    return alt.Data(values=values)  # type: ignore[no-untyped-call]


def write_figures(run_folder: str) -> list[Path]:
    """figures/curves.png and figures/kernels.png in the run folder; the paths written."""
    place = Place(run_folder)
    pictures = {"figures/curves.png": curves_png(run_folder), "figures/kernels.png": kernels_png(run_folder)}
    for path, data in pictures.items():
        if data is not None:
            place.replace(path, data)
    return [place.local_path(path) for path, data in pictures.items() if data is not None]
