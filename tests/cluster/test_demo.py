"""`tench demo` as a person runs it: it learns, it tells, and it leaves nothing behind, also when it is interrupted.

Processes are found by a mark in their environment, which everything that a demo starts inherits.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DEMO_S, END_S = 900, 60
MARK = "TENCH_TEST_MARK"


def ray_folders() -> set[Path]:
    """Folders under /tmp that a Ray has left, or that belong to no living process."""
    found = {*Path("/tmp").glob("tench-ray-*"), *Path("/tmp").glob("ray*")}
    return {folder for folder in found if not _is_owned(folder)}


def _is_owned(folder: Path) -> bool:
    try:
        return psutil.pid_exists(int((folder / "owner").read_text()))
    except (OSError, ValueError):
        return False


def heed_interrupts() -> None:
    """As under a terminal: a shell that puts the tests into the background has Ctrl-C ignored by all it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Demo:
    """One run of `tench demo`, and what the machine looked like before it."""

    out: Path
    arguments: tuple[str, ...] = ()
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def start(self) -> None:
        """Start it in a process group of its own, as a terminal would."""
        self.folders = ray_folders()
        command = [sys.executable, "-m", "cluster.cli", "demo", str(self.out), *self.arguments]
        self.process = subprocess.Popen(
            command, env={**os.environ, MARK: self.mark}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, text=True, preexec_fn=heed_interrupts,
        )  # fmt: skip

    def interrupt_when(self, pattern: str) -> int:
        """Ctrl-C (to the whole group, as a terminal sends it) once a path under the folder exists; the exit code."""
        deadline = time.monotonic() + DEMO_S
        while not list(self.out.glob(pattern)):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, f"{pattern} never came"
            time.sleep(0.2)
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.communicate(timeout=DEMO_S)
        return self.process.returncode

    def left_behind(self) -> dict[str, Any]:
        """Its processes, what they listen on, and Ray's folders, if anything is left of them."""
        deadline = time.monotonic() + END_S
        while (processes := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.5)
        sockets = [c.laddr for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        lines = [" ".join(p.cmdline())[:120] for p in processes]
        left = {"processes": lines, "sockets": sockets, "folders": ray_folders() - self.folders}
        return {name: found for name, found in left.items() if found}

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def test_the_demo_learns_and_leaves_nothing_running(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "demo", ("--json",))
    demo.start()
    out, err = demo.process.communicate(timeout=DEMO_S)
    assert demo.process.returncode == 0, err
    facts = json.loads(out)
    assert facts["top1_error"] <= 0.60
    assert facts["num_samples"] >= 200
    assert Image.open(facts["picture"]).size > (600, 400)
    for name in ("source", "dataset", "run"):
        assert Path(facts[name]).is_dir()
    assert demo.left_behind() == {}


def test_with_shuffled_labels_nothing_can_be_learnt(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "demo", ("--json", "--shuffle-labels"))
    demo.start()
    out, err = demo.process.communicate(timeout=DEMO_S)
    assert demo.process.returncode == 0, err
    assert json.loads(out)["top1_error"] >= 0.80
    assert demo.left_behind() == {}


@pytest.mark.parametrize(
    "pattern",
    ["home/ray.json", "dataset/plan.json", "home/runs/*train*/progress/0001.json"],
    ids=["while Ray starts", "while it ingests", "while it trains"],
)
def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path, pattern: str) -> None:
    demo = Demo(tmp_path / "demo")
    demo.start()
    assert demo.interrupt_when(pattern) == 130
    assert demo.left_behind() == {}


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    command = [sys.executable, "-m", "cluster.cli", "demo", str(tmp_path / "mine")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEMO_S, check=False)
    assert ended.returncode == 3
    assert "not empty" in ended.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
