"""Kaggle's CLS-LOC: the pictures and the plan of the official archives; tables that do not fit are refused by name."""

import shutil
from pathlib import Path

import pytest

from ingest.errors import RefusedError
from ingest.plan import make_plan
from ingest.settings import IngestSettings
from ingest.sources import detect
from ingest.synsets import Synset
from tests.conftest import TinySource
from tests.ingest import archives

PICTURES = "ILSVRC/Data/CLS-LOC"
SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
FOX, TENCH = "n02119789", "n01440764"
HEADER = "ImageId,PredictionString\n"
VAL = [f"ILSVRC2012_val_{n:08d}" for n in (1, 2)]
FILES = {
    f"{PICTURES}/train/{FOX}/{FOX}_1.JPEG": "fox",
    f"{PICTURES}/train/{TENCH}/{TENCH}_1.JPEG": "tench",
    f"{PICTURES}/train/{TENCH}/.DS_Store": "",
    f"{PICTURES}/val/{VAL[0]}.JPEG": "val 1",
    f"{PICTURES}/val/{VAL[1]}.JPEG": "val 2",
    f"{PICTURES}/test/ILSVRC2012_test_00000001.JPEG": "test 1",
    "ILSVRC/Annotations/CLS-LOC/val/x.xml": "",
    "ILSVRC/ImageSets/CLS-LOC/val.txt": "",
    SOLUTION: f"{HEADER}{VAL[1]},{FOX} 1 2 3 4 {FOX} 5 6 7 8 \n{VAL[0]},{TENCH} 1 2 3 4 \n",
    MAPPING: f"{TENCH} the tench\n{FOX} kit fox, Vulpes macrotis\n",
    # As published, it does not list all training pictures.
    "LOC_train_solution.csv": f"{HEADER}{FOX}_1,{TENCH} 1 2 3 4 \n",
    "LOC_sample_submission.csv": HEADER,
}


def _write(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


def test_folders_and_tables_give_the_labels_of_every_split(tmp_path: Path) -> None:
    source = detect(_write(tmp_path, FILES))
    read = {}
    for split in source.splits():
        entries = list(source.entries(split))
        read[split] = dict(zip((e.key for e in entries), source.read(source.place, entries), strict=True))
    assert read == {
        "train": {f"{TENCH}/{TENCH}_1": b"tench", f"{FOX}/{FOX}_1": b"fox"},
        "val": {f"{TENCH}/{VAL[0]}": b"val 1", f"{FOX}/{VAL[1]}": b"val 2"},
        "test": {"ILSVRC2012_test_00000001": b"test 1"},
    }
    assert source.synsets() == [Synset(TENCH, "the tench", 449), Synset(FOX, "kit fox, Vulpes macrotis", 1)]


def test_training_folders_alone_need_no_table(tmp_path: Path) -> None:
    source = detect(_write(tmp_path, {name: text for name, text in FILES.items() if "/train/" in name}))
    assert source.splits() == ("train",)
    assert source.synsets()[0] == Synset(TENCH, "tench, Tinca tinca", 449)


def test_the_pictures_of_the_official_archives_have_the_same_plan(tiny_source: TinySource, tmp_path: Path) -> None:
    shutil.copytree(tiny_source.folders / "train", tmp_path / PICTURES / "train")
    solution = HEADER
    for key, data in archives.validation_pictures(tiny_source.official).items():
        wnid, name = key.split("/")
        (tmp_path / PICTURES / "val").mkdir(exist_ok=True)
        (tmp_path / PICTURES / "val" / f"{name}.JPEG").write_bytes(data)
        solution += f"{name},{wnid} 1 1 2 2 \n"
    (tmp_path / SOLUTION).write_text(solution)
    kaggle, official = (
        make_plan(detect(str(folder)), IngestSettings(), "0" * 64).record for folder in (tmp_path, tiny_source.official)
    )
    assert kaggle == official


@pytest.mark.parametrize(
    ("without", "changed", "words"),
    [
        ([SOLUTION], {}, f"found {PICTURES}/val but not {SOLUTION}.*put it beside ILSVRC/"),
        (["ILSVRC/"], {}, f"found LOC_sample.*, {MAPPING}, .*, but no class folders in {PICTURES}/train"),
        ([f"{PICTURES}/train/"], {}, f"found ILSVRC, LOC_.*, but no class folders in {PICTURES}/train"),
        ([], {SOLUTION: f"{HEADER}{VAL[0]},{TENCH} 1 2 3 4 \n"}, f"{VAL[1]}.JPEG: has no row in {SOLUTION}"),
        ([f"{PICTURES}/val/{VAL[0]}"], {}, f"1 of its pictures are not in {PICTURES}/val, first {VAL[0]}"),
        ([], {SOLUTION: FILES[SOLUTION] + f"{VAL[0]},{FOX} 1 2 3 4\n"}, f"lists {VAL[0]} twice"),
        ([], {SOLUTION: f"{HEADER}{VAL[0]},n99 1 2 3 4\n"}, f"{VAL[0]} has class 'n99', which .*/train does not have"),
        ([], {SOLUTION: f"{HEADER}{VAL[0]}\n"}, f"{VAL[0]} has class ''"),
        ([], {SOLUTION: f"{VAL[0]},{TENCH} 1 2 3 4 \n"}, r"has columns \['ILSVRC2012_val_00000001'.*expected \['ImageId'"),
        ([], {MAPPING: f"{TENCH} tench\n"}, f"class {FOX} is in {PICTURES}/train only"),
        ([], {MAPPING: FILES[MAPPING] + "n99 x\n"}, f"class n99 is in {MAPPING} only"),
        ([], {archives.VAL: ""}, r"found ILSVRC-2012 archives \(ILSVRC2012_img_val.tar\) and Kaggle CLS-LOC \(ILSVRC\)"),
    ],
    ids=[
        "no labels", "no pictures", "no training pictures", "a picture without a row", "a row without a picture",
        "a row twice", "an unknown class", "half a row", "no header", "few words", "many words", "two layouts",
    ],
)  # fmt: skip
def test_what_is_not_as_published_is_refused_by_name(
    without: list[str], changed: dict[str, str], words: str, tmp_path: Path
) -> None:
    files = {n: text for n, text in FILES.items() if not n.startswith(tuple(without))} if without else FILES
    with pytest.raises(RefusedError, match=words) as refused:
        make_plan(detect(_write(tmp_path, {**files, **changed})), IngestSettings(), "0" * 64)
    assert str(tmp_path) in refused.value.message


def test_the_inside_of_the_folder_is_refused_with_what_to_give(tmp_path: Path) -> None:
    inside = Path(_write(tmp_path, FILES)) / "ILSVRC"
    with pytest.raises(
        RefusedError, match="found Annotations, Data, ImageSets, the inside of ILSVRC/; give the folder above"
    ):
        detect(str(inside))
