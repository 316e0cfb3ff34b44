"""What ILSVRC-2010 and ILSVRC-2012 share: class archives, a development kit, pictures that are numbered.

A kit holds `data/meta.mat` (MATLAB 5: the classes with ILSVRC20##_ID, WNID, words) and the ground truth of the
validation pictures (line n: the ILSVRC20##_ID of picture n).
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property

from ingest.errors import RefusedError
from ingest.sources.entry import Entry, stem
from ingest.sources.tar_index import TarMember, nested_members, tar_members
from ingest.storage import Place
from ingest.synsets import Synset

META = "data/meta.mat"
MAX_DEVKIT_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Devkit:
    """The development kit `archive` of a challenge, which lies beside its archives."""

    place: Place
    archive: str
    val_truth: str
    """Path of the ground truth inside the kit."""
    id_field: str
    """The field of the class table that numbers the classes."""

    def synsets(self) -> list[Synset]:
        """The classes that have pictures, sorted by wnid."""
        return sorted(self._by_id.values(), key=lambda s: s.wnid)

    def val_wnids(self) -> list[str]:
        """The wnid of every validation picture, by number from 1."""
        return self.wnids(self._files[self.val_truth], f"{self.place.name(self.archive)}: {self.val_truth}")

    def wnids(self, truth: bytes, name: str) -> list[str]:
        """The wnids that a ground truth called `name` in messages gives, line by line."""
        try:
            return [self._by_id[int(line)].wnid for line in truth.split()]
        except (KeyError, ValueError) as error:
            raise RefusedError(f"{name} names class {error}, which {META} does not have") from error

    @cached_property
    def _files(self) -> dict[str, bytes]:
        """The two files of the kit that are needed, by their path inside it."""
        name, size = self.place.name(self.archive), self.place.size(self.archive) or 0
        if size > MAX_DEVKIT_BYTES:
            raise RefusedError(f"{name}: {size:,} bytes; a development kit has a few million")
        found: dict[str, bytes] = {}
        try:
            # Unzipped to its end first: only there gzip compares its checksum.
            with gzip.GzipFile(fileobj=io.BytesIO(self.place.get(self.archive))) as file:
                plain = io.BytesIO(file.read(MAX_DEVKIT_BYTES))
            with tarfile.open(fileobj=plain) as archive:
                for member in archive:
                    wanted = next((w for w in (META, self.val_truth) if member.name.endswith(w)), None)
                    if wanted and (content := archive.extractfile(member)):
                        found[wanted] = content.read()
        except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
            raise RefusedError(f"{name}: cannot be read ({error}); fetch it again") from error
        for wanted in (META, self.val_truth):
            if wanted not in found:
                raise RefusedError(f"{name}: holds no {wanted}; expected the kit as published, fetch it again")
        return found

    @cached_property
    def _by_id(self) -> dict[int, Synset]:
        """Leaf classes by number; the classes with children, numbered behind them, have no pictures of their own."""
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        data, number = self._files[META], self.id_field
        try:
            rows = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
            leaves = [row for row in rows if int(row["num_children"]) == 0]
            return {int(r[number]): Synset(str(r["WNID"]), str(r["words"]), int(r[number])) for r in leaves}
        except (MatReadError, zlib.error, LookupError, ValueError, TypeError, NotImplementedError, OSError) as error:
            raise RefusedError(
                f"{self.place.name(self.archive)}: {META} has not the structure of the official one ({error}); "
                "fetch it again"
            ) from error


def class_names(place: Place, archive: str) -> list[str]:
    """The wnids of a tar of class tars, sorted."""
    return sorted(stem(m.name) for m in tar_members(place, archive))


def class_pictures(place: Place, archive: str, known: Container[str], kit: str) -> Iterator[Entry]:
    """The pictures of a tar of class tars. Raises RefusedError for a class that is not known."""

    def class_tars() -> Iterator[tuple[str, TarMember]]:
        for class_tar in tar_members(place, archive):
            if stem(class_tar.name) not in known:
                raise RefusedError(
                    f"{place.name(archive)}: holds {class_tar.name!r}, but class {stem(class_tar.name)} is not in "
                    f"{kit}; archives and development kit must be of one challenge"
                )
            yield archive, class_tar

    for _, class_tar, members in nested_members(place, class_tars()):
        wnid = stem(class_tar.name)
        for member in members:
            yield Entry(f"{wnid}/{stem(member.name)}", wnid, archive, member.offset, member.length)


def numbered_pictures(place: Place, archive: str, names: str, wnids: list[str], truth: str) -> Iterator[Entry]:
    """The pictures `<names>########` of an archive; number n has the n-th of the wnids that `truth` gave.

    Raises RefusedError for a name without a line, and where there are fewer or more pictures than lines.
    """
    pattern, count = re.compile(rf"{names}(\d{{8}})$"), 0
    for member in tar_members(place, archive):
        match = pattern.search(stem(member.name))
        number = int(match.group(1)) if match else 0
        if not 1 <= number <= len(wnids):
            raise RefusedError(
                f"{place.name(archive)}: member {member.name!r} has no line in {truth}, which has "
                f"{len(wnids)}; expected {names}00000001 to _{len(wnids):08d}"
            )
        count += 1
        wnid = wnids[number - 1]
        yield Entry(f"{wnid}/{stem(member.name)}", wnid, archive, member.offset, member.length)
    if count != len(wnids):
        raise RefusedError(
            f"{place.name(archive)}: {count} pictures, but {truth} has {len(wnids)} lines; "
            "the archive is cut or of another challenge"
        )
