"""Two nodes of a SLURM cluster without SLURM: each a network of its own with its own /tmp, this machine's disk shared.

`srun` and `scontrol` are stand-ins that do on these nodes what the real ones do for one task on one node.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MARK = "TENCH_TEST_ALLOCATION"
ADDRESSES = {"node-a": "10.78.0.1", "node-b": "10.78.0.2"}
CPUS = 2
SRUN = """#!/bin/sh
while :; do
    case "$1" in
        --nodelist=*) node=${1#--nodelist=} ;;
        --*) ;;
        *) break ;;
    esac
    shift
done
exec "$(dirname "$0")/enter" "$node" "$@"
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames node-[a-b]" ] && printf 'node-a\\nnode-b\\n'
"""
ENTER = """#!/bin/sh
node=$1; shift
exec ip netns exec "{prefix}-$node" sh -c 'mount --bind "$0" /tmp && exec "$@"' "{folder}/tmp-$node" "$@"
"""


@dataclass
class Nodes:
    """Two nodes on a wire, and the folder that both see. It lies outside /tmp, which each node has for itself."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="tench-slurm-", dir="/var/tmp")))

    def __post_init__(self) -> None:
        self._prefix = f"tench-{os.getpid()}"
        commands = self.folder / "bin"
        commands.mkdir()
        enter = ENTER.format(prefix=self._prefix, folder=self.folder)
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, "enter": enter}.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        for node in ADDRESSES:
            self.tmp(node).mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TENCH_"))}
        self.environment = {
            **kept, MARK: str(self.folder), "PATH": f"{commands}:{BIN}:{os.environ['PATH']}", "TENCH_BIN": str(BIN),
            "TENCH_HOME": str(self.home), "TENCH_ROOTS": str(self.folder), "SLURM_CPUS_PER_TASK": str(CPUS),
            "SLURM_JOB_NODELIST": "node-[a-b]", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def tmp(self, node: str) -> Path:
        """The node's /tmp."""
        return self.folder / f"tmp-{node}"

    def lay(self) -> None:
        """Lay the network: one wire from node to node."""
        first, second = (f"{self._prefix}-{node}" for node in ADDRESSES)
        for name in (first, second):
            _ip("netns", "add", name)
        _ip("-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second)
        for node, name in zip(ADDRESSES, (first, second), strict=True):
            _ip("-n", name, "addr", "add", f"{ADDRESSES[node]}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")

    def batch(self, job: int, *command: str) -> "subprocess.Popen[bytes]":
        """What sbatch does: the script on the first node, as a copy, its words into a file."""
        script = self.folder / f"script-{job}"
        script.write_bytes((ROOT / "docker" / "slurm.sh").read_bytes())
        with self.log(job).open("wb") as output:
            return subprocess.Popen(
                [self.folder / "bin" / "enter", "node-a", "bash", script, *command], cwd=self.folder,
                env={**self.environment, "SLURM_JOB_ID": str(job)}, stdout=output, stderr=output,
            )  # fmt: skip

    def log(self, job: int) -> Path:
        return self.folder / f"tench-{job}.log"

    def tench(self, job: int, *words: str) -> str:
        """A command on the first node, with the address and the token that the log names; what it printed."""
        said = self.log(job).read_text()
        server = said.split("the service is at ")[1].split()[0]
        environment = {
            **self.environment, "TENCH_SERVER": server, "TENCH_TOKEN_FILE": f"{self.home}/allocation-{job}/token"
        }  # fmt: skip
        done = subprocess.run(
            [self.folder / "bin" / "enter", "node-a", BIN / "tench", *words], cwd=self.folder, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def left_over(self, within_s: float) -> list[str]:
        """Processes of ours that are still there after a while; empty as soon as there are none."""
        deadline = time.monotonic() + within_s
        while (found := [_words(p) for p in _ours(self.folder)]) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def end(self) -> None:
        """End every process of the nodes, and the network."""
        for _ in range(2):  # some may have been starting others
            ours = _ours(self.folder)
            for process in ours:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(ours, timeout=10)
        for node in ADDRESSES:
            subprocess.run(["ip", "netns", "delete", f"{self._prefix}-{node}"], capture_output=True)
        subprocess.run(["rm", "-rf", self.folder], check=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _ours(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:200]
    return ""
