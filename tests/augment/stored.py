"""A sealed dataset read without any of our code, to compare the loader with."""

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

SIDE = 256


@dataclass(frozen=True)
class Stored:
    """The dataset in a folder; samples in the order of the index."""

    folder: Path
    split: str = "train"

    @cached_property
    def index(self) -> list[dict[str, Any]]:
        with pa.memory_map(str(self.folder / f"index/{self.split}.arrow")) as file:
            rows: list[dict[str, Any]] = pa.ipc.open_file(file).read_all().to_pylist()
            return rows

    @cached_property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return manifest

    @cached_property
    def mean(self) -> npt.NDArray[np.float64]:
        mean: npt.NDArray[np.float64] = np.load(self.folder / "statistics/mean.npy")
        return mean

    @cached_property
    def pca(self) -> dict[str, Any]:
        pca: dict[str, Any] = json.loads((self.folder / "statistics/pca.json").read_text())
        return pca

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        return np.array([row["label"] for row in self.index])

    @cached_property
    def pictures(self) -> list[npt.NDArray[np.uint8]]:
        """uint8 (256, 256, 3) each, decoded by Pillow."""
        return [_decoded(payload) for payload in self.payloads]

    @cached_property
    def payloads(self) -> list[bytes]:
        """From the records of the Arrow files, by key; from TFRecord files, the bytes that the index names."""
        shards = sorted((self.folder / self.split).iterdir())
        if shards[0].suffix == ".arrow":
            tables = [pa.ipc.open_file(pa.memory_map(str(shard))).read_all() for shard in shards]
            by_key = {row["key"]: row["payload"] for table in tables for row in table.to_pylist()}
            return [by_key[row["key"]] for row in self.index]
        data = [shard.read_bytes() for shard in shards if shard.suffix == ".tfrecord"]
        return [data[r["shard"]][r["offset"] : r["offset"] + r["length"]] for r in self.index]


def _decoded(payload: bytes) -> npt.NDArray[np.uint8]:
    if len(payload) == SIDE * SIDE * 3:
        return np.frombuffer(payload, np.uint8).reshape(SIDE, SIDE, 3)
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"))
