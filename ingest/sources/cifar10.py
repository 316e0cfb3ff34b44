"""CIFAR-10, the Python version: cifar-10-python.tar.gz, or the folder cifar-10-batches-py/ that it holds.

CIFAR-10 has training and test pictures, all with labels. Here its test pictures are the split val, which is what a
labelled split to evaluate on is called. A picture is handed on as a PNG file of its exact pixels.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

from ingest.errors import RefusedError
from ingest.png import png_bytes
from ingest.sources.cifar10_pickles import ROW_BYTES, SIDE, Batch, read_batch, read_label_names
from ingest.sources.class_names import checked_names
from ingest.sources.entry import Entry, stem
from ingest.sources.read import changed
from ingest.sources.source import Listing, Source
from ingest.storage import Place
from ingest.synsets import Synset, named

ARCHIVE, FOLDER, META = "cifar-10-python.tar.gz", "cifar-10-batches-py", "batches.meta"
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "val": ["test_batch"]}
FILES = [*BATCHES["train"], *BATCHES["val"], META]
MAX_BYTES = 400 * 2**20
"""Of the archive and of what it holds: the true ones have 170,498,071 and 186,214,400 bytes or so."""


def read_pictures(place: Place, entries: Sequence[Entry]) -> Iterator[bytes]:
    """Each entry as a PNG file. Raises TenchError if the batches have changed."""
    for entry in entries:
        try:
            batches = _decoded(place.uri)[1]
        except FileNotFoundError as error:
            raise changed(place, entry, "it is gone") from error
        batch = batches[entry.archive.rsplit("/", 1)[-1]]
        if entry.offset >= len(batch.labels):
            raise changed(place, entry, f"it has {len(batch.labels)} pictures")
        yield png_bytes(batch.pixels[entry.offset])


class Cifar10(Source):
    """The archive, the folder, or a source that is the folder. An entry's offset is its row in the batch."""

    layout = "CIFAR-10 batches"
    expected = f"{ARCHIVE} or its folder {FOLDER}/"
    known_files = (ARCHIVE,)
    side = SIDE
    read = staticmethod(read_pictures)

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        return (set(listing.files) & {ARCHIVE, *FILES}) | (listing.folders & {FOLDER})

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        self._home = _home(place)
        if self._home != ARCHIVE:
            _refuse_missing(place, self._home, {f.path.rsplit("/", 1)[-1] for f in place.files(self._home)})

    def splits(self) -> tuple[str, ...]:
        return tuple(BATCHES)

    def synsets(self) -> list[Synset]:
        return [named(name) for name in sorted(self._names)]

    def entries(self, split: str) -> Iterator[Entry]:
        batches = _decoded(self.place.uri)[1]
        for name in BATCHES[split]:
            for row, (label, file) in enumerate(zip(batches[name].labels, batches[name].filenames, strict=True)):
                wnid = self._names[label]
                yield Entry(f"{wnid}/{stem(file)}", wnid, _path(self._home, name), row, ROW_BYTES)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return checked_names(_decoded(self.place.uri)[0], self.place.name(_path(self._home, META)))


def _home(place: Place) -> str:
    """Where the batches lie: the folder, the archive, or the source itself. Who unpacks has both; the folder is read."""
    if place.can_list and FOLDER in place.folders():
        return FOLDER
    return ARCHIVE if place.exists(ARCHIVE) else ""


def _path(home: str, name: str) -> str:
    return f"{home}/{name}" if home else name


@lru_cache(maxsize=1)
def _decoded(uri: str) -> tuple[tuple[str, ...], dict[str, Batch]]:
    """Class names and all batches by name: 184 MB of pixels, decoded once in a process."""
    place = Place(uri)
    home = _home(place)
    files = _unpacked(place) if home == ARCHIVE else {name: place.get(_path(home, name)) for name in FILES}
    _refuse_missing(place, home, set(files))
    names = read_label_names(files.pop(META), place.name(_path(home, META)))
    batches = {}
    for name in list(files):
        batches[name] = read_batch(files.pop(name), place.name(_path(home, name)), len(names))
    return names, batches


def _unpacked(place: Place) -> dict[str, bytes]:
    """The files of the archive that are needed."""
    size = place.size(ARCHIVE) or 0
    if size > MAX_BYTES:
        raise RefusedError(f"{place.name(ARCHIVE)}: {size:,} bytes; the archive as published has 170,498,071")
    found: dict[str, bytes] = {}
    try:
        # Unzipped to its end first: only there gzip compares its checksum.
        with gzip.GzipFile(fileobj=io.BytesIO(place.get(ARCHIVE))) as file:
            plain = io.BytesIO(file.read(MAX_BYTES))
        with tarfile.open(fileobj=plain) as archive:
            for member in archive:
                folder, _, name = member.name.removeprefix("./").partition("/")
                if folder == FOLDER and name in FILES and (content := archive.extractfile(member)):
                    found[name] = content.read()
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise RefusedError(f"{place.name(ARCHIVE)}: cannot be read ({error}); fetch it again") from error
    return found


def _refuse_missing(place: Place, home: str, found: set[str]) -> None:
    missing = [name for name in FILES if name not in found]
    if missing:
        present = ", ".join(name for name in FILES if name in found) or "none of its files"
        raise RefusedError(
            f"{place.name(_path(home, missing[0]))}: is missing; found {present}; expected all of {', '.join(FILES)} side "
            f"by side. Fetch {ARCHIVE} again"
        )
