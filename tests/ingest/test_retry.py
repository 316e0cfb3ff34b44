"""Another try for pictures in quarantine: in place before the seal, as a new dataset after it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import BudgetError, RefusedError, UsageError
from ingest.progress import RunReader, RunWriter
from ingest.recentre import recentre
from ingest.retry import drop_verdicts, is_sealed, listed, retry_sealed
from ingest.settings import RecentreSettings, VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.ingest.conftest import Convert
from tests.ingest.pictures import file_of, noise
from tests.ingest.shards import quarantined, samples

GOOD = file_of(noise(40, 30), "JPEG")
SMALL: dict[str, Any] = {"side": 16, "samples_per_shard": 4}
BAD = {"train/n1/half.JPEG": GOOD[:-40], "train/n2/page.JPEG": b"<html>gone</html>"}

Retry = Callable[[Path, Path, Path], dict[str, Any]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Class folders of 24 good and 2 bad pictures: 7 shards of 4."""
    folder = tmp_path / "source"
    good = {f"{split}/n{k}/{at}.JPEG": file_of(noise(40, 30, at + 10 * k), "JPEG")
            for split, count in (("train", 8), ("val", 4)) for k in (1, 2) for at in range(count)}  # fmt: skip
    for name, data in {**good, **BAD}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def retry(ray_session: None, tmp_path: Path) -> Retry:
    """Retry a sealed dataset; the facts."""

    def run(dataset: Path, source: Path, out: Path) -> dict[str, Any]:
        writer = RunWriter.begin(Place(tmp_path / "run"), "retry", {})
        facts = retry_sealed(str(dataset), str(source), str(out), writer)
        writer.flush()
        return facts

    return run


def _manifest(dataset: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((dataset / "manifest.json").read_text())
    return manifest


def _files(dataset: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in dataset.rglob("*") if p.is_file()}


def _stopped(convert: Convert, source: Path, dataset: Path, max_bad: str = "1") -> None:
    with pytest.raises(BudgetError):
        convert(source, dataset, max_bad=max_bad, **SMALL)


def _with_bad_rows(dataset: Path) -> set[tuple[str, int]]:
    """(split, shard) of each picture in quarantine."""
    return {(q["split"], q["row"] // 4) for q in _manifest(dataset)["quarantine"]}


def test_verdicts_are_listed_before_and_after_the_seal(source: Path, convert: Convert, tmp_path: Path) -> None:
    _stopped(convert, source, tmp_path / "d")
    assert not is_sealed(str(tmp_path / "d"))
    before = listed(str(tmp_path / "d"))
    convert(source, tmp_path / "d", max_bad="2", **SMALL)
    assert is_sealed(str(tmp_path / "d"))
    after = {v.key: (v.split, v.code, v.size) for v in listed(str(tmp_path / "d"))}
    assert after == {
        "n1/half": ("train", "truncated", len(BAD["train/n1/half.JPEG"])), "n2/page": ("train", "not a picture", 17)
    }  # fmt: skip
    assert {v.key for v in before} == set(after)


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    for call in (listed, is_sealed, drop_verdicts):
        with pytest.raises(RefusedError, match="no dataset"):
            call(str(tmp_path / "nothing"))


def test_before_the_seal_dropped_pictures_are_tried_again_by_the_same_ingest(
    source: Path, convert: Convert, tmp_path: Path
) -> None:
    page = source / "train/n2/page.JPEG"
    repaired = GOOD + bytes(64)
    page.write_bytes(b"<html>" + bytes(len(repaired) - 6))
    _stopped(convert, source, tmp_path / "d")
    page.write_bytes(repaired)
    facts = drop_verdicts(str(tmp_path / "d"))
    assert facts["num_dropped"] == 2
    assert quarantined(tmp_path / "d") == {}
    facts = convert(source, tmp_path / "d", max_bad="1", **SMALL)
    assert (facts["num_samples"], facts["num_quarantined"]) == (25, 1)
    fresh = convert(source, tmp_path / "fresh", max_bad="1", **SMALL)
    assert facts["dataset_id"] == fresh["dataset_id"]


def test_shards_without_a_verdict_stay_and_a_begun_seal_is_undone(
    source: Path, convert: Convert, tmp_path: Path
) -> None:
    convert(source, tmp_path / "d", max_bad="2", **SMALL)
    concerned = {f"{split}-{number:05d}" for split, number in _with_bad_rows(tmp_path / "d")}
    (tmp_path / "d/manifest.json").unlink()
    reports = {p.stem for p in (tmp_path / "d/parts").glob("*.json")}
    facts = drop_verdicts(str(tmp_path / "d"))
    assert facts["num_shards"] == len(concerned)
    assert {p.stem for p in (tmp_path / "d/parts").glob("*.json")} == reports - concerned
    assert {p.stem for p in (tmp_path / "d/damaged/parts").glob("*.json")} == concerned
    shards = {f"{p.parent.name}-{p.stem}" for split in ("train", "val") for p in (tmp_path / "d" / split).iterdir()}
    assert shards == reports - concerned
    smaller = file_of(noise(40, 30), "JPEG", quality=30)
    (source / "train/n1/half.JPEG").write_bytes(smaller.ljust(len(BAD["train/n1/half.JPEG"]), b"\0"))
    facts = convert(source, tmp_path / "d", max_bad="2", **SMALL)
    assert list(quarantined(tmp_path / "d")) == [("train", "n2/page")]
    assert verify(f"{tmp_path}/d", VerifySettings())["damages"] == []


def test_a_dataset_without_verdicts_is_left_as_it_is(tiny_dataset: str, unsealed: Callable[[str], Path]) -> None:
    begun = unsealed(tiny_dataset)
    before = _files(begun)
    assert drop_verdicts(str(begun))["num_dropped"] == 0
    assert _files(begun) == before


def test_after_the_seal_a_new_dataset_is_that_of_the_repaired_source(
    source: Path, convert: Convert, retry: Retry, tmp_path: Path
) -> None:
    convert(source, tmp_path / "old", max_bad="2", **SMALL)
    old, concerned = _files(tmp_path / "old"), _with_bad_rows(tmp_path / "old")
    (source / "train/n1/half.JPEG").write_bytes(GOOD)
    facts = retry(tmp_path / "old", source, tmp_path / "new")
    assert (facts["num_samples"], facts["num_quarantined"], facts["num_quarantined_before"]) == (25, 1, 2)
    assert facts["num_shards_copied"] == 7 - len(concerned)
    assert facts["samples_converted"] == 4 * len(concerned)
    fresh = convert(source, tmp_path / "fresh", max_bad="1", **SMALL)
    assert facts["dataset_id"] == fresh["dataset_id"]
    assert samples(tmp_path / "new", "train") == samples(tmp_path / "fresh", "train")
    assert _files(tmp_path / "old") == old


def test_a_source_with_other_keys_is_converted_anew_where_it_differs(
    source: Path, convert: Convert, retry: Retry, tmp_path: Path
) -> None:
    convert(source, tmp_path / "old", max_bad="2", **SMALL)
    (source / "train/n1/more.JPEG").write_bytes(GOOD)
    facts = retry(tmp_path / "old", source, tmp_path / "new")
    fresh = convert(source, tmp_path / "fresh", max_bad="2", **SMALL)
    assert facts["dataset_id"] == fresh["dataset_id"]
    assert facts["num_shards_copied"] >= 2  # those of val


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ((0, 1, 2, 3), "4 keys of the old dataset are not in this source, first n1/"),
        ((2,), "1 key of the old dataset is not in this source, first n1/2: "),
        ((), None),
    ],
)
def test_a_source_that_lacks_pictures_of_the_old_dataset_is_warned_of(
    gone: tuple[int, ...], said: str | None, source: Path, convert: Convert, retry: Retry, tmp_path: Path
) -> None:
    convert(source, tmp_path / "old", max_bad="2", **SMALL)
    for at in gone:
        (source / f"train/n1/{at}.JPEG").unlink()
    facts = retry(tmp_path / "old", source, tmp_path / "new")
    assert facts["num_samples"] == 24 - len(gone)
    events = [(e.kind, e.text) for e in RunReader(Place(tmp_path / "run")).events()]
    warned = [text for kind, text in events if kind == "warning" and "old dataset" in text]
    assert [text.startswith(str(said)) for text in warned] == ([True] if said else [])
    assert all(events.index(("warning", text)) < [kind for kind, _ in events].index("planned") for text in warned)


def test_damage_is_not_copied(source: Path, convert: Convert, retry: Retry, tmp_path: Path) -> None:
    convert(source, tmp_path / "old", max_bad="2", **SMALL)
    shard = tmp_path / "old/val/00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    facts = retry(tmp_path / "old", source, tmp_path / "new")
    assert facts["dataset_id"] == _manifest(tmp_path / "old")["dataset_id"]
    assert (tmp_path / "new/val/00000.arrow").read_bytes() != shard.read_bytes()
    assert facts["num_shards_copied"] == 7 - len(_with_bad_rows(tmp_path / "old")) - 1
    assert not (tmp_path / "new/damaged").exists()


def test_a_retry_of_a_retry_that_is_done_changes_nothing(
    source: Path, convert: Convert, retry: Retry, tmp_path: Path
) -> None:
    convert(source, tmp_path / "old", max_bad="2", **SMALL)
    retry(tmp_path / "old", source, tmp_path / "new")
    before = _files(tmp_path / "new")
    retry(tmp_path / "old", source, tmp_path / "new")
    assert _files(tmp_path / "new") == before


def test_wrong_targets_are_refused(source: Path, convert: Convert, retry: Retry, tmp_path: Path) -> None:
    convert(source, tmp_path / "old", max_bad="2", **SMALL)
    with pytest.raises(UsageError, match=r"sealed and never changes.*--out"):
        drop_verdicts(str(tmp_path / "old"))
    (tmp_path / "letter").mkdir()
    (tmp_path / "letter/letter.txt").write_text("dear")
    with pytest.raises(RefusedError, match="is not empty"):
        retry(tmp_path / "old", source, tmp_path / "letter")
    assert [p.name for p in (tmp_path / "letter").iterdir()] == ["letter.txt"]
    for inside in (tmp_path / "old", tmp_path / "old/new", source / "new"):
        with pytest.raises(RefusedError, match="lies inside"):
            retry(tmp_path / "old", source, inside)
    assert not (source / "new").exists()
    shutil.copytree(tmp_path / "old", tmp_path / "other")
    (source / "train/n1/half.JPEG").write_bytes(GOOD)
    with pytest.raises(RefusedError, match="another plan"):
        retry(tmp_path / "old", source, tmp_path / "other")


def test_more_bad_pictures_than_before_stop_the_retry(
    source: Path, convert: Convert, retry: Retry, tmp_path: Path
) -> None:
    convert(source, tmp_path / "old", max_bad="2", **SMALL)
    for at in range(8):
        (source / f"train/n1/{at}.JPEG").write_bytes(b"gone")
    with pytest.raises(BudgetError, match=r"--max-bad 2 allows 2.*`tench ingest"):
        retry(tmp_path / "old", source, tmp_path / "new")


def test_what_is_made_of_another_dataset_has_nothing_to_try_again(
    source: Path, convert: Convert, retry: Retry, tmp_path: Path
) -> None:
    raw = convert(source, tmp_path / "raw", max_bad="2", payload="raw", **SMALL)
    run = RunWriter.begin(Place(tmp_path / "run"), "recentre", {})
    recentre(f"{tmp_path}/raw", f"{tmp_path}/centred", RecentreSettings(num_actors=1), run)
    with pytest.raises(RefusedError, match=raw["dataset_id"]):
        retry(tmp_path / "centred", source, tmp_path / "new")
    (tmp_path / "centred/manifest.json").unlink()
    with pytest.raises(RefusedError, match=raw["dataset_id"]):
        drop_verdicts(f"{tmp_path}/centred")
    assert len(quarantined(tmp_path / "centred")) == 2
