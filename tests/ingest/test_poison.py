"""Pictures that hang, starve or crash their decoder: found, quarantined with their bytes, the run not stopped."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest import run as conversion
from ingest.convert import ShardTask
from ingest.errors import BudgetError
from ingest.isolated import IsolatedDecoder
from ingest.pixels import PictureError, rescale
from ingest.progress import RunReader, RunWriter
from ingest.settings import IngestSettings, PlannedSettings, VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.conftest import TinySource
from tests.ingest import poison

SETTINGS = PlannedSettings(picture_timeout_s=1)
CODES = {
    poison.LOOP: "decoder timed out",
    poison.MEMORY: "decoder out of memory",
    poison.CRASH: "decoder crashed",
    poison.EXIT: "decoder crashed",
}


@pytest.fixture
def picture(tiny_source: TinySource) -> bytes:
    return min((tiny_source.folders / "train").rglob("*.*")).read_bytes()


@pytest.mark.parametrize(("mark", "code"), CODES.items())
def test_a_decoder_that_fails_twice_in_a_child_is_a_verdict_and_the_next_picture_is_decoded(
    mark: bytes, code: str, picture: bytes
) -> None:
    with IsolatedDecoder(poison.decode, SETTINGS) as isolated:
        for _ in range(2):
            with pytest.raises(PictureError) as found:
                isolated(picture + mark, SETTINGS)
            assert found.value.code == code
            good = isolated(picture, SETTINGS)
            wanted = rescale(picture, SETTINGS)
            assert (good.pixels == wanted.pixels).all()
            assert (good.width, good.height) == (wanted.width, wanted.height)


def test_a_bad_picture_has_the_same_reason_in_a_child(picture: bytes) -> None:
    with IsolatedDecoder(rescale, SETTINGS) as isolated, pytest.raises(PictureError) as found:
        isolated(picture[: len(picture) // 2], SETTINGS)
    assert found.value.code == "truncated"


@pytest.fixture
def poisoned(tiny_source: TinySource, tmp_path: Path) -> Path:
    """A copy of the source with one picture of each kind."""
    source = shutil.copytree(tiny_source.folders, tmp_path / "source")
    files = sorted((source / "train").rglob("*.*"))
    for file, mark in zip(files[3::11], CODES, strict=False):
        file.write_bytes(file.read_bytes() + mark)
    return source


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, ray_session: None, tmp_path: Path) -> Callable[..., RunReader]:
    """Convert a source with the decoder of `poison.py` in the actors."""
    honest = conversion.shard_tasks  # type: ignore[attr-defined]

    def poisonous(*arguments: Any) -> Iterator[ShardTask]:
        return (replace(task, job=replace(task.job, decode=poison.decode)) for task in honest(*arguments))

    monkeypatch.setattr(conversion, "shard_tasks", poisonous)

    def convert(source: Path, dataset: Path, **settings: Any) -> RunReader:
        place = Place(tmp_path / "run")
        run = RunWriter.begin(place, "ingest", {})
        chosen = {"samples_per_shard": 16, "picture_timeout_s": 1, "num_actors": 2, "max_bad": "4", **settings}
        try:
            conversion.ingest(str(source), str(dataset), IngestSettings.model_validate(chosen), run)
        finally:
            run.flush()
        return RunReader(place)

    return convert


def test_poison_is_quarantined_with_its_code_and_bytes_and_the_rest_is_converted(
    poisoned: Path, convert: Callable[..., RunReader], tmp_path: Path
) -> None:
    record = convert(poisoned, tmp_path / "dataset")
    found = {}
    for path in (tmp_path / "dataset" / "quarantine").glob("*.json"):
        verdict = json.loads(path.read_text())
        data = path.with_suffix(".bin").read_bytes()
        found[data[data.rindex(b"#") :]] = verdict["code"]
        assert data in [p.read_bytes() for p in (poisoned / "train").rglob(f"{verdict['key'].split('/')[-1]}.*")]
    assert found == CODES
    facts = verify(str(tmp_path / "dataset"), VerifySettings())
    assert (facts["ok"], facts["num_samples"], facts["num_quarantined"]) == (True, 86, 4)
    assert "actor lost" in [event.kind for event in record.events()]


def test_poison_beyond_the_budget_ends_the_run_and_its_verdicts_hold_for_the_next(
    poisoned: Path, convert: Callable[..., RunReader], tmp_path: Path
) -> None:
    with pytest.raises(BudgetError):
        convert(poisoned, tmp_path / "dataset", max_bad="0")
    before = {p.name: p.read_bytes() for p in (tmp_path / "dataset" / "quarantine").iterdir()}
    assert before
    convert(poisoned, tmp_path / "dataset")
    after = {p.name: p.read_bytes() for p in (tmp_path / "dataset" / "quarantine").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == 8
