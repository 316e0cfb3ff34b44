"""Arrow IPC shards: columns key, label, wnid, payload; one uncompressed record batch, so that a memory map of the
file gives each payload in place. The schema's metadata names the classes."""

import json
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
    payloads, starts = _payload_column(records)
    schema = pa.schema(
        [("key", pa.string()), ("label", pa.int32()), ("wnid", pa.string()), ("payload", pa.large_binary())],
        metadata={"tench": json.dumps({"payload": payload_kind, "classes": list(wnids)})},
    )
    columns = [
        pa.array([r.key for r in records], pa.string()),
        pa.array([r.label for r in records], pa.int32()),
        pa.array([r.wnid for r in records], pa.string()),
        payloads,
    ]
    buffer = _file_bytes(pa.record_batch(columns, schema=schema))
    column = pa.ipc.open_file(buffer).get_batch(0).column("payload")
    base = column.buffers()[2].address - buffer.address if records else 0
    # Cast: pyarrow's own view is of signed bytes, which equals no bytes object.
    return WrittenShard(memoryview(buffer).cast("B"), starts + np.uint64(base), {})


def _file_bytes(batch: pa.RecordBatch) -> pa.Buffer:
    """The file of one record batch, written once to know its size and once into memory of that size: copied once."""
    measure = pa.MockOutputStream()
    with pa.ipc.new_file(measure, batch.schema) as writer:
        writer.write_batch(batch)
    buffer = pa.allocate_buffer(measure.size())
    with pa.ipc.new_file(pa.FixedSizeBufferWriter(buffer), batch.schema) as writer:
        writer.write_batch(batch)
    return buffer


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


def _payload_column(records: Sequence[Record]) -> tuple[pa.LargeBinaryArray, np.ndarray]:
    """The payload column over one joined buffer, and the start of each payload in that buffer."""
    ends = np.cumsum([0] + [len(r.payload) for r in records], dtype=np.int64)
    joined = pa.py_buffer(b"".join(r.payload for r in records))
    column = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(records), [None, pa.py_buffer(ends.tobytes()), joined]
    )
    return column, ends[:-1].astype(np.uint64)
