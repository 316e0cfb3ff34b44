"""An S3 store over HTTP: create-only puts, ranges and listings; archives read in place; a whole conversion there."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from obstore.store import S3Store

from ingest.dataset import Dataset
from ingest.errors import DamageError, RefusedError
from ingest.plan import make_plan
from ingest.settings import IngestSettings
from ingest.sources import detect
from ingest.storage import Place, StoredFile
from tests.conftest import TinySource
from tests.ingest import archives
from tests.ingest.conftest import Convert
from tests.ingest.shards import samples
from tests.s3_server import s3_server

BUCKET = "pictures"
PATIENCE_S = 200


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """A server on loopback with one bucket; the environment that leads to it."""
    with s3_server(BUCKET) as environment:
        yield environment


@pytest.fixture
def place(store: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Place:
    """An empty prefix of the bucket."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    return Place(f"s3://{BUCKET}/{request.node.name}")


def _upload(place: Place, folder: Path) -> Place:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place.put_new(str(path.relative_to(folder)), path.read_bytes())
    return place


def test_a_second_put_changes_nothing_and_says_so(place: Place) -> None:
    assert place.put_new("a/b", b"first")
    assert not place.put_new("a/b", b"second")
    assert place.get("a/b") == b"first"
    place.replace("a/b", b"third")
    assert place.get("a/b") == b"third"


def test_ranges_sizes_and_listings_name_what_lies_there(place: Place) -> None:
    place.put_new("train/n1/potter's wheel.JPEG", b"0123456789")
    place.put_new("top", b"x")
    assert place.get_range("train/n1/potter's wheel.JPEG", 3, 4) == b"3456"
    assert (place.size("top"), place.size("missing")) == (1, None)
    assert list(place.walk()) == [StoredFile("top", 1), StoredFile("train/n1/potter's wheel.JPEG", 10)]
    assert (place.folders(), place.folders("train"), place.files()) == (["train"], ["n1"], [StoredFile("top", 1)])
    place.move("top", "train/moved")
    place.delete("train/n1/potter's wheel.JPEG")
    assert [f.path for f in place.walk()] == ["train/moved"]
    with pytest.raises(FileNotFoundError):
        place.get("top")


def test_archives_are_read_in_place(place: Place, tiny_source: TinySource) -> None:
    source = detect(_upload(place, tiny_source.official).uri)
    entries = list(source.entries("train"))
    found = dict(zip((e.key for e in entries), source.read(source.place, entries), strict=True))
    assert found == archives.training_pictures(tiny_source.official)


def test_a_source_has_one_plan_wherever_it_lies(place: Place, tiny_source: TinySource) -> None:
    remote = detect(_upload(place, tiny_source.folders).uri)
    local = detect(str(tiny_source.official))
    records = [make_plan(source, IngestSettings(), "0" * 64).record for source in (remote, local)]
    assert records[0] == records[1]


@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_raw_tfrecord_dataset"])
def test_single_samples_of_a_dataset_in_the_store_are_those_on_disk_and_damage_is_named(
    name: str, place: Place, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    split = Dataset.open(_upload(place, Path(folder)).uri).split("val")
    assert [(split.key(row), split.payload(row)) for row in (29, 0, 7)] == [
        (s.key, s.payload) for s in (samples(folder, "val")[row] for row in (29, 0, 7))
    ]
    shard = split.shards[0].path
    named = re.escape(place.name(shard))
    place.replace(shard, bytes(split.shards[0].size))
    with pytest.raises(DamageError, match=f"{named}: the payload of {split.key(0)} at .* its checksum"):
        split.payload(0)
    place.delete(shard)
    with pytest.raises(DamageError, match=f"{named}: is gone; restore it"):
        split.payload(0)


class _Between(ThreadingHTTPServer):
    """Passes requests on to the store; what it loses on the way is up to the test."""

    daemon_threads = True

    def __init__(self, store: str, lost_header: str = "", num_broken: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _PassOn)
        self.store, self.lost_header, self.num_broken = store.removeprefix("http://"), lost_header, num_broken
        self.long_bodies = 0
        self.lock = threading.Lock()

    def breaks(self, size: int) -> bool:
        """True for every third body that is long, until enough were broken."""
        with self.lock:
            self.long_bodies += size > 1000
            if size <= 1000 or self.long_bodies % 3 or not self.num_broken:
                return False
            self.num_broken -= 1
            return True


class _PassOn(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Between

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {k: v for k, v in self.headers.items() if k.lower() != self.server.lost_header}
        store = http.client.HTTPConnection(self.server.store)
        store.request(self.command, self.path, body, headers)
        answer = store.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "date", "server", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") or str(len(data))
        self.send_header("Content-Length", size if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        store.close()
        if self.command == "GET" and self.server.breaks(len(data)):
            self.close_connection, data = True, data[: len(data) // 2]
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _between(monkeypatch: pytest.MonkeyPatch, **losses: Any) -> Iterator[_Between]:
    """A lossy server between this process, with all that it starts, and the store."""
    with _Between(os.environ["AWS_ENDPOINT_URL"], **losses) as server, monkeypatch.context() as patch:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _command(source: str, dataset: str, home: Path, samples_per_shard: int) -> subprocess.Popen[str]:
    """`tench ingest` in a session of its own."""
    arguments = [
        "ingest",
        source,
        dataset,
        "--samples-per-shard",
        str(samples_per_shard),
        "--num-actors",
        "1",
        "--json",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "TENCH_HOME": str(home)},
    )  # fmt: skip


def _facts(command: subprocess.Popen[str]) -> dict[str, Any]:
    """What the command says at its end."""
    out, said = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 0, said
    facts: dict[str, Any] = json.loads(out)
    return facts


def test_a_store_that_overwrites_is_refused_before_anything_is_converted(
    place: Place, tiny_source: TinySource, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _between(monkeypatch, lost_header="if-none-match"):
        with pytest.raises(RefusedError, match=r"this store overwrote plan.json.*conditional puts") as refused:
            convert(tiny_source.folders, f"{place.uri}/dataset")
        assert refused.value.exit_code == 3
    assert [f.path.rsplit("/", 1)[-1] for f in place.walk()] == ["plan.json"]


@pytest.mark.slow
def test_bodies_that_break_off_are_taken_up_again_and_the_dataset_is_the_same(
    place: Place, tiny_source: TinySource, tiny_dataset: str, manifest_of: Any, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    source = _upload(Place(f"{place.uri}/source"), tiny_source.official)
    with _between(monkeypatch, num_broken=40) as server:
        facts = _facts(_command(source.uri, f"{place.uri}/dataset", tmp_path, 16))
        assert server.num_broken == 0
    assert facts["dataset_id"] == manifest_of(tiny_dataset)["dataset_id"]


@pytest.mark.slow
def test_a_killed_command_is_taken_up_again_in_the_store(
    place: Place, tiny_source: TinySource, convert: Convert, tmp_path: Path
) -> None:
    dataset = Place(f"{place.uri}/dataset")
    command = _command(str(tiny_source.official), dataset.uri, tmp_path, 2)
    deadline = time.monotonic() + PATIENCE_S
    while (reports := sum(f.path.endswith(".json") for f in dataset.files("parts"))) < 5:
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    below = psutil.Process(command.pid).children(recursive=True)
    os.killpg(command.pid, signal.SIGKILL)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    command.communicate()
    assert not dataset.exists("manifest.json")
    facts = _facts(_command(str(tiny_source.official), dataset.uri, tmp_path, 2))
    assert facts["samples_converted"] <= 90 - 2 * reports
    assert facts["dataset_id"] == convert(tiny_source.official, tmp_path / "local", samples_per_shard=2)["dataset_id"]


@pytest.mark.slow
def test_a_dataset_in_the_store_is_the_one_on_disk(
    place: Place, tiny_source: TinySource, tiny_dataset: str, manifest_of: Any, tmp_path: Path
) -> None:
    source = _upload(Place(f"{place.uri}/source"), tiny_source.official)
    facts = _facts(_command(source.uri, f"{place.uri}/dataset", tmp_path, 16))
    assert facts["dataset_id"] == manifest_of(tiny_dataset)["dataset_id"]
    stored = S3Store(BUCKET, prefix=f"{place.uri.rsplit('/', 1)[-1]}/dataset")
    paths = [p for p in Path(tiny_dataset).rglob("*") if p.is_file() and p.name != "manifest.json"]
    names = {str(p.relative_to(tiny_dataset)): p for p in paths if p.parent.name != "plan"}
    assert len(names) > 20
    for name, path in names.items():
        assert bytes(stored.get(name).bytes()) == path.read_bytes(), name
