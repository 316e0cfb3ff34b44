"""What `tench inspect` shows in a terminal and as a sheet: ids, counts, sizes, and pictures of what is inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.dataset import Dataset, Split
from ingest.png import png_bytes
from ingest.words import size_words

Pixels = npt.NDArray[np.uint8]
GAP = 4
LISTED_CLASSES = 20
"""Up to so many classes are all listed in a terminal; of more, only the smallest and the largest."""
EXTREMES = 3


def describe(dataset: str) -> dict[str, Any]:
    """The facts of a dataset's manifest as JSON-able values: ids, settings, splits, statistics, quarantine."""
    return _facts(Dataset.open(dataset))


def inspected(dataset: str, split: str | None = None) -> dict[str, Any]:
    """`describe`, and what the index tells of every split, or of the one that is named.

    Each split gains `source_width`, `source_height` (pixels) and `payload_bytes`, each with min, median and max, and
    `num_enlarged`: pictures that were smaller than the stored ones. Raises RefusedError for an unknown split.
    """
    opened = Dataset.open(dataset)
    facts = _facts(opened)
    chosen = [opened.split(name) for name in ([split] if split else opened.split_names)]
    facts["splits"] = {s.name: {**facts["splits"][s.name], **_sizes(s)} for s in chosen}
    return facts


def _facts(opened: Dataset) -> dict[str, Any]:
    manifest = opened.manifest
    return {
        "dataset": opened.uri,
        "dataset_id": manifest.dataset_id,
        "content_id": manifest.content_id,
        "parent": manifest.parent,
        "layout": manifest.layout,
        "settings": manifest.settings,
        "num_classes": opened.num_classes,
        "classes": [c.model_dump() for c in opened.classes],
        "splits": {
            name: {
                "num_samples": split.num_samples,
                "num_quarantined": split.num_quarantined,
                "num_shards": len(split.shards),
                "bytes": sum(s.size for s in split.shards),
                "class_counts": list(split.class_counts),
            }
            for name, split in manifest.splits.items()
        },
        "num_quarantined": len(manifest.quarantine),
        "quarantine": [q.model_dump() for q in manifest.quarantine[:100]],
        "statistics": opened.pca.to_json(),
        "imaging": manifest.imaging,
        "versions": manifest.versions,
        "pixel_fingerprint": manifest.pixel_fingerprint,
        "created_at": manifest.created_at,
    }


def _sizes(split: Split) -> dict[str, Any]:
    return {
        "source_width": _spread(split.width),
        "source_height": _spread(split.height),
        "num_enlarged": int((np.minimum(split.width, split.height) < split.dataset.side).sum()),
        "payload_bytes": _spread(split.length),
    }


def _spread(values: npt.NDArray[Any]) -> dict[str, int] | None:
    """Smallest, median and largest; None of nothing."""
    if not len(values):
        return None
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def summary(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What a dataset is, as (name, value)."""
    settings, imaging = facts["settings"], facts["imaging"]
    size = sum(s["bytes"] for s in facts["splits"].values())
    return [
        ("Dataset id", facts["dataset_id"]),
        ("Content id", facts["content_id"]),
        *([("Parent", facts["parent"])] if facts["parent"] else []),
        ("From", facts["layout"]),
        ("Classes", f"{facts['num_classes']:,}"),
        ("Size", size_words(size)),
        ("Stored as", f"{settings['format']}, {settings['payload']}, {settings['side']} x {settings['side']}"),
        ("Quarantined", f"{facts['num_quarantined']:,}"),
        ("Mean colour", " ".join(f"{v:.2f}" for v in facts["statistics"]["channel_mean"]) + " (RGB, 0-255)"),
        ("Principal deviations", " ".join(f"{v:.2f}" for v in facts["statistics"]["stdevs"])),
        ("Imaging library", f"{imaging['name']} {imaging['version']}"),
    ]


def split_rows(facts: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What the splits are, as (name, a value for each split); `facts` are those of `inspected`."""
    splits = list(facts["splits"].values())
    return [
        ("Samples", [f"{s['num_samples']:,}" for s in splits]),
        ("Quarantined", [f"{s['num_quarantined']:,}" for s in splits]),
        ("Shards", [f"{s['num_shards']:,}" for s in splits]),
        ("Size", [size_words(s["bytes"]) for s in splits]),
        ("Source width", [_range_words(s["source_width"]) for s in splits]),
        ("Source height", [_range_words(s["source_height"]) for s in splits]),
        ("Enlarged", [f"{s['num_enlarged']:,}" for s in splits]),
        ("Payload size", [_range_words(s["payload_bytes"], size_words) for s in splits]),
        ("Samples a class", [_range_words(_spread(np.array(s["class_counts"]))) for s in splits]),
    ]


def summary_lines(facts: dict[str, Any]) -> list[str]:
    """The facts of `inspected` as lines for a terminal: what it is, its splits, its classes."""
    lines = [f"{name:<21} {value}" for name, value in summary(facts)]
    lines += ["", *_table([("", list(facts["splits"])), *split_rows(facts)])]
    lines.append(f"{'':<21} a range is median (smallest to largest)")
    return [*lines, "", *_table(_class_rows(facts))]


def _class_rows(facts: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """A line a class; of many classes those with the fewest and the most samples in the first split."""
    names = [f"{c['wnid']} {c['words'].split(',')[0]}".rstrip()[:40] for c in facts["classes"]]
    counts = [s["class_counts"] for s in facts["splits"].values()]

    def row(label: int) -> tuple[str, list[str]]:
        return names[label], [f"{c[label]:,}" for c in counts]

    head = ("Class", list(facts["splits"]))
    if len(names) <= LISTED_CLASSES:
        return [head, *(row(label) for label in range(len(names)))]
    by_size = np.argsort(counts[0], kind="stable").tolist()
    left_out = f"... {len(names) - 2 * EXTREMES:,} more"
    return [
        head, *(row(label) for label in by_size[:EXTREMES]), (left_out, [""] * len(counts)),
        *(row(label) for label in by_size[-EXTREMES:]),
    ]  # fmt: skip


def _table(rows: list[tuple[str, list[str]]]) -> list[str]:
    """Names on the left, values in columns that are as wide as they need to be."""
    first = max(21, *(len(name) for name, _ in rows))
    widths = [max(len(values[i]) for _, values in rows) for i in range(len(rows[0][1]))]
    return [
        f"{name:<{first}} {'  '.join(f'{v:>{w}}' for v, w in zip(values, widths, strict=True))}".rstrip()
        for name, values in rows
    ]


def _range_words(spread: dict[str, int] | None, words: Callable[[int], str] = "{:,}".format) -> str:
    """`500 (68 to 2,400)`: median, smallest, largest; one number where they are one."""
    if spread is None:
        return "-"
    low, median, high = (words(spread[name]) for name in ("min", "median", "max"))
    return median if low == high else f"{median} ({low} to {high})"


def spread_labels(num_classes: int, at_most: int) -> list[int]:
    """Labels spread evenly over the classes: all of them, if there are no more than `at_most`."""
    chosen: list[int] = np.linspace(0, max(num_classes - 1, 0), min(at_most, num_classes)).round().astype(int).tolist()
    return chosen


def contact_sheet(dataset: str, split: str | None = None, columns: int = 10, rows: int = 4, tile: int = 96) -> Pixels:
    """uint8 (height, width, 3): a column a class, its first `rows` samples; at most `columns` classes, spread evenly.

    Of the first split unless one is named. As high as its fullest column.
    """
    opened = Dataset.open(dataset)
    chosen = opened.split(split or opened.split_names[0])
    labels = spread_labels(opened.num_classes, columns)
    shown = [np.flatnonzero(chosen.label == label)[:rows] for label in labels]
    high = max((len(of_class) for of_class in shown), default=0)
    sheet = np.full((high * (tile + GAP) + GAP, len(labels) * (tile + GAP) + GAP, 3), 255, np.uint8)
    for column, of_class in enumerate(shown):
        for row, sample in enumerate(of_class):
            top, left = GAP + row * (tile + GAP), GAP + column * (tile + GAP)
            sheet[top : top + tile, left : left + tile] = small(chosen.pixels(int(sample)), tile)
    return sheet


def pca_swatches(dataset: str, height: int = 64, width: int = 256) -> Pixels:
    """uint8 (3 * height, width, 3): the channel mean moved along each principal axis, -3 to 3 deviations."""
    pca = Dataset.open(dataset).pca
    steps = np.linspace(-3, 3, width)
    rows = []
    for axis in range(3):
        colours = pca.channel_mean + steps[:, None] * pca.stdevs[axis] * pca.eigenvectors[:, axis]
        rows.append(np.repeat(np.clip(colours, 0, 255).round().astype(np.uint8)[None], height, axis=0))
    return np.concatenate(rows)


def write_png(dataset: str, path: Path, split: str | None = None) -> None:
    """The contact sheet as a PNG file."""
    path.write_bytes(png_bytes(contact_sheet(dataset, split)))


def small(pixels: Pixels, tile: int) -> Pixels:
    """A square picture at another side."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((tile, tile), Image.Resampling.BILINEAR))
