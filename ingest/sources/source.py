"""What a layout is: it knows its own names, opens a source, lists its pictures and reads them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ingest.sources.entry import Entry
from ingest.sources.read import read_ranges
from ingest.storage import Place
from ingest.synsets import Synset

ReadEntries = Callable[[Place, Sequence[Entry]], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies at the top of a source, hidden names left out: files with their sizes, and folders."""

    files: dict[str, int]
    folders: frozenset[str]


class Source(ABC):
    """A source of pictures in a known layout."""

    layout: str
    """The layout's name, as told to people."""
    expected: str
    """What such a source looks like, for messages: its files and where they lie."""
    known_files: tuple[str, ...] = ()
    """The names of its files, if they are fixed: a web server, which lists nothing, is asked for these."""
    notes: tuple[str, ...] = ()
    """What a person should know of a source that is read all the same: what it lacks, and what follows from it."""
    side: int | None = None
    """The side that its pictures all have, None where they differ."""
    in_order = False
    """True where reading in another order than the source's own would read everything many times."""
    read: ReadEntries = staticmethod(read_ranges)
    """The picture file of each entry, in order. A plain function: it travels to the actors by name."""

    @classmethod
    @abstractmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        """Names at the top of the source that show this layout; none if it is another."""

    @abstractmethod
    def __init__(self, place: Place, listing: Listing) -> None:
        """Open a source. Raises RefusedError: what was found, what is missing, where it should lie."""
        self.place = place

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that are there, in the order train, val, test."""

    @abstractmethod
    def synsets(self) -> list[Synset]:
        """The classes, sorted by wnid."""

    @abstractmethod
    def entries(self, split: str) -> Iterator[Entry]:
        """The pictures of a split, in the source's own order."""
