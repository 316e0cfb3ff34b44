"""The service as a process: store, Ray, watcher and HTTP together, until SIGTERM or Ctrl-C."""

import fcntl
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from cluster.access import Roots, Tokens, is_loopback
from cluster.api.app import guarded_app
from cluster.api.guard import Guard, Limits
from cluster.api.rates import Rate, Streams
from cluster.api.service import Service
from cluster.engines import note_place
from cluster.launcher import OpenRay, RayJobs, RayUnreachable
from cluster.ray_keeper import RayKeeper
from cluster.settings import ServeSettings
from cluster.store import Store
from cluster.watcher import Watcher
from ingest.confined import ROOTS
from ingest.errors import RefusedError
from ingest.progress import to_json
from ingest.storage import STAY_ON_HOST, Place

NOTE = "service.json"
"""HOME/service.json: address and pid of the service at work."""
DRIVERS_END_WITHIN_S = 15.0
STREAMS_END_WITHIN_S = 3
FIRST_LOOK_WITHIN_S = 30.0


def serve(settings: ServeSettings) -> int:
    """Serve until stopped; the exit code. Raises RefusedError if it must not or cannot start."""
    home = Path(settings.home).expanduser().absolute()
    tokens = _tokens(settings, home)
    home.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    with _only_service(home), _listening(settings) as listener, _ray(settings, home) as ray:
        _serve(settings, home, tokens, listener, ray)
    return 0


def _serve(settings: ServeSettings, home: Path, tokens: Tokens | None, listener: socket.socket, ray: RayJobs) -> None:
    roots = list(settings.root) or [str(home / "data")]
    for root in roots:
        if "://" not in root:
            Path(root).mkdir(parents=True, exist_ok=True)
    runs = Place(home / "runs")
    allowed = Roots(roots, settings.allow_source)
    os.environ |= {STAY_ON_HOST: "1", ROOTS: json.dumps(allowed.roots)}
    streams = Streams(settings.max_streams, settings.max_streams_per_caller)
    store = settings.store or str(home / "store.sqlite")
    service = Service(Store.open(store), ray, runs, allowed, streams)
    note_place(home, store)
    watcher = Watcher(service.store, ray, runs, allowed.roots, allowed.web_hosts)
    thread = threading.Thread(target=watcher.run, name="watcher")
    server = _Server(service, guarded_app(service, settings.host, tokens, _limits(settings)))
    thread.start()
    try:
        watcher.has_looked.wait(FIRST_LOOK_WITHIN_S)
        with _noted(home, _url(listener)):
            server.run_until_stopped(listener)
    finally:
        watcher.stop()
        thread.join()
        if settings.ray_address is None:
            print("Stopping: jobs at work keep what they have finished and go on with the next `tench serve`.",
                  file=sys.stderr)  # fmt: skip
            watcher.interrupt(DRIVERS_END_WITHIN_S)
        service.store.close()


def _limits(settings: ServeSettings) -> Limits:
    posts, reads = settings.posts_per_minute, settings.reads_per_second
    return Limits(Rate(posts / 60, posts), Rate(reads, 4 * reads))


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """The first signal unwinds what was started so far; another one must not cut that short."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


class _Server:
    """uvicorn on a socket that is bound already, ended by SIGTERM or SIGINT, which do not outlive it."""

    def __init__(self, service: Service, app: Guard) -> None:
        self._service = service
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=STREAMS_END_WITHIN_S,
        )  # fmt: skip
        self._server = uvicorn.Server(config)

    def run_until_stopped(self, listener: socket.socket) -> None:
        """Serve. uvicorn raises a signal again after its end: by then it must find a handler that does nothing."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        watched = threading.Thread(target=self._announce_end, name="end-of-streams", daemon=True)
        watched.start()
        self._server.run(sockets=[listener])

    def _announce_end(self) -> None:
        """Open streams end by themselves as soon as the server is to end, not by being cut."""
        pause = threading.Event()
        while not self._server.should_exit:
            pause.wait(0.1)
        self._service.stopping.set()


def _tokens(settings: ServeSettings, home: Path) -> Tokens | None:
    """The tokens that are asked for, None if none is. Raises RefusedError for an open door without any."""
    tokens = Tokens(Path(settings.token_file).expanduser() if settings.token_file else home / "tokens.json")
    if is_loopback(settings.host) and not settings.require_token and settings.token_file is None:
        return None
    if not tokens.listed():
        what = f"--host {settings.host} can be reached from elsewhere" if not is_loopback(settings.host) else "a token"
        raise RefusedError(
            f"{what}, which needs a token, and {tokens.path} holds none; `tench token add NAME` makes one, or listen "
            "on 127.0.0.1"
        )
    return tokens


@contextmanager
def _only_service(home: Path) -> Iterator[None]:
    """Hold HOME for this process. Raises RefusedError if another service has it."""
    with open(home / "service.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"{home}: another `tench serve` uses this home; stop it, or give another --home"
            ) from None
        yield


@contextmanager
def _listening(settings: ServeSettings) -> Iterator[socket.socket]:
    """A socket on the address, before anything else is started. Raises RefusedError if it is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With its protocol told, asyncio sends small answers at once (TCP_NODELAY), not after 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen()  # From here on the address is ours alone, and whoever asks early waits.
        except OSError as error:
            raise RefusedError(
                f"--host {settings.host} --port {settings.port}: cannot listen there ({error.strerror or error}); "
                "give another --port, or 0 for a free one"
            ) from error
        yield listener


@contextmanager
def _ray(settings: ServeSettings, home: Path) -> Iterator[RayJobs]:
    """The named cluster, or a Ray of our own that ends with the service."""
    if settings.ray_address is not None:
        ray = RayJobs(settings.ray_address.rstrip("/"), _cluster_token(), settings.allow_open_ray)
        _refuse_open(ray)
        yield ray
        ray.close()
        return
    keeper = RayKeeper(home, settings.num_cpus)
    try:
        yield keeper.ray
    finally:
        keeper.end()


def _refuse_open(ray: RayJobs) -> None:
    """Raise RefusedError for a Ray that answers anybody. One that does not answer yet is looked at once it does, and is
    shown as unknown until then."""
    try:
        ray.refuse_open()
    except OpenRay as error:
        raise RefusedError(error.message) from None
    except RayUnreachable as error:
        print(f"{error}; its jobs are shown as unknown until it does.", file=sys.stderr)


def _cluster_token() -> str | None:
    """The cluster's token as Ray itself finds it: RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(path).read_text().strip() if path else None


@contextmanager
def _noted(home: Path, url: str) -> Iterator[None]:
    """Tell people and programs where the service is."""
    note = home / NOTE
    note.write_bytes(to_json({"url": url, "pid": os.getpid()}))
    print(f"Tench is at {url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read_note(home: Path) -> str | None:
    """The address of the service at work in a home, None if there is none."""
    try:
        return str(json.loads((home / NOTE).read_text())["url"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
