"""Folders of runs, and one run that many tests look at. A checkpoint has 455 MB, so nothing is kept afterwards."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.runs import AFTER_EVERY_STEP, Left, train_here


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The run folder of a test."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="session")
def unbroken(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """A run of two epochs of two steps, with a checkpoint after every step."""
    place = tmp_path_factory.mktemp("unbroken")
    train_here(tiny_dataset, place, **AFTER_EVERY_STEP)
    yield Left(place)
    shutil.rmtree(place)
