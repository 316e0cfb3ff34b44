"""A store that counts what it is asked for, and processes that map its shards through one cache.

Run as a program it is such a process, told what to do by lines: `map N`, `drop N`, `ahead N N ...`. Arguments: the
cache's folder, its limit, the place of the shards, and a JSON list of their facts. It answers each line with a JSON
list: ["mapped", SHA-256 of the bytes], ["done"], or ["failed", exit code of the error, its message].
"""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.cache import ShardCache
from ingest.errors import TenchError
from ingest.manifest import ShardFile
from ingest.storage import Place

MB = 10**6
PATIENCE_S = 60.0


class Store(ThreadingHTTPServer):
    """Files over HTTP with ranges. It notes what it is asked for, and can hold answers back or change them."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files
        self.asked: list[tuple[str, int, int]] = []
        self.wrong: dict[str, int] = {}
        """How many answers about a file are to be wrong."""
        self.is_open = threading.Event()
        self.is_open.set()
        self.lock = threading.Lock()

    @property
    def place(self) -> Place:
        return Place(f"http://127.0.0.1:{self.server_port}")

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _, _ in self.asked)

    def begin(self, path: str, start: int, stop: int) -> bool:
        """Note a request. True if it is to be answered wrongly."""
        with self.lock:
            self.asked.append((path, start, stop))
            self.wrong[path] = self.wrong.get(path, 0) - 1
            return self.wrong[path] >= 0


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_HEAD(self) -> None:
        self._send(self.server.files.get(self.path[1:]), 200, {})

    def do_GET(self) -> None:
        path, data = self.path[1:], self.server.files[self.path[1:]]
        start, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[start : last + 1]
        if self.server.begin(path, start, last + 1):
            part = bytes([part[0] ^ 1]) + part[1:]
        self.server.is_open.wait()
        self._send(part, 206, {"Content-Range": f"bytes {start}-{last}/{len(data)}"})

    def _send(self, body: bytes | None, status: int, headers: dict[str, str]) -> None:
        self.send_response(404 if body is None else status)
        for name, value in {**headers, "Content-Length": str(len(body or b"")), "ETag": '"one"'}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def facts_of(path: str, data: bytes) -> ShardFile:
    digest = hashlib.sha256(data).hexdigest()
    return ShardFile(path=path, sha256=digest, size=len(data), num_samples=1, content_sha256="0" * 64)


@dataclass
class Worker:
    """A process with a cache of its own on the common folder."""

    store: Store
    folder: Path
    limit: int = 3 * MB
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        facts = json.dumps([facts_of(path, data).model_dump() for path, data in self.store.files.items()])
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), str(self.limit), self.store.place.uri, facts],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def begin(self, command: str) -> None:
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)

    def answer(self) -> list[Any]:
        assert self.process.stdout is not None
        answer: list[Any] = json.loads(self.process.stdout.readline())
        return answer

    def do(self, command: str) -> list[Any]:
        self.begin(command)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def files_in(folder: Path) -> dict[str, int]:
    """Size of every file in the cache."""
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def num_waiting(path: Path) -> int:
    """How many processes wait for a file's lock, as the kernel tells."""
    inode = f":{path.stat().st_ino}"
    return sum("->" in line and line.split()[-3].endswith(inode) for line in Path("/proc/locks").open())


def peak_memory(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main() -> None:
    place = Place(sys.argv[3])
    shards = [ShardFile(**facts) for facts in json.loads(sys.argv[4])]
    cache = ShardCache(Path(sys.argv[1]), int(sys.argv[2]))
    held: dict[int, npt.NDArray[np.uint8]] = {}
    for line in sys.stdin:
        command, *words = line.split()
        numbers = [int(word) for word in words]
        answer: list[str | int] = ["done"]
        try:
            if command == "map":
                held[numbers[0]] = cache.map(place, shards[numbers[0]])
                answer = ["mapped", hashlib.sha256(held[numbers[0]].tobytes()).hexdigest()]
            elif command == "drop":
                del held[numbers[0]]
            else:
                cache.fetch_ahead(place, [shards[number] for number in numbers])
        except TenchError as error:
            answer = ["failed", error.exit_code, error.message]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
