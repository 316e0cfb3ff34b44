"""How the service finds datasets in object stores, and what it tells of a store that does not answer."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import buckets
from cluster.datasets import Library
from ingest.storage import Place
from tests.cluster.served import serving
from tests.s3_server import s3_server

BUCKET = "s3://listed"
Upload = Callable[[str], str]


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """The environment that leads to a server with one bucket."""
    with s3_server(BUCKET.removeprefix("s3://")) as environment:
        yield environment


@pytest.fixture
def upload(store: dict[str, str], tiny_dataset: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upload]:
    """Copies the tiny dataset into a folder of the bucket, which is emptied afterwards."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    bucket = Place(BUCKET)

    def copy(folder: str) -> str:
        for path in sorted(Path(tiny_dataset).rglob("*")):
            if path.is_file():
                bucket.put_new(f"{folder}/{path.relative_to(tiny_dataset)}", path.read_bytes())
        return f"{BUCKET}/{folder}"

    yield copy
    for file in list(bucket.walk()):
        bucket.delete(file.path)


def id_of(dataset: str) -> str:
    return str(json.loads(Path(dataset, "manifest.json").read_text())["dataset_id"])


def test_datasets_of_a_bucket_and_of_a_folder_are_listed_together(
    upload: Upload, tiny_dataset: str, tmp_path: Path
) -> None:
    here = str(shutil.copytree(tiny_dataset, tmp_path / "here"))
    uris = [upload("sets/year/one"), upload("two"), upload("a/b/c/deepest")]
    upload("a/b/c/d/too-deep")
    Place(BUCKET).put_new("broken/manifest.json", b"no JSON")
    library = Library([str(tmp_path), BUCKET, f"{BUCKET}/sets"])
    found = library.datasets()
    assert [(d["name"], d["uri"]) for d in found] == sorted((u.rsplit("/", 1)[1], u) for u in [*uris, here])
    assert [{**d, "name": "", "uri": ""} for d in found] == [{**found[0], "name": "", "uri": ""}] * 4
    assert library.unfinished() == []


def test_a_dataset_that_has_just_come_is_found_by_its_id_and_one_that_went_is_not(
    upload: Upload, tiny_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.datasets.AGAIN_S", 0)
    library, known = Library([BUCKET]), id_of(tiny_dataset)
    assert library.find(known) is None
    uri = upload("new")
    assert library.datasets() == []  # the last look is young
    assert library.find(known) == {**library.datasets()[0], "uri": uri}
    Place(uri).delete("manifest.json")
    library.expire()
    assert library.datasets() == []


def test_a_look_that_began_before_something_went_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = threading.Semaphore(0), threading.Event()

    def search(root: Place) -> tuple[buckets.Found, bool]:
        began.release()
        assert go_on.wait(30)
        return [], True

    monkeypatch.setattr(buckets, "search", search)
    monkeypatch.setattr(buckets, "PATIENCE_S", 0.1)
    library = Library([BUCKET])
    library.datasets()
    assert began.acquire(timeout=30)
    library.expire()
    go_on.set()
    monkeypatch.setattr(buckets, "PATIENCE_S", 30)
    for _ in range(3):
        library.datasets()
    assert began.acquire(timeout=30)
    assert not began.acquire(blocking=False), "the second look is young"


def test_a_bucket_of_too_many_folders_is_named(upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = [upload(f"set-{number}") for number in range(3)]
    monkeypatch.setattr(buckets, "MAX_FOLDERS", 3)
    library = Library([BUCKET])
    assert [d["uri"] for d in library.datasets()] == uris[:2]
    assert library.unfinished() == [BUCKET]


def test_a_store_that_does_not_answer_is_named_and_the_others_are_listed_meanwhile(
    tiny_dataset: str, tmp_path: Path, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = str(shutil.copytree(tiny_dataset, tmp_path / "here"))
    monkeypatch.setattr(buckets, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in (store | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}).items():
            monkeypatch.setenv(name, value)
        library = Library([str(tmp_path), BUCKET])
        assert [d["uri"] for d in library.datasets()] == [here]
        assert library.unfinished() == [BUCKET]
        assert library.find(id_of(here)) == library.datasets()[0]


def test_the_service_lists_shows_and_removes_a_dataset_in_a_bucket(
    upload: Upload, tiny_dataset: str, tmp_path: Path, no_ray: str
) -> None:
    uri, known = upload("sets/tiny"), id_of(tiny_dataset)
    with serving(tmp_path, no_ray, "--root", BUCKET) as service:
        assert [d["uri"] for d in service.get("/v1/datasets").json()["datasets"]] == [uri]
        assert service.get(f"/v1/datasets/{known}").json()["damage"] is None
        answer = service.get(f"/v1/datasets/{known}/contact.png")
        assert (answer.status, answer.body[:4]) == (200, b"\x89PNG")
        assert service.ask("DELETE", f"/v1/datasets/{known}").json()["removed"] == uri
        assert service.get("/v1/datasets").json() == {"datasets": [], "unfinished": []}
    assert list(Place(BUCKET).walk()) == []
