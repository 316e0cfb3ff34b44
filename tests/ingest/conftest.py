"""Fixtures of the conversion's tests: run one for real, and unfinished datasets to go on from."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from ingest.progress import RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings
from ingest.storage import Place

SEALING = ("manifest.json", "index", "statistics")


class Convert(Protocol):
    """Convert a source; the final facts of the run."""

    def __call__(self, source: Path | str, dataset: Path | str, **settings: Any) -> dict[str, Any]: ...


@pytest.fixture(scope="session")
def convert(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """One actor and 16 samples a shard unless told: the settings of the `tiny_` datasets."""

    def run(source: Path | str, dataset: Path | str, **settings: Any) -> dict[str, Any]:
        chosen = IngestSettings.model_validate({"samples_per_shard": 16, "num_actors": 1, **settings})
        writer = RunWriter.begin(Place(tmp_path_factory.mktemp("run")), "ingest", {})
        return ingest(str(source), str(dataset), chosen, writer)

    return run


@pytest.fixture
def unsealed(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a sealed dataset as it was before it was sealed: every shard and report, nothing after them."""

    def copy(dataset: str) -> Path:
        target = tmp_path / "unsealed"
        shutil.copytree(dataset, target)
        for name in SEALING:
            path = target / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return target

    return copy


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a sealed dataset that a test may spoil."""

    def copy(dataset: str) -> Path:
        return shutil.copytree(dataset, tmp_path / "copied")

    return copy
