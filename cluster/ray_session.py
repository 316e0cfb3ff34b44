"""A Ray of this process alone (command line), or the Ray that started this process (a job of the service)."""

import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

FOLDER_PREFIX = "tench-ray-"
OBJECT_STORE_BYTES = 256 * 2**20
END_WITHIN_S, KILLED_WITHIN_S = 10.0, 10.0
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
LOOPBACK_ENVIRONMENT = {
    # Despite its name, the switch that keeps every socket of Ray on 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def private_folder() -> Path:
    """A new folder for a Ray of ours, with a token file in it; its owner's pid tells when it may be swept.

    Directly under /tmp: socket names have to be shorter than 107 bytes.
    """
    sweep_folders()
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir="/tmp"))
    (folder / "owner").write_text(str(os.getpid()))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return folder


def sweep_folders() -> None:
    """Remove the folders of processes that were killed before they could."""
    for folder in Path("/tmp").glob(f"{FOLDER_PREFIX}*"):
        try:
            owner = int((folder / "owner").read_text())
        except (FileNotFoundError, ValueError, PermissionError):
            continue
        if not psutil.pid_exists(owner):
            shutil.rmtree(folder, ignore_errors=True)


def command_line(process: psutil.Process) -> str:
    """What a process was started as; empty if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def end_all(processes: Iterable[psutil.Process], within_s: float) -> None:
    """Wait for processes that are about to end; kill those that do not."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=KILLED_WITHIN_S)


@contextmanager
def own_ray(num_cpus: int | None = None) -> Iterator[None]:
    """A Ray on loopback for this process, with a token of its own; nothing of it is left afterwards."""
    folder = private_folder()
    before = dict(os.environ)
    os.environ.update(LOOPBACK_ENVIRONMENT, RAY_AUTH_TOKEN_PATH=str(folder / "token"))
    os.environ.pop("RAY_ADDRESS", None)
    try:
        import ray

        ray.init(
            address="local", num_cpus=num_cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder / "ray"), **QUIET,
        )  # fmt: skip
        yield
    finally:
        _end(folder)
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def join_ray() -> Iterator[None]:
    """The Ray whose job this process is (RAY_ADDRESS and the token stand in the environment)."""
    import ray

    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), namespace="tench", **QUIET)
    try:
        yield
    finally:
        ray.shutdown()


def _end(folder: Path) -> None:
    """Shut Ray down and wait for its processes; a Ctrl-C must not cut this short."""
    import ray

    with _ignored_interrupts():
        children = psutil.Process().children(recursive=True)
        ours = [p for p in children if str(folder) in (words := command_line(p)) or "ray::" in words]
        ray.shutdown()
        end_all(ours, END_WITHIN_S)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
