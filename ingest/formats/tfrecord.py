"""TFRecord shards of tf.train.Example, and the index file that DALI's own reader wants.

A record is: length (uint64), its masked CRC32C, the message, the message's masked CRC32C. The message is written
here byte by byte (four protobuf field kinds, features sorted by name), so that equal samples give equal bytes.
"""

import struct
from collections.abc import Sequence

import google_crc32c
import numpy as np

from ingest.formats.record import Record, WrittenShard

EXTENSION = "tfrecord"
FORMAT_NAMES = {"jpeg": b"jpeg", "raw": b"raw", "centered": b"int16"}


def write(records: Sequence[Record], payload_kind: str, wnids: Sequence[str]) -> WrittenShard:
    """The bytes of a shard, with its `.idx` (one line a record: offset and size)."""
    parts: list[bytes] = []
    offsets, lines, position = [], [], 0
    for record in records:
        message, payload_at = _example(record, FORMAT_NAMES[payload_kind])
        header = struct.pack("<Q", len(message))
        parts += [header, _masked_crc(header), message, _masked_crc(message)]
        size = len(message) + 16
        offsets.append(position + 12 + payload_at)
        lines.append(f"{position} {size}\n")
        position += size
    data = memoryview(b"".join(parts))
    return WrittenShard(data, np.array(offsets, np.uint64), {"idx": "".join(lines).encode()})


def _example(record: Record, format_name: bytes) -> tuple[bytes, int]:
    """A serialised tf.train.Example, and where the payload lies in it. The payload's feature comes last."""
    features = [
        _feature("image/class/label", _int64_list(record.label)),
        _feature("image/class/synset", _bytes_list(record.wnid.encode())),
        _feature("image/filename", _bytes_list(record.key.encode())),
        _feature("image/format", _bytes_list(format_name)),
        _feature("image/height", _int64_list(record.height)),
        _feature("image/width", _int64_list(record.width)),
        _feature("image/encoded", _bytes_list(record.payload)),
    ]
    message = _field(1, b"".join(features))
    return message, len(message) - len(record.payload)


def _feature(name: str, value: bytes) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, value))


def _bytes_list(value: bytes) -> bytes:
    return _field(1, _field(1, value))


def _int64_list(value: int) -> bytes:
    return _field(3, _field(1, _varint(value)))


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _masked_crc(data: bytes) -> bytes:
    crc = int(google_crc32c.value(data))
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
