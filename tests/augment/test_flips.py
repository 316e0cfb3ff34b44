"""A thousand flipped bits, one at a time: verification names each, and none changes a batch unseen."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from augment.loader import Batch, Loader
from augment.settings import LoaderSettings
from ingest.errors import DamageError, RefusedError
from ingest.progress import RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings, VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.conftest import TinySource

pytestmark = pytest.mark.slow

FLIPS, FLIPS_A_FILE = 500, 3
"""In each format: so many bits of every file, the rest anywhere in the shards."""
# Everything that the loader reads matters for floats: payloads, labels, mean image, PCA.
SETTINGS = LoaderSettings(global_batch=16, crop=28, seed=3, threads=1)


@pytest.fixture(scope="module", params=["arrow", "tfrecord"])
def dataset(
    request: pytest.FixtureRequest, tiny_source: TinySource, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A sealed dataset of raw pictures of 32 x 32: four shards for training, two for validation."""
    out = tmp_path_factory.mktemp(f"flips-{request.param}")
    settings = IngestSettings(format=request.param, payload="raw", side=32, samples_per_shard=16)
    ingest(str(tiny_source.folders), str(out / "dataset"), settings, RunWriter.begin(Place(out / "run"), "ingest", {}))
    return out / "dataset"


def chosen_bits(dataset: Path) -> list[tuple[Path, int]]:
    """(file, bit in it): some of every file; the others by chance over all bytes of the shards."""
    chance = random.Random(f"flips of {next((dataset / 'train').iterdir()).suffix}")
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    shards = [path for path in files if path.suffix in (".arrow", ".tfrecord") and path.parent.name in ("train", "val")]
    sizes = [path.stat().st_size for path in shards]
    paths = FLIPS_A_FILE * files
    paths += chance.choices(shards, sizes, k=FLIPS - len(paths))
    return [(path, chance.randrange(path.stat().st_size * 8)) for path in paths]


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """The file with one bit changed, in place; afterwards it is as it was."""
    _flip(path, bit)
    try:
        yield
    finally:
        _flip(path, bit)


def _flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def missed_by_verify(dataset: Path, path: str) -> str | None:
    """What verification says instead of naming the file, and it alone; None if it does."""
    try:
        named = {damage["path"] for damage in verify(str(dataset), VerifySettings())["damages"]}
    except (DamageError, RefusedError) as error:
        return None if path in error.message else error.message
    return None if named == {path} else f"names {sorted(named)}"


def delivered(dataset: Path) -> tuple[list[str], str]:
    """A hash of each batch of an epoch of both splits, and the error that ended them early, if one did."""
    hashes: list[str] = []
    try:
        for split, views in (("train", 0), ("val", 1)):
            with Loader(str(dataset), SETTINGS, split=split, views=views) as loader:
                for batch in loader:
                    hashes.append(_hash(batch))
    except (DamageError, RefusedError) as error:
        return hashes, error.message
    return hashes, ""


def _hash(batch: Batch) -> str:
    whole = hashlib.sha256(batch.images.permute(0, 2, 3, 1).numpy().tobytes())
    for tensor in (batch.labels, batch.sample_numbers, batch.places):
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()


def test_a_thousand_flipped_bits_are_named_and_change_no_batch_unseen(dataset: Path) -> None:
    """Half of the thousand in each format. A batch delivered before an error counts: it must be the undamaged one."""
    whole, error = delivered(dataset)
    assert (len(whole), len(set(whole)), error) == (6, 6, "")
    bits = chosen_bits(dataset)
    missed, stopped = [], 0
    for path, bit in bits:
        name = str(path.relative_to(dataset))
        with flipped(path, bit):
            said = missed_by_verify(dataset, name)
            found, error = delivered(dataset)
        stopped += bool(error)
        if said is not None or found != whole[: len(found)] or not (error or len(found) == len(whole)):
            missed.append((name, bit // 8, bit % 8, said, error))
    assert missed == []
    assert len(bits) == FLIPS
    assert {path for path, _ in bits} == {path for path in dataset.rglob("*") if path.is_file()}
    # Most bytes of a shard are pixels, and every one of those counts.
    assert FLIPS / 2 < stopped < FLIPS
    assert verify(str(dataset), VerifySettings())["damages"] == []
    assert delivered(dataset) == (whole, "")
