"""The graph that a GPU runs, run on a CPU: the reference's values, bit for bit, as the loader's own finish gives them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from augment.loader import Loader
from augment.settings import LoaderSettings
from ingest.errors import DamageError
from tests.augment.test_loader import VARIANTS, batches, check_against_the_reference

NAMES = ["tiny_dataset", "tiny_raw_dataset", "tiny_raw_tfrecord_dataset"]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_graph_equals_the_reference_bit_for_bit(
    name: str, variant: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    check_against_the_reference(request.getfixturevalue(name), finish="dali", **variant)


@pytest.mark.parametrize(
    "change", [{"border": 3}, {"output": "bfloat16", "divide": 1.1}, {"border": 3, "mean": "centre"}]
)
@pytest.mark.parametrize("views", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_both_ways_give_the_same_batches(
    name: str, views: int, change: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(name)
    ours, dali = (
        batches(dataset, LoaderSettings(global_batch=16, seed=5, finish=finish, **change), views=views)
        for finish in ("torch", "dali")
    )
    assert len(ours) == len(dali) == 4
    for one, other in zip(ours, dali, strict=True):
        assert one.images.dtype == other.images.dtype
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_batches_that_are_kept_are_not_written_over(tiny_raw_dataset: str) -> None:
    settings = LoaderSettings(global_batch=8, finish="dali")
    kept = batches(tiny_raw_dataset, settings)
    with Loader(tiny_raw_dataset, settings) as loader:
        for batch, other in zip(loader, kept, strict=True):
            assert torch.equal(batch.images, other.images)


@pytest.mark.parametrize("damaged", ["stop", "replace"])
def test_a_picture_that_the_graph_cannot_decode_is_named_or_replaced(
    damaged: str, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_dataset, tmp_path / "copy")
    with Loader(str(tmp_path / "copy"), LoaderSettings(global_batch=16, finish="dali", damaged=damaged)) as loader:
        read, zeros, broken = loader._reader.payload, np.zeros(1000, np.uint8), 37
        # As if zeros had been ingested: their checksum is right, and only the decoder can object.
        monkeypatch.setattr(loader._reader, "payload", lambda row: (zeros, row) if row == broken else read(row))
        if damaged == "stop":
            with pytest.raises(DamageError, match=f"{loader.split.key(broken)} cannot be decoded"):
                list(loader)
        else:
            taken = torch.cat([batch.sample_numbers for batch in loader]).tolist()
            assert sorted(taken) == sorted([row for row in range(60) if row != broken] + [broken + 1])
