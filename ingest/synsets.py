"""Classes of ImageNet: wnid, words, and the orders in which they become labels."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from ingest.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Synset:
    """A class: its WordNet id (`n01440764`, or the folder's name), its words, its ILSVRC_ID from 1 if it has one."""

    wnid: str
    words: str = ""
    ilsvrc_id: int | None = None


@cache
def ilsvrc2012_synsets() -> dict[str, Synset]:
    """The 1,000 classes of ILSVRC2012 by wnid, from the devkit's meta.mat."""
    rows = _rows("ilsvrc2012_synsets.tsv")
    return {r["wnid"]: Synset(r["wnid"], r["words"], int(r["ilsvrc_id"])) for r in rows}


@cache
def fall2011_words() -> dict[str, str]:
    """The words of the 21,841 synsets of the Fall 2011 release by wnid, from WordNet 3.0."""
    return {r["wnid"]: r["words"] for r in _rows("fall2011_synsets.tsv")}


def _rows(table: str) -> Iterable[dict[str, str]]:
    """A table of the package, row by row."""
    text = files("ingest").joinpath(table).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)


def named(wnid: str) -> Synset:
    """The class of a folder's name: with words and ILSVRC_ID if ILSVRC2012 knows it."""
    return ilsvrc2012_synsets().get(wnid, Synset(wnid))


def with_words(wnid: str) -> Synset:
    """A class of another release than ILSVRC2012: words if there are any, and no ILSVRC_ID.

    Of the classes of ILSVRC2012, n04399382 alone is not among those of Fall 2011.
    """
    return Synset(wnid, fall2011_words().get(wnid) or named(wnid).words)


def in_label_order(synsets: Sequence[Synset], order: Literal["wnid", "ilsvrc"]) -> list[Synset]:
    """Classes so that position = label. Raises RefusedError if ILSVRC_IDs are asked for and one is missing."""
    if order == "wnid":
        return sorted(synsets, key=lambda s: s.wnid)
    without = [s.wnid for s in synsets if s.ilsvrc_id is None]
    if without:
        raise RefusedError(
            f"--label-order ilsvrc: class {without[0]} has no ILSVRC_ID ({len(without)} of {len(synsets)} have none); "
            "take the archives with their devkit, or --label-order wnid"
        )
    return sorted(synsets, key=lambda s: s.ilsvrc_id or 0)
