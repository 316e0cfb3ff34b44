"""The service's own Ray: `ray start --head --block` as a child, on loopback, with a token; known by a file in HOME."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster.ray_session import LOOPBACK_ENVIRONMENT, OBJECT_STORE_BYTES, command_line, end_all, private_folder
from ingest.errors import TenchError

START_WITHIN_S, END_WITHIN_S = 90.0, 5.0
"""Drivers have ended by the time Ray does: nothing in it is worth a longer wait, which some of its processes take."""


@dataclass(frozen=True)
class LocalRay:
    """A Ray head that this service, or one before it, has started."""

    pid: int
    folder: str
    gcs_port: int
    dashboard_port: int
    agent_port: int
    num_cpus: int

    @property
    def address(self) -> str:
        """Of the dashboard, where jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def token(self) -> str:
        return Path(self.folder, "token").read_text().strip()

    def alive(self) -> bool:
        """Whether the process with this pid is still the head that was started."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and self.folder in command_line(process)
        except psutil.Error:
            return False

    def end(self) -> None:
        """End the head, every process of its session, and its folder."""
        ours = _processes_of(self.folder)
        if self.alive():
            os.kill(self.pid, signal.SIGTERM)
        end_all(ours, END_WITHIN_S if self.alive() else 2)
        end_all(_processes_of(self.folder), 0)  # started meanwhile
        shutil.rmtree(self.folder, ignore_errors=True)


def find(home: Path) -> LocalRay | None:
    """The head that an earlier service of this home left running, if it did."""
    try:
        found = LocalRay(**json.loads((home / "ray.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if found.alive():
        return found
    found.end()
    forget(home)
    return None


def forget(home: Path) -> None:
    """Remove the note of a head that has ended."""
    (home / "ray.json").unlink(missing_ok=True)


def start(home: Path, num_cpus: int | None) -> LocalRay:
    """Start a head and wait until it takes jobs. Raises TenchError with the end of its log if it does not."""
    folder = private_folder()
    gcs_port, dashboard_port, agent_port = _free_ports(3)
    cpus = num_cpus or len(os.sched_getaffinity(0))
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={gcs_port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}", f"--num-cpus={cpus}", "--disable-usage-stats",
        f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={folder / 'ray'}",
    ]  # fmt: skip
    environment = {
        **os.environ, **LOOPBACK_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    log = folder / "start.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C in the terminal of the service must not reach it before the service does.
        child = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    ray = LocalRay(child.pid, str(folder), gcs_port, dashboard_port, agent_port, cpus)
    try:
        (folder / "owner").write_text(str(child.pid))
        (home / "ray.json").write_text(json.dumps(asdict(ray)))
        _wait_until_ready(ray, child, log)
    except BaseException:
        ray.end()
        forget(home)
        raise
    return ray


def _wait_until_ready(ray: LocalRay, child: "subprocess.Popen[bytes]", log: Path) -> None:
    import httpx2

    deadline = time.monotonic() + START_WITHIN_S
    urls = [f"http://127.0.0.1:{ray.agent_port}/api/local_raylet_healthz", f"{ray.address}/api/gcs_healthz"]
    while time.monotonic() < deadline and child.poll() is None:
        try:
            if all(httpx2.get(url, timeout=2).status_code == 200 for url in urls):
                return
        except httpx2.HTTPError:
            time.sleep(0.3)
    words = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise TenchError(f"Ray did not start within {START_WITHIN_S:.0f} s: {' / '.join(words) or 'it said nothing'}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def _processes_of(folder: str) -> list[psutil.Process]:
    """Every process that names the folder in its command line, and the descendants of those."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if folder in command_line(process):
                for one in (process, *process.children(recursive=True)):
                    found[one.pid] = one
        except psutil.Error:
            continue
    found.pop(os.getpid(), None)
    return list(found.values())
