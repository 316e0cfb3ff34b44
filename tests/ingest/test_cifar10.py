"""CIFAR-10: the exact pixels of its pickles, which are read without building what a stranger's pickle names."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.errors import RefusedError, TenchError
from ingest.settings import VerifySettings
from ingest.sources import Source, detect
from ingest.sources.cifar10_pickles import read_batch
from ingest.verify import verify
from tests.ingest.cifar10_files import (
    ARCHIVE,
    BATCHES,
    FOLDER,
    NAMES,
    Pixels,
    batch,
    dump,
    files_of,
    member,
    pictures,
    sheet,
    small,
    write,
    write_archive,
)  # fmt: skip
from tests.ingest.conftest import Convert
from tests.ingest.pictures import file_of


def decoded(source: Source, split: str) -> dict[str, Pixels]:
    """Pixels by key, through the files that the source hands on."""
    entries = list(source.entries(split))
    files = source.read(source.place, entries)
    return {e.key: np.asarray(Image.open(io.BytesIO(f))) for e, f in zip(entries, files, strict=True)}


def stored(dataset: Path, split: str) -> dict[str, tuple[int, bytes]]:
    """Label and payload by key."""
    found: dict[str, tuple[int, bytes]] = {}
    for path in sorted((dataset / split).glob("*.arrow")):
        rows = pa.ipc.open_file(path).read_all()
        found |= {r["key"]: (r["label"], r["payload"]) for r in rows.select(["key", "label", "payload"]).to_pylist()}
    return found


@pytest.mark.parametrize("form", ["archive", "folder", "inside", "both"])
def test_every_form_gives_the_exact_pictures_with_their_names(form: str, tmp_path: Path) -> None:
    if form in ("archive", "both"):
        write_archive(tmp_path, small())
    if form != "archive":
        write(tmp_path if form == "inside" else tmp_path / FOLDER, small())
    source = detect(str(tmp_path))
    assert (source.layout, source.splits(), source.side) == ("CIFAR-10 batches", ("train", "val"), 32)
    assert [synset.wnid for synset in source.synsets()] == NAMES
    train, wanted = decoded(source, "train"), pictures(100, 1)
    keys = [f"{NAMES[n % 10]}/data_batch_{n // 20 + 1}_s_{n % 20:06d}" for n in range(100)]
    assert list(train) == keys
    assert all(np.array_equal(train[key], wanted[n]) for n, key in enumerate(keys))
    assert {(e.key.split("/")[0], e.wnid, e.length) for e in source.entries("val")} == {(n, n, 3072) for n in NAMES}


def test_a_conversion_stores_the_pixels_as_they_are(convert: Convert, tmp_path: Path) -> None:
    write(tmp_path / "source" / FOLDER, small())
    facts = convert(tmp_path / "source", tmp_path / "dataset", payload="raw")
    assert facts["splits"]["train"]["num_samples"] == 100
    assert verify(str(tmp_path / "dataset"), VerifySettings(deep=True))["ok"]
    assert json.loads((tmp_path / "dataset/plan.json").read_text())["settings"]["side"] == 32
    assert stored(tmp_path / "dataset", "val") == {
        f"{name}/test_s_{n:06d}": (n, pictures(10, 2)[n].tobytes()) for n, name in enumerate(NAMES)
    }


def test_the_real_pictures_are_stored_exactly(shared_data: Path, convert: Convert, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "cifar10.tar") as archive:
        sheets = [sheet(archive, name) for name in ("train-0.jpg", "test-0.jpg")]
        labels = np.load(io.BytesIO(member(archive, "labels.npy"))).tolist()
    train, test = sheets[0][:500], sheets[1][:50]
    write_archive(tmp_path / "source", files_of(train, labels[:500], test, labels[50_000:50_050]))
    convert(tmp_path / "source", tmp_path / "dataset", payload="raw", samples_per_shard=300)
    found = stored(tmp_path / "dataset", "train")
    assert len(found) == 500
    for n, label in enumerate(labels[:500]):
        key = f"{NAMES[label]}/data_batch_{n // 100 + 1}_s_{n % 100:06d}"
        assert found[key] == (label, train[n].tobytes())


def test_class_folders_of_small_png_files_give_the_same_samples(convert: Convert, tmp_path: Path) -> None:
    write(tmp_path / "source", small())
    source = detect(str(tmp_path / "source"))
    for split in source.splits():
        for key, pixels in decoded(source, split).items():
            write(tmp_path / "folders" / split / key.split("/")[0], {f"{key.split('/')[1]}.png": file_of(pixels)})
    convert(tmp_path / "source", tmp_path / "batches", payload="raw")
    convert(tmp_path / "folders", tmp_path / "pngs", payload="raw", side=32)
    assert stored(tmp_path / "batches", "train") == stored(tmp_path / "pngs", "train")


@given(count=st.integers(1, 5), by_columns=st.booleans(), seed=st.integers(0, 99))
def test_rows_are_planes_whatever_the_order_in_memory(count: int, by_columns: bool, seed: int) -> None:
    wanted = pictures(count, seed)
    content = batch(wanted, [0] * count, map(str, range(count)))
    if by_columns:
        content[b"data"] = np.asfortranarray(content[b"data"])
    read = read_batch(dump(content), "name", 1)
    assert np.array_equal(read.pixels, wanted)
    assert read.filenames == tuple(map(str, range(count)))


class _Runs:
    """What a stranger might put into a pickle: calls a function as soon as it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", [*BATCHES, "batches.meta"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(name: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    content = pickle.dumps({"data": _Runs(trap)}, protocol=2)
    pickle.loads(content)["data"].close()  # noqa: S301
    assert trap.exists()
    trap.unlink()
    source = detect(str(write(tmp_path / "source", small() | {name: content})))
    with pytest.raises(RefusedError, match=rf"source/{name}: holds a pickle that is not opened \(it names io.open\)"):
        list(source.entries("train"))
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(np.zeros(3), protocol=2),
        b"\x80\x02cnumpy\ndtype\ncnumpy\nndarray\n}b.",
        b"\x80\x02cnumpy\nndarray\n}U\x0c__setstate__U\x01xsb.",
        b"\x80\x02}r\xff\xff\xff\xff.",
        b"\x80\x02]" + b"(" * 50,
        b"\x80\x02\x82\x01.",
        b"\x80\x02U\x01aQ.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"text",
        b"",
    ],
    ids=[
        "another array", "state of a class", "a class changed", "endless memo", "marks", "extension", "persistent id",
        "stack global", "text", "empty",
    ],
)  # fmt: skip
def test_no_other_pickle_is_opened(content: bytes) -> None:
    with pytest.raises(RefusedError, match="some/test_batch: holds "):
        read_batch(content, "some/test_batch", 10)
    assert np.array_equal(read_batch(small()["test_batch"], "name", 10).pixels, pictures(10, 2))


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), keep=st.booleans())
def test_a_damaged_batch_is_refused_or_still_a_batch(at: int, bit: int, keep: bool) -> None:
    good = dump(batch(pictures(2, 0), [1, 2], ["a.png", "b.png"]))
    at %= len(good)
    damaged = good[:at] + (bytes([good[at] ^ 1 << bit]) + good[at + 1 :] if keep else b"")
    try:
        assert read_batch(damaged, "name", 10).pixels.shape == (2, 32, 32, 3)
    except RefusedError as error:
        assert error.message.startswith("name: holds ")  # noqa: PT017


TWO = batch(pictures(2, 0), [1, 2], ["a.png", "b.png"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({b"labels": [1]}, "2 pictures, 1 labels and 2 filenames"),
        ({b"labels": [1, 10]}, "label 10 in row 1; batches.meta names 10 classes"),
        ({b"labels": [b"1", 1]}, "label b'1' in row 0"),
        ({b"filenames": [b"a", b"\xff"]}, "a name that is no text"),
        ({b"filenames": 0}, "no array data with lists labels and filenames"),
        ({b"data": [1, 2]}, "no array data with lists"),
        ({b"data": np.zeros((2, 3071), np.uint8)}, "other data .*3071 bytes, not 3072"),
        ({b"data": np.zeros((2, 3072), np.int16)}, "other data .*its values are no bytes"),
        ({b"data": np.zeros(3072, np.uint8)}, "other data"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(changes: dict[bytes, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=f"name: holds {words}"):
        read_batch(dump(TWO | changes), "name", 10)


def test_missing_batches_are_named(tmp_path: Path) -> None:
    for number, name in enumerate([*BATCHES, "batches.meta"]):
        files = {n: d for n, d in small().items() if n != name}
        with pytest.raises(RefusedError, match=rf"{FOLDER}/{name}: is missing; found .* expected all of data_batch_1"):
            detect(str(write(tmp_path / f"{number}/{FOLDER}", files).parent))
        archive = detect(str(write_archive(tmp_path / f"{number}-archive", files)))
        with pytest.raises(RefusedError, match=rf"{ARCHIVE}/{name}: is missing"):
            archive.synsets()


def test_an_archive_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path, small()) / ARCHIVE
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RefusedError, match=rf"{ARCHIVE}: cannot be read .*; fetch it again"):
        list(detect(str(tmp_path)).entries("train"))


def test_batches_beside_another_layout_are_refused(tmp_path: Path) -> None:
    write(tmp_path / FOLDER, small())
    (tmp_path / "train/n1").mkdir(parents=True)
    with pytest.raises(
        RefusedError, match=r"found CIFAR-10 batches \(cifar-10-batches-py\) and class folders \(train/\)"
    ):
        detect(str(tmp_path))


def test_batches_that_are_gone_when_they_are_read_are_named(tmp_path: Path) -> None:
    first, second = write(tmp_path / "first", small()), write(tmp_path / "second", small())
    source, other = detect(str(first)), detect(str(second))
    entries = list(source.entries("val"))
    list(other.entries("val"))  # now the first is no longer in memory
    (first / "data_batch_2").unlink()
    with pytest.raises(
        TenchError, match=r"first/test_batch: it is gone, for airplane/test_s_000000; the source changed"
    ):
        list(source.read(source.place, entries))
