"""ILSVRC-2012 as published: a training tar of 1,000 class tars, a validation tar, and the development kit.

The kit holds `data/meta.mat` (MATLAB 5: the classes with ILSVRC2012_ID, WNID, words) and
`data/ILSVRC2012_validation_ground_truth.txt` (line n: the ILSVRC2012_ID of ILSVRC2012_val_<n>).
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from functools import cached_property

from ingest.errors import RefusedError
from ingest.sources.entry import SPLITS, Entry, stem
from ingest.sources.source import Listing, Source
from ingest.sources.tar_index import tar_members
from ingest.storage import Place
from ingest.synsets import Synset

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
TESTS = ("ILSVRC2012_img_test_v10102019.tar", "ILSVRC2012_img_test.tar")
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META, GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
MAX_DEVKIT_BYTES = 100 * 2**20
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})$")


class Ilsvrc2012(Source):
    """The official archives in one folder. Pictures are read out of them by offset."""

    layout = "ILSVRC-2012 archives"
    expected = f"{TRAIN}, {VAL} and {DEVKIT}"

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
        self._has_devkit = DEVKIT in present

    def splits(self) -> tuple[str, ...]:
        return self._splits

    def synsets(self) -> list[Synset]:
        if self._has_devkit:
            return sorted(self._kit_synsets.values(), key=lambda s: s.wnid)
        from ingest.synsets import named

        return [named(wnid) for wnid in sorted(stem(m.name) for m in tar_members(self.place, TRAIN))]

    def entries(self, split: str) -> Iterator[Entry]:
        if split == "train":
            return self._train()
        if split == "val":
            return self._val()
        members = tar_members(self.place, self._archives["test"])
        return (Entry(stem(m.name), "", self._archives["test"], m.offset, m.length) for m in members)

    def _train(self) -> Iterator[Entry]:
        known = {s.wnid for s in self.synsets()}
        for class_tar in tar_members(self.place, TRAIN):
            wnid = stem(class_tar.name)
            if wnid not in known:
                raise RefusedError(
                    f"{self.place.name(TRAIN)}: holds {class_tar.name!r}, but class {wnid} is not in {DEVKIT}; "
                    "archives and development kit must be of one challenge"
                )
            for member in tar_members(self.place, TRAIN, class_tar.offset, class_tar.length):
                yield Entry(f"{wnid}/{stem(member.name)}", wnid, TRAIN, member.offset, member.length)

    def _val(self) -> Iterator[Entry]:
        wnids = self._val_wnids
        count = 0
        for member in tar_members(self.place, VAL):
            match = VAL_NAME.search(stem(member.name))
            number = int(match.group(1)) if match else 0
            if not 1 <= number <= len(wnids):
                raise RefusedError(
                    f"{self.place.name(VAL)}: member {member.name!r} has no line in {GROUND_TRUTH}, which has "
                    f"{len(wnids)}; expected ILSVRC2012_val_00000001 to _{len(wnids):08d}"
                )
            count += 1
            wnid = wnids[number - 1]
            yield Entry(f"{wnid}/{stem(member.name)}", wnid, VAL, member.offset, member.length)
        if count != len(wnids):
            raise RefusedError(
                f"{self.place.name(VAL)}: {count} pictures, but {GROUND_TRUTH} has {len(wnids)} lines; "
                "the archive is cut or of another challenge"
            )

    @cached_property
    def _kit(self) -> dict[str, bytes]:
        """The two files of the kit that are needed, by their path inside it."""
        size = self.place.size(DEVKIT) or 0
        if size > MAX_DEVKIT_BYTES:
            raise RefusedError(f"{self.place.name(DEVKIT)}: {size:,} bytes; a development kit has about 2.5 million")
        found: dict[str, bytes] = {}
        try:
            # Unzipped to its end first: only there gzip compares its checksum.
            with gzip.GzipFile(fileobj=io.BytesIO(self.place.get(DEVKIT))) as file:
                plain = io.BytesIO(file.read(MAX_DEVKIT_BYTES))
            with tarfile.open(fileobj=plain) as archive:
                for member in archive:
                    wanted = next((w for w in (META, GROUND_TRUTH) if member.name.endswith(w)), None)
                    if wanted and (content := archive.extractfile(member)):
                        found[wanted] = content.read()
        except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
            raise RefusedError(f"{self.place.name(DEVKIT)}: cannot be read ({error}); fetch it again") from error
        for wanted in (META, GROUND_TRUTH):
            if wanted not in found:
                raise RefusedError(f"{self.place.name(DEVKIT)}: holds no {wanted}; fetch the kit of task 1 and 2 again")
        return found

    @cached_property
    def _kit_synsets(self) -> dict[int, Synset]:
        """Leaf classes by ILSVRC2012_ID; classes with children (1,001 to 1,860) have no pictures of their own."""
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        data = self._kit[META]
        try:
            rows = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
            leaves = [row for row in rows if int(row["num_children"]) == 0]
            return {
                int(r["ILSVRC2012_ID"]): Synset(str(r["WNID"]), str(r["words"]), int(r["ILSVRC2012_ID"]))
                for r in leaves
            }
        except (MatReadError, zlib.error, LookupError, ValueError, TypeError, NotImplementedError, OSError) as error:
            raise RefusedError(
                f"{self.place.name(DEVKIT)}: {META} has not the structure of the official one ({error}); fetch it again"
            ) from error

    @cached_property
    def _val_wnids(self) -> list[str]:
        """The wnid of every validation picture, by number from 1."""
        lines = self._kit[GROUND_TRUTH].split()
        try:
            return [self._kit_synsets[int(line)].wnid for line in lines]
        except (KeyError, ValueError) as error:
            raise RefusedError(
                f"{self.place.name(DEVKIT)}: {GROUND_TRUTH} names class {error}, which {META} does not have"
            ) from error
