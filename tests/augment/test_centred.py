"""Pictures whose mean was subtracted at ingest, and the border of 2012: each value worked out in NumPy."""

from typing import Any

import numpy as np
import pytest

from augment.choices import choose
from augment.loader import Loader
from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from ingest.errors import UsageError
from ingest.progress import RunWriter
from ingest.recentre import recentre
from ingest.settings import RecentreSettings
from ingest.storage import Place
from tests.augment.stored import Stored

SETTINGS = LoaderSettings(global_batch=25, seed=5, divide=1.1)


@pytest.fixture(scope="module", params=["tiny_raw_dataset", "tiny_raw_tfrecord_dataset"])
def centred(request: pytest.FixtureRequest, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """In TFRecord files 16-bit values begin at any byte."""
    out = tmp_path_factory.mktemp("centred")
    run = RunWriter.begin(Place(out / "run"), "recentre", {})
    recentre(request.getfixturevalue(request.param), str(out / "dataset"), RecentreSettings(num_actors=1), run)
    return Stored(out / "dataset")


@pytest.mark.parametrize(
    "change", [{}, {"output": "bfloat16"}, {"crop": 256, "colour": "none", "divide": 1.0}], ids=str
)
def test_centred_pictures_are_cropped_flipped_coloured_and_divided(centred: Stored, change: dict[str, Any]) -> None:
    settings = SETTINGS.model_copy(update=change)
    side, pca = 256, Dataset.open(str(centred.folder)).pca
    with Loader(str(centred.folder), settings) as loader:
        for step, batch in enumerate(loader):
            rows = batch.sample_numbers.numpy()
            chosen = choose(settings, side, pca, 0, rows, step * 25 + np.arange(len(rows)))
            for i, row in enumerate(rows):
                values = np.frombuffer(centred.payloads[row], "<i2").reshape(side, side, 3)
                y, x, crop = chosen.y[i], chosen.x[i], settings.crop
                cut = values[y : y + crop, x : x + crop].astype(np.float32) / np.float32(128)
                wanted = ((cut[:, ::-1] if chosen.mirror[i] else cut) + chosen.offset[i]) / np.float32(settings.divide)
                found = batch.images[i].permute(1, 2, 0)
                if settings.output == "bfloat16":
                    assert np.abs(found.float().numpy() - wanted).max() <= np.abs(wanted).max() / 256
                else:
                    assert np.array_equal(found.numpy(), wanted)


def test_centred_pictures_are_those_of_the_raw_dataset_to_1_in_256(centred: Stored, tiny_raw_dataset: str) -> None:
    settings = LoaderSettings(global_batch=60)
    with Loader(str(centred.folder), settings) as one, Loader(tiny_raw_dataset, settings) as other:
        difference = next(iter(one)).images - next(iter(other)).images
    assert 0 < difference.abs().max() <= 1 / 256 + 1e-4


@pytest.mark.parametrize("change", [{"mean": "centre"}, {"mean": "none"}, {"output": "uint8"}], ids=str)
def test_what_centred_pictures_cannot_give_is_refused(centred: Stored, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="stored with the mean image subtracted"):
        Loader(str(centred.folder), SETTINGS.model_copy(update=change))


@pytest.mark.parametrize("output", ["float32", "bfloat16"])
@pytest.mark.parametrize("views", [0, 10])
def test_a_border_of_zeros_lies_to_the_right_and_below(tiny_raw_dataset: str, output: str, views: int) -> None:
    plain = SETTINGS.model_copy(update={"output": output})
    bordered = plain.model_copy(update={"border": 3})
    with Loader(tiny_raw_dataset, plain, views=views) as one, Loader(tiny_raw_dataset, bordered, views=views) as other:
        # Two epochs of each: memory that was used before holds no zeros by itself.
        for _ in range(2):
            for wanted, found in zip(one, other, strict=True):
                assert found.images.shape[-2:] == (227, 227)
                assert (found.images[..., :224, :224] == wanted.images).all()
                assert not found.images[..., 224:, :].any()
                assert not found.images[..., 224:].any()


def test_a_border_without_a_mean_is_refused(tiny_raw_dataset: str) -> None:
    with pytest.raises(UsageError, match="border: its zeros come after the mean"):
        Loader(tiny_raw_dataset, SETTINGS.model_copy(update={"border": 3, "output": "uint8"}))
