"""Rows of Parquet files with pictures: listed without the pictures' bytes, and read by whole row groups.

The columns are those of Hugging Face: `image`, struct{bytes, path}, and `label`, an integer.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest.errors import RefusedError
from ingest.sources.entry import Entry
from ingest.sources.read import changed
from ingest.sources.region import Region
from ingest.storage import Place

REMOTE_THREADS = 16
GROUPS_KEPT = 2
"""Row groups that stay in memory: one may hold half a gigabyte, and in the source's order none comes back."""
Row = tuple[int | None, str | None]


@dataclass(frozen=True)
class ListedFile:
    """What a file says without its pictures: the names of its classes, if any, and the columns label and path."""

    path: str
    class_names: tuple[str, ...] | None
    labels: pa.ChunkedArray
    picture_paths: pa.ChunkedArray

    def rows(self) -> Iterator[Row]:
        """(label, the picture's path) of each row; None where it is null."""
        yield from zip(self.labels.to_pylist(), self.picture_paths.to_pylist(), strict=True)


def list_files(place: Place, paths: Sequence[str]) -> Iterator[ListedFile]:
    """Each file in turn; at a remote place several are fetched side by side. Raises RefusedError, naming the file."""
    with ThreadPoolExecutor(1 if place.is_local else REMOTE_THREADS, thread_name_prefix="index") as pool:
        yield from pool.map(lambda path: _listed(place, path), paths)


def class_names(place: Place, path: str) -> tuple[str, ...] | None:
    """The names of the classes, position = label, that Hugging Face's metadata state; None without."""
    with _opened(place, path) as file:
        return _stated_names(place.name(path), file.metadata.metadata or {})


def read_rows(place: Place, entries: Sequence[Entry]) -> Iterator[bytes]:
    """The picture file of each entry; empty where the row holds none. Raises TenchError if a file has changed."""
    with ExitStack() as stack:

        @cache
        def opened(path: str) -> tuple[Any, list[int]]:
            file = pq.ParquetFile(stack.enter_context(Region(place, path, 0, place.size(path) or 0)))
            sizes = (file.metadata.row_group(number).num_rows for number in range(file.num_row_groups))
            return file, list(accumulate(sizes, initial=0))

        @lru_cache(GROUPS_KEPT)
        def pictures(path: str, number: int) -> pa.ChunkedArray:
            table = opened(path)[0].read_row_group(number, columns=["image.bytes"])
            return pc.struct_field(table.column("image"), "bytes")

        for entry in entries:
            try:
                starts = opened(entry.archive)[1]
                number = min(bisect_right(starts, entry.offset), len(starts) - 1) - 1
                data = pictures(entry.archive, number)[entry.offset - starts[number]].as_py()
            except (pa.ArrowException, OSError, IndexError) as error:
                raise changed(place, entry, f"row {entry.offset} cannot be read ({_line(error)})") from error
            yield data or b""


def _listed(place: Place, path: str) -> ListedFile:
    with _opened(place, path) as file:
        _refuse_other_columns(place.name(path), file.schema_arrow)
        table = file.read(columns=["label", "image.path"])
        names = _stated_names(place.name(path), file.metadata.metadata or {})
    return ListedFile(path, names, table.column("label"), pc.struct_field(table.column("image"), "path"))


@contextmanager
def _opened(place: Place, path: str) -> Iterator[Any]:
    """A file that is being listed."""
    with Region(place, path, 0, place.size(path) or 0) as region:
        try:
            yield pq.ParquetFile(region)
        except (pa.ArrowException, OSError) as error:
            raise RefusedError(
                f"{place.name(path)}: not a whole Parquet file ({_line(error)}); compare its size with the one published, "
                "and fetch it again"
            ) from error


def _line(error: Exception) -> str:
    """What an error says, on one line: Arrow's speak of each layer on a line of its own."""
    return "; ".join(str(error).split("\n")).strip("; ")


def _refuse_other_columns(name: str, schema: pa.Schema) -> None:
    types = {field.name: field.type for field in schema}
    image, label = types.get("image"), types.get("label")
    parts = {part.name: part.type for part in image} if image is not None and pa.types.is_struct(image) else {}
    if (
        parts.get("bytes") not in (pa.binary(), pa.large_binary())
        or parts.get("path") not in (pa.string(), pa.large_string())
        or label is None
        or not pa.types.is_integer(label)
    ):
        found = ", ".join(f"{column} {kind}" for column, kind in types.items())
        raise RefusedError(
            f"{name}: has the columns {found}; expected image struct<bytes: binary, path: string> and label int64, as "
            "in Hugging Face's imagenet-1k"
        )


def _stated_names(name: str, metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    try:
        label = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {}).get("label", {})
        return None if (names := label.get("names")) is None else tuple(str(n) for n in names)
    except (ValueError, AttributeError, TypeError) as error:
        raise RefusedError(
            f"{name}: its metadata 'huggingface' cannot be read ({error}); expected JSON with "
            "info.features.label.names; fetch the file again"
        ) from error
