"""What every layout yields: one `Entry` a picture, and what is known of the classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ingest.storage import Place
from ingest.synsets import Synset

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a source.

    `key` is `<wnid>/<file stem>` (`<stem>` without label), so that archives and folders of the same pictures
    give the same keys. Its bytes are [offset, offset + length) of the file `archive`, relative to the source.
    """

    key: str
    wnid: str
    archive: str
    offset: int
    length: int


class Source(Protocol):
    """A source of pictures in a known layout."""

    layout: str
    """The layout's name, as told to people."""
    place: Place

    def splits(self) -> tuple[str, ...]:
        """The splits that are there, in the order train, val, test."""

    def synsets(self) -> list[Synset]:
        """The classes, sorted by wnid."""

    def entries(self, split: str) -> Iterator[Entry]:
        """The pictures of a split, in the source's own order."""


def stem(name: str) -> str:
    """File name without folders and without its last extension."""
    last = name.rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] if "." in last else last
