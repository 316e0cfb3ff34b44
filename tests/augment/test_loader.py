"""What the loader delivers: the reference's pixels, bit for bit, whoever asks for them and however often."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from augment import reference
from augment.choices import choose
from augment.loader import Batch, Loader
from augment.settings import LoaderSettings
from augment.views import evaluation_views
from ingest.dataset import Dataset
from tests.augment.stored import SIDE, Stored

DATASETS = ["tiny_dataset", "tiny_raw_dataset", "tiny_tfrecord_dataset"]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"output": "uint8"},
    {"mean": "centre", "colour": "paper", "divide": 1.1},
    {"mean": "channel", "colour": "none", "crop": 227, "divide": 57.3},
    {"mean": "centre", "colour_until_epoch": 4, "divide": 1.1},
    {"mean": "centre", "colour_until_epoch": 3, "divide": 1.1},
    {"colour_until_epoch": 0, "divide": 7.0, "divide_test": 57.3},
    {"mean": "published", "crop": 101},
    {"mean": "none", "crop": 256, "flip": False, "crop_chunk": 8},
    {"crop": 31, "order": "fixed", "tail": "wrap", "window": 2},
]


def expected(stored: Stored, settings: LoaderSettings, epoch: int, rows: npt.NDArray[np.int64], start: int) -> Any:
    """(n, 3, crop, crop) of rows at consecutive positions from `start`, made by the reference."""
    pca = Dataset.open(str(stored.folder)).pca
    chosen = choose(settings, SIDE, pca, epoch, rows, np.arange(start, start + len(rows)))
    images = []
    for i, row in enumerate(rows):
        y, x, mirror = int(chosen.y[i]), int(chosen.x[i]), bool(chosen.mirror[i])
        pixels: npt.NDArray[Any] = reference.crop_and_flip(stored.pictures[row], y, x, mirror, settings.crop)
        if settings.output != "uint8":
            mean = reference.mean_under(stored.mean, settings.mean, y, x, mirror, settings.crop)
            until = settings.colour_until_epoch
            divide = settings.divide if until is None or epoch < until else settings.divide_test
            pixels = reference.finished(pixels, mean, chosen.offset[i], divide)
        images.append(pixels.transpose(2, 0, 1))
    return np.stack(images)


def batches(dataset: str, settings: LoaderSettings, epoch: int = 0, **how: Any) -> list[Batch]:
    with Loader(dataset, settings, **how) as loader:
        loader.set_epoch(epoch)
        return list(loader)


def check_against_the_reference(dataset: str, **how: Any) -> None:
    """An epoch of batches of 25 equals the reference bit for bit, and holds every sample."""
    stored, settings = Stored(Path(dataset)), LoaderSettings(global_batch=25, seed=5, **how)
    found = batches(dataset, settings, epoch=3)
    assert len(found) == 3
    for step, batch in enumerate(found):
        rows = batch.sample_numbers.numpy()
        assert np.array_equal(batch.images.numpy(), expected(stored, settings, 3, rows, step * 25))
        assert np.array_equal(batch.labels.numpy(), stored.labels[rows])
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    seen = torch.cat([batch.sample_numbers for batch in found])[: len(stored.index)]
    assert sorted(seen.tolist()) == list(range(len(stored.index)))


def joined(shares: list[list[Batch]], step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and sample numbers of a global batch, from its ranks' shares."""
    places = torch.cat([share[step].places for share in shares]).argsort()
    images = torch.cat([share[step].images for share in shares])[places]
    return images, torch.cat([share[step].sample_numbers for share in shares])[places]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("name", DATASETS)
def test_batches_equal_the_reference_bit_for_bit(
    name: str, variant: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    check_against_the_reference(request.getfixturevalue(name), **variant)


def test_bfloat16_is_the_float32_batch_rounded_once(tiny_dataset: str) -> None:
    exact = batches(tiny_dataset, LoaderSettings(global_batch=25))
    rounded = batches(tiny_dataset, LoaderSettings(global_batch=25, output="bfloat16"))
    for one, other in zip(exact, rounded, strict=True):
        assert other.images.dtype == torch.bfloat16
        assert torch.equal(one.images.to(torch.bfloat16), other.images)


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_global_batches_are_the_same_for_any_world_size(tiny_dataset: str, world_size: int, window: int) -> None:
    settings = LoaderSettings(global_batch=16, window=window, threads=1)
    (whole,) = [batches(tiny_dataset, settings, epoch=2)]
    shares = [batches(tiny_dataset, settings, epoch=2, rank=r, world_size=world_size) for r in range(world_size)]
    for step, batch in enumerate(whole):
        images, numbers = joined(shares, step)
        assert torch.equal(numbers, batch.sample_numbers)
        assert torch.equal(images, batch.images)


def test_a_rank_without_samples_in_the_tail_still_gets_a_batch(tiny_dataset: str) -> None:
    settings = LoaderSettings(global_batch=58)
    last = [batches(tiny_dataset, settings, rank=rank, world_size=4)[-1] for rank in range(4)]
    assert [len(batch.labels) for batch in last] == [1, 1, 0, 0]
    assert last[3].images.shape == (0, 3, 224, 224)


def test_threads_and_prefetch_do_not_change_a_bit(tiny_dataset: str) -> None:
    one, other = (
        batches(tiny_dataset, LoaderSettings(global_batch=20, threads=threads, prefetch=prefetch))
        for threads, prefetch in ((1, 1), (5, 6))
    )
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("delivered", [0, 1, 3, 4])
def test_resuming_in_mid_epoch_equals_an_unbroken_epoch(tiny_dataset: str, delivered: int) -> None:
    settings = LoaderSettings(global_batch=16, seed=2)
    unbroken = batches(tiny_dataset, settings, epoch=4)
    with Loader(tiny_dataset, settings) as loader:
        loader.set_epoch(4)
        for _ in zip(range(delivered), loader, strict=False):
            continue
        state = loader.state_dict()
    with Loader(tiny_dataset, settings) as loader:
        loader.load_state_dict(state)
        loader.set_epoch(4)
        rest = list(loader)
        again = list(loader)
    assert state["step"] == delivered
    assert len(rest) == 4 - delivered
    assert all(torch.equal(a.images, b.images) for a, b in zip(unbroken[delivered:], rest, strict=True))
    assert all(torch.equal(a.images, b.images) for a, b in zip(unbroken, again, strict=True))


def test_batches_that_are_held_stay_what_they_were(tiny_dataset: str, tiny_raw_dataset: str) -> None:
    for dataset in (tiny_dataset, tiny_raw_dataset):
        with Loader(dataset, LoaderSettings(global_batch=8)) as loader:
            held, copies = [], []
            for epoch in range(3):
                loader.set_epoch(epoch)
                for batch in loader:
                    held.append(batch.images[:, :, 3:])
                    copies.append(held[-1].clone())
        assert len({tensor.data_ptr() for tensor in held}) == len(held) == 24
        assert all(torch.equal(one, other) for one, other in zip(held, copies, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_sample_exactly_once(tiny_dataset: str, world_size: int) -> None:
    settings = LoaderSettings(global_batch=8, tail="drop", colour="museum", divide=2.0)
    stored = Stored(Path(tiny_dataset), "val")
    seen: list[int] = []
    for rank in range(world_size):
        for batch in batches(tiny_dataset, settings, split="val", rank=rank, world_size=world_size, views=1):
            seen += batch.sample_numbers.tolist()
            assert np.array_equal(batch.labels.numpy(), stored.labels[batch.sample_numbers.numpy()])
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize("views", [1, 10])
def test_views_are_finished_like_the_reference_without_noise(tiny_dataset: str, views: int) -> None:
    settings = LoaderSettings(global_batch=30, divide=9.0, divide_test=1.5)
    stored = Stored(Path(tiny_dataset), "val")
    (batch,) = batches(tiny_dataset, settings, split="val", views=views)
    images = batch.images if views == 10 else batch.images[:, None]
    assert images.shape == (30, views, 3, 224, 224)
    for row in (0, 17, 29):
        for v, (y, x, mirror) in enumerate(evaluation_views(SIDE, 224, views)):
            pixels: npt.NDArray[Any] = reference.crop_and_flip(stored.pictures[row], y, x, mirror, 224)
            mean = reference.mean_under(stored.mean, "aligned", y, x, mirror, 224)
            right = reference.finished(pixels, mean, np.zeros(3, np.float32), 1.5)
            assert np.array_equal(images[row, v].numpy(), right.transpose(2, 0, 1))


def test_a_ray_worker_gets_the_same_batches(tiny_dataset: str, ray_session: None) -> None:
    import ray

    settings = LoaderSettings(global_batch=16, threads=1)

    @ray.remote(num_cpus=1)
    def first(rank: int) -> npt.NDArray[np.float32]:
        with Loader(tiny_dataset, settings, rank=rank, world_size=2) as loader:
            images: npt.NDArray[np.float32] = next(iter(loader)).images.numpy()
            return images

    whole = batches(tiny_dataset, settings)[0].images.numpy()
    for rank, share in enumerate(ray.get([first.remote(0), first.remote(1)])):
        assert np.array_equal(share, whole[rank::2])


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_gpu_gets_the_same_batches(tiny_dataset: str, variant: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    settings = LoaderSettings(global_batch=25, **variant)
    on_cpu, on_gpu = (batches(tiny_dataset, settings, device=device) for device in ("cpu", "cuda"))
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert other.labels.is_cuda
        assert torch.equal(one.images, other.images.cpu())
