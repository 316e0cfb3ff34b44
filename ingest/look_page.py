"""What `tench inspect --html` writes: one page of its own, pictures included, that names nothing outside."""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ingest.dataset import Dataset, Split
from ingest.look import inspected, pca_swatches, small, split_rows, spread_labels, summary
from ingest.look_gallery import Shown, gallery
from ingest.look_style import STYLE
from ingest.png import jpeg_uri, png_uri
from ingest.words import size_words

MAX_CLASSES = 40
TILES = 8
"""Pictures of a class."""
UNLABELLED = 40
"""Pictures of a split without labels."""
TILE = 128
"""Pixels: as wide as a tile is shown on a wide screen."""


def write_html(dataset: str, path: Path, split: str | None = None) -> None:
    """A page about a dataset, or about one split of it: facts, pictures by class, statistics, quarantine."""
    opened, facts = Dataset.open(dataset), inspected(dataset, split)
    name = opened.uri.rsplit("/", 1)[-1]
    shown, num_hidden = gallery(opened, list(facts["splits"]))
    body = "".join(
        [
            _head(name, facts),
            _splits(facts),
            *(_pictures(opened.split(s)) for s in facts["splits"]),
            _statistics(opened),
            _classes(facts),
            _quarantine(shown, num_hidden),
            _section("What it is", _pairs(summary(facts) + _more(facts))),
        ]
    )
    path.write_text(
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<meta name=color-scheme content='light dark'><title>{html.escape(name)}</title>"
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        encoding="utf-8",
    )


def _head(name: str, facts: dict[str, Any]) -> str:
    settings, splits = facts["settings"], facts["splits"].values()
    cards = [
        ("samples", f"{sum(s['num_samples'] for s in splits):,}"),
        ("classes", f"{facts['num_classes']:,}"),
        ("shards", f"{sum(s['num_shards'] for s in splits):,}"),
        ("in shards", size_words(sum(s["bytes"] for s in splits))),
        ("in quarantine", f"{sum(s['num_quarantined'] for s in splits):,}"),
    ]
    figures = "".join(f"<div class=card><dd>{html.escape(v)}</dd><dt>{k}</dt></div>" for k, v in cards)
    kind = f"{settings['payload']} {settings['side']} × {settings['side']}, {settings['format']} · {facts['layout']}"
    return (
        f"<header><h1>{html.escape(name)}</h1><p class=muted>{html.escape(kind)}</p>"
        f"<p class=id>{html.escape(facts['dataset_id'])}</p></header><dl class=cards>{figures}</dl>"
    )


def _splits(facts: dict[str, Any]) -> str:
    rows = [(name, values) for name, values in split_rows(facts)]
    note = "<p class=muted>Ranges are the median (smallest to largest). Enlarged: the shorter side was below "
    note += f"{facts['settings']['side']} pixels.</p>"
    return _section("Splits", _table(["", *facts["splits"]], rows) + note)


def _pictures(split: Split) -> str:
    """A strip for each class: its name, how many it has, and its first pictures."""
    classes = split.dataset.classes
    if not any(split.class_counts):
        first = range(min(split.num_samples, UNLABELLED))
        return _section(f"Pictures of {split.name}", f"<div class=tiles>{_tiles(split, first)}</div>")
    labels = spread_labels(len(classes), MAX_CLASSES)
    strips = []
    for label in labels:
        rows = np.flatnonzero(split.label == label)
        words = classes[label].words.split(",")[0]
        strips.append(
            f"<div class=strip><h3>{html.escape(words or classes[label].wnid)}<small>"
            f"{html.escape(classes[label].wnid) + ' · ' if words else ''}{len(rows):,} samples</small></h3>"
            f"<div class=tiles>{_tiles(split, rows[:TILES].tolist())}</div></div>"
        )
    left_out = len(classes) - len(labels)
    note = f"<p class=muted>{len(labels)} of {len(classes):,} classes, spread evenly.</p>" if left_out else ""
    return _section(f"Pictures of {split.name}", "".join(strips) + note)


def _tiles(split: Split, rows: Iterable[int]) -> str:
    return "".join(_image(jpeg_uri(small(split.pixels(r), TILE)), split.key(r)) for r in rows)


def _statistics(opened: Dataset) -> str:
    """Mean image, mean colour, and the principal axes as swatches."""
    pca = opened.pca
    mean = _image(png_uri(np.rint(opened.mean).astype(np.uint8)), "mean of the training pictures")
    colour = ", ".join(f"{v:.0f}" for v in pca.channel_mean)
    swatches = np.split(pca_swatches(opened.uri, height=1), 3)
    axes = "".join(
        f"<figure>{_image(png_uri(swatch), f'principal axis {axis + 1}')}"
        f"<figcaption>axis {axis + 1}: one deviation is {pca.stdevs[axis]:.1f}, along "
        f"({', '.join(f'{v:+.2f}' for v in pca.eigenvectors[:, axis])})</figcaption></figure>"
        for axis, swatch in enumerate(swatches)
    )
    return _section(
        "Statistics of the training pictures",
        f"<div class=statistics><figure>{mean}<figcaption>Mean image</figcaption></figure><div>"
        f"<figure><div class=swatch style='background:rgb({colour})'></div>"
        f"<figcaption>Mean colour: {' '.join(f'{v:.2f}' for v in pca.channel_mean)} (RGB, 0-255)</figcaption></figure>"
        f"<div class=axes>{axes}</div>"
        "<p class=muted>Each band is the mean colour, moved by -3 to 3 deviations along a principal axis of the "
        "RGB values.</p></div></div>",
    )


def _classes(facts: dict[str, Any]) -> str:
    """Every class with its number of samples in each split; the bar is its share of the largest class."""
    counts = {name: s["class_counts"] for name, s in facts["splits"].items()}
    largest = {name: max(c, default=0) or 1 for name, c in counts.items()}
    head = "".join(f"<th class=number>{html.escape(name)}" for name in counts)
    rows = "".join(
        f"<tr><td class=number>{label}<td><code>{html.escape(c['wnid'])}</code><td>{html.escape(c['words'])}"
        + "".join(
            f"<td class=number><span class=bar style='--part:{counts[name][label] / largest[name]:.3f}'>"
            f"{counts[name][label]:,}</span>"
            for name in counts
        )
        for label, c in enumerate(facts["classes"])
    )
    return _section(
        f"Classes ({facts['num_classes']:,})",
        f"<div class=scroll><table class=classes><thead><tr><th class=number>label<th>wnid<th>words{head}</thead>"
        f"<tbody>{rows}</tbody></table></div>",
    )


def _quarantine(shown: list[Shown], num_hidden: int) -> str:
    if not shown:
        return _section("Quarantine", "<p class=muted>Empty: every picture could be decoded.</p>")
    cards = "".join(
        f"<figure class=bad>{_thumbnail(s)}<figcaption><strong>{_breakable(s.verdict.key)}</strong>"
        f"<span class=code>{html.escape(s.verdict.code)}</span>"
        f"<span>{html.escape(s.verdict.message)}</span>"
        f"<span class=muted>{html.escape(s.verdict.split)}, {size_words(s.verdict.size)}</span></figcaption></figure>"
        for s in shown
    )
    note = f"<p class=muted>And {num_hidden:,} more: <code>tench quarantine list</code> names all.</p>"
    return _section(
        f"Quarantine ({len(shown) + num_hidden:,})", f"<div class=gallery>{cards}</div>{note if num_hidden else ''}"
    )


def _breakable(key: str) -> str:
    """A key that may be broken after its class and between its words, not within them."""
    return html.escape(key).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _thumbnail(shown: Shown) -> str:
    if shown.thumbnail is None:
        return f"<div class=blank>{html.escape(shown.verdict.code)}</div>"
    return _image(jpeg_uri(shown.thumbnail), f"what could be decoded of {shown.verdict.key}")


def _more(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The other settings, versions and the fingerprint: what a person wants to know last."""
    others = {name: v for name, v in facts["settings"].items() if name not in ("format", "payload", "side")}
    settings = [(name.replace("_", " ").capitalize(), str(value)) for name, value in others.items()]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [*settings, ("Versions", versions), ("Pixel fingerprint", facts["pixel_fingerprint"])]


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _table(head: list[str], rows: list[tuple[str, list[str]]]) -> str:
    top = "".join(f"<th class=number>{html.escape(h)}" for h in head)
    lines = "".join(
        f"<tr><th>{html.escape(name)}" + "".join(f"<td class=number>{html.escape(v)}" for v in values)
        for name, values in rows
    )
    return f"<div class=scroll><table><thead><tr>{top}</thead><tbody>{lines}</tbody></table></div>"


def _pairs(rows: list[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{html.escape(k)}<td>{html.escape(v)}" for k, v in rows)
    return f"<table class=pairs><tbody>{lines}</tbody></table>"


def _image(uri: str, words: str) -> str:
    return f'<img alt="{html.escape(words)}" title="{html.escape(words)}" src="{uri}">'
