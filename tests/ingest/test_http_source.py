"""Archives on a web server: found by their names, read by ranges, never written to."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import RefusedError, TenchError
from ingest.plan import make_plan
from ingest.run import plan_only
from ingest.settings import IngestSettings
from ingest.sources import Source, detect
from ingest.sources.tar_index import REMOTE_AHEAD, REMOTE_THREADS, TarMember, nested_members
from ingest.storage import BODY_ATTEMPTS, Place
from tests.conftest import TinySource
from tests.ingest import archives


class _Ranges(SimpleHTTPRequestHandler):
    """A folder over HTTP, with ranges: what Python's own server does not have."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file():
            super().do_GET()
            return
        first, last = int(wanted[1]), min(int(wanted[2]), path.stat().st_size - 1)
        with self.server.counted(), open(path, "rb") as file:
            file.seek(first)
            data = file.read(last + 1 - first)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{path.stat().st_size}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.server.broken > 0 and len(data) > 1:
                self.server.broken -= 1
                self.close_connection, data = True, data[: len(data) // 2]
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """A server of one folder that counts what is asked for side by side."""

    def __init__(self, folder: Path, handler: type[SimpleHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), lambda *args: handler(*args, directory=str(folder)))
        self.broken, self.pause_s = 0, 0.0
        self.at_once, self.most = 0, 0
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(self.pause_s)
        with self._lock:
            self.at_once -= 1  # before the answer: whoever has it may ask again at once
        yield


@contextmanager
def _serving(folder: Path, handler: type[SimpleHTTPRequestHandler] = _Ranges) -> Iterator[_Server]:
    with _Server(folder, handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _pictures(source: Source, split: str) -> dict[str, bytes]:
    entries = list(source.entries(split))
    return dict(zip((e.key for e in entries), source.read(source.place, entries), strict=True))


def test_archives_are_found_by_their_names_and_read_in_place(tiny_source: TinySource) -> None:
    with _serving(tiny_source.official.parent) as server:
        source = detect(f"{server.uri}/official")
        assert _pictures(source, "train") == archives.training_pictures(tiny_source.official)
        assert _pictures(source, "val") == archives.validation_pictures(tiny_source.official)
        remote = make_plan(source, IngestSettings(), "0" * 64).record
    assert remote == make_plan(detect(str(tiny_source.official)), IngestSettings(), "0" * 64).record


def _class_tars(folder: Path, number: int) -> list[str]:
    """A whole archive of classes whose pictures lie further apart than what is read ahead; its keys."""
    wnids = [f"n{n:08d}" for n in range(number)]
    classes = {w: [(f"{w}_{n}.JPEG", bytes(70_000 + n)) for n in range(3)] for w in wnids}
    (folder / "fall11_whole.tar").write_bytes(archives.train_tar(classes))
    return [f"{w}/{w}_{n}" for w in wnids for n in range(3)]


def test_class_archives_are_listed_side_by_side_and_in_order(tmp_path: Path) -> None:
    keys = _class_tars(tmp_path, 40)
    with _serving(tmp_path) as server:
        source = detect(server.uri)
        source.synsets()
        server.pause_s = 0.01
        server.most = 0
        assert [e.key for e in source.entries("train")] == keys
        assert 4 < server.most <= REMOTE_THREADS


def test_no_more_class_archives_are_listed_ahead_than_is_said(tmp_path: Path) -> None:
    (tmp_path / "n00000001.tar").write_bytes(archives.tar_bytes([("n00000001_1.JPEG", b"1")]))
    tar, drawn = TarMember("n00000001.tar", 0, (tmp_path / "n00000001.tar").stat().st_size), list[int]()

    def tars() -> Iterator[tuple[str, TarMember]]:
        for number in range(10 * REMOTE_AHEAD):
            drawn.append(number)
            yield "n00000001.tar", tar

    with _serving(tmp_path) as server, closing(nested_members(Place(server.uri), tars())) as listed:
        for number in range(3):
            next(listed)
            assert len(drawn) == REMOTE_AHEAD + number


def test_a_cut_class_archive_is_refused_by_name(tmp_path: Path) -> None:
    _class_tars(tmp_path, 4)
    whole = (tmp_path / "fall11_whole.tar").read_bytes()
    damaged = whole.replace(b"n00000002_1", b"n00000002_X", 1)
    (tmp_path / "fall11_whole.tar").write_bytes(damaged)
    with _serving(tmp_path) as server, pytest.raises(RefusedError, match=r"fall11_whole.tar: not a whole tar archive"):
        list(detect(server.uri).entries("train"))


def test_a_server_without_ranges_is_refused(tiny_source: TinySource) -> None:
    class Plain(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _serving(tiny_source.official, Plain) as server:
        source = detect(server.uri)
        with pytest.raises(
            RefusedError, match=f"{archives.TRAIN}: asked for a part of it, this server sends all of it"
        ):
            list(source.entries("train"))


def test_a_body_that_breaks_off_is_asked_for_again_and_not_for_ever(tiny_source: TinySource) -> None:
    wanted = archives.training_pictures(tiny_source.official)
    with _serving(tiny_source.official) as server:
        source = detect(server.uri)
        server.broken = BODY_ATTEMPTS - 1
        assert _pictures(source, "train") == wanted
        server.broken = 10**6
        with pytest.raises(TenchError, match=rf"{archives.VAL}: broke off {BODY_ATTEMPTS} times"):
            list(source.entries("val"))


def test_a_server_without_archives_is_refused_with_what_was_asked_for(tiny_source: TinySource) -> None:
    with _serving(tiny_source.folders) as server:
        with pytest.raises(RefusedError, match=rf"a web server lists nothing: {archives.TRAIN}, .*fall11_whole.tar"):
            detect(server.uri)
        with pytest.raises(RefusedError, match="read only and lists nothing"):
            Place(server.uri).files()


def test_a_web_server_is_no_place_for_a_dataset(tiny_source: TinySource, tmp_path: Path) -> None:
    with _serving(tmp_path) as server:
        with pytest.raises(RefusedError, match="a web server is read only"):
            plan_only(str(tiny_source.official), f"{server.uri}/dataset", IngestSettings())
        with pytest.raises(RefusedError, match="a web server is read only"):
            Place(server.uri).put_new("a", b"1")
    assert list(tmp_path.iterdir()) == []
