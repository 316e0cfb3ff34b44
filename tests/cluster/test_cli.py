"""The command line without a service: every flag explained, every mistake answered in our words and with its exit code."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.app import run
from tests.cluster.served import environment
from tests.conftest import TinySource

COMMANDS = {
    "sample", "ingest", "inspect", "verify", "repair", "recentre", "augment-sheet", "train", "evaluate", "predict",
    "figure kernels", "figure curves", "figure retrieval", "figure results", "figure relu-tanh", "demo", "serve",
    "submit ingest", "submit verify", "submit repair", "submit recentre", "submit train", "submit evaluate",
    "jobs list", "jobs show", "jobs watch", "jobs stop", "jobs resume", "jobs logs",
    "datasets list", "token add", "token list", "token revoke", "quarantine list", "quarantine retry",
}  # fmt: skip
NOT_OUR_WORDS = ("Input should", "validation error", "pydantic", "Traceback", "Field required", "type=")
HEAVY = ("torch", "ray", "nvidia.dali", "fastapi", "uvicorn", "pyarrow", "numpy", "sqlalchemy", "PIL")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, a working folder and a screen of its own; lines wide enough to hold a flag and its text."""
    for name, value in {
        "TENCH_HOME": f"{tmp_path}/home",
        "COLUMNS": "500",
        "TENCH_SERVER": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TENCH_TOKEN_FILE", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def panels(text: str) -> dict[str, list[str]]:
    """Lines of each panel of a help text."""
    found = re.findall(r"╭─ (\w+) ─+╮\n(.*?)╰─", text, re.DOTALL)
    return {name: [line.strip("│ ") for line in body.splitlines()] for name, body in found}


def all_help(capsys: Capture, *words: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The help of a command and of all below it."""
    assert run([*words, "--help"]) == 0, words
    shown = panels(capsys.readouterr().out)
    yield " ".join(words), shown
    for line in shown.get("Commands", []):
        if not line.startswith("--"):
            yield from all_help(capsys, *words, line.split()[0])


def flags(lines: list[str]) -> dict[str, str]:
    """Each flag of a help text with what is said of it, without its type, choices and default."""
    found: dict[str, str] = {}
    for line in lines:
        head, _, words = re.sub(r" ?\[[^]]*\]", "", line.removeprefix("*").strip()).partition("  ")
        names = [word for word in head.split() if word.startswith("--")]
        found |= dict.fromkeys(names, words.strip())
    return found


def test_every_command_explains_itself_and_each_of_its_flags(capsys: Capture) -> None:
    seen = dict(all_help(capsys))
    assert set(seen) >= COMMANDS
    for command, shown in seen.items():
        for line in shown.get("Commands", []):
            assert len(line.split(None, 1)[1]) > 15, (command, line)
        for name, words in flags(shown.get("Parameters", [])).items():
            assert len(words) > 10, (command, name)


def test_help_answers_without_loading_anything_heavy() -> None:
    script = f"""
import sys
from cluster.cli.app import run
for words in ([], ["train"], ["serve"], ["submit", "ingest"]):
    assert run([*words, "--help"]) == 0
sys.exit(" ".join(m for m in {HEAVY!r} if m in sys.modules))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=environment()
    )
    assert ended.stderr.strip() == ""
    assert ended.stdout.count("Usage: tench") == 4


def test_the_version_is_the_installed_one(capsys: Capture) -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert run(["--version"]) == 0
    assert f'version = "{capsys.readouterr().out.strip()}"' in pyproject


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ingest a b --side 5", ["--side 5: expected a whole number from 8 to 1,024"]),
        ("ingest a b --samples-per-shard 0", ["--samples-per-shard 0: expected a whole number from 1 to 1,000,000"]),
        ("ingest a b --seed abc", ["--seed abc: expected a whole number from 0"]),
        ("ingest a b --max-bad 3,5", ["--max-bad 3,5: expected a count (25) or a share (0.1%)"]),
        ("ingest a b --format zip", ["--format zip: expected arrow or tfrecord"]),
        ("train a --learning-rate 0", ["--learning-rate 0: expected a number above 0 and at most 100"]),
        ("train a --learning-rate nan", ["--learning-rate nan: expected a number above 0"]),
        ("train a --epochs -3 --seed -1", ["--epochs -3: expected", "--seed -1: expected"]),
        ("train a --variant tan", ["--variant tan: expected one_column, no_norm, "]),
        ("train a --switch network.lrn_c=1", ["--switch: 'network.lrn_c=1' is not a switch", "did you mean network.lrn_k?"]),
        ("train a --num-workers 2 --min-workers 3", ["--min-workers: 3 is more than the 2 of num_workers"]),
        ("evaluate a b --views 3", ["--views 3: expected 1 or 10"]),
        ("sample a --num-train 1001", ["--num-train 1001: expected a whole number from 1 to 1,000"]),
        ("serve --port 99999", ["--port 99999: expected a whole number from 0 to 65,535"]),
        ("submit ingest --source a --dataset b --quality 0", ["--quality 0: expected a whole number from 1 to 100"]),
        ("submit evaluate --dataset a --run B", ["--run B: expected a text"]),
        ("recentre a b --num-actors 0", ["--num-actors 0: expected a whole number from 1 to 100,000"]),
        ("jobs list --state nosuch", ["--state", "nosuch", "queued"]),
        ("token add ada --right write", ["--right write: expected read or submit"]),
        ("ingest a b --sede 3", ["--sede", "Did you mean", "tench ingest --help"]),
        ("train a --num-worker 3", ["--num-worker", 'Did you mean --num-workers', "tench train --help"]),
        ("ingst a b", ["ingst", 'Did you mean "ingest"', "`tench --help`"]),
        ("jobs stp x", ["stp", 'Did you mean "stop"', "`tench jobs --help`"]),
        ("ingest a", ["--dataset", "tench ingest --help"]),
        ("ingest a b c", ["c", "tench ingest --help"]),
    ],
)  # fmt: skip
def test_wrong_use_is_answered_in_our_words_with_exit_code_2(line: str, said: list[str], capsys: Capture) -> None:
    assert run(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(words in shown.err for words in said), shown.err
    assert not any(words in shown.err for words in NOT_OUR_WORDS), shown.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ingest missing out --dry-run", ["/here/missing", "no such folder", "ILSVRC2012_img_train.tar"]),
        ("ingest . out --dry-run", ["/here", "ILSVRC2012_img_train.tar"]),
        ("inspect missing", ["/here/missing", "no such dataset"]),
        ("quarantine list missing", ["/here/missing", "no dataset", "tench ingest"]),
        ("quarantine retry missing", ["/here/missing", "no dataset", "tench ingest"]),
        ("verify missing", ["/here/missing", "no such dataset", "tench ingest"]),
        ("train missing --dry-run", ["/here/missing", "no such dataset"]),
        ("train missing run --num-workers 0", ["/here/missing", "no such dataset"]),
        ("train missing run --resume", ["run: holds no run that could be resumed", "--resume"]),
        ("evaluate missing run", ["run: holds no run", "tench train"]),
        ("figure curves run", ["run: holds no run", "tench train"]),
        ("ingest ftp://elsewhere/x out --dry-run", ["ftp://elsewhere/x", "expected a local path"]),
    ],
)
def test_a_place_that_does_not_fit_is_refused_with_exit_code_3(line: str, said: list[str], capsys: Capture) -> None:
    assert run(line.split()) == 3
    shown = capsys.readouterr()
    assert all(words in shown.err for words in said), shown.err
    assert "Traceback" not in shown.err
    assert not any(Path(name).exists() for name in ("missing", "out")), list(Path().iterdir())


def test_an_existing_run_is_left_alone_unless_it_is_to_be_resumed(tiny_dataset: str, capsys: Capture) -> None:
    Path("run/attempts").mkdir(parents=True)
    Path("run/attempts/0001.json").write_text("{}")
    assert run(["train", tiny_dataset, "run"]) == 3
    assert "run: holds a run already; give --resume" in capsys.readouterr().err
    assert [f.name for f in Path("run").rglob("*") if f.is_file()] == ["0001.json"]


def test_each_attempt_records_the_settings_and_the_versions_it_was_started_with(tiny_dataset: str) -> None:
    line = ["train", tiny_dataset, "run", "--preset", "cifar", "--epochs", "1", "--num-workers", "0", "--device", "cpu"]
    assert run([*line, "--micro-batch", "20"]) == 0
    assert run([*line, "--micro-batch", "10", "--resume"]) == 0
    asked = json.loads(Path("run/request.json").read_text())["settings"]
    first, second = (json.loads(Path(f"run/attempts/000{n}.json").read_text()) for n in (1, 2))
    assert first["settings"] == asked
    assert second["settings"] == {**asked, "micro_batch": 10}
    assert first["versions"] == {name: version(name) for name in ("tench", "torch")}


def test_a_place_that_cannot_be_written_is_told_without_a_traceback(capsys: Capture) -> None:
    Path("file").write_text("")
    assert run(["sample", "file/out", "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["exit_code"] == 1
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ingest --json", 2),
        ("ingest a b --side 5 --json", 2),
        ("ingest a b --sede 5 --json", 2),
        ("ingest missing out --dry-run --json", 3),
        ("verify missing --json", 3),
        ("inspect missing --json", 3),
        ("evaluate missing run --json", 3),
        ("train missing run --num-workers 0 --json", 3),
        ("jobs list --json", 1),
        ("datasets list --json", 1),
        ("submit verify --dataset missing --json", 1),
    ],
)
def test_with_json_an_error_is_one_object_as_well(line: str, code: int, capsys: Capture) -> None:
    assert run(line.split()) == code
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert (type(told), told["exit_code"]) == (dict, code)
    assert told["error"] in shown.err


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("sample out --num-train 1 --num-val 1 --json", {"num_train": 10, "num_val": 10}),
        ("ingest {folders} out --dry-run --json", {"num_classes": 10}),
        ("inspect {dataset} --json", {"num_classes": 10, "num_quarantined": 0}),
        ("inspect {dataset} --png sheet.png --html page.html --split val --json", {"num_classes": 10}),
        ("quarantine list {dataset} --json", {"quarantine": []}),
        ("verify {dataset} --json", {"ok": True}),
        ("train {dataset} --dry-run --json --preset demo --global-batch 30 --epochs 2", {"steps": 4}),
    ],
)
def test_with_json_standard_output_is_one_object(
    line: str, facts: dict[str, Any], tiny_source: TinySource, tiny_dataset: str
) -> None:
    words = line.format(folders=tiny_source.folders, dataset=tiny_dataset).split()
    ended = subprocess.run(
        [sys.executable, "-m", "cluster.cli", *words], capture_output=True, text=True, timeout=120, check=False,
        env=environment(TENCH_HOME="home"),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert {name: told[name] for name in facts} == facts


def test_tokens_are_made_listed_and_revoked(capsys: Capture, tmp_path: Path) -> None:
    assert run(["token", "add", "ada"]) == 0
    token = capsys.readouterr().out.strip()
    assert run(["token", "add", "eve", "--right", "read"]) == 0
    capsys.readouterr()
    assert token not in (tmp_path / "home/tokens.json").read_text()
    assert run(["token", "revoke", "ada"]) == run(["token", "list"]) == 0
    assert capsys.readouterr().out.split() == ["eve", "read"]
    assert run(["token", "revoke", "ada"]) == 2
    assert run(["token", "add", "bob", "--token-file", "other.json"]) == 0
    assert Path("other.json").stat().st_mode & 0o777 == 0o600
