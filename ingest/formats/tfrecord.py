"""TFRecord shards of tf.train.Example, and the index file that DALI's own reader wants.

A record is: length (uint64), its masked CRC32C, the message, the message's masked CRC32C. The message is written
here byte by byte (four protobuf field kinds, features sorted by name), so that equal samples give equal bytes.
"""

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from crc32c import crc32c

from ingest.formats.record import Bytes, IndexRows, Record, WrittenShard

EXTENSION = "tfrecord"
FORMAT_NAMES = {"jpeg": b"jpeg", "raw": b"raw", "centered": b"int16"}


def write(records: Sequence[Record], payload_kind: str, wnids: Sequence[str]) -> WrittenShard:
    """The bytes of a shard, with its `.idx` (one line a record: offset and size)."""
    pieces: list[memoryview] = []
    offsets, lines, position = [], [], 0
    for record in records:
        head = _head(record, FORMAT_NAMES[payload_kind])
        length = struct.pack("<Q", len(head) + len(record.payload))
        before = length + _masked(crc32c(length)) + head
        after = _masked(crc32c(record.payload, crc32c(head)))
        pieces += map(memoryview, (before, record.payload, after))
        size = len(before) + len(record.payload) + len(after)
        offsets.append(position + len(before))
        lines.append(f"{position} {size}\n")
        position += size
    return WrittenShard(pieces, np.array(offsets, np.uint64), {"idx": "".join(lines).encode()})


def check(data: Bytes, rows: IndexRows, payload_kind: str, wnids: Sequence[str]) -> Iterator[str]:
    """Where the bytes of a shard are not the records that the index states, in words.

    Each record is looked for where the index has it, so that one damaged length hides no other record.
    """
    for number, (start, end) in enumerate(_extents(rows)):
        if end > len(data):
            yield f"{rows.name(number)}: begins at {start} and is cut, as is all behind it: the file has {len(data)} bytes"
            return
        yield from _problems(data[start:end], start, number, rows, payload_kind)
    whole = _extents(rows)[-1][1] if len(rows) else 0
    if len(data) > whole:
        yield f"{len(data) - whole} bytes lie behind the last record, from {whole} on"


def check_beside(extension: str, data: Bytes, rows: IndexRows) -> Iterator[str]:
    """Where the lines of the `.idx` are not those of the records."""
    lines = data.tobytes().split(b"\n")
    wanted = [f"{start} {end - start}".encode() for start, end in _extents(rows)] + [b""]
    if len(lines) != len(wanted):
        yield f"has {len(lines) - 1} whole lines, the shard {len(rows)} records"
    for number, (line, expected) in enumerate(zip(lines, wanted, strict=False)):
        if line != expected:
            what = f"of {rows.name(number)}" if number < len(rows) else "behind the last record"
            yield f"line {number} {what} is {line.decode(errors='replace')!r}, expected {expected.decode()!r}"


def _extents(rows: IndexRows) -> list[tuple[int, int]]:
    """[start, end) of each record: it begins where the one before ends, and ends 4 bytes behind its payload."""
    ends = [offset + length + 4 for offset, length in zip(rows.offsets, rows.lengths, strict=True)]
    return list(zip([0, *ends], ends, strict=False))


def _problems(record: Bytes, start: int, number: int, rows: IndexRows, payload_kind: str) -> Iterator[str]:
    """What is wrong with the bytes of one record that begins at `start`."""
    name, at = rows.name(number), rows.offsets[number] - start
    header, message, crc = record[:8].tobytes(), record[12:-4], record[-4:].tobytes()
    if header != struct.pack("<Q", len(message)) or record[8:12].tobytes() != _masked(crc32c(header)):
        yield f"{name}: its length at {start}, or the checksum of its length, is wrong"
    wanted = _head(_stated(number, rows, record[at:-4].tobytes()), FORMAT_NAMES[payload_kind])
    payload_wrong = crc32c(record[at:-4].data) != rows.checksums[number]
    features_wrong = at != len(wanted) + 12 or message[: len(wanted)].tobytes() != wanted
    if payload_wrong:
        yield f"{name}: its payload at {rows.offsets[number]} has another checksum"
    if features_wrong:
        yield f"{name}: its features at {start + 12} (label, class, name, sizes) are not those of the index"
    if crc != _masked(crc32c(message.data)) and not payload_wrong and not features_wrong:
        yield f"{name}: the checksum of its message, at {start + len(record) - 4}, is wrong"


def _stated(number: int, rows: IndexRows, payload: bytes) -> Record:
    return Record(
        rows.keys[number], rows.labels[number], rows.wnid(number), payload, rows.widths[number], rows.heights[number]
    )


def _head(record: Record, format_name: bytes) -> bytes:
    """A serialised tf.train.Example up to its payload, whose feature comes last: the payload completes it."""
    features = [
        _feature("image/class/label", _int64_list(record.label)),
        _feature("image/class/synset", _bytes_list(record.wnid.encode())),
        _feature("image/filename", _bytes_list(record.key.encode())),
        _feature("image/format", _bytes_list(format_name)),
        _feature("image/height", _int64_list(record.height)),
        _feature("image/width", _int64_list(record.width)),
    ]
    # From the innermost field out; what each states as its length counts the payload as well.
    rest = len(record.payload)
    head = _opening(1, rest)
    head = _opening(1, len(head) + rest) + head
    head = _field(1, b"image/encoded") + _opening(2, len(head) + rest) + head
    head = b"".join(features) + _opening(1, len(head) + rest) + head
    return _opening(1, len(head) + rest) + head


def _feature(name: str, value: bytes) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, value))


def _bytes_list(value: bytes) -> bytes:
    return _field(1, _field(1, value))


def _int64_list(value: int) -> bytes:
    return _field(3, _field(1, _varint(value)))


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _opening(number, len(value)) + value


def _opening(number: int, length: int) -> bytes:
    """What comes before a length-delimited field's value."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _masked(crc: int) -> bytes:
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
