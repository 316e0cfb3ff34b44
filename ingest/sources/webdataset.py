"""WebDataset: tars of samples, each a picture `<key>.jpg` (.jpeg, .png) and its label `<key>.cls`, a decimal number.

The split is the folder's (train/, val/ or validation/, test/) or else in the file's name; a tar that names none is
of the training split. Other members (.json, .txt) are passed over.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from ingest.errors import RefusedError
from ingest.sources.class_names import BEGINS_WITH_WNID, checked_names
from ingest.sources.entry import SPLITS, Entry
from ingest.sources.source import Listing, Source
from ingest.sources.tar_index import TarMember, nested_members, tar_members
from ingest.storage import Place
from ingest.synsets import Synset, named

SPLIT_OF = {"train": "train", "val": "val", "validation": "val", "test": "test"}
OFFICIAL = re.compile(r"ILSVRC20\d\d_.*|fall11_whole\.tar|winter21_whole\.tar|patch_images\.tar|n\d{8}\.tar")
PICTURES = (".jpg", ".jpeg", ".png")
LABEL = ".cls"
CLASSES = "classes.txt"
LOOKED_AT = 20
"""Members of an archive among which a label must be, or it is none of ours."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture in a tar: the key that it shares with its label, which only test pictures may lack (None)."""

    key: str
    label: int | None
    tar: str
    offset: int
    length: int


class WebDataset(Source):
    """Tars at the top of the source, or in the folders of their splits. Pictures are read by offset."""

    layout = "WebDataset"
    expected = "tars of <key>.jpg and <key>.cls, named train-*.tar and val-*.tar, or in folders train/ and val/"

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        tars = _tars(place, listing)
        firsts = {re.sub(r"\d+", "", path): path for path in sorted(tars, reverse=True)}
        if any(_holds_labels(place, path) for path in firsts.values()):
            return {_top(path) or path for path in tars}
        return set()

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        self._sizes = _tars(place, listing)
        self._tars: dict[str, list[str]] = {split: [] for split in SPLITS}
        for path in sorted(self._sizes):
            self._tars[_split_of(place, path)].append(path)
        if len(kinds := {bool(_top(path)): path for path in sorted(self._sizes)}) > 1:
            raise RefusedError(
                f"{place.uri}: found {kinds[False]} at the top and also {kinds[True]}; expected all tars at the top or "
                "all in the folders of their splits; move one set to a folder of its own"
            )
        homes = dict.fromkeys(("", *(_top(path) for path in self._tars["train"])))
        beside = (f"{folder}/{CLASSES}" if folder else CLASSES for folder in homes)
        self._class_file = next((path for path in beside if place.exists(path)), None)

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split, paths in self._tars.items() if paths)

    def synsets(self) -> list[Synset]:
        return [named(wnid) for wnid in sorted(set(self._classes.values()))]

    def entries(self, split: str) -> Iterator[Entry]:
        for sample in self._training if split == "train" else self._samples(split):
            if sample.label is None:
                yield Entry(_stem(sample.key), "", sample.tar, sample.offset, sample.length)
                continue
            if (wnid := self._classes.get(sample.label)) is None:
                raise RefusedError(
                    f"{self.place.name(sample.tar)}: {sample.key}{LABEL} says {sample.label}, a class that is not "
                    f"{'in ' + self._class_file if self._class_file else 'among the training pictures'}; all splits "
                    "must have the same classes"
                )
            yield Entry(f"{wnid}/{_stem(sample.key)}", wnid, sample.tar, sample.offset, sample.length)

    @cached_property
    def _training(self) -> list[Sample]:
        """Kept: the names of the classes follow from all of them together."""
        return list(self._samples("train"))

    @cached_property
    def _classes(self) -> dict[int, str]:
        """Class by label: the wnids that the keys begin with, the lines of classes.txt, or the labels themselves."""
        if (wnids := _wnids(self.place, self._training)) is not None:
            return wnids
        if self._class_file is not None:
            return dict(enumerate(_lines(self.place, self._class_file)))
        labels = sorted({s.label for s in self._training if s.label is not None})
        width = max(4, len(str(labels[-1]))) if labels else 4
        return {label: f"{label:0{width}d}" for label in labels}

    def _samples(self, split: str) -> Iterator[Sample]:
        tars = [(path, TarMember(path, 0, self._sizes[path])) for path in self._tars[split]]
        for tar, _, members in nested_members(self.place, tars, LABEL):
            pictures: list[tuple[str, TarMember]] = []
            labels: dict[str, int] = {}
            for member in members:
                key, dot, extension = member.name.removeprefix("./").rpartition(".")
                if (dot + extension).lower() in PICTURES:
                    pictures.append((key, member))
                elif dot + extension == LABEL:
                    labels[key] = self._label(tar, key, member.content, split)
            self._refuse_unpaired(tar, split, {key for key, _ in pictures}, set(labels))
            for key, member in pictures:
                label = labels.get(key, -1)
                yield Sample(key, None if label == -1 else label, tar, member.offset, member.length)

    def _label(self, tar: str, key: str, content: bytes | None, split: str) -> int:
        text = (content or b"").strip()
        if text.isdigit() or (text == b"-1" and split == "test"):
            return int(text)
        raise RefusedError(
            f"{self.place.name(tar)}: {key}{LABEL} holds {text[:20]!r}; expected the label as a decimal number from 0 on"
        )

    def _refuse_unpaired(self, tar: str, split: str, pictures: set[str], labels: set[str]) -> None:
        if split != "test" and (unlabelled := pictures - labels):
            raise RefusedError(
                f"{self.place.name(tar)}: the picture {min(unlabelled)} has no {min(unlabelled)}{LABEL} in this tar; "
                "expected a label beside each picture. Make the tar again"
            )
        if without := labels - pictures:
            raise RefusedError(
                f"{self.place.name(tar)}: {min(without)}{LABEL} has no picture in this tar; expected one of "
                f"{', '.join(min(without) + ending for ending in PICTURES)}. Make the tar again"
            )


def _tars(place: Place, listing: Listing) -> dict[str, int]:
    """Path and size of every archive that might be ours: at the top, and directly in the folders of splits."""
    found = dict(listing.files)
    for folder in sorted(listing.folders & SPLIT_OF.keys()):
        found |= {file.path: file.size for file in place.files(folder)}
    names = ((path, path.rsplit("/", 1)[-1]) for path in found)
    return {p: found[p] for p, n in names if n.endswith(".tar") and n[0] != "." and not OFFICIAL.fullmatch(n)}


def _top(path: str) -> str:
    """The folder of a tar, empty at the top."""
    return path.rpartition("/")[0]


def _holds_labels(place: Place, tar: str) -> bool:
    """True if one of the first members is a label: there may be archives of other kinds, even damaged ones."""
    try:
        return any(member.name.endswith(LABEL) for member in islice(tar_members(place, tar), LOOKED_AT))
    except RefusedError:
        return False


def _split_of(place: Place, path: str) -> str:
    if folder := _top(path):
        return SPLIT_OF[folder]
    told = {SPLIT_OF[word] for word in re.findall("[a-z]+", path.lower()) if word in SPLIT_OF}
    if len(told) > 1:
        raise RefusedError(
            f"{place.name(path)}: its name speaks of {' and '.join(sorted(told))}; expected one split for each tar; "
            "rename it, or put it into the folder of its split"
        )
    return min(told, default="train")


def _stem(key: str) -> str:
    """The key without folders; a dot in it is no extension, which has been taken off."""
    return key.rsplit("/", 1)[-1]


def _wnids(place: Place, samples: list[Sample]) -> dict[int, str] | None:
    """Wnid by label, if every key begins with one. Raises RefusedError unless they go together one to one."""
    first: dict[int | str, tuple[Sample, int | str]] = {}
    for sample in samples:
        match = BEGINS_WITH_WNID.match(sample.key)
        if match is None or sample.label is None:
            return None
        for one, other in ((sample.label, match[1]), (match[1], sample.label)):
            before, expected = first.setdefault(one, (sample, other))
            if expected != other:
                raise RefusedError(
                    f"{place.name(sample.tar)}: {sample.key} has label {sample.label}, but {before.key} in {before.tar} "
                    f"has label {before.label}; expected one label for each wnid. Make the tars again"
                )
    return {label: str(wnid) for label, (_, wnid) in first.items() if isinstance(label, int)}


def _lines(place: Place, path: str) -> tuple[str, ...]:
    try:
        lines = place.get(path).decode().rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise RefusedError(f"{place.name(path)}: is no UTF-8 text ({error}); expected one class name a line") from error
    return checked_names([line.strip() for line in lines], place.name(path))
