"""Reports of all shards -> index, statistics, manifest. The manifest is put last: it is the seal."""

import hashlib
import importlib.metadata
import io
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from ingest.convert import INDEX_PART, ShardReport, part_path
from ingest.errors import RefusedError, TenchError
from ingest.manifest import MANIFEST, ClassName, Manifest, QuarantinedKey, ShardFile, SplitFacts, StoredHash
from ingest.pixel_stats import PixelSums, mean_image, rgb_pca
from ingest.pixels import imaging_library
from ingest.plan import PLAN, Plan
from ingest.png import png_bytes
from ingest.progress import FORMAT_VERSION
from ingest.quarantine import verdict_path
from ingest.storage import Place

INDEX = pa.schema([("shard", pa.uint32()), *INDEX_PART])
SUMS = "statistics/sums.npz"
HASHED_AT_ONCE = 4
BLOCK = 2**22


def damaged_shards(dataset: Place, reports: Sequence[ShardReport]) -> tuple[list[ShardReport], dict[str, StoredHash]]:
    """Reports whose files are not, as read back from the store, what they state; and the hashes of the others'."""

    def read(report: ShardReport) -> dict[str, StoredHash] | None:
        wanted = {report.path: report.sha256, **report.part_sha256}
        try:
            found = {path: sha256_of(dataset, path) for path in wanted}
        except FileNotFoundError:
            return None
        return found if all(found[path].sha256 == sha256 for path, sha256 in wanted.items()) else None

    damaged, whole = [], {}
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        for report, found in zip(reports, pool.map(read, reports), strict=True):
            if found is None:
                damaged.append(report)
            else:
                whole.update(found)
    return damaged, whole


def seal(
    dataset: Place, plan: Plan, reports: Sequence[ShardReport], layout: str, read_back: dict[str, StoredHash]
) -> Manifest:
    """Write index, statistics and manifest. `reports` are of every shard, in plan order, checked before; `read_back`
    has the hashes that were found then.

    Raises RefusedError if no training picture could be decoded, TenchError if another writer sealed another
    dataset here.
    """
    splits = {split: [r for r in reports if r.split == split] for split in plan.entries}
    indexes = {split: _put_index(dataset, split, of_split) for split, of_split in splits.items()}
    sums = merged_sums(dataset, plan.settings.side, (report.number for report in splits["train"]))
    _refuse_no_pictures(dataset, sums)
    derived = _put_statistics(dataset, sums)
    quarantine = tuple(QuarantinedKey(split=r.split, **q) for r in reports for q in r.quarantined)
    paths = _determined_paths(plan, reports, quarantine, indexes)
    unsealed = Manifest(
        format_version=FORMAT_VERSION, dataset_id="", content_id="", settings=plan.record["settings"],
        classes=tuple(ClassName(wnid=c.wnid, words=c.words) for c in plan.classes),
        pixel_fingerprint=plan.record["pixel_fingerprint"], listing_hash=plan.record["listing_hash"],
        plan_hash=plan.record["plan_hash"],
        splits={s: _split_facts(plan, s, r, indexes[s]) for s, r in splits.items()},
        sums_sha256=sums.digest(), quarantine=quarantine, files={**read_back, **_hashes(dataset, paths - read_back.keys())},
        derived=_hashes(dataset, derived), imaging=imaging_library(), versions=_versions(), layout=layout,
        created_at=round(time.time(), 3), parent=plan.record.get("parent"),
    )  # fmt: skip
    ids = {"dataset_id": unsealed.computed_dataset_id(), "content_id": unsealed.computed_content_id()}
    return _put_manifest(dataset, unsealed.model_copy(update=ids))


def sha256_of(dataset: Place, path: str) -> StoredHash:
    """SHA-256 and size of a file as read back. Raises FileNotFoundError."""
    digest, size = hashlib.sha256(), 0
    if dataset.is_local:
        with open(dataset.local_path(path), "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                size += len(block)
    else:
        data = dataset.get(path)
        digest.update(data)
        size = len(data)
    return StoredHash(sha256=digest.hexdigest(), size=size)


def _hashes(dataset: Place, paths: Iterable[str]) -> dict[str, StoredHash]:
    ordered = sorted(paths)
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        return dict(zip(ordered, pool.map(lambda p: sha256_of(dataset, p), ordered), strict=True))


def joined_index(dataset: Place, split: str, numbers: Iterable[int]) -> tuple[bytes, np.ndarray]:
    """The index rows of all shards of a split as one file, and its labels, from the parts. FileNotFoundError."""
    sink = pa.BufferOutputStream()
    labels = []
    with pa.ipc.new_file(sink, INDEX) as writer:
        for number in numbers:
            part = pa.ipc.open_file(pa.py_buffer(dataset.get(part_path(split, number, "arrow")))).read_all()
            shard = pa.array(np.full(len(part), number, np.uint32))
            rows = part.add_column(0, INDEX.field("shard"), shard)
            labels.append(rows.column("label").to_numpy())
            for batch in rows.to_batches():
                writer.write_batch(batch)
    return bytes(sink.getvalue()), np.concatenate(labels)


def merged_sums(dataset: Place, side: int, numbers: Iterable[int]) -> PixelSums:
    """The total of the sums of all training shards, from the parts. Raises FileNotFoundError."""
    sums = PixelSums(side)
    for number in numbers:
        sums.merge(PixelSums.from_bytes(dataset.get(part_path("train", number, "npz"))))
    return sums


def derived_files(sums: PixelSums) -> dict[str, bytes]:
    """The files that follow from the sums, by path; their last bits depend on the processor."""
    mean = mean_image(sums)
    array = io.BytesIO()
    np.save(array, mean)
    pca = json.dumps({"num_samples": sums.count, **rgb_pca(sums).to_json()}, indent=1).encode() + b"\n"
    return {
        "statistics/mean.npy": array.getvalue(),
        "statistics/mean.png": png_bytes(np.rint(mean).astype(np.uint8)),
        "statistics/pca.json": pca,
    }


def _put_index(dataset: Place, split: str, reports: Sequence[ShardReport]) -> tuple[str, np.ndarray]:
    """Put the index of a split; its path, and the labels in index order."""
    path = f"index/{split}.arrow"
    data, labels = joined_index(dataset, split, (report.number for report in reports))
    _put_determined(dataset, path, data)
    return path, labels


def _refuse_no_pictures(dataset: Place, sums: PixelSums) -> None:
    if sums.count == 0:
        raise RefusedError(
            f"{dataset.uri}: not one training picture could be decoded; see {dataset.name('quarantine')}"
        )


def _put_statistics(dataset: Place, sums: PixelSums) -> list[str]:
    """Put the sums and what follows from them; the paths of the latter."""
    _put_determined(dataset, SUMS, sums.to_bytes())
    derived = derived_files(sums)
    for path, data in derived.items():
        dataset.put_new(path, data)
    return list(derived)


def _determined_paths(
    plan: Plan,
    reports: Sequence[ShardReport],
    quarantine: Sequence[QuarantinedKey],
    indexes: dict[str, tuple[str, np.ndarray]],
) -> set[str]:
    paths = {PLAN, SUMS, *(path for path, _ in indexes.values())}
    paths |= {f"plan/entries-{split}.arrow" for split in plan.entries}
    for report in reports:
        paths |= {report.path, part_path(report.split, report.number, "json"), *report.part_sha256}
    for bad in quarantine:
        paths |= {f"{verdict_path(bad.split, bad.row)}.json", f"{verdict_path(bad.split, bad.row)}.bin"}
    return paths


def _split_facts(plan: Plan, split: str, reports: Sequence[ShardReport], index: tuple[str, np.ndarray]) -> SplitFacts:
    path, labels = index
    counts = np.bincount(labels[labels >= 0], minlength=len(plan.wnids))
    return SplitFacts(
        num_samples=len(labels), num_quarantined=sum(len(r.quarantined) for r in reports),
        class_counts=tuple(int(c) for c in counts), index=path,
        shards=tuple(
            ShardFile(
                path=r.path, sha256=r.sha256, size=r.size, num_samples=r.num_samples, content_sha256=r.content_sha256
            )
            for r in reports
        ),
    )  # fmt: skip


def _put_determined(dataset: Place, path: str, data: bytes) -> None:
    if not dataset.put_new(path, data) and dataset.get(path) != data:
        raise TenchError(
            f"{dataset.name(path)}: holds other bytes than the reports of the shards give; it was changed by hand or "
            "by a writer of another plan. Remove it and run the same command again"
        )


def _put_manifest(dataset: Place, manifest: Manifest) -> Manifest:
    from ingest.manifest import read_manifest

    if not dataset.put_new(MANIFEST, manifest.to_bytes()):
        other = read_manifest(dataset)
        if other.dataset_id != manifest.dataset_id:
            raise TenchError(
                f"{dataset.name(MANIFEST)}: another writer sealed dataset {other.dataset_id[:16]} here, "
                f"this one made {manifest.dataset_id[:16]}"
            )
        return other
    return read_manifest(dataset)


def _versions() -> dict[str, Any]:
    return {name: importlib.metadata.version(name) for name in ("tench", "numpy", "pyarrow", "ray")}
