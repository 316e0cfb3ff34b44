"""Proof that a dataset is complete and undamaged: every hash, every checksum, every entry of the plan.

Each file is read once. What is wrong is told for its file as closely as can be: shard, record, key, place.
"""

from collections.abc import Iterator
from typing import Any

from ingest.key_check import source_differences, source_plan
from ingest.manifest import MANIFEST, Manifest, StoredHash, read_manifest
from ingest.pixel_stats import PixelSums
from ingest.progress import RunWriter
from ingest.read_back import Crew, ReadBack, read_back
from ingest.settings import VerifySettings
from ingest.shard_check import Damage, ShardCheck, ShardFindings, damage, shard_files
from ingest.sources import detect
from ingest.storage import Place
from ingest.whole_check import WholeCheck

OUTSIDE = ("damaged/",)


def verify(dataset: str, settings: VerifySettings, run: RunWriter | None = None) -> dict[str, Any]:
    """Look at every byte. Returns {"ok", "num_files", "num_samples", "damages": [{"path", "problem"}], ...}.

    Raises RefusedError if there is no sealed dataset or the source cannot be listed, DamageError if the manifest
    itself was changed, Interrupted.
    """
    place = Place(dataset)
    manifest = read_manifest(place)
    plan = source_plan(detect(settings.source), manifest) if settings.source else None
    crew = crew_for(manifest, run, "verifying")
    apart = WholeCheck(manifest, _read_apart(place, manifest, crew))
    check = ShardCheck(place, manifest, apart.indexes, apart.whole_indexes, settings.deep, crew.go_on)
    shards = _Shards(manifest)
    for found in crew.each(check, shard_files(manifest), lambda s: len(s.paths)):
        shards.add(found)
    damages = [*extra_files(place, manifest), *apart.damages(), *shards.damages, *apart.statistics(shards.sums)]
    if plan is not None:
        said = source_differences(manifest, apart.entries, plan)
        damages += [damage(Place(settings.source or "").uri, words) for words in said]
    return {
        "ok": not damages,
        "dataset": place.uri,
        "dataset_id": manifest.dataset_id,
        "num_files": crew.num_files,
        "num_samples": shards.num_samples,
        "num_quarantined": len(manifest.quarantine),
        "damages": sorted(damages, key=lambda d: d["path"]),
    }


def damaged_files(place: Place, manifest: Manifest, run: RunWriter | None, phase: str) -> list[Damage]:
    """The files that are not as the manifest records them, by hash alone, sorted by path."""
    crew, recorded = crew_for(manifest, run, phase), recorded_files(manifest)

    def problem(path: str) -> Damage | None:
        file = read_back(place, path, recorded[path], crew.go_on)
        return damage(path, file.problem) if file.problem else None

    found = [known for known in crew.each(problem, recorded, lambda _: 1) if known is not None]
    return sorted(found, key=lambda d: d["path"])


def extra_files(place: Place, manifest: Manifest) -> Iterator[Damage]:
    """Files that the manifest does not list. A web folder cannot be listed and is taken to have none."""
    recorded = recorded_files(manifest)
    for file in place.walk() if place.can_list else ():
        if file.path not in recorded and file.path != MANIFEST and not file.path.startswith(OUTSIDE):
            yield damage(file.path, "is not part of the dataset; remove it")


def crew_for(manifest: Manifest, run: RunWriter | None, phase: str) -> Crew:
    """Threads for all files of a dataset. Its manifest, which is read by now, is counted as done."""
    recorded = recorded_files(manifest)
    return Crew(run, phase, len(recorded) + 1, max(file.size for file in recorded.values()), num_done=1)


def recorded_files(manifest: Manifest) -> dict[str, StoredHash]:
    """Every file that the manifest lists."""
    return {**manifest.files, **manifest.derived}


class _Shards:
    """What was found out about all shards together. `sums` are None once a training shard's cannot be read."""

    def __init__(self, manifest: Manifest) -> None:
        self.damages: list[Damage] = []
        self.num_samples = 0
        self.sums: PixelSums | None = PixelSums(int(manifest.settings["side"]))

    def add(self, found: ShardFindings) -> None:
        """Count one shard."""
        self.damages += found.damages
        self.num_samples += found.num_samples
        if found.lacks_sums:
            self.sums = None
        elif self.sums is not None and found.sums is not None:
            self.sums.merge(found.sums)


def _read_apart(place: Place, manifest: Manifest, crew: Crew) -> dict[str, ReadBack]:
    """Read the files that belong to no single shard. The bytes of bad pictures are not kept."""
    of_shards = {path for shard in shard_files(manifest) for path in shard.paths}
    recorded = {path: wanted for path, wanted in recorded_files(manifest).items() if path not in of_shards}

    def read(path: str) -> ReadBack:
        file = read_back(place, path, recorded[path], crew.go_on)
        return ReadBack(path, None, file.problem) if path.endswith(".bin") else file

    return {file.path: file for file in crew.each(read, sorted(recorded), lambda _: 1)}
