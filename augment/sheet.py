"""Sheets of what the network sees: samples as stored, beside what the loader makes of them.

The loader's own float32 output is shown, with mean and division undone by the choices of choices.py: multiplied by its
divisor, plus the very mean that was subtracted. What then differs from the stored picture is crop, flip and colour.
Samples are the first ones in the dataset's own order. `order`, `tail`, `window`, `global_batch` and `output` of the
settings have no effect, and `border` is cut off. With a `crop_chunk` above 1, neighbours on the sheet share crop and
flip, as neighbours of an epoch with fixed order do.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from augment.choices import Choices, choose
from augment.loader import Loader
from augment.reference import mean_under
from augment.settings import LoaderSettings
from augment.sheet_layout import Column, Group, Pixels, Rgb, Tile, drawn, outlined, scaled, text_width
from ingest.dataset import Dataset, Split
from ingest.errors import UsageError
from ingest.png import png_bytes

Floats = npt.NDArray[np.float32]
MEANS = ("aligned", "centre", "channel", "none")
COLOURS = ("none", "museum", "paper")
CROP_COLOURS: tuple[Rgb, ...] = (
    (230, 80, 20), (0, 130, 210), (0, 165, 110), (240, 180, 0), (205, 90, 175), (90, 205, 250),
)  # fmt: skip
"""Colours of the rectangles in the stored pictures; more of them could not be told apart."""
TILE, CONVENTION_TILE = 256, 128
MAGNIFIED = 8
LIMITS = {"samples": (1, 64), "epochs": (1, 32), "tile": (64, 1024)}


@dataclass(frozen=True)
class Views:
    """One view of each of n samples. `rows` int64 (n,) sample numbers; `delivered` float32 (n, crop, crop, 3) as the
    network gets it; `undone` uint8 (n, crop, crop, 3), with mean and division taken back."""

    rows: npt.NDArray[np.int64]
    choices: Choices
    delivered: Floats
    undone: Pixels


def training_sheet(
    dataset: str, settings: LoaderSettings, *, split: str = "train", samples: int = 8, epochs: int = 5, tile: int = TILE
) -> Pixels:
    """uint8 (height, width, 3): one row a sample; as stored, then its view in each of the first epochs, mean and
    division undone. `tile` is the side of a stored picture on the sheet; at the dataset's own side pixels are exact.

    Raises UsageError for numbers out of range, and what Dataset.open and Loader raise.
    """
    _refuse_out_of_range(samples=samples, epochs=epochs, tile=tile)
    shown = Dataset.open(dataset).split(split)
    views = first_views(shown, settings, samples, epochs)
    factor = tile / shown.dataset.side
    columns = [
        Column(f"epoch {epoch}", _tiles(v.undone, _view_notes(v, settings), factor), _crop_colour(epoch))
        for epoch, v in enumerate(views)
    ]
    divisors = " or ".join(f"{divide:g}" for divide in dict.fromkeys(_divisor(v) for v in views))
    caption = [
        _dataset_words(shown),
        f"{_geometry_words(settings)}, mean {settings.mean}, colour {_colour_words(settings)}, divided by "
        f"{divisors}. Views: what the loader delivers, times {divisors}, plus the mean that was "
        f"subtracted. Below: the upper left corner (y, x) of the crop; the shift of R, G, B.",
    ]
    heading = "as the network sees them, mean and division undone"
    stored = Group("as stored", (Column("with crops", _stored(shown, views, factor)),))
    return drawn(caption, [stored, Group(heading, tuple(columns))])


def convention_sheet(
    dataset: str, settings: LoaderSettings, *, split: str = "train", samples: int = 4, tile: int = CONVENTION_TILE
) -> Pixels:
    """uint8 (height, width, 3): three rows a sample, in epoch 0, a column for each colour and mean convention.

    Mean and division undone; as delivered, 0 as mid-grey; the difference from the aligned mean. The same scale in all
    columns. Of centred payloads only the aligned mean can be shown. Raises as `training_sheet` does.
    """
    _refuse_out_of_range(samples=samples, tile=tile)
    shown = Dataset.open(dataset).split(split)
    factor = tile / shown.dataset.side
    # Pictures that are stored with the mean image subtracted can have it under their crop only.
    means = MEANS[:1] if shown.dataset.payload == "centered" else MEANS
    groups = []
    for colour in COLOURS:
        chosen = [settings.model_copy(update={"mean": mean, "colour": colour}) for mean in means]
        views = [first_views(shown, one, samples)[0] for one in chosen]
        divide = _divisor(views[0])
        tiles = [_convention_tiles(v, views[0].delivered, divide, factor) for v in views]
        columns = [Column(f"mean {mean}", column) for mean, column in zip(means, tiles, strict=True)]
        groups.append(Group(f"colour {colour}", tuple(columns)))
    caption = [
        _dataset_words(shown),
        f"{_geometry_words(settings)}, epoch 0, divided by {divide:g}. Top: mean and division undone; the shift of R, G "
        f"and B. Middle: as the network sees it; mid-grey is 0, white {255 / divide:.4g}, black {-255 / divide:.4g}. "
        f"Bottom: what the middle has more than under the aligned mean, {MAGNIFIED} times; its root mean square "
        f"in pixel units. Left: the crop in picture and mean image, and the mean image's centre.",
    ]
    stored = Group("as stored", (Column("with crop", _stored_with_means(shown, views[0], factor)),))
    return drawn(caption, [stored, *groups], rows_together=3)


def first_views(split: Split, settings: LoaderSettings, samples: int, epochs: int = 1) -> list[Views]:
    """The views that the loader itself delivers of the first samples in each of the first epochs.

    Of all samples if the split has fewer. Raises what Loader raises.
    """
    together = max(1, min(samples, split.num_samples))
    update = {"order": "fixed", "tail": "short", "window": 0, "global_batch": together, "output": "float32"}
    with Loader(split.dataset, settings.model_copy(update=update), split=split.name) as loader:
        return [_views_of(loader, epoch) for epoch in range(epochs)]


def undone(delivered: Floats, choices: Choices, mean: npt.NDArray[np.float64], settings: LoaderSettings) -> Pixels:
    """uint8 (n, crop, crop, 3): delivered pictures times their divisor, plus the very mean that was subtracted."""
    result = np.empty(delivered.shape, np.uint8)
    for i, values in enumerate(delivered):
        y, x, mirror = int(choices.y[i]), int(choices.x[i]), bool(choices.mirror[i])
        pixels = values * np.float64(choices.divide[i]) + mean_under(mean, settings.mean, y, x, mirror, settings.crop)
        result[i] = np.rint(pixels).clip(0, 255)
    return result


def on_grey(delivered: Floats, divide: float) -> Pixels:
    """uint8 of the same shape: 0 becomes mid-grey, 255 / divide white, -255 / divide black."""
    values: Pixels = np.rint(127.5 + delivered * (divide / 2)).clip(0, 255).astype(np.uint8)
    return values


def write_png(pixels: Pixels, path: Path | str) -> None:
    """The sheet as a PNG file; one that is there is replaced."""
    Path(path).write_bytes(png_bytes(pixels))


def _views_of(loader: Loader, epoch: int) -> Views:
    loader.set_epoch(epoch)
    batch = next(iter(loader))
    dataset, crop = loader.dataset, loader.settings.crop
    # Under a fixed order these are positions and sample numbers; a replaced sample keeps the choices of its place.
    places = np.arange(len(batch.sample_numbers))
    choices = choose(loader.settings, dataset.side, dataset.pca, epoch, places, places)
    delivered = batch.images[:, :, :crop, :crop].permute(0, 2, 3, 1).numpy().copy()
    return Views(
        batch.sample_numbers.numpy(), choices, delivered, undone(delivered, choices, dataset.mean, loader.settings)
    )


def _divisor(views: Views) -> float:
    """What the views of an epoch were divided by."""
    return float(views.choices.divide[0])


def _stored(split: Split, views: list[Views], factor: float) -> tuple[Tile, ...]:
    """The stored pictures with the rectangle of each view's crop."""
    tiles = []
    for i, row in enumerate(views[0].rows.tolist()):
        picture = _with_crops(split.pixels(row), views, i, factor)
        tiles.append(Tile(picture, (_name(split, row, picture.shape[1]),)))
    return tuple(tiles)


def _name(split: Split, row: int, width: int) -> str:
    """Class and key of a sample, or one of them if there is no room for both."""
    words, key = split.dataset.classes[split.label[row]].words.split(",")[0], split.key(row).rpartition("/")[2]
    both = f"{words} {key}"
    return both if words and text_width(both) <= width else words or key


def _stored_with_means(split: Split, views: Views, factor: float) -> tuple[Tile, ...]:
    """For each sample its stored picture, the mean image under its crop, and the mean image's centre."""
    mean = np.rint(split.dataset.mean).clip(0, 255).astype(np.uint8)
    crop = views.delivered.shape[1]
    start = (len(mean) - crop) // 2
    centre = Tile(_boxed(mean, [(start, start)], crop, factor), ("mean: centre",))
    under = [Tile(_with_crops(mean, [views], i, factor), ("mean: aligned",)) for i in range(len(views.rows))]
    return tuple(
        tile for i, stored in enumerate(_stored(split, [views], factor)) for tile in (stored, under[i], centre)
    )


def _with_crops(pixels: Pixels, views: list[Views], i: int, factor: float) -> Pixels:
    few = views[: len(CROP_COLOURS)]
    return _boxed(pixels, [(int(v.choices.y[i]), int(v.choices.x[i])) for v in few], few[0].delivered.shape[1], factor)


def _boxed(pixels: Pixels, corners: list[tuple[int, int]], crop: int, factor: float) -> Pixels:
    boxes = [(x * factor, y * factor, (x + crop) * factor, (y + crop) * factor) for y, x in corners]
    return outlined(scaled(pixels, factor), boxes, CROP_COLOURS[: len(boxes)])


def _crop_colour(epoch: int) -> Rgb | None:
    return CROP_COLOURS[epoch] if epoch < len(CROP_COLOURS) else None


def _tiles(pictures: Pixels, notes: list[tuple[str, ...]], factor: float) -> tuple[Tile, ...]:
    return tuple(Tile(scaled(p, factor), n) for p, n in zip(pictures, notes, strict=True))


def _convention_tiles(views: Views, aligned: Floats, divide: float, factor: float) -> tuple[Tile, ...]:
    """For each sample three tiles: undone, as delivered, and what it has more than `aligned`, magnified."""
    more = views.delivered - aligned
    sizes = [float(np.sqrt(np.square(m * divide, dtype=np.float64).mean())) for m in more]
    rows = zip(
        _tiles(views.undone, [(_shift_words(offset),) for offset in views.choices.offset], factor),
        _tiles(on_grey(views.delivered, divide), [()] * len(more), factor),
        _tiles(on_grey(more, divide * MAGNIFIED), [(f"rms {size:.1f}",) for size in sizes], factor),
        strict=True,
    )
    return tuple(tile for row in rows for tile in row)


def _view_notes(views: Views, settings: LoaderSettings) -> list[tuple[str, ...]]:
    """Lines below each view: where it was cut, and its colour shift unless the settings have none."""
    places = zip(views.choices.y.tolist(), views.choices.x.tolist(), views.choices.mirror.tolist(), strict=True)
    where = [f"({y}, {x}){' mirrored' if mirror else ''}" for y, x, mirror in places]
    if settings.colour == "none":
        return [(words,) for words in where]
    return [(words, _shift_words(offset)) for words, offset in zip(where, views.choices.offset, strict=True)]


def _shift_words(offset: Floats) -> str:
    return " ".join(f"{value:+.1f}" for value in offset) if offset.any() else "no shift"


def _dataset_words(split: Split) -> str:
    side = split.dataset.side
    return f"Dataset {split.dataset.dataset_id[:16]}, split {split.name}, stored as {split.dataset.payload}, {side} x {side}."


def _geometry_words(settings: LoaderSettings) -> str:
    chunk = "" if settings.crop_chunk == 1 else f" shared by {settings.crop_chunk} samples"
    return f"Seed {settings.seed}, crop {settings.crop}{chunk}, flip {'on' if settings.flip else 'off'}"


def _colour_words(settings: LoaderSettings) -> str:
    until = settings.colour_until_epoch
    return settings.colour if until is None or settings.colour == "none" else f"{settings.colour} until epoch {until}"


def _refuse_out_of_range(**numbers: int) -> None:
    for name, number in numbers.items():
        low, high = LIMITS[name]
        if not low <= number <= high:
            raise UsageError(f"--{name} {number}: expected a whole number from {low} to {high}")
