"""The door to storage: create-only puts, whole files, honest listings."""

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest

from ingest.errors import RefusedError
from ingest.storage import Place, StoredFile


def _race(folder: str, number: int, start: "multiprocessing.synchronize.Event") -> None:
    place = Place(folder)
    start.wait()
    won = [name for name in map(str, range(200)) if place.put_new(f"deep/{name}", bytes([number]) * 1000)]
    place.put_new(f"won-{number}", "\n".join(won).encode())


def test_of_two_processes_that_put_one_path_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    racers = [context.Process(target=_race, args=(str(tmp_path), n, start)) for n in (1, 2)]
    for racer in racers:
        racer.start()
    start.set()
    for racer in racers:
        racer.join(60)
    won = [set(Path(tmp_path, f"won-{n}").read_text().split()) for n in (1, 2)]
    assert won[0] | won[1] == set(map(str, range(200)))
    assert not won[0] & won[1]
    for name in map(str, range(200)):
        writer = 1 if name in won[0] else 2
        assert Path(tmp_path, "deep", name).read_bytes() == bytes([writer]) * 1000


def test_a_second_put_changes_nothing_and_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.put_new("a/b", b"first")
    assert not place.put_new("a/b", b"second")
    assert Path(tmp_path, "a", "b").read_bytes() == b"first"


def test_ranges_sizes_and_listings_name_what_lies_there(tmp_path: Path) -> None:
    place = Place(tmp_path)
    Path(tmp_path, "train", "n1").mkdir(parents=True)
    Path(tmp_path, "train", "n1", "potter's [wheel] #1.JPEG").write_bytes(b"0123456789")
    Path(tmp_path, "top").write_bytes(b"x")
    assert place.get_range("train/n1/potter's [wheel] #1.JPEG", 3, 4) == b"3456"
    assert place.get_range("top", 0, 10) == b"x"
    assert place.size("missing") is None
    assert list(place.walk()) == [StoredFile("top", 1), StoredFile("train/n1/potter's [wheel] #1.JPEG", 10)]
    assert place.folders("train") == ["n1"]
    assert place.files() == [StoredFile("top", 1)]
    assert list(place.walk("missing")) == []
    with pytest.raises(FileNotFoundError):
        place.get("missing")


def test_a_replaced_file_is_the_new_one_and_a_moved_one_is_gone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.replace("a", b"old")
    place.replace("a", b"new")
    place.move("a", "sub/b")
    assert not place.exists("a")
    assert place.get("sub/b") == b"new"
    place.delete("sub/b")
    place.delete("sub/b")
    assert not place.exists("sub/b")


def test_a_place_crosses_to_another_process(tmp_path: Path) -> None:
    Place(tmp_path).put_new("a", b"1")
    again = pickle.loads(pickle.dumps(Place(tmp_path)))  # noqa: S301 - our own bytes
    assert again.get("a") == b"1"


def test_an_unknown_kind_of_place_is_refused_by_name() -> None:
    with pytest.raises(RefusedError, match="ftp://"):
        Place("ftp://host/x")


def test_a_relative_place_stays_where_it_was_when_the_process_moves(tmp_path: Path) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        place = Place("data")
        place.put_new("a", b"1")
        os.chdir("/")
        assert place.get("a") == b"1"
    finally:
        os.chdir(before)
