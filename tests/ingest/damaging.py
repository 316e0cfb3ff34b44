"""Spoil a dataset on disk, restate its hashes if wanted, and ask what verification says."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from ingest.settings import VerifySettings
from ingest.verify import verify


def damages(dataset: Path | str) -> dict[str, str]:
    """path -> its problems."""
    found: dict[str, str] = {}
    for damage in verify(str(dataset), VerifySettings())["damages"]:
        found[damage["path"]] = "; ".join(filter(None, (found.get(damage["path"]), damage["problem"])))
    return found


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def sealed_again(dataset: Path, **changed: Any) -> None:
    """State the hashes of the files as they are now: the manifest fits them, and itself."""
    path = dataset / "manifest.json"
    record = json.loads(path.read_text())
    del record["manifest_sha256"]
    for files in (record["files"], record["derived"]):
        for name in files:
            data = (dataset / name).read_bytes()
            files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    record |= changed
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    record["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(record))


def rewrite(path: Path, change: Callable[[dict[str, list[Any]]], None]) -> None:
    """Change the columns of an Arrow file."""
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    columns = table.to_pydict()
    change(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(pa.table(columns, schema=table.schema))
