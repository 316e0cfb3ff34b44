"""What processes of ours left on this machine when they were killed: folders of their Ray, files they were fetching."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from augment.settings import LoaderSettings
from cluster.ray_session import FOLDER_PREFIX, command_line
from cluster.upkeep.housekeeping import remove_aside, size_of


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or folder that nobody uses."""

    path: Path
    bytes: int
    reason: str


def leftovers(before: float, temporary: Path = Path("/tmp")) -> list[Leftover]:
    """Those that were last written before a time (Unix seconds)."""
    found = [
        Leftover(path, size_of(path).bytes, "Ray folder") for path in ray_folders(temporary) if _is_before(path, before)
    ]
    staged = [path for path in _staged(cache_folder()) if _is_before(path, before) and not _is_locked(path)]
    return found + [Leftover(path, path.lstat().st_size, "cache file") for path in staged]


def ray_folders(temporary: Path) -> Iterator[Path]:
    """Folders of a Ray that this user's processes started, and that no process uses."""
    lines = [command_line(process) for process in psutil.process_iter()]
    for folder in sorted(temporary.glob(f"{FOLDER_PREFIX}*")):
        is_ours = not folder.is_symlink() and folder.lstat().st_uid == os.getuid()
        if is_ours and not _owner_lives(folder) and not any(str(folder) in line for line in lines):
            yield folder


def cache_folder() -> Path:
    """The folder of the loaders' cache."""
    return Path(LoaderSettings.model_fields["cache"].default).expanduser()


def remove(leftover: Leftover) -> None:
    """Remove it, unless somebody has taken it up meanwhile."""
    if leftover.reason != "cache file" or not _is_locked(leftover.path):
        remove_aside(leftover.path)


def _owner_lives(folder: Path) -> bool:
    """Whether the process that the folder names as its owner is there, and no later one with its number."""
    try:
        owner = psutil.Process(int((folder / "owner").read_text()))
        return bool(owner.create_time() <= (folder / "owner").stat().st_mtime + 1)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return False
    except psutil.Error:
        return True


def _staged(cache: Path) -> list[Path]:
    folder = cache / "staged"
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.is_symlink()) if folder.is_dir() else []


def _is_locked(path: Path) -> bool:
    """Whether a loader is fetching into a file: it holds its lock as long as it lives."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


def _is_before(path: Path, moment: float) -> bool:
    return path.lstat().st_mtime <= moment
