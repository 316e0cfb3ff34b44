"""Fixtures of the whole suite: one Ray, one small source, sealed datasets, the real pictures; and honest skips.

With `CI=true` a test that would be skipped fails, unless it needs a GPU, or real pictures that this machine does
not have at all. The summary counts executed and skipped tests with their reasons.
"""

import collections
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ingest.progress import RunWriter
from ingest.settings import IngestSettings, SampleSettings
from ingest.storage import Place

NO_PICTURES = "no real pictures: set TENCH_DATA to their folder"
RAY_CPUS = 3


def pictures_folder() -> Path | None:
    """The folder of the real pictures: TENCH_DATA, or ../shared/data beside the checkout."""
    if told := os.environ.get("TENCH_DATA"):
        return Path(told)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return beside if beside.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ilsvrc-samples-300.tar, imagenette-small.tar, broken-pictures.tar, metadata/ ..."""
    folder = pictures_folder()
    if folder is None:
        pytest.skip(NO_PICTURES)
    if not (folder / "ilsvrc-samples-300.tar").is_file():
        pytest.fail(f"{folder} is named as the folder of the real pictures, but holds no ilsvrc-samples-300.tar")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole session: loopback only, token, a temp folder that goes with it."""
    from cluster.ray_session import own_ray

    with own_ray(RAY_CPUS):
        yield


@dataclass(frozen=True)
class TinySource:
    """What `tench sample` writes, small: ten classes, six training and three validation pictures each."""

    official: Path
    folders: Path


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> TinySource:
    """A small source in the official layout and as class folders."""
    from ingest.sample_source import write_sample

    out = tmp_path_factory.mktemp("source")
    write_sample(str(out), SampleSettings(num_train=6, num_val=3))
    return TinySource(out / "official", out / "folders")


def _ingest(source: Path, out: Path, **settings: Any) -> str:
    from ingest.run import ingest

    run = RunWriter.begin(Place(out / "run"), "ingest", {})
    ingest(str(source), str(out / "dataset"), IngestSettings(samples_per_shard=16, **settings), run)
    return str(out / "dataset")


@pytest.fixture(scope="session")
def tiny_dataset(tiny_source: TinySource, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sealed Arrow dataset with JPEG payloads: 60 training and 30 validation samples of 10 classes."""
    return _ingest(tiny_source.folders, tmp_path_factory.mktemp("jpeg"))


@pytest.fixture(scope="session")
def tiny_raw_dataset(tiny_source: TinySource, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same samples with raw payloads."""
    return _ingest(tiny_source.folders, tmp_path_factory.mktemp("raw"), payload="raw")


@pytest.fixture(scope="session")
def tiny_tfrecord_dataset(tiny_source: TinySource, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same samples with JPEG payloads in TFRecord files."""
    return _ingest(tiny_source.folders, tmp_path_factory.mktemp("tfrecord"), format="tfrecord")


@pytest.fixture(scope="session")
def tiny_raw_tfrecord_dataset(
    tiny_source: TinySource, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The same samples with raw payloads in TFRecord files."""
    return _ingest(tiny_source.folders, tmp_path_factory.mktemp("raw-tfrecord"), format="tfrecord", payload="raw")


@pytest.fixture(scope="session")
def manifest_of() -> Any:
    """Read a dataset's manifest without any of our code."""

    def read(dataset: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(Path(dataset, "manifest.json").read_text())
        return manifest

    return read


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--tier`: which tests run; everything that is marked belongs to another tier than `test`."""
    parser.addoption("--tier", default="test", choices=["test", "slow", "root", "gpu", "interop"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the chosen tier."""
    tier = config.getoption("--tier")
    tiers = ("slow", "root", "gpu", "interop")
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()} & set(tiers)
        (chosen if marks == ({tier} - {"test"}) else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With CI=true, turn a skip into a failure that says why."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if not report.skipped or os.environ.get("CI") != "true" or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if NO_PICTURES in reason or item.get_closest_marker("gpu"):
        return
    report.outcome = "failed"
    report.longrepr = f"{item.nodeid}: would be skipped, which CI does not allow: {reason}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Executed and skipped counts, with reasons."""
    stats = terminalreporter.stats
    reasons = collections.Counter(
        str(r.longrepr[2]) if isinstance(r.longrepr, tuple) else str(r.longrepr) for r in stats.get("skipped", [])
    )
    executed = sum(len(stats.get(name, [])) for name in ("passed", "failed"))
    terminalreporter.write_line(f"executed {executed}, skipped {sum(reasons.values())}")
    for reason, count in reasons.items():
        terminalreporter.write_line(f"  {count} skipped: {reason}")
