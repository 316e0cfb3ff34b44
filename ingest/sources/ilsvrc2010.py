"""ILSVRC-2010 as published: training, validation and test archives, the patch archive, and the development kit.

`patch_images.tar` holds pictures of all three splits that take the place of those of the same name, whatever
folder they lie in. The labels of the test pictures were released later, as a file of their own.
"""

from collections.abc import Iterator
from functools import cached_property

from ingest.errors import RefusedError
from ingest.sources.devkit import Devkit, class_names, class_pictures, numbered_pictures
from ingest.sources.entry import Entry, stem
from ingest.sources.source import Listing, Source
from ingest.sources.tar_index import TarMember, tar_members
from ingest.storage import Place
from ingest.synsets import Synset, with_words
from ingest.words import counted

ARCHIVES = {s: f"ILSVRC2010_images_{s}.tar" for s in ("train", "val", "test")}
PATCH = "patch_images.tar"
DEVKIT = "ILSVRC2010_devkit-1.0.tar.gz"
VAL_TRUTH, TEST_TRUTH = "data/ILSVRC2010_validation_ground_truth.txt", "ILSVRC2010_test_ground_truth.txt"


class Ilsvrc2010(Source):
    """The official archives in one folder. Pictures are read out of them by offset."""

    layout = "ILSVRC-2010 archives"
    expected = f"{ARCHIVES['train']}, {ARCHIVES['val']}, {PATCH} and {DEVKIT}"
    known_files = (*ARCHIVES.values(), PATCH, DEVKIT, TEST_TRUTH)

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        return set(listing.files) & set(ARCHIVES.values())

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        present = set(listing.files)
        self._splits = tuple(split for split, archive in ARCHIVES.items() if archive in present)
        self._has_patch, self._has_truth = PATCH in present, TEST_TRUTH in present
        needing = ARCHIVES["val"] if "val" in self._splits else TEST_TRUTH if self._has_truth else None
        if DEVKIT not in present and needing:
            raise RefusedError(
                f"{place.uri}: found {needing} but not {DEVKIT}, without which its pictures have no classes; "
                "put the development kit beside the archives"
            )
        self._kit = Devkit(place, DEVKIT, VAL_TRUTH, "ILSVRC2010_ID") if DEVKIT in present else None
        self.notes = tuple(self._remarks())
        self._num_replaced: dict[str, int] = {}

    def _remarks(self) -> Iterator[str]:
        if not self._has_patch:
            yield f"{PATCH} is not there: pictures that it replaces are taken as they were first published"
        if "test" in self._splits and not self._has_truth:
            yield f"{TEST_TRUTH} is not there: the test pictures have no labels"

    def splits(self) -> tuple[str, ...]:
        return self._splits

    def synsets(self) -> list[Synset]:
        if self._kit:
            return self._kit.synsets()
        return [with_words(wnid) for wnid in class_names(self.place, ARCHIVES["train"])]

    def entries(self, split: str) -> Iterator[Entry]:
        """Raises RefusedError at the end of the last split if the patch replaced nothing in any of them."""
        num_replaced = 0
        for entry in self._published(split):
            patch = self._patches.get(stem(entry.key))
            num_replaced += patch is not None
            yield Entry(entry.key, entry.wnid, PATCH, patch.offset, patch.length) if patch else entry
        self._num_replaced[split] = num_replaced
        if self._has_patch and len(self._num_replaced) == len(self._splits) and not any(self._num_replaced.values()):
            self._refuse_idle_patch()

    def _published(self, split: str) -> Iterator[Entry]:
        """The pictures of a split without the patch."""
        archive = ARCHIVES[split]
        if split == "train":
            return class_pictures(self.place, archive, {s.wnid for s in self.synsets()}, DEVKIT)
        if split == "val" and self._kit:
            return numbered_pictures(self.place, archive, "ILSVRC2010_val_", self._kit.val_wnids(), VAL_TRUTH)
        if self._has_truth and self._kit:
            wnids = self._kit.wnids(self.place.get(TEST_TRUTH), self.place.name(TEST_TRUTH))
            return numbered_pictures(self.place, archive, "ILSVRC2010_test_", wnids, TEST_TRUTH)
        return (Entry(stem(m.name), "", archive, m.offset, m.length) for m in tar_members(self.place, archive))

    def _refuse_idle_patch(self) -> None:
        archives = ", ".join(ARCHIVES[split] for split in self._splits)
        raise RefusedError(
            f"{self.place.name(PATCH)}: holds {counted(len(self._patches), 'picture')}, and none by the name of one in "
            f"{archives}, so that it replaces nothing. Fetch it again, or take it away to use the pictures as they were "
            "first published"
        )

    @cached_property
    def _patches(self) -> dict[str, TarMember]:
        """The pictures of the patch archive by name without folder and extension."""
        found: dict[str, TarMember] = {}
        for member in tar_members(self.place, PATCH) if self._has_patch else ():
            if (other := found.setdefault(stem(member.name), member)) is not member:
                raise RefusedError(
                    f"{self.place.name(PATCH)}: holds {stem(member.name)} twice, as {other.name!r} and as "
                    f"{member.name!r}; expected one picture for each that it replaces. Fetch it again"
                )
        return found
