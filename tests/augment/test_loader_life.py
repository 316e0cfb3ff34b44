"""How a loader begins, ends and refuses: no thread left behind, no wait without end, differences named."""

import gc
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from augment.buffers import Buffers
from augment.loader import Loader
from augment.settings import LoaderSettings
from augment.workers import Workers, run_alone
from ingest.errors import RefusedError, UsageError

SETTINGS = LoaderSettings(global_batch=16, threads=2)


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tench-")]


def test_no_thread_outlives_a_closed_loader(tiny_dataset: str) -> None:
    with Loader(tiny_dataset, SETTINGS) as loader:
        next(iter(loader))
        for _ in loader:
            break
        assert next(iter(loader)).images.shape == (16, 3, 224, 224)
        iterator = iter(loader)
        next(iterator)
        assert loader_threads()
    assert loader_threads() == []


def test_a_forgotten_iterator_ends_its_thread(tiny_dataset: str) -> None:
    loader = Loader(tiny_dataset, SETTINGS)
    iterator = iter(loader)
    next(iterator)
    del iterator, loader
    gc.collect()
    assert loader_threads() == []


def test_an_iterator_that_was_overtaken_says_so_and_does_not_wait(tiny_dataset: str) -> None:
    with Loader(tiny_dataset, SETTINGS) as loader:
        old = iter(loader)
        next(old)
        new = iter(loader)
        next(new)
        with pytest.raises(RuntimeError, match="begun anew"):
            next(old)
        assert len(list(new)) == 3
        assert loader.state_dict()["step"] == 4


def test_a_new_epoch_does_not_leak_into_a_running_one(tiny_dataset: str) -> None:
    with Loader(tiny_dataset, SETTINGS) as loader:
        undisturbed = [batch.sample_numbers.tolist() for batch in loader]
        iterator = iter(loader)
        disturbed = [next(iterator).sample_numbers.tolist()]
        loader.share(0)
        loader.set_epoch(1)
        loader.share(0)
        disturbed += [batch.sample_numbers.tolist() for batch in iterator]
        assert disturbed == undisturbed


def test_a_closed_loader_can_be_iterated_again(tiny_dataset: str) -> None:
    loader = Loader(tiny_dataset, SETTINGS)
    first = [batch.images for batch in loader]
    loader.close()
    assert all(torch.equal(a, b.images) for a, b in zip(first, loader, strict=True))
    loader.close()


SCRIPT = """
import sys
from augment.loader import Loader
from augment.settings import LoaderSettings
loader = Loader(sys.argv[1], LoaderSettings(global_batch=4))
iterator = iter(loader)
next(iterator)
if sys.argv[2] == "raise":
    raise ValueError("in mid-epoch")
"""


@pytest.mark.parametrize(("how", "code"), [("raise", 1), ("end", 0)])
def test_a_program_that_ends_in_mid_epoch_ends_cleanly(tiny_dataset: str, how: str, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, tiny_dataset, how], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code, ended.stderr
    assert ("in mid-epoch" in ended.stderr) == (how == "raise")
    assert "Fatal" not in ended.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 9}, "seed is 9, this loader's is 0"),
        ({"global_batch": 8}, "global_batch is 8, this loader's is 16"),
        ({"order": "fixed"}, "order is fixed, this loader's is permuted"),
        ({"tail": "wrap"}, "tail is wrap, this loader's is short"),
        ({"crop_chunk": 32}, "crop_chunk is 32, this loader's is 1"),
        ({"window": 3}, "window is 3, this loader's is 0"),
    ],
)
def test_a_state_of_another_order_is_refused_with_the_difference(
    tiny_dataset: str, change: dict[str, Any], named: str
) -> None:
    state = Loader(tiny_dataset, SETTINGS.model_copy(update=change)).state_dict()
    with pytest.raises(RefusedError, match=named):
        Loader(tiny_dataset, SETTINGS).load_state_dict(state)


def test_a_state_of_other_data_is_refused(tiny_dataset: str, tiny_raw_dataset: str, tiny_tfrecord_dataset: str) -> None:
    state = Loader(tiny_dataset, SETTINGS).state_dict()
    with pytest.raises(RefusedError, match=f"content_id is {state['content_id']}"):
        Loader(tiny_raw_dataset, SETTINGS).load_state_dict(state)
    with pytest.raises(RefusedError, match="split is train, this loader's is val"):
        Loader(tiny_dataset, SETTINGS, split="val").load_state_dict(state)
    with pytest.raises(RefusedError, match="step 5, but an epoch has 4"):
        Loader(tiny_dataset, SETTINGS).load_state_dict(state | {"step": 5})
    Loader(tiny_tfrecord_dataset, SETTINGS).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "how", "message"),
    [
        ({"crop": 300}, {}, "crop: 300 pixels, but the pictures of .* have 256"),
        ({}, {"rank": 2, "world_size": 2}, "rank 2: expected 0 to 1"),
        ({}, {"views": 5}, "views 5: expected"),
        ({"tail": "drop", "global_batch": 61}, {}, "more than the 60 samples"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tiny_dataset: str, settings: dict[str, Any], how: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Loader(tiny_dataset, LoaderSettings(**settings), **how)


def test_an_unknown_split_is_refused_with_those_there_are(tiny_dataset: str) -> None:
    with pytest.raises(RefusedError, match="train, val"):
        Loader(tiny_dataset, SETTINGS, split="test")


def test_the_loader_leaves_torchs_threads_as_they_were(tiny_dataset: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with Loader(tiny_dataset, SETTINGS) as loader:
        next(iter(loader))
        assert torch.get_num_threads() == 3
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [3]
    torch.set_num_threads(before)


def test_workers_run_torch_on_one_thread_each_and_divide_without_gaps() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    parts: list[tuple[int, int]] = []

    def work(start: int, stop: int) -> None:
        parts.append((start, stop))
        seen.append(torch.get_num_threads())

    def drive() -> None:
        run_alone()
        workers = Workers(3)
        torch.set_num_threads(1)
        workers.each(work, 10)
        workers.close()

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert sorted(parts) == [(0, 3), (3, 6), (6, 10)]
    assert seen == [1, 1, 1]


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    buffers = Buffers(keep=3)
    first = buffers.empty((4, 5), torch.float32)
    view, place = first[2:].permute(1, 0), first.data_ptr()
    del first
    second = buffers.empty((4, 5), torch.float32)
    assert second.data_ptr() != place
    del view
    assert buffers.empty((2, 5), torch.float32).data_ptr() == place
    held = [buffers.empty((4, 5), torch.uint8) for _ in range(10)]
    assert len({tensor.data_ptr() for tensor in held}) == 10
