"""Predictions as files: Parquet for programs, and the text that the ILSVRC server took."""

import io
import posixpath
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.dataset import Split
from ingest.errors import RefusedError
from ingest.manifest import ClassName
from ingest.storage import split_file
from ingest.synsets import ilsvrc2012_synsets
from trainer.findings import Findings


def parquet(found: Findings, split: Split) -> bytes:
    """A row a sample in the order of the index: key, label (-1 without), best labels, their wnids and probabilities."""
    wnids = pa.array([c.wnid for c in split.dataset.classes])
    table = pa.table(
        {
            "key": pa.array([split.key(row) for row in range(split.num_samples)], pa.string()),
            "label": pa.array(split.label, pa.int32()),
            "best_labels": _lists(pa.array(found.best.reshape(-1), pa.int32()), found.best.shape[1]),
            "best_wnids": _lists(wnids.take(pa.array(found.best.reshape(-1))), found.best.shape[1]),
            "probabilities": _lists(pa.array(found.probabilities.reshape(-1), pa.float32()), found.best.shape[1]),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def submission(found: Findings, split: Split) -> bytes:
    """A line a sample in the order of the file names: the ILSVRC2012_IDs of the best classes, the best first.

    Raises RefusedError if the classes are not those of ILSVRC2012.
    """
    ids = np.array(ilsvrc_ids(split.dataset.classes, split.dataset.uri))
    # The key of a labelled sample begins with its wnid, which is no part of the file's name.
    names = [posixpath.basename(split.key(row)) for row in range(split.num_samples)]
    rows = sorted(range(split.num_samples), key=names.__getitem__)
    return "".join(" ".join(map(str, ids[found.best[row]].tolist())) + "\n" for row in rows).encode()


def ilsvrc_ids(classes: Sequence[ClassName], uri: str) -> list[int]:
    """The ILSVRC2012_ID (1 to 1000) of each label. Raises RefusedError if the classes are not the 1000 of 2012."""
    known = {wnid: synset.ilsvrc_id for wnid, synset in ilsvrc2012_synsets().items()}
    unknown = [c.wnid for c in classes if c.wnid not in known]
    if unknown or len(classes) != len(known):
        said = f"{unknown[0]} is not among them" if unknown else f"it has {len(classes):,} of them"
        raise RefusedError(
            f"{uri}: --submission needs the 1,000 classes of ILSVRC2012, and {said}; --predictions takes any classes"
        )
    return [known[c.wnid] or 0 for c in classes]


def put(uri: str, data: bytes) -> None:
    """Write a file anywhere, whole, over an older one. Raises TenchError if the place does not take it."""
    place, name = split_file(uri)
    place.replace(name, data)


def _lists(values: pa.Array, length: int) -> pa.Array:
    offsets = pa.array(np.arange(0, len(values) + 1, length, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, values)
