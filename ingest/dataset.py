"""A sealed dataset, opened for reading: the door for the floors above, and for anybody's script.

dataset = Dataset.open("small")
val = dataset.split("val")
payload = val.payload(0)          # bytes of the first sample; dataset.payload says what they are
"""

import hashlib
import io
import json
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from crc32c import crc32c

from ingest.centring import restored
from ingest.errors import DamageError, RefusedError
from ingest.manifest import ClassName, Manifest, ShardFile, read_manifest
from ingest.pixel_stats import Float64, Pca
from ingest.settings import PlannedSettings
from ingest.storage import Place

CHECKED_ON_OPENING = ("statistics/mean.npy", "statistics/pca.json")
OPEN_SHARDS = 4096


class Dataset:
    """A sealed dataset. `open` checks the manifest's own hash and those of index and statistics."""

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self.place = place
        self.manifest = manifest
        self.settings = PlannedSettings.model_validate(manifest.settings)

    @classmethod
    def open(cls, uri: str) -> "Dataset":
        """Raises RefusedError (no sealed dataset there, or a newer one), DamageError (bytes changed)."""
        place = Place(uri)
        dataset = cls(place, read_manifest(place))
        for path in CHECKED_ON_OPENING:
            dataset.checked_bytes(path)
        return dataset

    @property
    def uri(self) -> str:
        return self.place.uri

    @property
    def dataset_id(self) -> str:
        """SHA-256 of everything that determines the dataset's bytes."""
        return self.manifest.dataset_id

    @property
    def content_id(self) -> str:
        """SHA-256 of keys, labels and payloads: equal for Arrow and TFRecord of one plan."""
        return self.manifest.content_id

    @property
    def side(self) -> int:
        """Side of the stored pictures in pixels."""
        return self.settings.side

    @property
    def payload(self) -> str:
        """What a payload is: jpeg, or raw (uint8 height x width x 3, RGB)."""
        return self.settings.payload

    @property
    def format(self) -> str:
        return self.settings.format

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """wnid and words of each class; position = label."""
        return self.manifest.classes

    @property
    def num_classes(self) -> int:
        return len(self.manifest.classes)

    @property
    def split_names(self) -> tuple[str, ...]:
        return tuple(s for s in ("train", "val", "test") if s in self.manifest.splits)

    @cached_property
    def mean(self) -> Float64:
        """Mean image of the training split: float64 (side, side, 3), RGB, 0-255."""
        mean: Float64 = np.load(io.BytesIO(self.checked_bytes("statistics/mean.npy")), allow_pickle=False)
        return mean

    @cached_property
    def pca(self) -> Pca:
        """Principal axes of the training split's RGB values, in pixel units."""
        record = json.loads(self.checked_bytes("statistics/pca.json"))
        names = ("eigenvalues", "eigenvectors_columns", "channel_mean", "covariance")
        return Pca(*(np.array(record[name], np.float64) for name in names))

    def split(self, name: str) -> "Split":
        """Raises RefusedError naming the splits there are."""
        if name not in self.manifest.splits:
            raise RefusedError(f"{self.uri}: has no split {name!r}; it has {', '.join(self.split_names)}")
        return Split(self, name)

    def checked_bytes(self, path: str) -> bytes:
        """A file whose SHA-256 stands in the manifest. Raises DamageError if it is gone or changed."""
        wanted = self.manifest.files.get(path) or self.manifest.derived[path]
        try:
            data = self.place.get(path)
        except FileNotFoundError:
            raise DamageError(f"{self.place.name(path)}: is gone; restore it from a copy") from None
        if hashlib.sha256(data).hexdigest() != wanted.sha256:
            raise DamageError(
                f"{self.place.name(path)}: {len(data)} bytes that are not those that were sealed; "
                f"`tench verify {self.uri}` lists all damage"
            )
        return data


class Split:
    """One split. Its index columns are arrays of length `num_samples`; row = sample number.

    `shard` uint32, `offset` uint64 and `length` uint32 (bytes in the shard), `label` int32 (-1 without),
    `crc32c` uint32 of the payload, `width` and `height` uint32 of the source's picture.
    """

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self.facts = dataset.manifest.splits[name]
        data = dataset.checked_bytes(self.facts.index)
        self._table: pa.Table = pa.ipc.open_file(pa.py_buffer(data)).read_all().combine_chunks()
        if len(self._table) != self.facts.num_samples:
            raise DamageError(
                f"{dataset.place.name(self.facts.index)}: {len(self._table)} rows, the manifest states "
                f"{self.facts.num_samples}"
            )
        self.shard: npt.NDArray[np.uint32] = self._column("shard", np.uint32)
        self.offset: npt.NDArray[np.uint64] = self._column("offset", np.uint64)
        self.length: npt.NDArray[np.uint32] = self._column("length", np.uint32)
        self.label: npt.NDArray[np.int32] = self._column("label", np.int32)
        self.crc32c: npt.NDArray[np.uint32] = self._column("crc32c", np.uint32)
        self.width: npt.NDArray[np.uint32] = self._column("width", np.uint32)
        self.height: npt.NDArray[np.uint32] = self._column("height", np.uint32)
        self._maps = lru_cache(OPEN_SHARDS)(self._map)

    @property
    def num_samples(self) -> int:
        return self.facts.num_samples

    @property
    def shards(self) -> tuple[ShardFile, ...]:
        return self.facts.shards

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Samples of each class, by label."""
        return self.facts.class_counts

    def key(self, row: int) -> str:
        """The sample's key, `<wnid>/<file stem>`."""
        return str(self._table.column("key")[row].as_py())

    def map_shard(self, number: int) -> npt.NDArray[np.uint8]:
        """A shard's bytes, uint8, mapped into memory copy-on-write: nothing can be changed on disk through it.

        Raises DamageError (gone, or of another size), RefusedError (a remote dataset).
        """
        return self._maps(number)

    def payload(self, row: int) -> bytes:
        """A sample's payload, its checksum verified; of a remote dataset fetched alone. Raises DamageError naming shard,
        key and offset."""
        number, start, length = int(self.shard[row]), int(self.offset[row]), int(self.length[row])
        if self.dataset.place.is_local:
            payload = self.map_shard(number)[start : start + length].tobytes()
        else:
            payload = self._fetched(number, start, length)
        if crc32c(payload) != int(self.crc32c[row]):
            raise DamageError(
                f"{self.dataset.place.name(self.shards[int(self.shard[row])].path)}: the payload of {self.key(row)} "
                f"at {start} does not have its checksum; `tench verify {self.dataset.uri}` lists all damage"
            )
        return payload

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """A sample's picture, uint8 (side, side, 3) RGB, of any payload; its checksum verified."""
        from ingest.pixels import decode_payload

        if self.dataset.payload == "centered":
            return restored(self.payload(row), self.dataset.mean)
        return decode_payload(self.payload(row), self.dataset.payload, self.dataset.side)

    def _fetched(self, number: int, start: int, length: int) -> bytes:
        path = self.shards[number].path
        try:
            return self.dataset.place.get_range(path, start, length)
        except FileNotFoundError:
            raise DamageError(f"{self.dataset.place.name(path)}: is gone; restore it from a copy") from None

    def _map(self, number: int) -> npt.NDArray[np.uint8]:
        shard = self.shards[number]
        path = self.dataset.place.local_path(shard.path)
        found = path.stat().st_size if path.is_file() else None
        if found != shard.size:
            raise DamageError(
                f"{path}: {found or 'no'} bytes, the manifest states {shard.size}; restore it from a copy"
            )
        # Not read-only: consumers that refuse read-only memory (DLPack, torch) can use it without a copy.
        return np.asarray(np.memmap(path, np.uint8, "c"))

    def _column(self, name: str, dtype: Any) -> Any:
        return np.ascontiguousarray(self._table.column(name).to_numpy(), dtype=dtype)
