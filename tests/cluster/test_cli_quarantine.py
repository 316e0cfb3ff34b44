"""`tench quarantine` and `tench recentre`: what they print, what they refuse, with which exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.app import run
from cluster.commands import execute, needs_ray
from cluster.settings import RecentreRequest, RetryRequest
from ingest.progress import RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings
from ingest.storage import Place
from tests.cluster.served import environment
from tests.conftest import TinySource

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a working folder of its own."""
    monkeypatch.setenv("TENCH_HOME", f"{tmp_path}/home")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def kept(tiny_source: TinySource, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source` (one of its pictures is none) and the sealed `dataset` made of it, as raw payloads."""
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(tiny_source.folders, folder / "source")
    (_first_class(folder) / "bad.JPEG").write_bytes(b"no picture at all")
    chosen = IngestSettings(side=16, samples_per_shard=8, num_actors=1, max_bad="1", payload="raw")
    ingest(f"{folder}/source", f"{folder}/dataset", chosen, RunWriter.begin(Place(folder / "run"), "ingest", {}))
    return folder


def _first_class(folder: Path) -> Path:
    return sorted((folder / "source/train").iterdir())[0]


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(kept, tmp_path / "copied"))


def _tench(*words: str) -> dict[str, Any]:
    """Run a command in a process and with a Ray of its own; its one JSON object."""
    ended = subprocess.run(
        [sys.executable, "-m", "cluster.cli", *words, "--json"], capture_output=True, text=True, timeout=200,
        check=False, env=environment(TENCH_HOME=os.environ["TENCH_HOME"]),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_the_list_is_a_line_a_picture(kept: Path, capsys: Capture) -> None:
    assert run(["quarantine", "list", f"{kept}/dataset"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["split", "key", "code", "bytes", "message"]
    key = f"{_first_class(kept).name}/bad"
    assert line.split(None, 2)[:2] == ["train", key]
    assert " ".join(line.split()) == f"train {key} not a picture 17 neither a JPEG nor a PNG file"
    assert run(["quarantine", "list", f"{kept}/dataset", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["quarantine"]
    assert (told["key"], told["code"], told["size"]) == (key, "not a picture", 17)


def test_an_empty_quarantine_is_said(tiny_dataset: str, capsys: Capture) -> None:
    assert run(["quarantine", "list", tiny_dataset]) == 0
    assert capsys.readouterr().out == "Nothing is in quarantine.\n"


@pytest.mark.parametrize("given", [[], ["--source", "s"], ["--out", "new"]])
def test_a_retry_of_a_sealed_dataset_needs_a_source_and_a_new_folder(
    kept: Path, given: list[str], capsys: Capture
) -> None:
    assert run(["quarantine", "retry", f"{kept}/dataset", *given]) == 2
    said = capsys.readouterr().err
    assert "is sealed and never changes" in said
    missing = said.split("never changes; ")[1].split(" missing")[0].split(" and ")
    assert missing == [flag for flag in ("--source", "--out") if flag not in given]


def test_a_retry_before_the_seal_is_in_place_and_says_what_to_do_next(copied: Path, capsys: Capture) -> None:
    (copied / "dataset/manifest.json").unlink()
    assert run(["quarantine", "retry", f"{copied}/dataset", "--out", "new"]) == 2
    assert "--out new" in capsys.readouterr().err
    assert run(["quarantine", "retry", f"{copied}/dataset", "--source", f"{copied}/source"]) == 0
    told = capsys.readouterr().out
    assert "1 verdict dropped; 1 shard will be made again" in told
    assert f"`tench ingest {copied}/source {copied}/dataset`" in told
    assert not list((copied / "dataset/quarantine").iterdir())


def _repaired(folder: Path) -> None:
    shutil.copy(next(_first_class(folder).glob("n*.JPEG")), _first_class(folder) / "bad.JPEG")


def test_both_are_commands_whose_end_is_recorded(copied: Path, ray_session: None, tmp_path: Path) -> None:
    _repaired(copied)
    writer = RunWriter.begin(Place(tmp_path / "retried"), "retry", {})
    request = RetryRequest(dataset=f"{copied}/dataset", source=f"{copied}/source", out=f"{tmp_path}/new")
    assert needs_ray(request)
    retried = execute(request, writer)
    assert (retried.state, retried.facts["num_quarantined"], retried.facts["num_samples"]) == ("succeeded", 0, 91)
    writer = RunWriter.begin(Place(tmp_path / "centring"), "recentre", {})
    centring = RecentreRequest(dataset=f"{tmp_path}/new", out=f"{tmp_path}/centred", num_actors=1)
    assert needs_ray(centring)
    outcome = execute(centring, writer)
    assert (outcome.state, outcome.facts["parent"]) == ("succeeded", retried.facts["dataset_id"])
    recorded = json.loads((tmp_path / "centring/result/0001.json").read_text())
    assert recorded["facts"] == outcome.facts


def test_what_cannot_be_centred_is_refused_with_exit_code_3(tiny_dataset: str, tmp_path: Path) -> None:
    writer = RunWriter.begin(Place(tmp_path / "run"), "recentre", {})
    outcome = execute(RecentreRequest(dataset=tiny_dataset, out=f"{tmp_path}/out"), writer)
    assert outcome.exit_code == 3
    assert "holds jpeg payloads" in str(outcome.error)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sealed_dataset_is_tried_again_and_centred_from_the_command_line(copied: Path) -> None:
    _repaired(copied)
    told = _tench("quarantine", "retry", f"{copied}/dataset", "--source", f"{copied}/source", "--out", "new")
    assert (told["num_quarantined"], told["num_quarantined_before"], told["num_samples"]) == (0, 1, 91)
    assert told["num_shards_copied"] > 0
    centred = _tench("recentre", "new", "centred", "--num-actors", "1")
    assert (centred["parent"], centred["num_samples"]) == (told["dataset_id"], 91)
    assert run(["verify", "centred"]) == 0
