"""Disks that fill up or are read only, sources that vanish, files that a loss of power has cut: said clearly, and
mended by the same command once the cause is mended."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import Outcome, execute
from cluster.settings import IngestRequest
from ingest.errors import RefusedError, TenchError
from ingest.progress import RunWriter
from ingest.settings import VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.conftest import TinySource
from tests.ingest.conftest import Convert

PER_SHARD = 16
SMALL, LARGE = "12m", "64m"


class Disturbed(RunWriter):
    """A writer that does something to the world once, right after the first event of a kind."""

    def __init__(self, place: Place, attempt: int) -> None:
        super().__init__(place, attempt)
        self.after = ""
        self.disturb: Callable[[], object] = lambda: None

    def event(self, kind: str, text: str, **data: Any) -> None:
        super().event(kind, text, **data)
        if kind == self.after:
            self.after = ""
            self.disturb()


def _ingest(
    source: Path, dataset: Path, run: Path, after: str = "", disturb: Callable[[], object] = lambda: None
) -> Outcome:
    """What `tench ingest` does, with one actor."""
    request = IngestRequest(source=str(source), dataset=str(dataset), samples_per_shard=PER_SHARD, num_actors=1)
    writer = Disturbed.begin(Place(run), "ingest", {})
    assert isinstance(writer, Disturbed)
    writer.after, writer.disturb = after, disturb
    return execute(request, writer)


def _reports(dataset: Path) -> int:
    return len(list(dataset.glob("parts/*.json")))


def _staged(dataset: Path) -> list[Path]:
    return list(dataset.rglob("*#*"))


# Disks: a file system in memory.


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB: enough for the dataset, if nobody else uses it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tench-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def _fill(disk: Path) -> None:
    """Leave 100 kB, less than a shard of 16 pictures with its sums."""
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(bytes(free - 100_000))


@pytest.mark.root
@pytest.mark.parametrize(("after", "kept"), [("phase", 0), ("shard", 1)])
def test_a_disk_that_fills_up_ends_the_run_with_its_shards_kept_and_a_larger_one_goes_on(
    after: str, kept: int, disk: Path, tiny_source: TinySource, tiny_dataset: str, ray_session: None,
    tmp_path: Path, manifest_of: Any,
) -> None:  # fmt: skip
    dataset = disk / "dataset"
    outcome = _ingest(tiny_source.folders, dataset, tmp_path / "run", after, lambda: _fill(disk))
    assert outcome.error is not None
    if after == "shard":
        assert outcome.exit_code == 1
        assert f"{dataset}/" in outcome.error
        assert (
            "(No space left on device); what is finished is kept. Free some space on that disk, then" in outcome.error
        )
    else:  # before the first put: nothing is begun
        assert outcome.exit_code == 3
        assert f"{dataset}: needs about 6.68 MB, free are 0." in outcome.error
    assert _reports(dataset) == kept
    assert _staged(dataset) == []
    _remount(disk, f"size={LARGE}")
    outcome = _ingest(tiny_source.folders, dataset, tmp_path / "run")
    assert outcome.exit_code == 0, outcome
    assert outcome.facts["dataset_id"] == manifest_of(tiny_dataset)["dataset_id"]
    assert outcome.facts["samples_converted"] == 90 - kept * PER_SHARD


@pytest.mark.root
def test_a_disk_that_is_full_before_the_seal_keeps_every_shard(
    disk: Path, tiny_source: TinySource, tiny_dataset: str, unsealed: Callable[[str], Path], ray_session: None,
    tmp_path: Path,
) -> None:  # fmt: skip
    dataset = shutil.copytree(unsealed(tiny_dataset), disk / "dataset")
    (dataset / "parts/val-00001.json").unlink()
    outcome = _ingest(tiny_source.folders, dataset, tmp_path / "run", "shard", lambda: _fill(disk))
    assert outcome.exit_code == 1
    assert "cannot be written" in (outcome.error or "")
    assert _reports(dataset) == 6
    assert not (dataset / "manifest.json").exists()
    (disk / "ballast").unlink()
    assert _ingest(tiny_source.folders, dataset, tmp_path / "run").exit_code == 0
    assert verify(str(dataset), VerifySettings())["ok"]


@pytest.mark.root
def test_a_record_that_cannot_be_written_is_said_and_the_run_ends_in_order(
    disk: Path, tiny_source: TinySource, ray_session: None, tmp_path: Path
) -> None:
    def fill() -> None:
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))

    outcome = _ingest(tiny_source.folders, tmp_path / "dataset", disk / "run", "shard", fill)
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    assert f"{disk}/run/" in (outcome.error or "")
    assert "No space left on device" in (outcome.error or "")
    assert _reports(tmp_path / "dataset") >= 1


@pytest.mark.root
def test_a_read_only_disk_is_refused_unless_there_is_nothing_left_to_do(
    disk: Path, tiny_source: TinySource, tiny_dataset: str, ray_session: None, tmp_path: Path
) -> None:
    shutil.copytree(tiny_dataset, disk / "sealed")
    _remount(disk, "ro")
    outcome = _ingest(tiny_source.folders, disk / "dataset", tmp_path / "run")
    assert outcome.exit_code == 3
    assert f"{disk / 'dataset'}: nothing can be written in {disk}, which is read only" in (outcome.error or "")
    assert _ingest(tiny_source.folders, disk / "sealed", tmp_path / "run").facts["samples_converted"] == 0


# Without a disk of our own.


def test_too_little_space_is_refused_with_both_figures_before_anything_is_written(
    tiny_source: TinySource, ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 90 pictures of 256 x 256 at 0.6 bytes a pixel, and the sums of 4 training shards.
    needed = int(90 * 256**2 * 0.6) + 4 * 256**2 * 12
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=needed - 1))
    dataset = tmp_path / "dataset"
    outcome = _ingest(tiny_source.folders, dataset, tmp_path / "run")
    assert outcome.exit_code == RefusedError.exit_code
    assert outcome.error == (
        f"{dataset}: needs about 6.68 MB, free are 6.68 MB; free some space, or choose another disk"
    )
    assert not dataset.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=needed))
    assert _ingest(tiny_source.folders, dataset, tmp_path / "run").exit_code == 0


def test_what_is_written_already_needs_no_space(
    tiny_source: TinySource, tiny_dataset: str, unsealed: Callable[[str], Path], convert: Convert,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    dataset = unsealed(tiny_dataset)
    (dataset / "parts/val-00001.json").unlink()
    written = sum(f.stat().st_size for folder in ("train", "val", "parts") for f in (dataset / folder).iterdir())
    free = int(90 * 256**2 * 0.6) + 4 * 256**2 * 12 - written
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))
    assert convert(tiny_source.folders, dataset)["samples_converted"] == 14


@pytest.mark.parametrize("layout", ["folders", "official"])
def test_a_source_that_vanishes_ends_the_run_and_the_same_command_goes_on_when_it_is_back(
    layout: str, tiny_source: TinySource, tiny_dataset: str, ray_session: None, tmp_path: Path, manifest_of: Any
) -> None:
    source, away = shutil.copytree(getattr(tiny_source, layout), tmp_path / "source"), tmp_path / "away"
    dataset = tmp_path / "dataset"
    outcome = _ingest(source, dataset, tmp_path / "run", "shard", lambda: source.rename(away))
    assert outcome.exit_code == 1
    assert f"{source}/" in (outcome.error or "")
    assert ": No such file or directory, for n9" in (outcome.error or "")
    assert "the source changed while it was read. Restore it, then run the same command again" in (outcome.error or "")
    kept = _reports(dataset)
    assert 1 <= kept < 6
    away.rename(source)
    outcome = _ingest(source, dataset, tmp_path / "run")
    assert outcome.facts["dataset_id"] == manifest_of(tiny_dataset)["dataset_id"]
    assert outcome.facts["samples_converted"] == 90 - kept * PER_SHARD


LOST = ("train/00000.arrow", "parts/train-00001.json", "parts/train-00002.npz", "parts/train-00003.arrow")


@pytest.mark.parametrize("share", [0, 0.5])
@pytest.mark.parametrize("has_report", [True, False])
def test_files_that_lost_their_bytes_are_made_again(
    has_report: bool, share: float, tiny_source: TinySource, tiny_dataset: str, unsealed: Callable[[str], Path],
    convert: Convert, manifest_of: Any,
) -> None:  # fmt: skip
    dataset = unsealed(tiny_dataset)
    for number, path in enumerate(LOST):
        honest = (dataset / path).read_bytes()
        (dataset / path).write_bytes(honest[: int(share * len(honest))])
        if not has_report:
            (dataset / f"parts/train-{number:05d}.json").unlink()
    facts = convert(tiny_source.folders, dataset)
    assert facts["dataset_id"] == manifest_of(tiny_dataset)["dataset_id"]
    assert facts["samples_converted"] == 60  # all of the training split
    assert verify(str(dataset), VerifySettings())["ok"]


@pytest.fixture(scope="module")
def spoilt(tiny_source: TinySource, convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source with a picture that is cut, and its dataset."""
    out = tmp_path_factory.mktemp("spoilt")
    source = shutil.copytree(tiny_source.folders, out / "source")
    picture = sorted((source / "train").rglob("*.*"))[7]
    picture.write_bytes(picture.read_bytes()[:2000])
    convert(source, out / "dataset", max_bad="1")
    return source, out / "dataset"


@pytest.mark.parametrize("has_report", [True, False])
@pytest.mark.parametrize(("extension", "size"), [("json", 0), ("json", 20), ("json", None), ("bin", 0), ("bin", None)])
def test_a_verdict_that_lost_its_bytes_or_its_picture_is_given_again(
    extension: str, size: int | None, has_report: bool, spoilt: tuple[Path, Path], unsealed: Callable[[str], Path],
    convert: Convert, manifest_of: Any,
) -> None:  # fmt: skip
    source, whole = spoilt
    dataset = unsealed(str(whole))
    (file,) = (dataset / "quarantine").glob(f"*.{extension}")
    honest = file.read_bytes()
    if size is None:
        file.unlink()
    else:
        file.write_bytes(honest[:size])
    if not has_report:
        number = int(file.stem.split("-")[1]) // PER_SHARD
        (dataset / f"parts/train-{number:05d}.json").unlink()
    facts = convert(source, dataset, max_bad="1")
    assert facts["dataset_id"] == manifest_of(whole)["dataset_id"]
    assert file.read_bytes() == honest
    assert verify(str(dataset), VerifySettings())["ok"]


def test_a_picture_in_quarantine_that_lost_its_bytes_before_its_verdict_was_put_is_kept_whole(
    spoilt: tuple[Path, Path], unsealed: Callable[[str], Path], convert: Convert
) -> None:
    source, whole = spoilt
    dataset = unsealed(str(whole))
    (verdict,) = (dataset / "quarantine").glob("*.json")
    picture = verdict.with_suffix(".bin")
    honest = picture.read_bytes()
    picture.write_bytes(honest[:100])
    verdict.unlink()
    convert(source, dataset, max_bad="1")
    assert picture.read_bytes() == honest
    assert verify(str(dataset), VerifySettings())["ok"]


def test_a_place_that_cannot_be_written_says_where_and_why_in_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(TenchError) as found:
        Place(blocked / "run").put_new("a", b"x")
    assert str(found.value).startswith(f"{blocked}/run/a: cannot be written on ")
    assert "(Not a directory); what is finished is kept. Mend the cause, then run the same command" in str(found.value)
    assert "\n" not in str(found.value)
