"""The README's readers without Tench run as they stand there, in an environment that has no Tench."""

import subprocess
from pathlib import Path

import pytest

from tests.interop.test_interop import OTHERS
from tests.test_readme import python_blocks

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


@pytest.mark.parametrize("word", ["import datasets", "import duckdb", "import tensorflow"])
def test_a_reader_of_the_readme_runs_as_it_stands(
    word: str, tiny_dataset: str, tiny_tfrecord_dataset: str, tmp_path: Path
) -> None:
    if not OTHERS.exists():
        pytest.skip(f"{OTHERS} is missing: run `make test-interop`")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "dataset").symlink_to(tiny_dataset)
    (tmp_path / "small" / "tfrecord").symlink_to(tiny_tfrecord_dataset)
    (block,) = python_blocks(word)
    ended = subprocess.run(
        [str(OTHERS), "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip()
