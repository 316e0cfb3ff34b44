"""Pictures in class folders: SOURCE/{train,val,test}/<wnid>/*, or SOURCE/<wnid>/* as the training split.

Every file that is not hidden counts as a picture, whatever its name ends in: what is none goes to quarantine
with its reason, and is not passed over in silence.
"""

from collections.abc import Iterator

from ingest.errors import RefusedError
from ingest.sources.entry import SPLITS, Entry, stem
from ingest.sources.source import Listing, Source
from ingest.storage import Place
from ingest.synsets import Synset, named


class Folders(Source):
    """A source of class folders."""

    layout = "class folders"
    expected = "folders train/<class>/ and val/<class>/, or only <class>/, with the pictures in them"

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        return set(listing.folders)

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        names = set(listing.folders)
        present = tuple(s for s in SPLITS if s in names)
        self.layout = "class folders" if present else "class folders (one split)"
        self._folder = {s: s for s in present} or {"train": ""}
        self._classes = {s: [c for c in place.folders(f) if not c.startswith(".")] for s, f in self._folder.items()}
        self._refuse_mixtures(present, names)

    def splits(self) -> tuple[str, ...]:
        return tuple(self._folder)

    def synsets(self) -> list[Synset]:
        return [named(wnid) for wnid in sorted({c for classes in self._classes.values() for c in classes})]

    def entries(self, split: str) -> Iterator[Entry]:
        folder = self._folder[split]
        if not self._classes[split]:
            for file in self.place.files(folder):
                if not file.path.rsplit("/", 1)[-1].startswith("."):
                    yield Entry(stem(file.path), "", file.path, 0, file.size)
        for wnid in self._classes[split]:
            inside = f"{folder}/{wnid}" if folder else wnid
            for file in self.place.walk(inside):
                if not file.path.rsplit("/", 1)[-1].startswith("."):
                    yield Entry(f"{wnid}/{stem(file.path)}", wnid, file.path, 0, file.size)

    def _refuse_mixtures(self, present: tuple[str, ...], names: set[str]) -> None:
        others = sorted(names - set(SPLITS))
        if present and others:
            raise RefusedError(
                f"{self.place.uri}: found {', '.join(present)} and also the folder {others[0]!r}; expected either "
                "only train/val/test, or only class folders"
            )
        for split in self.splits():
            if split != "test" and not self._classes[split]:
                raise RefusedError(
                    f"{self.place.name(self._folder[split])}: holds no class folders; expected one folder a class "
                    "(its name, e.g. n01440764, is the class), with the pictures in it"
                )
        extra = set(self._classes.get("val", [])) - set(self._classes.get("train", self._classes.get("val", [])))
        if extra:
            raise RefusedError(
                f"{self.place.name('val')}: class folder {min(extra)!r} has no counterpart in train; "
                "training and validation must have the same classes"
            )
