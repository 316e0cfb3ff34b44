"""Decoding in a child process, for shards of which one picture ended or stalled its process.

The child decodes one picture after the other, each within a budget of CPU seconds and memory. When it dies or
overruns, the picture is tried once more in a new child; the second failure is its verdict. Good pictures cost a
copy of their pixels through a pipe, no more.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe

import numpy as np
import psutil
from PIL import Image

from ingest.pixels import BINDING, Code, Picture, PictureError
from ingest.settings import PlannedSettings

Decode = Callable[[bytes, PlannedSettings], Picture]
"""Bytes of a picture to its rescaled pixels, a module's function: `pixels.rescale`. Raises PictureError."""

MEMORY_BYTES = 2 * 2**30
"""What a picture may take beyond what the child has at its start; the largest allowed one needs about 1.5 GB."""
FAILURES = 2
WALL_FACTOR = 10
"""A decoder that sleeps uses no CPU: this many times its CPU seconds of waiting end it as well."""


class IsolatedDecoder:
    """A `Decode` that survives what it decodes. Use as a context manager."""

    def __init__(self, decode: Decode, settings: PlannedSettings) -> None:
        self._decode = f"{decode.__module__}:{decode.__qualname__}"
        self._settings = settings
        self._child: _Child | None = None

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def __call__(self, data: bytes, settings: PlannedSettings) -> Picture:
        """The picture. Raises PictureError; codes `decoder ...` after the second failure."""
        for failure in range(1, FAILURES + 1):
            try:
                return self._running().decode(data, settings.picture_timeout_s)
            except PictureError as error:
                if error.code not in BINDING or failure == FAILURES:
                    raise
            finally:
                if self._child is not None and not self._child.usable:
                    self._end()
        raise AssertionError("the last failure is raised")

    def _running(self) -> "_Child":
        if self._child is None:
            self._child = _Child(self._decode, self._settings)
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    def __init__(self, decode: str, settings: PlannedSettings) -> None:
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-m", "ingest.isolated", str(theirs.fileno()), decode, settings.model_dump_json()]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env=environment
        )
        theirs.close()
        self.usable = True
        self._ready = False

    def decode(self, data: bytes, timeout_s: int) -> Picture:
        """The picture. Raises PictureError; after one of `BINDING` this child is not usable any more."""
        try:
            if not self._ready:
                self._pipe.recv_bytes()  # its start is not the picture's
                self._ready = True
            self._allow_cpu(timeout_s)
            self._pipe.send_bytes(data)
            if not self._pipe.poll(timeout_s * WALL_FACTOR):
                raise self._failed("decoder timed out", f"no result after {timeout_s * WALL_FACTOR} s")
            answer = json.loads(self._pipe.recv_bytes())
            if (code := answer.get("code")) is not None:
                error = PictureError(code, answer["message"])
                self.usable = code not in BINDING
                raise error
            pixels = np.frombuffer(self._pipe.recv_bytes(), np.uint8).reshape(answer["shape"])
            return Picture(Image.fromarray(pixels), answer["width"], answer["height"])
        except (EOFError, ConnectionError, psutil.NoSuchProcess):
            raise self._died(timeout_s) from None

    def end(self) -> None:
        """Kill the child, whatever it does."""
        self._pipe.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def _allow_cpu(self, seconds: int) -> None:
        """Move the child's limit ahead of what it has used: SIGXCPU ends it beyond."""
        used = sum(psutil.Process(self._process.pid).cpu_times()[:2])
        resource.prlimit(self._process.pid, resource.RLIMIT_CPU, (int(used) + 1 + seconds, resource.RLIM_INFINITY))

    def _died(self, timeout_s: int) -> PictureError:
        ended = self._process.wait()
        if ended == -signal.SIGXCPU:
            return self._failed("decoder timed out", f"more than {timeout_s} s of CPU")
        how = f"signal {signal.Signals(-ended).name}" if ended < 0 else f"exit code {ended}"
        return self._failed("decoder crashed", f"its process ended with {how}")

    def _failed(self, code: Code, message: str) -> PictureError:
        self.usable = False
        return PictureError(code, message)


def _serve(pipe: Connection, decode: Decode, settings: PlannedSettings) -> None:
    """Say that all is loaded, then decode what comes until the other end closes."""
    pipe.send_bytes(b"ready")
    while True:
        try:
            data = pipe.recv_bytes()
        except EOFError:
            return
        try:
            picture = decode(data, settings)
        except PictureError as error:
            _answer(pipe, {"code": error.code, "message": error.message})
        except MemoryError:
            _answer(pipe, {"code": "decoder out of memory", "message": f"more than {MEMORY_BYTES:,} bytes"})
        else:
            pixels = picture.pixels
            _answer(pipe, {"shape": list(pixels.shape), "width": picture.width, "height": picture.height})
            pipe.send_bytes(pixels.tobytes())


def _answer(pipe: Connection, words: dict[str, object]) -> None:
    pipe.send_bytes(json.dumps(words).encode())


def limit_memory(extra_bytes: int) -> None:
    """Let this process have so many bytes more than it has now: beyond, allocations fail in it, and only in it."""
    with open("/proc/self/status") as file:
        used = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + extra_bytes, resource.RLIM_INFINITY))


def main(descriptor: str, decode: str, settings: str) -> None:
    """The child: decode what comes through the pipe with a module's function."""
    module, name = decode.split(":")
    limit_memory(MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    function: Decode = getattr(importlib.import_module(module), name)
    _serve(Connection(int(descriptor)), function, PlannedSettings.model_validate_json(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
