"""Pictures and datasets for the benchmarks: the real ones if they are there, otherwise the small made-up source."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ingest.settings import IngestSettings, SampleSettings
from tests.conftest import pictures_folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes away."""
    with TemporaryDirectory(prefix="tench-bench-") as folder:
        yield Path(folder)


def full_size(out: Path) -> tuple[Path, str]:
    """A source of class folders of full-size pictures (one split), and what it is."""
    return _unpacked(out, "ilsvrc-samples-300.tar", "300 full-size ImageNet pictures")


def many(out: Path) -> tuple[Path, str]:
    """A source of class folders with more pictures, and what it is."""
    return _unpacked(out, "imagenette-small.tar", "1,860 small pictures of ten ImageNet classes")


def _unpacked(out: Path, archive_name: str, words: str) -> tuple[Path, str]:
    shared = pictures_folder()
    if shared is not None:
        with tarfile.open(shared / archive_name) as archive:
            archive.extractall(out / "source", filter="data")
        return out / "source", words
    from ingest.sample_source import write_sample

    write_sample(str(out), SampleSettings(num_train=100, num_val=1))
    return out / "folders" / "train", "1,000 made-up pictures"


def dataset(out: Path, source: Path, **settings: object) -> str:
    """A sealed dataset of the source. Ray has to be connected."""
    from ingest.progress import RunWriter
    from ingest.run import ingest
    from ingest.storage import Place

    run = RunWriter.begin(Place(out / "run"), "ingest", {})
    ingest(str(source), str(out / "dataset"), IngestSettings.model_validate(settings), run)
    run.flush()
    return str(out / "dataset")
