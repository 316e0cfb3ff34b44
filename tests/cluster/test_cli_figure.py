"""`tench figure`: where the pictures go, what is printed, what is refused, with which exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster.cli.app import run
from tests.trainer.drawn_runs import write_run, write_tiny_network

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs, relu-run and tanh-run, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for name, errors in (("relu", [0.4, 0.1]), ("tanh", [0.6, 0.4, 0.2])):
        write_run(tmp_path / f"{name}-run", errors, activation=name)


def printed(capsys: Capture) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


@pytest.mark.parametrize("name", ["kernels", "curves", "results", "relu-tanh"])
def test_a_picture_goes_where_it_is_told_or_into_the_first_run(name: str, capsys: Capture) -> None:
    folders = ["relu-run", "tanh-run"] if name == "relu-tanh" else ["relu-run"]
    assert run(["figure", name, *folders, "told.png"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "wrote told.png\n")
    assert run(["figure", name, *folders, "--json"]) == 0
    path = Path("relu-run", "figures", f"{name}.png")
    assert printed(capsys)["picture"] == str(path.absolute())
    assert path.read_bytes() == Path("told.png").read_bytes()
    assert Image.open(path).format == "PNG"


def test_a_comparison_leaves_the_picture_of_one_run_as_it_is(capsys: Capture) -> None:
    assert run(["figure", "curves", "relu-run"]) == 0
    alone = Path("relu-run/figures/curves.png").read_bytes()
    assert run(["figure", "curves", "relu-run", "tanh-run", "--json"]) == 0
    compared = Path(printed(capsys)["picture"])
    assert compared == Path("relu-run/figures/curves-compared.png").absolute()
    assert Path("relu-run/figures/curves.png").read_bytes() == alone != compared.read_bytes()


def test_json_gives_the_numbers_that_are_drawn(capsys: Capture) -> None:
    assert run(["figure", "relu-tanh", "tanh-run", "relu-run", "f.png", "--json"]) == 0
    # 0.4 to 0.1 within the second epoch, 0.4 to 0.2 within the third.
    assert printed(capsys)["ratio"] == pytest.approx(2.75 / 1.5)
    assert run(["figure", "results", "relu-run", "tanh-run", "--json"]) == 0
    assert [one["run"] for one in printed(capsys)["ours"]] == ["relu-run", "tanh-run"]
    assert run(["figure", "curves", "relu-run", "tanh-run", "c.png", "--json"]) == 0
    assert printed(capsys)["series"]["tanh-run"]["top1_error"] == [[1, 0.3], [2, 0.2], [3, 0.1]]
    assert run(["figure", "kernels", "relu-run", "--json"]) == 0
    assert printed(capsys).items() >= {"num_kernels": 32, "columns": 1, "step": 8}.items()


def test_retrieval_shows_what_the_network_finds(tiny_raw_dataset: str, capsys: Capture) -> None:
    write_tiny_network(Path("tiny"), tiny_raw_dataset)
    assert run(["figure", "retrieval", tiny_raw_dataset, "tiny", "r.png", "--seed", "4", "--json"]) == 0
    facts = printed(capsys)
    assert (len(facts["labelled"]), len(facts["searched"]), facts["split"]) == (8, 5, "val")
    assert run(["figure", "retrieval", tiny_raw_dataset, "tiny"]) == 0
    other = Path("tiny/figures/retrieval.png").read_bytes()
    assert other != Path("r.png").read_bytes()


@pytest.mark.parametrize(
    ("asked", "exit_code", "words"),
    [
        (["curves"], 2, "no run is given; name the folder of one run or more"),
        (["curves", "told.png"], 2, "no run is given"),
        (["results", "nothing-here", "told.png"], 3, "nothing-here: holds no run"),
        (["kernels", "nothing-here", "told.png"], 3, "nothing-here: holds no checkpoint"),
        (["relu-tanh", "relu-run", "told.png"], 3, "needs runs with activation relu and runs with tanh; found relu"),
        (["retrieval", "nothing-here", "relu-run", "told.png"], 3, "nothing-here"),
        (["retrieval", "d", "relu-run", "--split", "train"], 2, "--split"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(
    asked: list[str], exit_code: int, words: str, capsys: Capture
) -> None:
    assert run(["figure", *asked]) == exit_code
    assert words in capsys.readouterr().err
    assert not Path("told.png").exists()
    assert not Path("nothing-here").exists()
