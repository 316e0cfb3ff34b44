"""An S3 store over HTTP: create-only puts, ranges and listings; archives read in place; a whole conversion there."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from ingest.plan import make_plan
from ingest.settings import IngestSettings
from ingest.sources import detect
from ingest.storage import Place, StoredFile
from tests.conftest import TinySource
from tests.ingest import archives

BUCKET = "pictures"


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """A server on loopback with one bucket; the environment that leads to it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")).close()
    yield environment
    server.stop()


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


@pytest.mark.slow
def test_a_dataset_in_the_store_is_the_one_on_disk(
    place: Place, tiny_source: TinySource, tiny_dataset: str, manifest_of: Any, tmp_path: Path
) -> None:
    source = _upload(Place(f"{place.uri}/source"), tiny_source.official)
    command = ["ingest", source.uri, f"{place.uri}/dataset", "--samples-per-shard", "16", "--num-actors", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", *command], capture_output=True, text=True, check=False,
        env={**os.environ, "TENCH_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dataset_id"] == manifest_of(tiny_dataset)["dataset_id"]
    stored = S3Store(BUCKET, prefix=f"{place.uri.rsplit('/', 1)[-1]}/dataset")
    paths = [p for p in Path(tiny_dataset).rglob("*") if p.is_file() and p.name != "manifest.json"]
    names = {str(p.relative_to(tiny_dataset)): p for p in paths if p.parent.name != "plan"}
    assert len(names) > 20
    for name, path in names.items():
        assert bytes(stored.get(name).bytes()) == path.read_bytes(), name
