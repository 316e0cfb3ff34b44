"""Batches on a GPU beside those on the CPU: the same bytes, the same values up to a rounding of the division."""

from typing import Any

import numpy as np
import pytest
import torch

from augment.settings import LoaderSettings
from tests.augment.test_loader import VARIANTS, batches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]


@pytest.mark.parametrize("variant", [*VARIANTS, {"border": 3}, {"output": "bfloat16"}], ids=str)
@pytest.mark.parametrize("finish", ["dali", "torch"])
@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_raw_dataset"])
def test_a_gpus_batches_are_the_cpus(
    name: str, finish: str, variant: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(name)
    settings = LoaderSettings(**({"global_batch": 25, "seed": 5, "finish": finish} | variant))
    here = batches(dataset, settings.model_copy(update={"finish": "auto"}), epoch=1)
    there = batches(dataset, settings, epoch=1, device="cuda")
    for one, other in zip(here, there, strict=True):
        assert other.images.device.type == other.labels.device.type == "cuda"
        assert other.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.labels, other.labels.cpu())
        found = other.images.cpu()
        if settings.divide == 1.0 or settings.output == "uint8":
            assert torch.equal(one.images, found)
        else:
            wanted = one.images.numpy()
            assert np.all(np.abs(found.numpy() - wanted) <= np.spacing(np.abs(wanted)))


@pytest.mark.parametrize("views", [1, 10])
def test_views_on_a_gpu_are_the_cpus(views: int, tiny_dataset: str) -> None:
    settings = LoaderSettings(global_batch=16)
    here = batches(tiny_dataset, settings, split="val", views=views)
    there = batches(tiny_dataset, settings, split="val", views=views, device="cuda")
    assert all(torch.equal(one.images, other.images.cpu()) for one, other in zip(here, there, strict=True))
