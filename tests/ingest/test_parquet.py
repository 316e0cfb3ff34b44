"""Parquet as Hugging Face writes it: the keys, labels and bytes of class folders, whole sets, honest labels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import RefusedError, TenchError
from ingest.plan import Plan, make_plan
from ingest.settings import IngestSettings, VerifySettings
from ingest.sources import Entry, Source, detect
from ingest.sources.parquet_rows import read_rows
from ingest.storage import Place
from ingest.synsets import ilsvrc2012_synsets
from ingest.verify import verify
from tests.conftest import TinySource
from tests.ingest.conftest import Convert
from tests.ingest.pictures import file_of, noise
from tests.ingest.test_object_store import _upload as upload
from tests.ingest.test_object_store import place as place
from tests.ingest.test_object_store import store as store

WNIDS = sorted(ilsvrc2012_synsets())
TENCH, GOLDFISH = "n01440764", "n01443537"
Row = tuple[bytes | None, str | None, int | None]


def write_parquet(path: Path, rows: Sequence[Row], names: Sequence[str] | None = None, **options: Any) -> None:
    """A file as Hugging Face's library writes it: two columns, and the features as JSON beside the schema."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    label: dict[str, Any] = {"_type": "ClassLabel"} if names is None else {"_type": "ClassLabel", "names": list(names)}
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    schema = pa.schema([("image", image), ("label", pa.int64())], {b"huggingface": json.dumps(features).encode()})
    columns = [[{"bytes": data, "path": name} for data, name, _ in rows], [label for _, _, label in rows]]
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [pa.array(values, schema.field(i).type) for i, values in enumerate(columns)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, **{"row_group_size": 7, **options})


def parquet_copy(folders: Path, out: Path, appended: bool = False) -> Path:
    """The pictures of class folders in two training files and one of validation; labels count within the classes."""
    classes = sorted(p.name for p in (folders / "train").iterdir())
    for split, name, num_files in (("train", "train", 2), ("val", "validation", 1)):
        files = sorted((folders / split).rglob("*.JPEG"))
        rows: list[Row] = []
        for file in files:
            wnid = file.parent.name
            shown = f"{file.stem}_{wnid}.JPEG" if appended else file.name
            rows.append((file.read_bytes(), shown, classes.index(wnid)))
        for number in range(num_files):
            part = rows[number * 31 : (number + 1) * 31] if num_files > 1 else rows
            write_parquet(out / f"data/{name}-{number:05d}-of-{num_files:05d}.parquet", part, classes)
    return out


def contents(source: Source, split: str) -> dict[str, tuple[str, bytes]]:
    """Class and bytes by key."""
    entries = list(source.entries(split))
    data = list(source.read(source.place, entries))
    return {entry.key: (entry.wnid, file) for entry, file in zip(entries, data, strict=True)}


def plan_of(folder: Path) -> Plan:
    return make_plan(detect(str(folder)), IngestSettings(), "0" * 64)


def labels_of(plan: Plan, split: str) -> dict[str, int]:
    table = plan.entries[split]
    return dict(zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True))


@pytest.mark.parametrize("appended", [False, True], ids=["plain names", "wnid appended"])
def test_parquet_and_class_folders_of_the_same_pictures_agree(
    appended: bool, tiny_source: TinySource, tmp_path: Path
) -> None:
    parquet, folders = (
        detect(str(parquet_copy(tiny_source.folders, tmp_path, appended))),
        detect(str(tiny_source.folders)),
    )
    assert parquet.layout == "Hugging Face Parquet"
    assert parquet.synsets() == folders.synsets()
    for split in ("train", "val"):
        assert contents(parquet, split) == contents(folders, split)
        assert labels_of(plan_of(tmp_path), split) == labels_of(plan_of(tiny_source.folders), split)


def test_a_conversion_of_parquet_keeps_the_order_of_the_source(
    tiny_source: TinySource, convert: Convert, tmp_path: Path
) -> None:
    source = parquet_copy(tiny_source.folders, tmp_path / "source")
    facts = convert(source, tmp_path / "dataset")
    assert (facts["num_samples"], facts["num_quarantined"]) == (90, 0)
    assert verify(str(tmp_path / "dataset"), VerifySettings())["ok"]
    assert json.loads((tmp_path / "dataset/plan.json").read_text())["settings"]["order"] == "source"
    stored = pa.ipc.open_file(tmp_path / "dataset/plan/entries-train.arrow").read_all()
    assert stored.column("key").to_pylist() == [entry.key for entry in detect(str(source)).entries("train")]


def test_parquet_in_an_object_store_is_read_in_place(place: Place, tiny_source: TinySource, tmp_path: Path) -> None:
    local = detect(str(parquet_copy(tiny_source.folders, tmp_path)))
    remote = detect(upload(place, tmp_path).uri)
    for split in ("train", "val"):
        assert contents(remote, split) == contents(local, split)


@pytest.mark.parametrize("names", [None, [f"word {n}" for n in range(1000)]], ids=["no names", "a thousand words"])
def test_labels_are_positions_among_the_sorted_wnids_of_ilsvrc2012(names: list[str] | None, tmp_path: Path) -> None:
    rows = [(b"p", f"{wnid}_7.JPEG", label) for label, wnid in enumerate(WNIDS)]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", rows, names)
    write_parquet(tmp_path / "val-0.parquet", [(b"p", "ILSVRC2012_val_00000001.JPEG", 65)], names)
    plan = plan_of(tmp_path)
    assert plan.wnids == WNIDS
    assert labels_of(plan, "train") == {f"{wnid}/{wnid}_7": label for label, wnid in enumerate(WNIDS)}
    assert labels_of(plan, "val") == {"n01751748/ILSVRC2012_val_00000001": 65}


def test_class_names_of_another_data_set_are_its_classes(tmp_path: Path) -> None:
    rows: list[Row] = [(b"1", "a_n01440764.png", 0), (b"2", None, 1)]
    write_parquet(tmp_path / "train-0.parquet", rows, ["zebra", "ant"])
    source = detect(str(tmp_path))
    assert [synset.wnid for synset in source.synsets()] == ["ant", "zebra"]
    assert contents(source, "train") == {
        "zebra/a_n01440764": ("zebra", b"1"), "ant/train-0-00000001": ("ant", b"2")
    }  # fmt: skip
    assert labels_of(plan_of(tmp_path), "train") == {"zebra/a_n01440764": 1, "ant/train-0-00000001": 0}


def test_test_pictures_have_no_label(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [(b"1", None, 0)])
    write_parquet(tmp_path / "test-0.parquet", [(b"2", "ILSVRC2012_test_00000001.JPEG", -1), (b"3", None, -1)])
    source = detect(str(tmp_path))
    assert source.splits() == ("train", "test")
    assert contents(source, "test") == {
        "ILSVRC2012_test_00000001": ("", b"2"), "test-0-00000001": ("", b"3")
    }  # fmt: skip


def test_a_row_without_bytes_is_quarantined_as_empty(convert: Convert, tmp_path: Path) -> None:
    good = [(file_of(noise(40, 40, n)), f"{n}.png", n % 2) for n in range(6)]
    write_parquet(tmp_path / "source/train-0.parquet", [*good, (None, "none.png", 1)], ["a", "b"])
    facts = convert(tmp_path / "source", tmp_path / "dataset", side=16, max_bad="1")
    assert (facts["num_samples"], facts["num_quarantined"]) == (6, 1)
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert [(bad["key"], bad["code"]) for bad in manifest["quarantine"]] == [("b/none", "empty")]


def test_listing_reads_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "train-0.parquet"
    write_parquet(path, [(b"picture" * 99, f"{TENCH}_{n}.JPEG", 0) for n in range(20)], compression="none")
    file, data = pq.ParquetFile(path), bytearray(path.read_bytes())
    for group in range(file.num_row_groups):
        chunk = file.metadata.row_group(group).column(0)
        assert chunk.path_in_schema == "image.bytes"
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    source = detect(str(tmp_path))
    entries = list(source.entries("train"))
    assert [entry.key for entry in entries] == [f"{TENCH}/{TENCH}_{n}" for n in range(20)]
    with pytest.raises(TenchError, match=r"train-0.parquet: row 0 cannot be read .* the source changed"):
        list(source.read(source.place, entries))


def test_a_file_that_became_shorter_or_went_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train-0.parquet"
    write_parquet(path, [(b"1", None, 0)] * 9)
    source = detect(str(tmp_path))
    entries = list(source.entries("train"))
    write_parquet(path, [(b"1", None, 0)] * 8)
    with pytest.raises(TenchError, match="row 8 cannot be read"):
        list(source.read(source.place, entries))
    path.unlink()
    with pytest.raises(TenchError, match="row 0 cannot be read"):
        list(source.read(source.place, entries))


@given(rows=st.lists(st.integers(0, 22), max_size=40), size=st.integers(1, 24))
def test_any_rows_in_any_order_give_their_own_bytes(
    rows: list[int], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    write_parquet(folder / "f.parquet", [(b"%d" % n, None, 0) for n in range(23)], row_group_size=size)
    entries = [Entry("", "", "f.parquet", row, 0) for row in rows]
    assert list(read_rows(Place(folder), entries)) == [b"%d" % row for row in rows]


ONE: list[Row] = [(b"1", f"{TENCH}_1.JPEG", 0)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["data/train-00000-of-00003", "data/train-00002-of-00003"], "data/train-00001-of-00003.parquet: is missing"),
        (["train-00000-of-00001", "validation-00001-of-00002-ab12"], r"validation-00000-of-00002.parquet: is missing"),
        (["train-00000-of-00001", "train-00001-of-00002"], "found .*of-00001.parquet and also .*of-00002.parquet"),
        (["train-00000-of-00001", "train-extra"], "found .*00000-of-00001.parquet and also train-extra.parquet"),
        (["train-00000-of-00001-a", "train-00000-of-00001-b"], "00001-a.parquet and also train-00000-of-00001-b"),
        (["train-0", "val-0", "validation-0"], "found val-0.parquet and also validation-0.parquet"),
        (["train-0", "data/train-0"], "found train-0.parquet and also data/train-0.parquet"),
        (["data/validation-0"], "found val without train"),
        (["train-0", "val/n1/x"], r"Hugging Face Parquet \(train-0.parquet\) and class folders \(val/\) side by side"),
    ],
)  # fmt: skip
def test_sets_that_are_mixed_or_not_whole_are_refused(files: list[str], words: str, tmp_path: Path) -> None:
    for name in files:
        write_parquet(tmp_path / f"{name}.parquet", ONE)
    with pytest.raises(RefusedError, match=words):
        detect(str(tmp_path))


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [
        ([*ONE, (b"", f"{GOLDFISH}_2.JPEG", 0)], None, rf"row 1 .* {GOLDFISH}_2, of class {GOLDFISH}, .* says {TENCH}"),
        ([(b"", f"x_{GOLDFISH}.JPEG", 0)], None, rf"row 0 .* of class {GOLDFISH}, .* says {TENCH}"),
        ([(b"", None, -1)], None, "row 0 has label -1; expected 0 to 999"),
        ([(b"", None, None)], None, "row 0 has label None"),
        ([(b"", None, 2)], ["a", "b"], "row 0 has label 2; expected 0 to 1"),
        (ONE, ["T-shirt/top", "b"], "class 0 is named 'T-shirt/top'; a class name must not"),
        (ONE, ["b", "b"], "classes 0 and 1 are both named 'b'"),
        (ONE, ["a", ""], "class 1 is named ''"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_right_are_refused(
    rows: list[Row], names: list[str] | None, words: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "train-0.parquet", rows, names)
    with pytest.raises(RefusedError, match=rf"train-0.parquet: {words}"):
        list(detect(str(tmp_path)).entries("train"))


def test_files_that_name_other_classes_than_the_first_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [(b"", None, 0)], ["a", "b"])
    write_parquet(tmp_path / "train-1.parquet", [(b"", None, 0)], ["b", "a"])
    with pytest.raises(RefusedError, match=r"train-1.parquet: names other classes than train-0.parquet"):
        list(detect(str(tmp_path)).entries("train"))


def test_what_is_no_such_file_is_refused_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "train-0.parquet"
    picture = [{"bytes": b"1", "path": "a"}]
    for image, label, found in (
        ([b"1"], [0], "image binary, label int64"),
        (picture, [0.5], "image struct<bytes: binary, path: string>, label double"),
        ([{"bytes": "1", "path": "a"}], [0], "image struct<bytes: string, path: string>, label int64"),
    ):
        pq.write_table(pa.table({"image": image, "label": label}), path)
        with pytest.raises(RefusedError, match=rf"has the columns {found}; expected image struct"):
            list(detect(str(tmp_path)).entries("train"))
    write_parquet(path, ONE * 100)
    for data in (path.read_bytes()[:-9], b"PAR1", b""):
        path.write_bytes(data)
        with pytest.raises(RefusedError, match=r"train-0.parquet: not a whole Parquet file"):
            list(detect(str(tmp_path)).entries("train"))
