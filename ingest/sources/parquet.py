"""Pictures in Parquet files as Hugging Face gives imagenet-1k: train-*, validation-* (or val-*) and test-*.parquet.

A label is a position among the 1,000 sorted wnids of ILSVRC2012, unless the files name other classes themselves.
Only whole row groups can be read, so the samples keep the order of the source unless a person asks for another.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from ingest.errors import RefusedError
from ingest.sources.class_names import BEGINS_WITH_WNID, WNID, checked_names
from ingest.sources.entry import SPLITS, Entry, stem
from ingest.sources.parquet_rows import ListedFile, Row, class_names, list_files, read_rows
from ingest.sources.source import Listing, Source
from ingest.storage import Place
from ingest.synsets import Synset, ilsvrc2012_synsets, named

FOLDER = "data"
FILE = re.compile(r"(train|validation|val|test)-.+\.parquet")
NUMBERED = re.compile(r"(\d+)-of-(\d+)")
APPENDED = re.compile(r"(.+)_(n\d{8})")
SPLIT_OF = {"train": "train", "validation": "val", "val": "val", "test": "test"}


class Parquet(Source):
    """The files at the top of the source or in `data/`. An entry's offset is its row in the file; no sizes."""

    layout = "Hugging Face Parquet"
    expected = f"train-*.parquet and validation-*.parquet, at the top or in {FOLDER}/"
    in_order = True
    read = staticmethod(read_rows)

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        inside = FOLDER in listing.folders and _of_sets(f.path for f in place.files(FOLDER))
        return set(_of_sets(listing.files)) | ({FOLDER} if inside else set())

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        top = _of_sets(listing.files)
        inside = _of_sets(f.path for f in place.files(FOLDER)) if FOLDER in listing.folders else []
        if top and inside:
            raise RefusedError(
                f"{place.uri}: found {top[0]} and also {inside[0]}; expected all Parquet files at the top or all in "
                f"{FOLDER}/; move one set to a folder of its own"
            )
        self._files: dict[str, list[str]] = {split: [] for split in SPLITS}
        for path in top or inside:
            self._files[SPLIT_OF[_set_of(path)]].append(path)
        for paths in self._files.values():
            _refuse_incomplete(place, paths)

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split, paths in self._files.items() if paths)

    def synsets(self) -> list[Synset]:
        return [named(wnid) for wnid in sorted(self._classes)]

    def entries(self, split: str) -> Iterator[Entry]:
        for file in list_files(self.place, self._files[split]):
            if file.class_names != self._names:
                raise RefusedError(
                    f"{self.place.name(file.path)}: names other classes than {self._files['train'][0]}; expected all "
                    "files to be of one data set; fetch them again"
                )
            for number, row in enumerate(file.rows()):
                yield self._entry(split, file, number, row)

    def _entry(self, split: str, file: ListedFile, number: int, row: Row) -> Entry:
        label, path = row
        wnid = self._class(split, file, number, label)
        name = stem(path) if path else f"{stem(file.path)}-{number:08d}"
        if WNID.fullmatch(wnid):
            name = self._checked_name(name, wnid, file, number)
        return Entry(f"{wnid}/{name}" if wnid else name, wnid, file.path, number, 0)

    def _class(self, split: str, file: ListedFile, number: int, label: int | None) -> str:
        if split == "test" and label == -1:
            return ""
        if label is None or not 0 <= label < len(self._classes):
            raise RefusedError(
                f"{self.place.name(file.path)}: row {number} has label {label}; expected 0 to {len(self._classes) - 1}, "
                "or -1 in a test split"
            )
        return self._classes[label]

    def _checked_name(self, name: str, wnid: str, file: ListedFile, number: int) -> str:
        """The name without the wnid that older copies append; a wnid in it must be that of the label."""
        appended, begins = APPENDED.fullmatch(name), BEGINS_WITH_WNID.match(name)
        for match, group in ((begins, 1), (appended, 2)):
            if match and match[group] != wnid:
                raise RefusedError(
                    f"{self.place.name(file.path)}: row {number} holds the picture {name}, of class {match[group]}, but "
                    f"its label says {wnid}; labels must be positions among the sorted wnids of ILSVRC2012, or the "
                    "files must name their classes. Fetch the files again"
                )
        return appended[1] if appended else name

    @cached_property
    def _names(self) -> tuple[str, ...] | None:
        return class_names(self.place, self._files["train"][0])

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        """Class by label. A thousand names are the words of ILSVRC2012's classes, of which some appear twice."""
        wnids = tuple(sorted(ilsvrc2012_synsets()))
        names = self._names
        if names is None or (len(names) == len(wnids) and not all(WNID.fullmatch(name) for name in names)):
            return wnids
        return checked_names(names, self.place.name(self._files["train"][0]))


def _of_sets(paths: Iterable[str]) -> list[str]:
    return sorted(path for path in paths if FILE.fullmatch(path.rsplit("/", 1)[-1]))


def _set_of(path: str) -> str:
    return path.rsplit("/", 1)[-1].split("-", 1)[0]


def _refuse_incomplete(place: Place, paths: list[str]) -> None:
    """Refuse the files of a split that are of two sets, or of one from which some are missing."""
    sets: dict[tuple[str, str], dict[int, str]] = {}
    for path in paths:
        number = NUMBERED.search(path)
        files = sets.setdefault((_set_of(path), number[2] if number else ""), {})
        if (other := files.setdefault(int(number[1]) if number else len(files), path)) != path:
            raise RefusedError(f"{place.uri}: found {other} and also {path}; remove the one that is not of the set")
    if len(sets) > 1:
        first = " and also ".join(sorted(min(files.values()) for files in sets.values()))
        raise RefusedError(
            f"{place.uri}: found {first}; expected the files of one set for each split; move the others to a folder of "
            "their own"
        )
    for (_, total), files in sets.items():
        if total and (wrong := set(range(int(total))) ^ files.keys()):
            raise RefusedError(
                f"{place.name(_numbered(paths[0], min(wrong)))}: is missing, or counts beyond its set; found "
                f"{len(files)} files like {paths[0]}; fetch the rest"
            )


def _numbered(path: str, number: int) -> str:
    """The path of another file of the same set."""
    match = NUMBERED.search(path)
    assert match is not None
    return f"{path[: match.start()]}{number:0{len(match[1])}d}-of-{match[2]}.parquet"
