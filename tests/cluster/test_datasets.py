"""How the service finds datasets under its roots."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cluster.datasets import Library


@pytest.fixture
def root(tiny_dataset: str, tmp_path: Path) -> Path:
    """A root with a copy of the tiny dataset two folders down."""
    shutil.copytree(tiny_dataset, tmp_path / "root/sets/tiny")
    return tmp_path / "root"


def id_of(root: Path) -> str:
    return str(json.loads((root / "sets/tiny/manifest.json").read_text())["dataset_id"])


def test_a_dataset_below_two_roots_is_found_once(root: Path) -> None:
    for roots in ([root, root / "sets"], [root / "sets", root], [root, root]):
        assert [d["uri"] for d in Library([str(one) for one in roots]).datasets()] == [str(root / "sets/tiny")]


def test_a_root_of_too_many_folders_is_named_and_the_others_are_searched(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded = tmp_path / "crowded"
    for number in range(10):
        (crowded / f"class-{number}").mkdir(parents=True)
    monkeypatch.setattr("cluster.datasets.MAX_FOLDERS", 8)
    library = Library([str(crowded), str(root)])
    assert [d["name"] for d in library.datasets()] == ["tiny"]
    assert library.unfinished() == [str(crowded)]
    shutil.rmtree(crowded / "class-0")
    for number in range(1, 5):
        shutil.rmtree(crowded / f"class-{number}")
    library.datasets()
    assert library.unfinished() == []


def test_a_dataset_that_was_seen_is_found_again_without_a_scan_until_it_is_gone_or_another(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, known = Library([str(root)]), id_of(root)
    assert library.find(known) is not None
    monkeypatch.setattr(os, "walk", lambda folder: iter(()))
    assert library.find(known) is not None
    manifest = root / "sets/tiny/manifest.json"
    manifest.write_text(manifest.read_text().replace(known, "0" * 64))
    assert library.find(known) is None
    manifest.unlink()
    assert library.find("0" * 64) is None
