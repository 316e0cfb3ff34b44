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


def class_folders(out: Path) -> tuple[Path, str]:
    """A source of class folders of full-size pictures (one split), and what it is."""
    shared = pictures_folder()
    if shared is not None:
        with tarfile.open(shared / "ilsvrc-samples-300.tar") as archive:
            archive.extractall(out / "source", filter="data")
        return out / "source", "300 full-size ImageNet pictures"
    from ingest.sample_source import write_sample

    write_sample(str(out), SampleSettings(num_train=30, num_val=1))
    return out / "folders" / "train", "300 made-up pictures"


def dataset(out: Path, source: Path, **settings: object) -> str:
    """A sealed dataset of the source. Ray has to be connected."""
    from ingest.progress import RunWriter
    from ingest.run import ingest
    from ingest.storage import Place

    run = RunWriter.begin(Place(out / "run"), "ingest", {})
    ingest(str(source), str(out / "dataset"), IngestSettings.model_validate(settings), run)
    return str(out / "dataset")
