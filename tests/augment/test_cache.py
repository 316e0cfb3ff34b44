"""The shard cache: its limit, its locks between processes that may be killed, and what it does with wrong bytes."""

import fcntl
import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augment.cache import ShardCache
from ingest.errors import DamageError, RefusedError, TenchError
from ingest.manifest import ShardFile
from ingest.storage import Place
from tests.augment.cache_worker import (
    MB,
    PATIENCE_S,
    Store,
    Worker,
    facts_of,
    files_in,
    num_waiting,
    peak_memory,
    until,
)
from tests.s3_server import s3_server

NUM_SHARDS = 6


@pytest.fixture
def store() -> Iterator[Store]:
    """Shards 0.arrow to 5.arrow of a million bytes each."""
    noise = np.random.default_rng(1)
    with Store({f"train/{k}.arrow": noise.bytes(MB) for k in range(NUM_SHARDS)}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.is_open.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def shards(store: Store) -> list[ShardFile]:
    return [facts_of(path, data) for path, data in store.files.items()]


Start = Callable[..., Worker]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def start(store: Store, folder: Path) -> Iterator[Start]:
    """Starts workers; those that still live at the end are killed."""
    workers: list[Worker] = []

    def begin(**settings: Any) -> Worker:
        workers.append(Worker(store, folder, **settings))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.kill()


def test_shards_of_an_s3_store_are_mapped_copy_on_write(
    store: Store, shards: list[ShardFile], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server("cached") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        place = Place("s3://cached/dataset")
        place.put_new(shards[0].path, store.files[shards[0].path])
        cache = ShardCache(folder, 2 * MB)
        mapped = cache.map(place, shards[0])
        with pytest.raises(DamageError, match="found no file"):
            cache.map(place, shards[1])
    assert (str(mapped.dtype), mapped.tobytes()) == ("uint8", store.files[shards[0].path])
    mapped[:] = 0
    assert cache.map(place, shards[0]).tobytes() == store.files[shards[0].path]


def test_a_later_process_fetches_nothing_that_is_there(start: Start, store: Store, shards: list[ShardFile]) -> None:
    first = start()
    assert first.do("map 0") == ["mapped", shards[0].sha256]
    first.kill()
    assert start().do("map 0") == ["mapped", shards[0].sha256]
    assert store.count(shards[0].path) == 1


def test_a_file_of_a_wrong_size_is_replaced(store: Store, shards: list[ShardFile], folder: Path) -> None:
    cache = ShardCache(folder, MB)
    cache.map(store.place, shards[0])
    [file] = folder.rglob(shards[0].sha256)
    os.truncate(file, 1000)
    assert cache.map(store.place, shards[0]).tobytes() == store.files[shards[0].path]
    assert files_in(folder) == {shards[0].sha256: MB}


def test_what_was_mapped_longest_ago_goes_first(store: Store, shards: list[ShardFile], folder: Path) -> None:
    cache = ShardCache(folder, 3 * MB)
    for k in (0, 1, 2, 0, 3):
        cache.map(store.place, shards[k])
    assert set(files_in(folder)) == {shards[k].sha256 for k in (0, 2, 3)}


def test_the_folder_keeps_to_its_limit_at_every_moment(start: Start, store: Store, folder: Path) -> None:
    workers = [start(limit=4 * MB) for _ in range(3)]
    orders = [np.random.default_rng(k).integers(0, NUM_SHARDS, 25).tolist() for k in range(3)]
    for worker, order in zip(workers, orders, strict=True):
        for k in order:
            worker.begin(f"map {k}\ndrop {k}")
    until((folder / "lock").exists)
    sizes = []
    threads = [threading.Thread(target=lambda w=w: [w.answer() for _ in range(50)]) for w in workers]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with open(folder / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # Without it a file may be counted under both its names.
            sizes.append(sum(files_in(folder).values()))
    assert len(store.asked) > NUM_SHARDS
    assert max(sizes) == 4 * MB


def test_only_a_shard_in_use_by_a_living_process_is_kept(start: Start, shards: list[ShardFile], folder: Path) -> None:
    first, second = start(limit=MB), start(limit=MB)
    first.do("map 0")
    kind, code, message = second.do("map 1")
    assert (kind, code) == ("failed", RefusedError.exit_code)
    for named in (shards[1].path, "needs 1,000,000 bytes", "1,000,000 in use", "raise it to 2,000,000", str(folder)):
        assert named in message
    assert set(files_in(folder)) == {shards[0].sha256}
    first.kill()
    assert second.do("map 1") == ["mapped", shards[1].sha256]
    assert set(files_in(folder)) == {shards[1].sha256}


def test_a_view_keeps_its_shard_in_use(store: Store, shards: list[ShardFile], folder: Path) -> None:
    cache = ShardCache(folder, MB)
    cache.map(store.place, shards[0])
    view = cache.map(store.place, shards[0])[10:20]  # Found there; the one before was fetched.
    cache.close()
    with pytest.raises(RefusedError):
        ShardCache(folder, MB).map(store.place, shards[1])
    del view
    assert ShardCache(folder, MB).map(store.place, shards[1])[0] == store.files[shards[1].path][0]


def test_a_shard_larger_than_the_cache_removes_nothing(store: Store, shards: list[ShardFile], folder: Path) -> None:
    ShardCache(folder, MB).map(store.place, shards[0])
    with pytest.raises(RefusedError, match="limit of the cache is 999,999; raise it to 1,000,000"):
        ShardCache(folder, MB - 1).map(store.place, shards[1])
    assert set(files_in(folder)) == {shards[0].sha256}


@pytest.mark.parametrize("is_killed", [False, True], ids=["once", "again by another if the first is killed"])
def test_two_processes_fetch_one_shard(
    start: Start, store: Store, shards: list[ShardFile], folder: Path, is_killed: bool
) -> None:
    store.is_open.clear()
    first, second = start(), start()
    first.begin("map 0")
    until(lambda: len(store.asked) == 1)
    [staged] = folder.rglob(shards[0].sha256)
    second.begin("map 0")
    until(lambda: num_waiting(staged) == 1)
    if is_killed:
        first.kill()
        until(lambda: len(store.asked) == 2)
    store.is_open.set()
    assert second.answer() == ["mapped", shards[0].sha256]
    assert is_killed or first.answer() == ["mapped", shards[0].sha256]
    assert store.count(shards[0].path) == 1 + is_killed
    assert files_in(folder) == {shards[0].sha256: MB}


@pytest.mark.parametrize("who", ["opens the cache", "needs the room"])
def test_what_a_killed_fetch_left_goes_with_the_next_that(
    start: Start, store: Store, shards: list[ShardFile], folder: Path, who: str
) -> None:
    earlier = ShardCache(folder, MB)
    store.is_open.clear()
    worker = start(limit=MB)
    worker.begin("map 0")
    until(lambda: len(store.asked) == 1)
    worker.kill()
    store.is_open.set()
    assert files_in(folder) == {shards[0].sha256: MB}
    if who == "opens the cache":
        ShardCache(folder, MB)
        assert files_in(folder) == {}
    else:
        earlier.map(store.place, shards[1])
        assert files_in(folder) == {shards[1].sha256: MB}


def test_a_living_fetch_is_not_swept(start: Start, store: Store, shards: list[ShardFile], folder: Path) -> None:
    store.is_open.clear()
    worker = start()
    worker.begin("map 0")
    until(lambda: len(store.asked) == 1)
    cache = ShardCache(folder, 2 * MB)
    store.is_open.set()
    cache.map(store.place, shards[1])
    assert worker.answer() == ["mapped", shards[0].sha256]
    assert store.count(shards[0].path) == 1


def test_a_map_waits_for_the_room_of_a_fetch_under_way(start: Start, store: Store, shards: list[ShardFile]) -> None:
    store.is_open.clear()
    first, second = start(limit=MB), start(limit=MB)
    first.do("ahead 0")
    until(lambda: len(store.asked) == 1)
    second.begin("map 1")
    time.sleep(1)
    store.is_open.set()
    assert second.answer() == ["mapped", shards[1].sha256]


def test_a_shard_that_arrives_wrong_is_fetched_once_more(store: Store, shards: list[ShardFile], folder: Path) -> None:
    store.wrong[shards[0].path] = 1
    assert ShardCache(folder, MB).map(store.place, shards[0]).tobytes() == store.files[shards[0].path]
    assert store.count(shards[0].path) == 2


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "gone"])
def test_a_shard_that_stays_wrong_is_named_and_never_seen(
    store: Store, shards: list[ShardFile], folder: Path, damage: str
) -> None:
    path = shards[0].path
    wrong = bytes([store.files[path][0] ^ 1]) + store.files[path][1:]
    found = {"other bytes": hashlib.sha256(wrong).hexdigest(), "shorter": "900,000 bytes", "gone": "no file"}[damage]
    store.files[path] = wrong[:900_000] if damage == "shorter" else wrong
    if damage == "gone":
        del store.files[path]
    with pytest.raises(DamageError) as raised:
        ShardCache(folder, MB).map(store.place, shards[0])
    for named in (f"{store.place.uri}/{path}", f"found {found}", shards[0].sha256, f"`tench verify {store.place.uri}`"):
        assert named in raised.value.message
    assert store.count(path) == (2 if damage == "other bytes" else 0)
    assert files_in(folder) == {}


def test_a_hash_that_is_a_path_leads_nowhere(store: Store, shards: list[ShardFile], tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    cache = ShardCache(tmp_path / "cache", MB)
    with pytest.raises(DamageError, match="precious"):
        cache.map(store.place, shards[0].model_copy(update={"sha256": "../../precious", "size": 9}))
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_disk_that_takes_no_more_is_named(store: Store, shards: list[ShardFile], folder: Path) -> None:
    cache = ShardCache(folder, MB)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(TenchError, match=rf"{folder}: cannot be written on .*File too large"):
            cache.map(store.place, shards[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (store.asked, files_in(folder)) == ([], {})


def test_a_fetch_holds_a_few_parts_in_memory(start: Start, store: Store) -> None:
    size = 256 * 2**20
    store.files["large"] = bytes(size)
    worker = start(limit=size)
    worker.do("ahead")
    before = peak_memory(worker.process.pid)
    worker.do(f"ahead {NUM_SHARDS}")
    until(lambda: store.count("large") == 32 and list(files_in(worker.folder / "shards").values()) == [size])
    assert peak_memory(worker.process.pid) - before < size / 2
    assert {stop - start for _, start, stop in store.asked} == {8 * 2**20}


def test_shards_are_there_before_they_are_mapped(store: Store, shards: list[ShardFile], folder: Path) -> None:
    cache = ShardCache(folder, 3 * MB)
    store.is_open.clear()
    cache.fetch_ahead(store.place, shards[:3])
    until(lambda: len(store.asked) == 1)
    store.is_open.set()
    until(lambda: set(files_in(folder / "shards")) == {shard.sha256 for shard in shards[:3]})
    assert [path for path, _, _ in store.asked] == [shard.path for shard in shards[:3]]
    cache.map(store.place, shards[2])
    cache.close()
    assert len(store.asked) == 3


def test_the_background_keeps_what_it_fetched_until_it_is_mapped(
    store: Store, shards: list[ShardFile], folder: Path
) -> None:
    cache = ShardCache(folder, 2 * MB)
    cache.fetch_ahead(store.place, shards[:4])
    for k in range(3):
        two = {shard.sha256 for shard in shards[k : k + 2]}
        until(partial(lambda two: set(files_in(folder / "shards")) == two, two))
        time.sleep(0.7)  # Longer than the background waits for room before it tries again.
        assert set(files_in(folder / "shards")) == two
        cache.map(store.place, shards[k])
    cache.map(store.place, shards[3])
    cache.close()
    assert [path for path, _, _ in store.asked] == [shard.path for shard in shards[:4]]


def test_what_is_mapped_goes_before_what_is_fetched_ahead(store: Store, shards: list[ShardFile], folder: Path) -> None:
    cache = ShardCache(folder, 2 * MB)
    cache.fetch_ahead(store.place, shards[:4])
    until(lambda: len(files_in(folder / "shards")) == 2)
    mapped = cache.map(store.place, shards[5])
    assert mapped.tobytes() == store.files[shards[5].path]
    cache.close()  # While the background waits for room, which there is none of as long as this is mapped.


def test_a_new_list_takes_the_place_of_what_was_not_begun(store: Store, shards: list[ShardFile], folder: Path) -> None:
    cache = ShardCache(folder, 6 * MB)
    store.is_open.clear()
    cache.fetch_ahead(store.place, shards[:3])
    until(lambda: len(store.asked) == 1)
    cache.fetch_ahead(store.place, shards[3:5])
    store.is_open.set()
    until(lambda: set(files_in(folder / "shards")) == {shards[k].sha256 for k in (0, 3, 4)})
    cache.close()
    assert [path for path, _, _ in store.asked] == [shards[k].path for k in (0, 3, 4)]


def test_what_fails_in_the_background_fails_aloud_when_mapped(
    store: Store, shards: list[ShardFile], folder: Path
) -> None:
    cache = ShardCache(folder, 3 * MB)
    store.wrong[shards[0].path] = 4
    cache.fetch_ahead(store.place, shards[:2])
    until(lambda: shards[1].sha256 in files_in(folder / "shards"))
    with pytest.raises(DamageError, match="fetched twice"):
        cache.map(store.place, shards[0])
    cache.close()


def test_close_ends_a_fetch_in_the_middle_and_leaves_nothing(store: Store, folder: Path) -> None:
    store.files["large"] = bytes(64 * 2**20)
    store.is_open.clear()
    cache = ShardCache(folder, 64 * 2**20)
    cache.fetch_ahead(store.place, [facts_of("large", store.files["large"])])
    until(lambda: len(store.asked) == 4)
    time.sleep(0.3)
    assert len(store.asked) == 4  # As many parts at once, and no more.
    closing = threading.Thread(target=cache.close)
    closing.start()
    store.is_open.set()
    closing.join(PATIENCE_S)
    assert len(store.asked) < 8
    assert files_in(folder) == {}
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("tench-cache")]


SCRIPT = """
import signal, sys; signal.alarm(30)
from pathlib import Path
from augment.cache import ShardCache
from ingest.manifest import ShardFile
from ingest.storage import Place
cache = ShardCache(Path(sys.argv[1]), int(sys.argv[4]))
cache.fetch_ahead(Place(sys.argv[2]), [ShardFile.model_validate_json(sys.argv[3])])
input()
"""


@pytest.mark.parametrize(("limit", "num_asked"), [(2**28, 4), (MB, 0)], ids=["in a fetch", "waiting for room"])
def test_a_program_that_ends_without_close_ends_cleanly(store: Store, folder: Path, limit: int, num_asked: int) -> None:
    store.files["large"] = bytes(128 * 2**20)
    store.is_open.clear()
    facts = facts_of("large", store.files["large"]).model_dump_json()
    command = [sys.executable, "-c", SCRIPT, str(folder), store.place.uri, facts, str(limit)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        until(lambda: len(store.asked) == num_asked)
        threading.Timer(0.5, store.is_open.set).start()
        _, said = program.communicate("\n")
    assert (program.returncode, said) == (0, "")
    ShardCache(folder, MB)
    assert files_in(folder) == {}
