"""`tench augment-sheet`: what it writes and prints, what it refuses, with which exit code."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augment.settings import LoaderSettings
from augment.sheet import convention_sheet, training_sheet
from cluster.cli.app import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_flags_of_loader_and_sheet_reach_the_picture(tiny_dataset: str, capsys: Capture) -> None:
    flags = ["--samples", "2", "--epochs", "3", "--tile", "64", "--split", "val", "--json"]
    loader = ["--seed", "3", "--mean", "centre", "--colour", "paper", "--divide", "1.1", "--crop", "200", "--no-flip"]
    assert run(["augment-sheet", tiny_dataset, "sheet.png", *flags, *loader]) == 0
    said = capsys.readouterr()
    settings = LoaderSettings(seed=3, mean="centre", colour="paper", divide=1.1, crop=200, flip=False)
    wanted = training_sheet(tiny_dataset, settings, split="val", samples=2, epochs=3, tile=64)
    assert np.array_equal(np.asarray(Image.open("sheet.png")), wanted)
    assert json.loads(said.out) == {"picture": "sheet.png", "height": wanted.shape[0], "width": wanted.shape[1]}
    assert said.err == "wrote sheet.png\n"


def test_conventions_replace_an_earlier_sheet(tiny_dataset: str, capsys: Capture) -> None:
    Path("sheet.png").write_bytes(b"an earlier one")
    asked = ["--conventions", "--samples", "1", "--tile", "64", "--divide", "1.1"]
    assert run(["augment-sheet", tiny_dataset, "sheet.png", *asked]) == 0
    wanted = convention_sheet(tiny_dataset, LoaderSettings(divide=1.1), samples=1, tile=64)
    assert np.array_equal(np.asarray(Image.open("sheet.png")), wanted)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("flags", "exit_code", "words"),
    [
        (["--samples", "0"], 2, "--samples 0: expected a whole number from 1 to 64"),
        (["--mean", "left"], 2, "--mean"),
        (["--crop", "0"], 2, "--crop 0: expected a whole number from 1 to 1,024"),
        (["--crop", "300"], 2, "crop: 300 pixels, but the pictures of"),
        (["--conventions", "--epochs", "2"], 2, "--epochs 2: --conventions shows one epoch"),
        (["--split", "spare"], 3, "has no split 'spare'; it has train, val"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    flags: list[str], exit_code: int, words: str, tiny_dataset: str, capsys: Capture
) -> None:
    assert run(["augment-sheet", tiny_dataset, "sheet.png", *flags]) == exit_code
    assert words in capsys.readouterr().err
    assert not Path("sheet.png").exists()


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert run(["augment-sheet", "nothing-here", "sheet.png", "--json"]) == 3
    said = capsys.readouterr()
    assert "nothing-here" in said.err
    assert json.loads(said.out)["exit_code"] == 3


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tiny_dataset: str, capsys: Capture) -> None:
    asked = ["--samples", "1", "--epochs", "1", "--tile", "64"]
    assert run(["augment-sheet", tiny_dataset, "no-such-folder/sheet.png", *asked]) == 1
    assert "no-such-folder/sheet.png" in capsys.readouterr().err
