"""The installation: exactly one imaging library, the pinned torch, nothing that could replace them."""

import importlib.metadata as metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def installed(name: str) -> bool:
    return any(d.metadata["Name"].lower() == name for d in metadata.distributions())


def test_exactly_one_imaging_library_is_active() -> None:
    from PIL import _imaging

    assert installed("pillow-simd") != installed("pillow")
    assert bool(re.search(r"\.post\d+$", _imaging.PILLOW_VERSION)) == installed("pillow-simd")


def test_no_installed_distribution_asks_for_plain_pillow() -> None:
    wanting = {
        d.metadata["Name"]
        for d in metadata.distributions()
        for r in d.requires or ()
        if re.match(r"pillow\b(?!-simd)", r, re.IGNORECASE) and "extra ==" not in r
    }
    assert wanting == set()


def test_the_installation_check_accepts_this_environment() -> None:
    done = subprocess.run([sys.executable, "docker/check_install.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_installation_check_names_a_mixed_imaging_library(tmp_path: Path) -> None:
    fake = tmp_path / "pillow-99.0.dist-info"
    fake.mkdir()
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 99.0\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "docker/check_install.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "pillow 99.0" in done.stderr


@pytest.mark.parametrize("version", ["3.10.9", "3.14.0"])
def test_an_unfit_python_is_refused_with_the_line_to_run(version: str, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo Python {version} && exit 0\nexit 1\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(
        ["bash", "docker/install.sh", str(tmp_path / "venv")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert version in done.stderr
    assert "make install PYTHON=" in done.stderr
