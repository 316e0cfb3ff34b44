"""The manifest: the facts of a sealed dataset, its ids, and its own hash."""

import hashlib
import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from ingest.errors import DamageError, RefusedError
from ingest.progress import FORMAT_VERSION
from ingest.storage import Place

MANIFEST = "manifest.json"
LEADS_OUT = re.compile(r"^/|\\|(^|/)\.\.?(/|$)|//")


def _refuse_outside(path: str) -> str:
    if LEADS_OUT.search(path):
        raise ValueError(f"{path!r} leads out of the dataset")
    return path


InsidePath = Annotated[str, AfterValidator(_refuse_outside)]
"""A path relative to the dataset's folder. Whoever wrote a manifest can give it any hash: it is read and written there."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ClassName(_Part):
    """A class; its position in the manifest's list is its label."""

    wnid: str
    words: str


class ShardFile(_Part):
    """A shard of a split."""

    path: InsidePath
    sha256: str
    size: int
    num_samples: int
    content_sha256: str


class SplitFacts(_Part):
    """A split: its shards in order, its samples, and how many of them each class has (by label)."""

    num_samples: int
    num_quarantined: int
    class_counts: tuple[int, ...]
    index: InsidePath
    shards: tuple[ShardFile, ...]


class StoredHash(_Part):
    """SHA-256 and size of a file, as read back from the store."""

    sha256: str
    size: int


class QuarantinedKey(_Part):
    """An entry that is in no shard, and the code of the reason."""

    split: str
    row: int
    key: str
    code: str


class Manifest(_Part):
    """manifest.json. Its presence means that the dataset is sealed."""

    format_version: int
    dataset_id: str
    content_id: str
    settings: dict[str, Any]
    classes: tuple[ClassName, ...]
    pixel_fingerprint: str
    listing_hash: str
    plan_hash: str
    splits: dict[str, SplitFacts]
    sums_sha256: str
    quarantine: tuple[QuarantinedKey, ...]
    files: dict[InsidePath, StoredHash]
    """Every other file that the plan determines."""
    derived: dict[InsidePath, StoredHash]
    """Files whose last bits depend on the processor: outside the id."""
    imaging: dict[str, Any]
    versions: dict[str, str]
    layout: str
    created_at: float
    parent: str | None = None
    """Id of the dataset that this one was made of, if it was not made of pictures."""
    manifest_sha256: str = ""

    def computed_dataset_id(self) -> str:
        """SHA-256 over what determines the bytes: no times, no paths outside, no library versions."""
        return sha256_json(
            {
                **({"parent": self.parent} if self.parent else {}),
                "format_version": self.format_version,
                "settings": self.settings,
                "classes": [c.wnid for c in self.classes],
                "pixel_fingerprint": self.pixel_fingerprint,
                "plan_hash": self.plan_hash,
                "shards": {
                    name: [[s.path, s.sha256, s.num_samples] for s in split.shards]
                    for name, split in self.splits.items()
                },
                "sums": self.sums_sha256,
                "quarantine": [[q.split, q.key, q.code] for q in self.quarantine],
            }
        )

    def computed_content_id(self) -> str:
        """SHA-256 over the contents of the shards: the same for every file format of one plan."""
        return sha256_json({name: [s.content_sha256 for s in split.shards] for name, split in self.splits.items()})

    def to_bytes(self) -> bytes:
        """Canonical JSON, with its own hash (taken without that field)."""
        body = self.model_dump(exclude={"manifest_sha256"})
        return canonical_json({**body, "manifest_sha256": sha256_json(body)})


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def read_manifest(dataset: Place) -> Manifest:
    """The manifest of a sealed dataset, its own hash and ids checked.

    Raises RefusedError if there is none or it is of a newer Tench, DamageError if it was changed.
    """
    try:
        data = dataset.get(MANIFEST)
    except FileNotFoundError:
        raise RefusedError(_why_none(dataset)) from None
    try:
        record = json.loads(data)
        version, written = record["format_version"], record.pop("manifest_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{dataset.name(MANIFEST)}: not a manifest ({error}); restore it from a copy") from error
    if version > FORMAT_VERSION:
        raise RefusedError(
            f"{dataset.name(MANIFEST)}: format {version}, this Tench reads up to {FORMAT_VERSION}; update Tench"
        )
    if sha256_json(record) != written:
        raise DamageError(f"{dataset.name(MANIFEST)}: does not have the hash it states; it was changed after sealing")
    try:
        manifest = Manifest(**record, manifest_sha256=written)
    except ValidationError as error:
        raise DamageError(f"{dataset.name(MANIFEST)}: not a manifest: {error.errors()[0]['msg']}") from error
    if (manifest.computed_dataset_id(), manifest.computed_content_id()) != (manifest.dataset_id, manifest.content_id):
        raise DamageError(f"{dataset.name(MANIFEST)}: its ids do not follow from its facts; it was changed by hand")
    return manifest


def _why_none(dataset: Place) -> str:
    if dataset.is_local and not dataset.local_path().is_dir():
        return f"{dataset.uri}: no such dataset; `tench ingest SOURCE {dataset.uri}` makes one"
    if dataset.exists("plan.json"):
        return f"{dataset.uri}: a dataset that is not finished; run the same `tench ingest` again to go on"
    return f"{dataset.uri}: no dataset (no {MANIFEST}); `tench ingest SOURCE DATASET` makes one"
