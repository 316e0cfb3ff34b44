"""Fall 2011: the whole archive and a folder of its class archives are one source, all of it for training."""

import csv
from pathlib import Path

import pytest

from ingest.errors import RefusedError
from ingest.plan import make_plan
from ingest.settings import IngestSettings
from ingest.sources import detect
from ingest.synsets import Synset, fall2011_words, with_words
from tests.ingest import archives

WHOLE = "fall11_whole.tar"
CLASSES = {
    "n01440764": [("n01440764_18.JPEG", b"tench"), ("n01440764_2.JPEG", b"another")],
    "n04399382": [("n04399382_1.JPEG", b"bear")],
    "n00005787": [("n00005787_3.JPEG", b"benthos")],
}
CLASS_TARS = {f"{wnid}.tar": archives.tar_bytes(pictures) for wnid, pictures in CLASSES.items()}


def _write(folder: Path, files: dict[str, bytes]) -> str:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("files", [{WHOLE: archives.train_tar(CLASSES)}, CLASS_TARS], ids=["whole", "class archives"])
def test_all_pictures_are_training_pictures_with_the_words_of_wordnet(files: dict[str, bytes], tmp_path: Path) -> None:
    source = detect(_write(tmp_path, files))
    entries = list(source.entries("train"))
    found = dict(zip((e.key for e in entries), source.read(source.place, entries), strict=True))
    assert source.splits() == ("train",)
    assert found == {f"{w}/{name[:-5]}": data for w, pictures in CLASSES.items() for name, data in pictures}
    assert source.synsets() == [
        Synset("n00005787", "benthos"), Synset("n01440764", "tench, Tinca tinca"), Synset("n04399382", "teddy, teddy bear")
    ]  # fmt: skip


def test_both_forms_have_one_plan(tmp_path: Path) -> None:
    forms = _write(tmp_path / "whole", {WHOLE: archives.train_tar(CLASSES)}), _write(tmp_path / "tars", CLASS_TARS)
    first, second = (make_plan(detect(form), IngestSettings(), "0" * 64).record for form in forms)
    assert first == second


def test_the_table_of_the_package_is_that_of_the_release(shared_data: Path) -> None:
    text = (shared_data / "metadata/fall2011_21841.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    assert fall2011_words() == {row["wnid"]: row["words"] for row in rows}
    assert len(fall2011_words()) == 21_841
    assert "n04399382" not in fall2011_words()
    assert with_words("n04399382").words == "teddy, teddy bear"
    assert with_words("n99999999") == Synset("n99999999")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (CLASS_TARS | {WHOLE: archives.train_tar(CLASSES)}, f"found {WHOLE} and also n00005787.tar; expected either"),
        (CLASS_TARS | {"more.tar": b""}, "found 'more.tar' among the class archives; expected only"),
        ({WHOLE: archives.tar_bytes([("n00005787.zip", b"")])}, "found 'n00005787.zip' among the class archives"),
        ({WHOLE: archives.tar_bytes([*CLASS_TARS.items()] * 2)}, f"{WHOLE}: holds class n01440764 twice"),
        (CLASS_TARS | {"n00005787.tar": b""}, "1 of 3 classes have no training picture, first n00005787"),
        (CLASS_TARS | {archives.VAL: b""}, r"class archives \(n00005787.tar\) side by side"),
        (CLASS_TARS | {"n00005787.tar": CLASS_TARS["n00005787.tar"][:700]}, "n00005787.tar: not a whole tar archive"),
    ],
    ids=["both forms", "another archive", "no archive in it", "a class twice", "an empty class", "two layouts", "cut"],
)
def test_what_is_not_as_published_is_refused_by_name(files: dict[str, bytes], words: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=words):
        make_plan(detect(_write(tmp_path, files)), IngestSettings(), "0" * 64)
