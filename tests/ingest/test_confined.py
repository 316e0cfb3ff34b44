"""Links inside a place: followed by a person's command, held to the roots in jobs of a service."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.errors import RefusedError
from ingest.storage import Place


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/source with a picture, a link to another folder of the root, and two that lead out: a file and a folder."""
    tree = tmp_path.resolve()
    for folder in ("root/source/n01", "root/other", "outside"):
        (tree / folder).mkdir(parents=True)
    for file in ("root/source/n01/a.jpg", "root/other/b.jpg", "outside/secret"):
        (tree / file).write_text(file)
    (tree / "root/source/n02").symlink_to(tree / "root/other")
    return tree


def held_to(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("TENCH_ROOTS", json.dumps([str(tree / "root"), "s3://bucket"]))
    return Place(tree / "root/source")


def test_links_within_the_roots_are_followed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = held_to(tree, monkeypatch)
    assert [file.path for file in source.walk()] == ["n01/a.jpg", "n02/b.jpg"]
    assert source.get("n02/b.jpg") == b"root/other/b.jpg"


USES: dict[str, Callable[[Place], object]] = {
    "get": lambda place: place.get("n01/link"),
    "get_range": lambda place: place.get_range("n01/link", 0, 3),
    "local_path": lambda place: place.local_path("n01/link"),
    "walk": lambda place: list(place.walk()),
    "files": lambda place: place.files("n01"),
}
INTO_FOLDERS: dict[str, Callable[[Place], object]] = {
    "get": lambda place: place.get("n03/secret"),
    "walk": lambda place: list(place.walk()),
    "files": lambda place: place.files("n03"),
    "put_new": lambda place: place.put_new("n03/new", b""),
    "replace": lambda place: place.replace("n03/secret", b""),
    "delete": lambda place: place.delete("n03/secret"),
}


@pytest.mark.parametrize("use", USES)
def test_what_lies_behind_a_link_out_of_the_roots_is_not_touched(
    use: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "root/source/n01/link").symlink_to(tree / "outside/secret")
    with pytest.raises(RefusedError, match=rf"n01/link: a link leads from here to {tree}/outside/secret, outside of"):
        USES[use](held_to(tree, monkeypatch))


@pytest.mark.parametrize("use", INTO_FOLDERS)
def test_a_folder_behind_a_link_out_of_the_roots_is_not_touched(
    use: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "root/source/n03").symlink_to(tree / "outside")
    with pytest.raises(RefusedError, match=rf"a link leads from here to {tree}/outside"):
        INTO_FOLDERS[use](held_to(tree, monkeypatch))
    assert [path.name for path in (tree / "outside").iterdir()] == ["secret"]
    assert (tree / "outside/secret").read_text() == "outside/secret"


def test_a_place_that_is_itself_reached_by_a_link_may_be_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it may be used at all was asked before: its own name is checked against the roots."""
    held_to(tree, monkeypatch)
    (tree / "alias").symlink_to(tree / "outside")
    assert Place(tree / "alias").get("secret") == b"outside/secret"


def test_a_persons_own_command_follows_links_wherever_they_lead(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENCH_ROOTS", raising=False)
    (tree / "root/source/n03").symlink_to(tree / "outside")
    assert [file.path for file in Place(tree / "root/source").walk()] == ["n01/a.jpg", "n02/b.jpg", "n03/secret"]
