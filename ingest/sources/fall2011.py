"""ImageNet Fall 2011: one tar of class tars, or the class tars in a folder. All pictures are training pictures.

The release has no splits and no development kit; the words of its classes come from WordNet 3.0.
"""

import re
from collections.abc import Iterator
from functools import cached_property

from ingest.errors import RefusedError
from ingest.sources.entry import Entry, stem
from ingest.sources.source import Listing, Source
from ingest.sources.tar_index import TarMember, nested_members, tar_members
from ingest.storage import Place
from ingest.synsets import Synset, with_words

WHOLE = "fall11_whole.tar"
CLASS_TAR = re.compile(r"n\d{8}\.tar")


class Fall2011(Source):
    """The archive as published, or what it holds."""

    layout = "class archives"
    expected = f"{WHOLE}, or the archives n########.tar that it holds"
    known_files = (WHOLE,)

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        return {name for name in listing.files if name == WHOLE or CLASS_TAR.fullmatch(name)}

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        self._class_files = {n: size for n, size in sorted(listing.files.items()) if n.endswith(".tar") and n != WHOLE}
        self._is_whole = WHOLE in listing.files
        self.layout = "Fall 2011 archive" if self._is_whole else "class archives"
        if self._is_whole and self._class_files:
            raise RefusedError(
                f"{place.uri}: found {WHOLE} and also {min(self._class_files)}; expected either the whole archive or "
                "the class archives; move one of them to a folder of its own"
            )

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def synsets(self) -> list[Synset]:
        return [with_words(wnid) for wnid in sorted(self._class_tars)]

    def entries(self, split: str) -> Iterator[Entry]:
        for archive, tar, members in nested_members(self.place, self._class_tars.values()):
            wnid = stem(tar.name)
            for member in members:
                yield Entry(f"{wnid}/{stem(member.name)}", wnid, archive, member.offset, member.length)

    @cached_property
    def _class_tars(self) -> dict[str, tuple[str, TarMember]]:
        """Where each class's archive lies, by wnid: (file, part of it)."""
        listed = (
            ((WHOLE, member) for member in tar_members(self.place, WHOLE))
            if self._is_whole
            else ((name, TarMember(name, 0, size)) for name, size in self._class_files.items())
        )
        found: dict[str, tuple[str, TarMember]] = {}
        for archive, tar in listed:
            name = tar.name.rsplit("/", 1)[-1]
            if not CLASS_TAR.fullmatch(name):
                raise RefusedError(
                    f"{self.place.name(archive)}: found {tar.name!r} among the class archives; expected only archives "
                    "named by their class, n########.tar"
                )
            if found.setdefault(stem(name), (archive, tar)) != (archive, tar):
                raise RefusedError(f"{self.place.name(archive)}: holds class {stem(name)} twice; fetch it again")
        return found
