"""Proof that a dataset is complete and undamaged: every hash, every checksum, every entry of the plan."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ingest.convert import content_sha256
from ingest.dataset import Dataset, Split
from ingest.errors import DamageError, Interrupted
from ingest.manifest import MANIFEST, read_manifest
from ingest.pixel_stats import PixelSums, mean_image, rgb_pca
from ingest.plan import PLAN, rows_hash
from ingest.progress import RunWriter
from ingest.seal import sha256_of
from ingest.settings import VerifySettings
from ingest.storage import Place

TOLERANCE = 1e-9
OUTSIDE = ("damaged/",)
Damage = dict[str, str]


def verify(dataset: str, settings: VerifySettings, run: RunWriter | None = None) -> dict[str, Any]:
    """Look at every byte. Returns {"ok", "num_files", "num_samples", "damages": [{"path", "problem"}], ...}.

    Raises RefusedError if there is no sealed dataset, DamageError if the manifest itself was changed.
    """
    place = Place(dataset)
    manifest = read_manifest(place)
    damages = list(_files(place, run))
    broken = {d["path"] for d in damages}
    opened = Dataset(place, manifest)
    damages += _plan(opened, broken)
    num_samples = 0
    for name in manifest.splits:
        if manifest.splits[name].index in broken:
            continue
        split = opened.split(name)
        num_samples += split.num_samples
        damages += _completeness(opened, split, broken)
        damages += _payloads(split, broken)
    if not broken & {"statistics/sums.npz", *manifest.derived}:
        damages += _statistics(opened)
        if settings.deep:
            damages += _recomputed(opened, broken)
    return {
        "ok": not damages,
        "dataset": place.uri,
        "dataset_id": manifest.dataset_id,
        "num_files": len(manifest.files) + len(manifest.derived) + 1,
        "num_samples": num_samples,
        "num_quarantined": len(manifest.quarantine),
        "damages": damages,
    }


def refuse_damage(facts: dict[str, Any]) -> None:
    """Raise DamageError with the first of the damages, if there are any."""
    if not facts["ok"]:
        first = facts["damages"][0]
        raise DamageError(
            f"{facts['dataset']}: {len(facts['damages'])} damages; first {first['path']}: {first['problem']}"
        )


def _files(place: Place, run: RunWriter | None) -> Iterator[Damage]:
    """Every file that the manifest lists, by hash; and every file that it does not list."""
    manifest = read_manifest(place)
    listed = {**manifest.files, **manifest.derived}
    for done, (path, wanted) in enumerate(listed.items()):
        if run is not None:
            run.progress("verifying", done, len(listed), "files")
            if run.stop_requested():
                raise Interrupted("Stopped before all files were looked at.")
        try:
            found = sha256_of(place, path)
        except FileNotFoundError:
            yield {"path": path, "problem": "is gone"}
            continue
        if found.size != wanted.size:
            yield {"path": path, "problem": f"has {found.size} bytes; {wanted.size} were sealed"}
        elif found.sha256 != wanted.sha256:
            yield {"path": path, "problem": f"same size, other bytes (SHA-256 {found.sha256[:16]}...)"}
    if run is not None:
        run.progress("verifying", len(listed), len(listed), "files", force=True)
    for file in place.walk():
        if file.path not in listed and file.path != MANIFEST and not file.path.startswith(OUTSIDE):
            yield {"path": file.path, "problem": "is not part of the dataset; remove it"}


def _plan(dataset: Dataset, broken: set[str]) -> Iterator[Damage]:
    """The entries of the splits are those of the plan hash."""
    paths = {split: f"plan/entries-{split}.arrow" for split in dataset.split_names}
    if not broken & set(paths.values()):
        tables = {split: _table(dataset.place.get(path)) for split, path in paths.items()}
        if rows_hash(tables) != dataset.manifest.plan_hash:
            yield {"path": PLAN, "problem": f"its entries ({', '.join(paths.values())}) do not have its plan hash"}


def _completeness(dataset: Dataset, split: Split, broken: set[str]) -> Iterator[Damage]:
    """Every entry of the plan is in exactly one shard or in quarantine, with its label."""
    path = f"plan/entries-{split.name}.arrow"
    if path in broken:
        return
    table = _table(dataset.place.get(path))
    keys, labels = table.column("key").to_pylist(), table.column("label").to_pylist()
    bad = {q.row: q.key for q in dataset.manifest.quarantine if q.split == split.name}
    wanted = [(k, label) for row, (k, label) in enumerate(zip(keys, labels, strict=True)) if row not in bad]
    found = [(split.key(row), int(split.label[row])) for row in range(split.num_samples)]
    if wanted != found:
        first = next((w for w, f in zip(wanted, found, strict=False) if w != f), ("", -1))
        yield {
            "path": split.facts.index,
            "problem": f"{len(found)} samples where the plan has {len(wanted)}; first difference at {first[0]!r}",
        }
    for row, key in bad.items():
        if keys[row] != key:
            yield {"path": MANIFEST, "problem": f"quarantine names {key} at row {row}, the plan {keys[row]}"}


def _table(data: bytes) -> pa.Table:
    return pa.ipc.open_file(pa.py_buffer(data)).read_all()


def _payloads(split: Split, broken: set[str]) -> Iterator[Damage]:
    """Every payload has the checksum of its index row, and the rows of a shard are those that were written."""
    by_shard = np.argsort(split.shard, kind="stable")
    ends = np.searchsorted(split.shard[by_shard], np.arange(len(split.shards)), side="right")
    for shard, rows in zip(split.shards, np.split(by_shard, ends), strict=False):
        if shard.path in broken:
            continue
        bad: list[int] = []
        found = content_sha256(_samples(split, rows.tolist(), bad))
        for row in bad:
            problem = f"payload of {split.key(row)} at {split.offset[row]} has another checksum"
            yield {"path": shard.path, "problem": problem}
        if not bad and found != shard.content_sha256:
            yield {"path": split.facts.index, "problem": f"leads to other samples of {shard.path} than were written"}


def _samples(split: Split, rows: list[int], bad: list[int]) -> Iterator[tuple[str, int, bytes]]:
    """(key, label, payload) of the rows whose payload has its checksum; the other rows go to `bad`."""
    for row in rows:
        try:
            yield split.key(row), int(split.label[row]), split.payload(row)
        except DamageError:
            bad.append(row)


def _statistics(dataset: Dataset) -> Iterator[Damage]:
    """Mean and PCA follow from the sums, up to the last bits of another processor."""
    sums = PixelSums.from_bytes(dataset.place.get("statistics/sums.npz"))
    if sums.digest() != dataset.manifest.sums_sha256:
        yield {"path": "statistics/sums.npz", "problem": "other sums than the manifest states"}
    if not np.allclose(mean_image(sums), dataset.mean, rtol=TOLERANCE, atol=TOLERANCE):
        yield {"path": "statistics/mean.npy", "problem": "does not follow from the sums"}
    wanted, found = rgb_pca(sums), dataset.pca
    for name in ("eigenvalues", "eigenvectors", "covariance"):
        if not np.allclose(getattr(wanted, name), getattr(found, name), rtol=1e-6, atol=1e-6):
            yield {"path": "statistics/pca.json", "problem": f"{name} do not follow from the sums"}


def _recomputed(dataset: Dataset, broken: set[str]) -> Iterator[Damage]:
    """The sums again, from the stored pixels (raw payloads: a JPEG is not what was summed)."""
    if dataset.payload != "raw" or broken:
        return
    split, sums = dataset.split("train"), PixelSums(dataset.side)
    for row in range(split.num_samples):
        sums.add(np.frombuffer(split.payload(row), np.uint8).reshape(dataset.side, dataset.side, 3))
    if sums.digest() != dataset.manifest.sums_sha256:
        yield {"path": "statistics/sums.npz", "problem": "is not the sum of the stored pixels"}
