"""Shards read without our code: Arrow files by pyarrow, TFRecord files and tf.train.Example by `struct`."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import pyarrow as pa


@dataclass(frozen=True)
class Sample:
    """A record of a shard."""

    key: str
    label: int
    wnid: str
    payload: bytes


def shards(folder: Path | str, split: str) -> list[Path]:
    """The shards of a split in order, without the files that lie beside them."""
    return sorted(p for p in Path(folder, split).iterdir() if p.suffix in (".arrow", ".tfrecord"))


def samples_of(shard: Path) -> list[Sample]:
    """The samples of a shard."""
    return _arrow_samples(shard) if shard.suffix == ".arrow" else _tfrecord_samples(shard)


def samples(folder: Path | str, split: str) -> list[Sample]:
    """The samples of a split in the order of its shards."""
    return [sample for shard in shards(folder, split) for sample in samples_of(shard)]


def arrow_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an Arrow file: a shard, an index, the entries of a plan."""
    rows: list[dict[str, Any]] = pa.ipc.open_file(path.read_bytes()).read_all().to_pylist()
    return rows


def quarantined(folder: Path | str) -> dict[tuple[str, str], tuple[str, bytes]]:
    """(split, key) -> (code, bytes) of every picture that was put aside."""
    found = {}
    for path in sorted(Path(folder, "quarantine").glob("*.json")):
        verdict = json.loads(path.read_text())
        found[verdict["split"], verdict["key"]] = (verdict["code"], path.with_suffix(".bin").read_bytes())
    return found


def tfrecords(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(start of the record, message); both checksums of each record are compared."""
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        message = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 8)[0] == _masked(data[at : at + 8])
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == _masked(message)
        yield at, message
        at += 16 + length
    assert at == len(data)


def example(message: bytes) -> dict[str, Any]:
    """Feature name -> value of a tf.train.Example whose features hold one value each: bytes or int."""
    features = {}
    for number, entry in _fields(_only(message, 1)):
        assert number == 1
        features[_only(entry, 1).decode()] = _value(_only(entry, 2))
    return features


def _arrow_samples(path: Path) -> list[Sample]:
    return [Sample(**row) for row in arrow_rows(path)]


def _tfrecord_samples(path: Path) -> list[Sample]:
    rows = [example(message) for _, message in tfrecords(path.read_bytes())]
    return [
        Sample(
            row["image/filename"].decode(),
            row["image/class/label"],
            row["image/class/synset"].decode(),
            row["image/encoded"],
        )
        for row in rows
    ]


def _masked(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | (crc << 17) % 2**32) + 0xA282EAD8) % 2**32


def _value(feature: bytes) -> bytes | int:
    """The one value of a Feature: field 1 is a BytesList, field 3 an Int64List (packed)."""
    ((kind, values),) = _fields(feature)
    if kind == 1:
        return _only(values, 1)
    assert kind == 3
    number, end = _varint(_only(values, 1), 0)
    assert end == len(_only(values, 1))
    return number - 2**64 if number >= 2**63 else number


def _only(message: bytes, number: int) -> bytes:
    """The one field of this number."""
    (found,) = (value for n, value in _fields(message) if n == number)
    return found


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of a message that holds length-delimited fields only."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        assert tag & 7 == 2
        length, at = _varint(message, at)
        yield tag >> 3, message[at : at + length]
        at += length
    assert at == len(message)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at
