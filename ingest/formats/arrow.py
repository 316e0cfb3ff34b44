"""Arrow IPC shards: columns key, label, wnid, payload; one uncompressed record batch, so that a memory map of the
file gives each payload in place. The schema's metadata names the classes."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ingest.formats.record import Record, WrittenShard

EXTENSION = "arrow"


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
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    buffer = sink.getvalue()
    column = pa.ipc.open_file(buffer).get_batch(0).column("payload")
    base = column.buffers()[2].address - buffer.address if records else 0
    # Cast: pyarrow's own view is of signed bytes, which equals no bytes object.
    return WrittenShard(memoryview(buffer).cast("B"), starts + np.uint64(base), {})


def _payload_column(records: Sequence[Record]) -> tuple[pa.LargeBinaryArray, np.ndarray]:
    """The payload column over one joined buffer, and the start of each payload in that buffer."""
    ends = np.cumsum([0] + [len(r.payload) for r in records], dtype=np.int64)
    joined = pa.py_buffer(b"".join(r.payload for r in records))
    column = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(records), [None, pa.py_buffer(ends.tobytes()), joined]
    )
    return column, ends[:-1].astype(np.uint64)
