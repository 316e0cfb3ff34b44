"""What `tench inspect` shows: counts, sizes, ids, and pictures of what is inside."""

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.dataset import Dataset
from ingest.png import png_bytes
from ingest.storage import Place

Pixels = npt.NDArray[np.uint8]
GAP = 4


def describe(dataset: str) -> dict[str, Any]:
    """The facts of a dataset as JSON-able values: ids, settings, splits, statistics, quarantine."""
    opened = Dataset.open(dataset)
    manifest = opened.manifest
    return {
        "dataset": opened.uri,
        "dataset_id": manifest.dataset_id,
        "content_id": manifest.content_id,
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


def contact_sheet(dataset: str, split: str = "train", columns: int = 10, rows: int = 4, tile: int = 96) -> Pixels:
    """uint8 (height, width, 3): samples spread evenly over the classes' samples, `rows` of each class column."""
    opened = Dataset.open(dataset)
    chosen = opened.split(split)
    sheet = np.full((rows * (tile + GAP) + GAP, columns * (tile + GAP) + GAP, 3), 255, np.uint8)
    labels = np.linspace(0, max(opened.num_classes - 1, 0), columns).round().astype(int)
    for column, label in enumerate(labels):
        of_class = np.flatnonzero(chosen.label == label)
        for row, sample in enumerate(of_class[:rows]):
            pixels = chosen.pixels(int(sample))
            top, left = GAP + row * (tile + GAP), GAP + column * (tile + GAP)
            sheet[top : top + tile, left : left + tile] = _small(pixels, tile)
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


def write_png(dataset: str, path: Path) -> None:
    """The contact sheet as a PNG file."""
    path.write_bytes(png_bytes(contact_sheet(dataset)))


def write_html(dataset: str, path: Path) -> None:
    """A page of its own, pictures included: facts, contact sheets, mean image, principal colours."""
    facts = describe(dataset)
    sheets = "".join(
        f"<h2>{name}: {facts['splits'][name]['num_samples']:,} samples</h2>"
        + _image(contact_sheet(dataset, name), f"samples of {name}, one column a class")
        for name in facts["splits"]
        if sum(facts["splits"][name]["class_counts"])
    )
    rows = "".join(f"<tr><th>{html.escape(k)}<td>{html.escape(v)}" for k, v in _summary(facts))
    mean = np.rint(Dataset.open(dataset).mean).astype(np.uint8)
    style = (
        "body{font:15px system-ui;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
        "th{text-align:left;font-weight:500;padding:.2rem 1.5rem .2rem 0;vertical-align:top;color:#555}"
        "img{max-width:100%}td{overflow-wrap:anywhere}"
    )
    path.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(facts['dataset'])}</title>"
        f"<style>{style}</style><h1>{html.escape(Place(dataset).uri.rsplit('/', 1)[-1])}</h1><table>{rows}</table>"
        f"{sheets}<h2>Mean image</h2>{_image(mean, 'mean of the training pictures')}"
        f"<h2>Principal colours</h2><p>The mean colour, moved by -3 to 3 standard deviations along each axis.</p>"
        f"{_image(pca_swatches(dataset), 'principal colours')}</html>\n",
        encoding="utf-8",
    )


def _summary(facts: dict[str, Any]) -> list[tuple[str, str]]:
    settings = facts["settings"]
    splits = ", ".join(f"{n} {s['num_samples']:,} in {s['num_shards']} shards" for n, s in facts["splits"].items())
    size = sum(s["bytes"] for s in facts["splits"].values())
    return [
        ("Dataset id", facts["dataset_id"]),
        ("Content id", facts["content_id"]),
        ("From", facts["layout"]),
        ("Classes", f"{facts['num_classes']:,}"),
        ("Samples", splits),
        ("Size", f"{size / 1e6:,.1f} MB"),
        ("Stored as", f"{settings['format']}, {settings['payload']}, {settings['side']} x {settings['side']}"),
        ("Quarantined", f"{facts['num_quarantined']:,}"),
        ("Mean colour", " ".join(f"{v:.2f}" for v in facts["statistics"]["channel_mean"]) + " (RGB, 0-255)"),
        ("Principal deviations", " ".join(f"{v:.2f}" for v in facts["statistics"]["stdevs"])),
        ("Imaging library", f"{facts['imaging']['name']} {facts['imaging']['version']}"),
    ]


def summary_lines(facts: dict[str, Any]) -> list[str]:
    """The facts of `describe` as lines for a terminal."""
    return [f"{name:<21} {value}" for name, value in _summary(facts)]


def _image(pixels: Pixels, words: str) -> str:
    data = base64.b64encode(png_bytes(pixels)).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def _small(pixels: Pixels, tile: int) -> Pixels:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((tile, tile), Image.Resampling.BILINEAR))
