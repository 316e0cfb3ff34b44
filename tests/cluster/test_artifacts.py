"""Pictures that take long to draw: one at a time, a few may wait, and nobody else waits for them."""

import io
import itertools
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
from PIL import Image

from cluster.api import artifacts
from cluster.api.problems import Problem
from cluster.api.turns import Turns

PLACES = 8
"""One that draws and seven that wait."""


def test_one_is_drawn_while_a_few_wait_and_more_are_told_to_come_again() -> None:
    turns, go_on = Turns("pictures are being drawn"), threading.Event()
    inside: list[int] = []

    def draw() -> int:
        with turns:
            inside.append(1)
            assert len(inside) == 1, "two at once"
            go_on.wait(30)
            inside.pop()
        return 200

    with ThreadPoolExecutor(PLACES + 3) as pool:
        asked = [pool.submit(draw) for _ in range(PLACES + 3)]
        refused = [one.exception() for one in itertools.islice(as_completed(asked, 30), 3)]
        go_on.set()
        drawn = [one.result(30) for one in asked if one.exception(30) is None]
    assert [(e.status_code, e.headers) for e in refused if isinstance(e, Problem)] == [(503, {"Retry-After": "2"})] * 3
    assert drawn == [200] * PLACES
    with turns:
        pass


@pytest.mark.parametrize("name", ["contact.png", "mean.png", "pca.png"])
def test_a_picture_that_many_ask_for_at_once_is_drawn_once(
    name: artifacts.DatasetPicture, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, drawn, honest = str(shutil.copytree(tiny_dataset, tmp_path / "copy")), list[str](), artifacts._draw

    def counted(uri: str, name: artifacts.DatasetPicture) -> bytes:
        drawn.append(name)
        return honest(uri, name)

    monkeypatch.setattr(artifacts, "_draw", counted)
    with ThreadPoolExecutor(PLACES) as pool:
        found = set(pool.map(lambda _: artifacts.of_dataset(uri, name), range(PLACES)))
    assert drawn == [name]
    (picture,) = found
    assert Image.open(io.BytesIO(picture)).format == "PNG"


def test_the_latest_pictures_are_kept_and_others_drawn_again(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def draw(uri: str, name: artifacts.DatasetPicture) -> bytes:
        drawn.append(uri)
        return uri.encode()

    monkeypatch.setattr(artifacts, "KEPT", 2)
    monkeypatch.setattr(artifacts, "_draw", draw)
    copies = [str(shutil.copytree(tiny_dataset, tmp_path / str(number))) for number in range(3)]
    for uri in (*copies, copies[2], copies[1], copies[0]):
        assert artifacts.of_dataset(uri, "mean.png") == uri.encode()
    assert drawn == [*copies, copies[0]]
    assert len(artifacts._drawn) == 2
