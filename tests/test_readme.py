"""What the README shows works as it stands there: its Python blocks run, its commands and flags exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli.app import run

README = Path(__file__).resolve().parents[1] / "README.md"
PAGES = ("README.md", "CONTRIBUTING.md")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order; "" are commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def python_blocks(word: str) -> list[str]:
    """The Python blocks in which a word stands."""
    return [block for block in blocks("python") if word in block]


@pytest.fixture
def folder(tiny_dataset: str, tmp_path: Path) -> Path:
    """A folder in which `small/dataset` is a dataset, as in the README."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "dataset").symlink_to(tiny_dataset)
    return tmp_path


@pytest.mark.parametrize(
    "word", ["from augment.loader import Loader", 'pa.memory_map("small/dataset/train/00000.arrow")']
)
def test_a_python_block_runs_as_it_stands(word: str, folder: Path) -> None:
    (block,) = python_blocks(word)
    ended = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


def test_every_flag_in_the_readme_is_a_flag_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    shell = "\n".join(blocks(""))
    lines = [line.split("#")[0].split() for line in shell.splitlines() if line.startswith("tench ")]
    assert len(lines) >= 10
    helps: dict[str, str] = {}
    for words in lines:
        depth = 3 if words[1] in ("submit", "jobs", "datasets", "token", "quarantine", "figure") else 2
        command = " ".join(words[1:depth])
        if command not in helps:
            assert run([*words[1:depth], "--help"]) == 0
            helps[command] = capsys.readouterr().out
        for flag in (word for word in words if word.startswith("--")):
            assert flag in helps[command], f"tench {command} has no {flag}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (README.parent / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    rooms = re.findall(r"`((?:ingest|augment|trainer|cluster|docker|tests)/[\w./]*)`", text)
    assert links or rooms
    missing = [name for name in {*links, *rooms} if not (README.parent / name).exists()]
    assert missing == []
