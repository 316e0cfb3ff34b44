"""The files of a dataset made anew, each put in its place only if it has its recorded hash.

Shards are made in a stage (`damaged/rebuilt/`) first; what lay in the place of a file goes to `damaged/`.
"""

import hashlib
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

from ingest.convert import part_path, shard_tasks
from ingest.errors import Interrupted, RefusedError, TenchError
from ingest.manifest import Manifest, StoredHash
from ingest.pixel_stats import PixelSums
from ingest.pixels import BINDING
from ingest.plan import PLAN, Plan, entries_bytes, plan_bytes
from ingest.progress import RunWriter
from ingest.quarantine import verdict_path
from ingest.seal import SUMS, derived_files, joined_index, merged_sums, sha256_of
from ingest.shard_check import Damage, shard_files
from ingest.sources import Source
from ingest.storage import Place
from ingest.verify import recorded_files

if TYPE_CHECKING:
    from ingest.pool import Converted

ASIDE = "damaged"
REBUILT = "damaged/rebuilt"
JOINED_OTHERWISE = "this version of a library writes the same values otherwise"
Shard = tuple[str, int]


class Rebuild:
    """`damaged`: what is not whole yet, and why; `repaired`: what is whole again."""

    def __init__(self, place: Place, manifest: Manifest, damaged: list[Damage], run: RunWriter) -> None:
        self.damaged = {known["path"]: known["problem"] for known in damaged}
        self.repaired: list[str] = []
        self.owners = _owners(manifest)
        self._place, self._manifest, self.run = place, manifest, run
        self._recorded = recorded_files(manifest)

    @property
    def shards(self) -> list[Shard]:
        """Those of which a file, or the verdict of a picture, is damaged."""
        return sorted({self.owners[path] for path in self.damaged if path in self.owners})

    def set_aside(self, path: str) -> None:
        """Move a file to `damaged/`, beside older ones of its name."""
        names = (f"{ASIDE}/{path}{f'.{number}' if number else ''}" for number in count())
        self._place.move(path, next(name for name in names if not self._place.exists(name)))

    def put_plan(self, plan: Plan) -> None:
        """The plan's files. The entries also say where the bytes lie in the source."""
        self._put(PLAN, plan_bytes(plan.record), "this version of Tench writes it with other words")
        for split, table in plan.entries.items():
            why = f"the source holds the same pictures, but not where they lay at the ingest: {self._manifest.layout}"
            self._put(f"plan/entries-{split}.arrow", bytes(entries_bytes(table)), why)

    def make_shards(self, source: Source, plan: Plan, num_actors: int | None) -> None:
        """Make the damaged shards anew; if they cannot be made together, one by one, so that each is told of."""
        if not (shards := self.shards):
            return
        stage = self._place.inside(REBUILT)
        for file in stage.walk():
            stage.delete(file.path)
        self._lend_verdicts(stage, shards)
        work = _Shards(self, source, plan, stage, shards)
        if work.make(shards, num_actors) is not None:
            for shard in list(work.left):
                if (error := work.make([shard], 1)) is not None:
                    self._give_up(shard, error)
        for file in stage.walk():
            if file.path not in self.damaged:
                stage.delete(file.path)

    def take(self, shard: Shard) -> None:
        """Put the files of a shard that was made anew in the place of the damaged ones."""
        for path in [path for path in self.damaged if self.owners.get(path) == shard]:
            rebuilt = f"{REBUILT}/{path}"
            if not self._place.exists(rebuilt):
                self.damaged[path] = "its picture can be decoded now: the imaging library is not that of the ingest"
            elif sha256_of(self._place, rebuilt) != self._recorded[path]:
                self.damaged[path] = (
                    f"made again it has other bytes (kept as {rebuilt}): a picture of the source has changed, or the "
                    "imaging library encodes otherwise"
                )
            else:
                if self._place.exists(path):
                    self.set_aside(path)
                self._place.move(rebuilt, path)
                self._mended(path)

    def join(self) -> None:
        """Indexes and sums from the parts, and what follows from the sums."""
        for split, facts in self._manifest.splits.items():
            numbers = range(len(facts.shards))
            if self._can_join(facts.index, [part_path(split, number, "arrow") for number in numbers]):
                self._put(facts.index, joined_index(self._place, split, numbers)[0], JOINED_OTHERWISE)
        numbers = range(len(self._manifest.splits["train"].shards))
        if self._can_join(SUMS, [part_path("train", number, "npz") for number in numbers]):
            sums = merged_sums(self._place, int(self._manifest.settings["side"]), numbers)
            self._put(SUMS, sums.to_bytes(), JOINED_OTHERWISE)
        derived = [path for path in self._manifest.derived if self._can_join(path, [SUMS])]
        if derived:
            made = derived_files(PixelSums.from_bytes(self._place.get(SUMS)))
            for path in derived:
                self._put(path, made[path], "this processor or this version of a library gives other last bits")

    def sweep(self) -> None:
        """Remove the folders that nothing lies in any more; in an object store there are none."""
        if self._place.is_local:
            aside = self._place.local_path(ASIDE)
            for folder in sorted((aside, *(p for p in aside.rglob("*") if p.is_dir())), reverse=True):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _can_join(self, path: str, parts: Sequence[str]) -> bool:
        """Whether a file is to be made anew, and what it is made of is whole."""
        if path not in self.damaged:
            return False
        lacking = [part for part in parts if part in self.damaged]
        if lacking:
            self.damaged[path] = f"is made of {lacking[0]}, which is still damaged"
        return not lacking

    def _put(self, path: str, data: bytes, otherwise: str) -> None:
        """Put a damaged file anew, if these bytes are the recorded ones; `otherwise` says why they might not be."""
        if path not in self.damaged:
            return
        if StoredHash(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) != self._recorded[path]:
            self.damaged[path] = f"made again it has other bytes: {otherwise}"
            return
        if self._place.exists(path):
            self.set_aside(path)
        self._place.put_new(path, data)
        if sha256_of(self._place, path) != self._recorded[path]:
            self.damaged[path] = "was put anew, but does not read back as it was put: look at the disk"
            return
        self._mended(path)

    def _mended(self, path: str) -> None:
        del self.damaged[path]
        self.repaired.append(path)
        self.run.event("repaired", f"{path} has its recorded hash again.", path=path)

    def _lend_verdicts(self, stage: Place, shards: Sequence[Shard]) -> None:
        """Verdicts that bind every attempt bind this one: the pictures are not decoded again."""
        for bad in self._manifest.quarantine:
            paths = [f"{verdict_path(bad.split, bad.row)}{extension}" for extension in (".bin", ".json")]
            if bad.code in BINDING and self.owners[paths[0]] in shards and not self.damaged.keys() & set(paths):
                for path in paths:
                    stage.put_new(path, self._place.get(path))

    def _give_up(self, shard: Shard, error: TenchError) -> None:
        for path in self.damaged:
            if self.owners.get(path) == shard:
                self.damaged[path] = f"cannot be made again: {error.message}"


class _Shards:
    """Shards that are made anew in a stage; `left` are those that are not yet."""

    def __init__(self, repair: Rebuild, source: Source, plan: Plan, stage: Place, shards: Sequence[Shard]) -> None:
        self._repair, self._source, self._plan, self._stage = repair, source, plan, stage
        self.left, self._num_shards = list(shards), len(shards)

    def make(self, shards: Sequence[Shard], num_actors: int | None) -> TenchError | None:
        """Make some shards; the error that ended it. Raises RefusedError (imaging libraries), Interrupted."""
        from ingest.pool import Pool

        run = self._repair.run
        tasks = shard_tasks(self._source, self._stage, self._plan, self._plan.settings, shards)
        self._tell()
        try:
            with Pool(min(num_actors or len(shards), len(shards)), self._plan.record["pixel_fingerprint"], run) as pool:
                pool.convert_all(tasks, self._on_done)
        except (RefusedError, Interrupted):
            raise
        except TenchError as error:
            return error
        return None

    def _on_done(self, done: "Converted") -> None:
        shard = (done.report.split, done.report.number)
        self.left.remove(shard)
        self._repair.take(shard)
        self._tell()

    def _tell(self) -> None:
        done = self._num_shards - len(self.left)
        self._repair.run.progress("repairing", done, self._num_shards, "shards", force=not self.left)


def _owners(manifest: Manifest) -> dict[str, Shard]:
    """The shard that each file of a shard, and each picture in quarantine, was written with."""
    owners = {path: (files.split, files.number) for files in shard_files(manifest) for path in files.paths}
    samples = int(manifest.settings["samples_per_shard"])
    for bad in manifest.quarantine:
        for extension in (".bin", ".json"):
            owners[f"{verdict_path(bad.split, bad.row)}{extension}"] = (bad.split, bad.row // samples)
    return owners
