"""Shards as others read them: Arrow by pyarrow, TFRecord by `struct`; and an index that leads to every payload."""

import hashlib
import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.formats import FORMATS, Record
from tests.conftest import TinySource
from tests.ingest.pictures import reference
from tests.ingest.shards import arrow_rows, example, samples, samples_of, shards, tfrecords

DATASETS = ["tiny_dataset", "tiny_raw_dataset", "tiny_tfrecord_dataset", "tiny_raw_tfrecord_dataset"]
WNIDS = sorted(["n90000011", "n90000023", "n90000037", "n90000041", "n90000059",
                "n90000062", "n90000078", "n90000084", "n90000095", "n90000106"])  # fmt: skip


@pytest.fixture(params=DATASETS)
def dataset(request: pytest.FixtureRequest) -> Path:
    """Each format with each payload."""
    return Path(request.getfixturevalue(request.param))


def test_an_arrow_shard_is_one_uncompressed_batch_of_four_columns(tiny_dataset: str, tiny_raw_dataset: str) -> None:
    for path in _all_shards(tiny_dataset) + _all_shards(tiny_raw_dataset):
        with pa.memory_map(str(path)) as mapped:
            whole = mapped.read_buffer()
            file = pa.ipc.open_file(whole)
            assert [(f.name, str(f.type)) for f in file.schema] == [
                ("key", "string"), ("label", "int32"), ("wnid", "string"), ("payload", "large_binary")
            ]  # fmt: skip
            assert json.loads(file.schema.metadata[b"tench"])["classes"] == WNIDS
            assert file.num_record_batches == 1
            buffers = [b for column in file.get_batch(0).columns for b in column.buffers() if b is not None]
            # In place in the map: neither compressed nor copied.
            assert all(whole.address <= b.address <= whole.address + whole.size - b.size for b in buffers)


def test_a_tfrecord_shard_holds_examples_with_the_usual_features(
    tiny_tfrecord_dataset: str, tiny_raw_tfrecord_dataset: str
) -> None:
    for folder, kind in ((tiny_tfrecord_dataset, b"jpeg"), (tiny_raw_tfrecord_dataset, b"raw")):
        sizes = {row["key"]: (row["width"], row["height"]) for s in ("train", "val") for row in _index(folder, s)}
        for path in _all_shards(folder):
            for _, message in tfrecords(path.read_bytes()):
                row = example(message)
                assert set(row) == {"image/class/label", "image/class/synset", "image/encoded", "image/filename",
                                    "image/format", "image/height", "image/width"}  # fmt: skip
                assert row["image/format"] == kind
                assert (row["image/width"], row["image/height"]) == sizes[row["image/filename"].decode()]
                assert WNIDS[row["image/class/label"]].encode() == row["image/class/synset"]


def test_the_idx_file_names_start_and_size_of_every_record(tiny_tfrecord_dataset: str) -> None:
    for path in _all_shards(tiny_tfrecord_dataset):
        wanted = [f"{start} {len(message) + 16}" for start, message in tfrecords(path.read_bytes())]
        assert path.with_suffix(".idx").read_text().splitlines() == wanted


def test_the_index_leads_to_the_payload_of_every_sample(dataset: Path) -> None:
    for split in ("train", "val"):
        data = [shard.read_bytes() for shard in shards(dataset, split)]
        rows = _index(dataset, split)
        found = samples(dataset, split)
        assert [(r["key"], r["label"]) for r in rows] == [(s.key, s.label) for s in found]
        for row, sample in zip(rows, found, strict=True):
            payload = data[row["shard"]][row["offset"] : row["offset"] + row["length"]]
            assert payload == sample.payload
            assert google_crc32c.value(payload) == row["crc32c"]


def test_every_picture_of_the_source_is_there_once_with_its_class(dataset: Path, tiny_source: TinySource) -> None:
    for split in ("train", "val"):
        wanted = {f"{p.parent.name}/{p.stem}" for p in (tiny_source.folders / split).rglob("*.JPEG")}
        found = samples(dataset, split)
        assert sorted(s.key for s in found) == sorted(wanted)
        assert all(s.wnid == s.key.split("/")[0] == WNIDS[s.label] for s in found)


def test_raw_payloads_are_the_rescaled_pictures(tiny_raw_dataset: str, tiny_source: TinySource) -> None:
    for sample in samples(tiny_raw_dataset, "val"):
        picture = (tiny_source.folders / "val" / f"{sample.key}.JPEG").read_bytes()
        assert sample.payload == reference(picture, 256).tobytes()


@pytest.mark.parametrize(("one", "other"), [(DATASETS[0], DATASETS[2]), (DATASETS[1], DATASETS[3])])
def test_both_formats_hold_the_same_and_say_so(
    one: str, other: str, request: pytest.FixtureRequest, manifest_of: Any
) -> None:
    folders = [request.getfixturevalue(name) for name in (one, other)]
    for split in ("train", "val"):
        assert samples(folders[0], split) == samples(folders[1], split)
    first, second = (manifest_of(folder) for folder in folders)
    assert first["content_id"] == second["content_id"]
    assert first["dataset_id"] != second["dataset_id"]


def test_the_content_id_is_that_of_keys_labels_and_payloads(dataset: Path, manifest_of: Any) -> None:
    hashes: dict[str, list[str]] = {"train": [], "val": []}
    for split, of_split in hashes.items():
        for shard in shards(dataset, split):
            samples = ((s.key, s.label, len(s.payload), google_crc32c.value(s.payload)) for s in samples_of(shard))
            rows = ["\t".join(map(str, sample)) + "\n" for sample in samples]
            of_split.append(hashlib.sha256("".join(rows).encode()).hexdigest())
    assert manifest_of(dataset)["content_id"] == _json_sha256(hashes)


def test_the_dataset_id_is_that_of_what_determines_the_bytes(dataset: Path, manifest_of: Any) -> None:
    manifest, plan = manifest_of(dataset), json.loads((dataset / "plan.json").read_text())
    with np.load(dataset / "statistics/sums.npz", allow_pickle=False) as sums:
        numbers = [np.array(sums[name], "<u8").tobytes() for name in ("count", "pixels", "moments")]
    facts = {name: plan[name] for name in ("format_version", "settings", "classes", "pixel_fingerprint", "plan_hash")}
    facts["sums"] = hashlib.sha256(b"".join(numbers)).hexdigest()
    facts["quarantine"] = []
    facts["shards"] = {
        split: [[f"{split}/{p.name}", hashlib.sha256(p.read_bytes()).hexdigest(), len(samples_of(p))]
                for p in shards(dataset, split)]
        for split in ("train", "val")
    }  # fmt: skip
    assert manifest["dataset_id"] == _json_sha256(facts)
    assert facts["settings"]["seed"] == 0


RECORDS = st.builds(
    Record, st.text(max_size=200), st.integers(-1, 2**31 - 1), st.text(max_size=20), st.binary(max_size=70_000),
    st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORDS, max_size=4), st.sampled_from(["arrow", "tfrecord"]), st.sampled_from(["jpeg", "raw"]))
def test_any_records_come_back_as_they_went_in(records: list[Record], name: str, kind: str) -> None:
    shard = FORMATS[name].write(records, kind, ["n1"])
    data = b"".join(shard.pieces)
    for record, offset in zip(records, shard.offsets, strict=True):
        assert data[int(offset) : int(offset) + len(record.payload)] == record.payload
    if name == "arrow":
        rows = pa.ipc.open_file(data).read_all().to_pylist()
        assert rows == [{n: getattr(r, n) for n in ("key", "label", "wnid", "payload")} for r in records]
    else:
        found = [example(message) for _, message in tfrecords(data)]
        assert [f["image/encoded"] for f in found] == [r.payload for r in records]
        assert [f["image/class/label"] for f in found] == [r.label for r in records]
        assert [f["image/filename"].decode() for f in found] == [r.key for r in records]
        assert [(f["image/width"], f["image/height"]) for f in found] == [(r.width, r.height) for r in records]


def _all_shards(dataset: Path | str) -> list[Path]:
    return [*shards(dataset, "train"), *shards(dataset, "val")]


def _json_sha256(value: Any) -> str:
    """Over JSON with sorted keys and without spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _index(dataset: Path | str, split: str) -> list[dict[str, Any]]:
    return arrow_rows(Path(dataset, "index", f"{split}.arrow"))
