"""ILSVRC-2012 as published: a training tar of 1,000 class tars, a validation tar, and the development kit."""

from collections.abc import Iterator

from ingest.errors import RefusedError
from ingest.sources.devkit import META as META
from ingest.sources.devkit import Devkit, class_names, class_pictures, numbered_pictures
from ingest.sources.entry import SPLITS, Entry, stem
from ingest.sources.source import Listing, Source
from ingest.sources.tar_index import tar_members
from ingest.storage import Place
from ingest.synsets import Synset, named

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
TESTS = ("ILSVRC2012_img_test_v10102019.tar", "ILSVRC2012_img_test.tar")
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


class Ilsvrc2012(Source):
    """The official archives in one folder. Pictures are read out of them by offset."""

    layout = "ILSVRC-2012 archives"
    expected = f"{TRAIN}, {VAL} and {DEVKIT}"
    known_files = (TRAIN, VAL, *TESTS, DEVKIT)

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        return set(listing.files) & {TRAIN, VAL, *TESTS}

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        present = set(listing.files)
        self._archives = {"train": TRAIN, "val": VAL, "test": next((t for t in TESTS if t in present), TESTS[0])}
        self._splits = tuple(s for s in SPLITS if self._archives[s] in present)
        if DEVKIT not in present and "val" in self._splits:
            raise RefusedError(
                f"{place.uri}: found {VAL} but not {DEVKIT}, which holds the labels of its pictures; "
                "put the development kit beside the archives"
            )
        self._kit = Devkit(place, DEVKIT, GROUND_TRUTH, "ILSVRC2012_ID") if DEVKIT in present else None

    def splits(self) -> tuple[str, ...]:
        return self._splits

    def synsets(self) -> list[Synset]:
        return self._kit.synsets() if self._kit else [named(wnid) for wnid in class_names(self.place, TRAIN)]

    def entries(self, split: str) -> Iterator[Entry]:
        if split == "train":
            return class_pictures(self.place, TRAIN, {s.wnid for s in self.synsets()}, DEVKIT)
        if split == "val" and self._kit:
            return numbered_pictures(self.place, VAL, "ILSVRC2012_val_", self._kit.val_wnids(), GROUND_TRUTH)
        members = tar_members(self.place, self._archives["test"])
        return (Entry(stem(m.name), "", self._archives["test"], m.offset, m.length) for m in members)
