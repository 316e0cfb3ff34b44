"""Hosts on this machine: each is a network namespace, all on one bridge; this machine's disk is the folder that they share."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cluster.ray_session import OBJECT_STORE_BYTES, private_folder

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
MARK = "TENCH_TEST_MARK"
HEAD, CUT, OTHER = "10.77.0.1", "10.77.0.2", "10.77.0.3"
NAMES = Path("/etc/netns")
"""`ip netns exec` lays what is in there over /etc."""
PORT = 6379
DASHBOARD = "http://127.0.0.1:8265"
STARTED, START_S = "Ray runtime started", 120


class Hosts:
    """Namespaces on a bridge, which is in a namespace of its own; whatever was started in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sockets = folder / "ray"
        """Where Ray keeps its sockets: the same name on every host, and a folder of its own behind it."""
        self._sockets.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{BIN}:{os.environ.get('PATH', '')}", MARK: str(folder), "PYTHONUNBUFFERED": "1",
            "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            # A host that is cut off is dead after (3 s + 3 s) x 5.
            "RAY_health_check_timeout_ms": "3000", "RAY_health_check_period_ms": "3000",
        }  # fmt: skip

    def _name(self, host: str) -> str:
        return f"tench-{os.getpid()}-{host.rpartition('.')[2]}"

    def lay(self) -> None:
        """Lay the network."""
        hub = self._name("hub")
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "addr", "add", "10.77.0.254/24", "dev", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for host in (HEAD, CUT, OTHER):
            name, port = self._name(host), f"to{host.rpartition('.')[2]}"
            _ip("netns", "add", name)
            self._name_names(host)
            _ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{host}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "route", "add", "default", "via", "10.77.0.254")

    def _name_names(self, host: str) -> None:
        """Let a host know its own name, and ask nobody for others: a name server that cannot be reached takes minutes."""
        own = NAMES / self._name(host)
        own.mkdir(parents=True)
        (own / "hosts").write_text(f"127.0.0.1 localhost\n{host} {socket.gethostname()}\n")
        (own / "resolv.conf").write_text("")

    def set_link(self, host: str, state: str) -> None:
        """`up` or `down`: the cable between a host and the bridge."""
        _ip("-n", self._name("hub"), "link", "set", f"to{host.rpartition('.')[2]}", state)

    def start(self, host: str, log: str, command: list[str], **environment: str) -> "subprocess.Popen[bytes]":
        """Start a command on a host; what it says goes into files of the folder."""
        own = self.folder / f"ray-of-{host}"
        own.mkdir(exist_ok=True)
        alone = ["sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(own), str(self._sockets)]
        with (self.folder / log).open("wb") as output, (self.folder / f"{log}.err").open("wb") as errors:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._name(host), *alone, *command], cwd=ROOT, stdout=output, stderr=errors,
                env={**self.environment, **environment},
            )  # fmt: skip

    def ray(
        self, host: str, log: str, num_cpus: int, *, has_dashboard: bool = False, **environment: str
    ) -> "subprocess.Popen[bytes]":
        """Start a Ray node, the head on the first host. A head's dashboard is at DASHBOARD, for that host alone."""
        where = ["--head", f"--port={PORT}", f"--temp-dir={self._sockets}"]
        where += [f"--include-dashboard={str(has_dashboard).lower()}"]
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--node-ip-address={host}"]
        command += where if host == HEAD else [f"--address={HEAD}:{PORT}"]
        command += [f"--num-cpus={num_cpus}", f"--object-store-memory={OBJECT_STORE_BYTES // 2}"]
        # A driver looks for its node among the processes that it sees: it must not see those of other hosts.
        alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        return self.start(host, log, [*alone, *command], **environment)

    def run(self, host: str, command: list[str]) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host to its end."""
        where = ["ip", "netns", "exec", self._name(host)]
        return subprocess.run([*where, *command], cwd=ROOT, env=self.environment, capture_output=True, text=True)

    def is_on(self, host: str, process: psutil.Process) -> bool:
        """Whether a process runs on a host."""
        return os.stat(f"/proc/{process.pid}/ns/net").st_ino == os.stat(f"/run/netns/{self._name(host)}").st_ino

    def wait_for_words(self, log: str, words: str) -> None:
        """Until a command that was started has said them. Raises TimeoutError."""
        deadline = time.monotonic() + START_S
        while words not in (told := (self.folder / log).read_text()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{log} does not say {words!r}: {told}{(self.folder / f'{log}.err').read_text()}")
            time.sleep(0.2)

    def end(self) -> None:
        """End every process of the hosts, and the network."""
        for _ in range(2):  # some may have been starting others
            ours = [process for process in psutil.process_iter() if _has_mark(process, str(self.folder))]
            for process in ours:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(ours, timeout=10)
        for host in (HEAD, CUT, OTHER, "hub"):
            subprocess.run(["ip", "netns", "delete", self._name(host)], capture_output=True)
            shutil.rmtree(NAMES / self._name(host), ignore_errors=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _has_mark(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error):
        return bool(process.environ().get(MARK) == mark)
    return False


@contextmanager
def network() -> Iterator[Hosts]:
    """Three hosts without anything on them; nothing is left of them afterwards."""
    hosts = Hosts(private_folder())
    try:
        hosts.lay()
        yield hosts
    finally:
        hosts.end()
        subprocess.run(["rm", "-rf", str(hosts.folder)], check=True)
