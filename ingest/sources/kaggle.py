"""ILSVRC-2012 as Kaggle gives it (CLS-LOC): pictures in folders, labels of the validation pictures in a table.

Training labels are the folders' names: LOC_train_solution.csv lists only the pictures that have boxes.
"""

import csv
from collections.abc import Iterator
from dataclasses import replace

from ingest.errors import RefusedError
from ingest.sources.entry import SPLITS, Entry, stem
from ingest.sources.source import Listing, Source
from ingest.storage import Place, StoredFile
from ingest.synsets import Synset, named

TOP, PICTURES = "ILSVRC", "ILSVRC/Data/CLS-LOC"
SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
INSIDE = {"Annotations", "Data", "ImageSets"}
TABLES = {SOLUTION, MAPPING, "LOC_train_solution.csv", "LOC_sample_submission.csv"}
COLUMNS = ["ImageId", "PredictionString"]


class Kaggle(Source):
    """The folder that holds ILSVRC/ and the tables beside it."""

    layout = "Kaggle CLS-LOC"
    expected = f"{PICTURES}/train/<class>/, {PICTURES}/val/, and beside {TOP}/ the tables {SOLUTION} and {MAPPING}"

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        inside = listing.folders & INSIDE
        return (set(listing.files) & TABLES) | (listing.folders & {TOP}) | (inside if len(inside) > 1 else set())

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        found = ", ".join(sorted(self.claims(place, listing)))
        if len(listing.folders & INSIDE) > 1:
            raise RefusedError(f"{place.uri}: found {found}, the inside of {TOP}/; give the folder above it")
        folders = place.folders(PICTURES)
        self._splits = tuple(s for s in SPLITS if s in folders)
        self._classes = [c for c in place.folders(f"{PICTURES}/train") if not c.startswith(".")]
        self._has_mapping = MAPPING in listing.files
        if not self._classes:
            raise RefusedError(
                f"{place.uri}: found {found}, but no class folders in {PICTURES}/train; expected {self.expected}"
            )
        if "val" in self._splits and SOLUTION not in listing.files:
            raise RefusedError(
                f"{place.uri}: found {PICTURES}/val but not {SOLUTION}, which holds the labels of its pictures; put it "
                f"beside {TOP}/"
            )

    def splits(self) -> tuple[str, ...]:
        return self._splits

    def synsets(self) -> list[Synset]:
        if not self._has_mapping:
            return [named(wnid) for wnid in self._classes]
        words = self._mapping()
        if differing := sorted(words.keys() ^ set(self._classes)):
            where = f"in {MAPPING} only" if differing[0] in words else f"in {PICTURES}/train only"
            raise RefusedError(
                f"{self.place.uri}: class {differing[0]} is {where} ({len(differing)} such classes); folders and "
                "table must be of one issue. Fetch what is missing"
            )
        return [replace(named(wnid), words=words[wnid]) for wnid in sorted(words)]

    def entries(self, split: str) -> Iterator[Entry]:
        if split == "val":
            yield from self._val()
        elif split == "test":
            for file in _visible(self.place, f"{PICTURES}/test"):
                yield Entry(stem(file.path), "", file.path, 0, file.size)
        else:
            for wnid in self._classes:
                for file in _visible(self.place, f"{PICTURES}/train/{wnid}"):
                    yield Entry(f"{wnid}/{stem(file.path)}", wnid, file.path, 0, file.size)

    def _val(self) -> Iterator[Entry]:
        """Each picture with the class of its row, each row with a picture."""
        wnids = self._solution()
        for file in _visible(self.place, f"{PICTURES}/val"):
            if (wnid := wnids.pop(stem(file.path), None)) is None:
                raise RefusedError(f"{self.place.name(file.path)}: has no row in {SOLUTION}; fetch the table again")
            yield Entry(f"{wnid}/{stem(file.path)}", wnid, file.path, 0, file.size)
        if wnids:
            raise RefusedError(
                f"{self.place.name(SOLUTION)}: {len(wnids)} of its pictures are not in {PICTURES}/val, first "
                f"{min(wnids)}; unpack the pictures again"
            )

    def _solution(self) -> dict[str, str]:
        """The wnid of each validation picture. Raises RefusedError: a row that is not as published."""
        rows = csv.DictReader(self.place.get(SOLUTION).decode("utf-8-sig", "replace").splitlines())
        if rows.fieldnames != COLUMNS:
            raise RefusedError(f"{self.place.name(SOLUTION)}: has columns {rows.fieldnames}, expected {COLUMNS}")
        known, found = set(self._classes), dict[str, str]()
        for row in rows:
            name, wnid = row["ImageId"], (row["PredictionString"] or "").partition(" ")[0]
            if wnid not in known:
                raise RefusedError(
                    f"{self.place.name(SOLUTION)}: {name} has class {wnid!r}, which {PICTURES}/train does not have; "
                    "expected lines of ImageId and '<wnid> xmin ymin xmax ymax ...'"
                )
            if name in found:
                raise RefusedError(f"{self.place.name(SOLUTION)}: lists {name} twice; fetch it again")
            found[name] = wnid
        return found

    def _mapping(self) -> dict[str, str]:
        """The words of each class, by wnid: a line is a wnid, a space, the words."""
        lines = self.place.get(MAPPING).decode("utf-8-sig", "replace").splitlines()
        pairs = (line.partition(" ") for line in lines if line.strip())
        return {wnid: words.strip() for wnid, _, words in pairs}


def _visible(place: Place, folder: str) -> list[StoredFile]:
    """The files of a folder, hidden ones left out."""
    return [file for file in place.files(folder) if not file.path.rsplit("/", 1)[-1].startswith(".")]
