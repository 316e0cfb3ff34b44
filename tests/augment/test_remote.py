"""A dataset in an object store (the S3 protocol, on loopback): the same batches, through a cache that keeps its limit."""

import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from augment.loader import Batch, Loader
from augment.settings import LoaderSettings
from ingest.errors import DamageError, RefusedError, TenchError
from ingest.storage import Place
from tests.augment.stored import Stored
from tests.s3_server import s3_server

Upload = Callable[[str], str]


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """The environment that leads to a server with one bucket."""
    with s3_server("sets") as environment:
        yield environment


@pytest.fixture
def upload(store: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Upload:
    """Copies a dataset into the store; its address there."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)

    def copy(dataset: str) -> str:
        place = Place(f"s3://sets/{request.node.name}")
        for path in sorted(Path(dataset).rglob("*")):
            if path.is_file():
                place.put_new(str(path.relative_to(dataset)), path.read_bytes())
        return place.uri

    return copy


def settings(cache: Path, **change: Any) -> LoaderSettings:
    return LoaderSettings(**({"global_batch": 16, "cache": str(cache), "cache_gb": 1.0, "seed": 2} | change))


def epochs(dataset: str, chosen: LoaderSettings, count: int = 2, **how: Any) -> list[Batch]:
    with Loader(dataset, chosen, **how) as loader:
        found = []
        for epoch in range(count):
            loader.set_epoch(epoch)
            found += list(loader)
        return found


def cached(folder: Path) -> dict[str, int]:
    """Size of each shard in a cache, by SHA-256."""
    return {path.name: path.stat().st_size for path in (folder / "shards").iterdir()}


def stored(folder: Path) -> int:
    """Bytes of all files in a cache, counted while no shard can move from one of its folders into the other."""
    with open(folder / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_raw_dataset", "tiny_tfrecord_dataset"])
def test_batches_are_those_of_the_local_dataset(
    name: str, window: int, upload: Upload, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    local = request.getfixturevalue(name)
    chosen = settings(tmp_path, window=window)
    for world_size in (1, 2):
        for rank in range(world_size):
            ranks = {"rank": rank, "world_size": world_size}
            there = epochs(upload(local), chosen, **ranks)
            here = epochs(local, chosen, **ranks)
            assert len(there) == 8
            for one, other in zip(there, here, strict=True):
                assert torch.equal(one.images, other.images)
                assert torch.equal(one.sample_numbers, other.sample_numbers)
                assert torch.equal(one.labels, other.labels)


def test_a_cache_of_two_windows_is_enough_and_is_kept_to(upload: Upload, tiny_raw_dataset: str, tmp_path: Path) -> None:
    sizes = [s["size"] for s in Stored(Path(tiny_raw_dataset)).manifest["splits"]["train"]["shards"]]
    limit = (sum(sizes[:2]) + 4096) / 1e9
    chosen = settings(tmp_path, window=1, global_batch=8, cache_gb=limit)
    seen = 0
    with Loader(upload(tiny_raw_dataset), chosen) as loader:
        for epoch in range(2):
            loader.set_epoch(epoch)
            for batch in loader:
                seen += len(batch.labels)
                assert stored(tmp_path) <= limit * 1e9
    assert seen == 120
    assert 1 <= len(cached(tmp_path)) <= 2
    assert list((tmp_path / "staged").iterdir()) == []


def test_a_window_that_the_cache_cannot_hold_is_refused(upload: Upload, tiny_raw_dataset: str, tmp_path: Path) -> None:
    uri = upload(tiny_raw_dataset)
    with pytest.raises(RefusedError, match=r"two windows of 2 shards take .* smaller window"):
        Loader(uri, settings(tmp_path, window=2, cache_gb=0.009))
    with pytest.raises(RefusedError, match="set a window of shards within which the order permutes"):
        Loader(uri, settings(tmp_path, cache_gb=0.009))
    Loader(uri, settings(tmp_path, window=1, cache_gb=0.009)).close()


def test_a_rank_fetches_only_the_shards_that_it_reads(upload: Upload, tiny_dataset: str, tmp_path: Path) -> None:
    uri = upload(tiny_dataset)
    sha = [s["sha256"] for s in Stored(Path(tiny_dataset)).manifest["splits"]["train"]["shards"]]
    for rank in range(2):
        folder = tmp_path / str(rank)
        # Batches of two shards in the dataset's order: the first rank has the first of both.
        chosen = settings(folder, window=2, order="fixed", global_batch=32, tail="drop")
        epochs(uri, chosen, rank=rank, world_size=2)
        assert set(cached(folder)) == {sha[rank]}


def test_a_second_loader_finds_what_the_first_has_fetched(
    upload: Upload, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, chosen = upload(tiny_dataset), settings(tmp_path)
    first = epochs(uri, chosen)
    fetched: list[str] = []
    plain = Place.get_range

    def get_range(self: Place, path: str, *rest: Any) -> bytes:
        fetched.append(path)
        return plain(self, path, *rest)

    monkeypatch.setattr(Place, "get_range", get_range)
    again = epochs(uri, chosen)
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, again, strict=True))
    assert fetched == []


def test_a_shard_that_changed_in_the_store_is_named(upload: Upload, tiny_dataset: str, tmp_path: Path) -> None:
    uri = upload(tiny_dataset)
    data = bytearray(Place(uri).get("train/00001.arrow"))
    data[len(data) // 2] ^= 1
    Place(uri).replace("train/00001.arrow", bytes(data))
    with pytest.raises(DamageError, match=r"train/00001\.arrow"):
        epochs(uri, settings(tmp_path))
    with Loader(uri, settings(tmp_path, damaged="replace")) as loader:
        taken = torch.cat([batch.sample_numbers for batch in loader]).tolist()
        assert sorted(loader.damaged) == list(range(16, 32))
        assert sorted(taken) == sorted([*range(16), *[32] * 16, *range(32, 60)])


def test_a_store_that_is_gone_ends_in_words(
    upload: Upload, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loader(upload(tiny_dataset), settings(tmp_path)) as loader:
        Place(loader.dataset.uri).delete("train/00002.arrow")
        with pytest.raises(TenchError, match=r"train/00002\.arrow"):
            list(loader)
