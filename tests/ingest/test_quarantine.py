"""Pictures that cannot be decoded: kept with bytes and reason, counted exactly, and bounded by a budget."""

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.errors import BudgetError, RefusedError
from ingest.progress import RunReader, RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings, VerifySettings
from ingest.storage import Place
from ingest.tally import allowed_bad
from ingest.verify import verify
from tests.ingest.conftest import Convert
from tests.ingest.pictures import file_of, noise
from tests.ingest.shards import quarantined, samples

GOOD = file_of(noise(40, 30), "JPEG")
BAD = {
    "train/n1/empty.JPEG": (b"", "empty"),
    "train/n1/page.JPEG": (b"<html>gone</html>", "not a picture"),
    "train/n2/half.JPEG": (GOOD[:-40], "truncated"),
    "val/n2/moving.JPEG": (file_of(noise(9, 9), "GIF"), "format not allowed"),
}
SIDE = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 20 good and 4 bad pictures."""
    folder = tmp_path_factory.mktemp("bad")
    good = {f"{split}/n{k}/{at}.JPEG": file_of(noise(40, 30, at), "JPEG")
            for split, count in (("train", 6), ("val", 4)) for k in (1, 2) for at in range(count)}  # fmt: skip
    for name, data in {**good, **{name: data for name, (data, _) in BAD.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _listed(source: Path) -> Iterator[tuple[str, str, bytes]]:
    """(split, key, bytes) of every file."""
    for path in source.rglob("*.JPEG"):
        yield path.parts[-3], f"{path.parent.name}/{path.stem}", path.read_bytes()


@pytest.mark.parametrize("name", ["arrow", "tfrecord"])
def test_every_picture_is_in_one_shard_or_in_quarantine_with_its_reason(
    name: str, source: Path, convert: Convert, tmp_path: Path
) -> None:
    facts = convert(source, tmp_path / "d", format=name, side=SIDE, samples_per_shard=1, max_bad="4")
    aside = quarantined(tmp_path / "d")
    wanted = {
        (path.split("/")[0], path.split("/", 1)[1].removesuffix(".JPEG")): (code, data)
        for path, (data, code) in BAD.items()
    }
    assert aside == wanted
    stored = [(split, s.key) for split in ("train", "val") for s in samples(tmp_path / "d", split)]
    assert sorted([*stored, *aside]) == sorted((split, key) for split, key, _ in _listed(source))
    assert (facts["num_samples"], facts["num_quarantined"]) == (20, 4)
    assert facts["splits"]["train"]["num_quarantined"] == 3
    assert verify(str(tmp_path / "d"), VerifySettings(deep=True))["ok"]


def test_above_the_budget_a_run_stops_and_a_larger_one_goes_on(source: Path, convert: Convert, tmp_path: Path) -> None:
    small = {"side": SIDE, "samples_per_shard": 8}
    with pytest.raises(BudgetError, match=r"--max-bad 1 allows 1.*quarantine") as over:
        convert(source, tmp_path / "d", max_bad="1", **small)
    assert over.value.exit_code == 5
    assert not (tmp_path / "d/manifest.json").exists()
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "d/parts").glob("*.json")}
    assert finished
    facts = convert(source, tmp_path / "d", max_bad="20%", **small)
    assert (facts["num_samples"], facts["num_quarantined"]) == (20, 4)
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    convert(source, tmp_path / "whole", max_bad="4", **small)
    ids = [json.loads((tmp_path / name / "manifest.json").read_text())["dataset_id"] for name in ("d", "whole")]
    assert ids[0] == ids[1]


def test_a_rerun_within_the_old_budget_stops_again_before_it_converts(
    source: Path, convert: Convert, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(BudgetError):
            convert(source, tmp_path / "d", max_bad="0", side=SIDE, samples_per_shard=64)
        assert [p.name for p in (tmp_path / "d/parts").glob("*.json")] == ["train-00000.json"]


def test_each_bad_picture_is_an_event_of_the_run(source: Path, ray_session: None, tmp_path: Path) -> None:
    place = Place(tmp_path / "run")
    chosen = IngestSettings(side=SIDE, num_actors=1, max_bad="100%")
    writer = RunWriter.begin(place, "ingest", {})
    ingest(str(source), str(tmp_path / "d"), chosen, writer)
    writer.flush()
    told = {
        (e.data["split"], e.data["key"], e.data["code"]) for e in RunReader(place).events() if e.kind == "quarantined"
    }
    assert told == {(split, key, code) for (split, key), (code, _) in quarantined(tmp_path / "d").items()}


def test_a_source_without_one_good_training_picture_is_refused(convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "source/n1").mkdir(parents=True)
    (tmp_path / "source/n1/a.JPEG").write_bytes(b"no picture")
    with pytest.raises(RefusedError, match="not one training picture could be decoded"):
        convert(tmp_path / "source", tmp_path / "d", max_bad="1", side=SIDE)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 20_000_000), st.decimals(0, 100, places=2))
@example(10_000, "0.57")  # 57, and in floating point 56
def test_a_share_allows_exactly_its_part_rounded_down(entries: int, share: object) -> None:
    assert allowed_bad(f"{share}%", entries) == math.floor(Fraction(str(share)) * entries / 100)
    assert allowed_bad("25", entries) == 25
