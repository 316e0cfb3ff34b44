"""Arrow IPC shards: columns key, label, wnid, payload; one uncompressed record batch, so that a memory map of the
file gives each payload in place. The schema's metadata names the classes."""

import json
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ingest.errors import DamageError
from ingest.formats.record import Bytes, IndexRows, Record, WrittenShard

EXTENSION = "arrow"
COLUMNS = pa.schema(
    [("key", pa.string()), ("label", pa.int32()), ("wnid", pa.string()), ("payload", pa.large_binary())]
)


def write(records: Sequence[Record], payload_kind: str, wnids: Sequence[str]) -> WrittenShard:
    """The bytes of a shard; `payload_kind` (jpeg, raw, ...) and the class names go into the schema's metadata."""
    column, starts = _unfilled_column([len(r.payload) for r in records])
    schema = pa.schema(
        [("key", pa.string()), ("label", pa.int32()), ("wnid", pa.string()), ("payload", pa.large_binary())],
        metadata={"tench": json.dumps({"payload": payload_kind, "classes": list(wnids)})},
    )
    columns = [
        pa.array([r.key for r in records], pa.string()),
        pa.array([r.label for r in records], pa.int32()),
        pa.array([r.wnid for r in records], pa.string()),
        column,
    ]
    file = _Pieces(column.buffers()[2], [memoryview(r.payload) for r in records])
    with pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return WrittenShard(file.pieces, starts + np.uint64(file.filled_at), {})


class _Pieces:
    """A file in memory that keeps what is written to it, with the payloads in place of the unfilled column."""

    closed = False

    def __init__(self, unfilled: pa.Buffer, payloads: list[memoryview]) -> None:
        self._unfilled, self._payloads = unfilled.address, payloads
        self._size = 0
        self.pieces: list[memoryview] = []
        self.filled_at = 0
        """Where the first payload begins."""

    def write(self, piece: bytes | pa.Buffer) -> int:
        """Called by Arrow's writer, which hands a column's buffer over as it is."""
        if isinstance(piece, pa.Buffer) and piece.address == self._unfilled:
            self.filled_at = self._size
            self.pieces += self._payloads
        else:
            # Cast: pyarrow's own view is of signed bytes, which equals no bytes object.
            self.pieces.append(memoryview(piece).cast("B"))
        self._size += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Called by Arrow's writer; there is nothing to do."""


def check(data: Bytes, rows: IndexRows, payload_kind: str, wnids: Sequence[str]) -> Iterator[str]:
    """Where the bytes of a shard are not the records that the index states, in words."""
    yield from filter(None, (rows.payload_problem(number, data) for number in range(len(rows))))
    try:
        table = read_table(data, COLUMNS)
    except DamageError as error:
        yield error.message
        return
    if _described(table.schema) != {"payload": payload_kind, "classes": list(wnids)}:
        yield "its metadata name another payload or other classes"
    if len(table) != len(rows):
        yield f"holds {len(table)} records, the index states {len(rows)}"
        return
    wnid_column = [rows.wnid(number) for number in range(len(rows))]
    stated: dict[str, list[Any]] = {"key": rows.keys, "label": rows.labels, "wnid": wnid_column}
    for name, wanted in stated.items():
        for number, value in enumerate(table.column(name).to_pylist()):
            if value != wanted[number]:
                yield f"{rows.name(number)}: has {name} {value!r}, the index states {wanted[number]!r}"
    for number, start in enumerate(_starts(table, data)):
        if start != rows.offsets[number]:
            yield f"{rows.name(number)}: its payload begins at {start}, the index states {rows.offsets[number]}"


def check_beside(extension: str, data: Bytes, rows: IndexRows) -> Iterator[str]:
    """Nothing lies beside an Arrow shard."""
    yield f"an Arrow shard has no .{extension} beside it"


def read_table(data: Bytes, schema: pa.Schema) -> pa.Table:
    """The table of an Arrow file, every offset in it checked, so that damaged bytes lead nowhere.

    Raises DamageError if it is not a whole file of these columns.
    """
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamageError(f"cannot be read as an Arrow file: {str(error).splitlines()[0]}") from error
    if not table.schema.equals(schema):
        raise DamageError(f"has other columns than {', '.join(schema.names)}")
    return table


def _described(schema: pa.Schema) -> Any:
    """What the schema's metadata say, None if they are not what was written."""
    try:
        return json.loads((schema.metadata or {})[b"tench"])
    except (KeyError, ValueError):
        return None


def _starts(table: pa.Table, data: Bytes) -> Iterator[int]:
    """Where each payload begins in the file: columns that were read lie in its bytes."""
    for column in filter(len, table.column("payload").chunks):
        _, ends, values = column.buffers()
        first = values.address - data.ctypes.data if values is not None else 0
        places = np.frombuffer(ends, np.int64, column.offset + len(column))[column.offset :]
        yield from (first + places).tolist()


def _unfilled_column(lengths: list[int]) -> tuple[pa.LargeBinaryArray, np.ndarray]:
    """A payload column whose bytes are pages that nobody touches, so that they take no memory; each payload's start."""
    ends = np.cumsum([0, *lengths], dtype=np.int64)
    pages = mmap.mmap(-1, int(ends[-1]) or 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    unfilled = pa.py_buffer(pages).slice(0, int(ends[-1]))
    buffers = [None, pa.py_buffer(ends.tobytes()), unfilled]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(lengths), buffers), ends[:-1].astype(np.uint64)
