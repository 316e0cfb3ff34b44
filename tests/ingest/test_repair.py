"""Repair: damaged files get their recorded bytes again from the source, and nothing that lay there is lost."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest.convert import ShardTask, shard_tasks
from ingest.errors import DamageError, Interrupted, RefusedError
from ingest.progress import RunReader, RunWriter
from ingest.recentre import recentre
from ingest.repair import repair
from ingest.settings import RecentreSettings, RepairSettings, VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.cluster.served import environment
from tests.conftest import TinySource
from tests.ingest import poison
from tests.ingest.conftest import Convert

pytestmark = pytest.mark.usefixtures("ray_session")


class Repair:
    """Repairs a dataset from a source with one actor; keeps the record of the last run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.runs = 0

    def __call__(self, dataset: Path, source: Path) -> dict[str, Any]:
        self.runs += 1
        self.place = Place(self._folder / f"run{self.runs}")
        run = RunWriter.begin(self.place, "repair", {})
        facts = repair(str(dataset), str(source), RepairSettings(num_actors=1), run)
        run.flush()
        return facts


@pytest.fixture
def repaired(tmp_path: Path) -> Repair:
    return Repair(tmp_path)


def contents(dataset: Path) -> dict[str, bytes]:
    """Bytes of every file of a dataset by its path, without what was set aside."""
    files = [p for p in dataset.rglob("*") if p.is_file() and p.relative_to(dataset).parts[0] != "damaged"]
    return {str(p.relative_to(dataset)): p.read_bytes() for p in files}


def aside(dataset: Path) -> dict[str, bytes]:
    """What was set aside, by its path."""
    folder = dataset / "damaged"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flip(path: Path, seed: int = 0) -> bytes:
    """Flip one bit; the bytes as they are then."""
    data = bytearray(path.read_bytes())
    data[random.Random(f"{path.name} {seed}").randrange(len(data))] ^= 4
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_tfrecord_dataset", "tiny_raw_dataset"])
def test_every_file_of_a_dataset_is_made_again_though_all_are_damaged_at_once(
    name: str, request: pytest.FixtureRequest, copied: Callable[[str], Path], tiny_source: TinySource, repaired: Repair
) -> None:
    dataset = copied(request.getfixturevalue(name))
    before = contents(dataset)
    others = [dataset / path for path in before if path != "manifest.json"]
    damaged = {str(path.relative_to(dataset)): flip(path) for path in others}
    facts = repaired(dataset, tiny_source.folders)
    assert (facts["ok"], facts["damages"], facts["repaired"]) == (True, [], sorted(damaged))
    assert contents(dataset) == before
    assert aside(dataset) == damaged
    assert verify(str(dataset), VerifySettings(deep=True))["ok"]


def test_cut_and_missing_files_are_made_again_and_foreign_ones_set_aside(
    tiny_tfrecord_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, repaired: Repair
) -> None:
    dataset = copied(tiny_tfrecord_dataset)
    before = contents(dataset)
    gone = ["train/00000.tfrecord", "train/00001.idx", "parts/val-00000.arrow", "plan.json", "statistics/mean.npy"]
    cut = ["val/00001.tfrecord", "index/train.arrow", "parts/train-00002.npz", "parts/train-00003.json"]
    for path in gone:
        (dataset / path).unlink()
    for path in cut:
        (dataset / path).write_bytes(before[path][: len(before[path]) // 2])
    (dataset / "train/00009.tfrecord").write_bytes(b"a shard of another dataset")
    (dataset / "notes.txt").write_text("mine")
    facts = repaired(dataset, tiny_source.official)
    assert (facts["ok"], facts["repaired"]) == (True, sorted(gone + cut))
    assert facts["set_aside"] == ["notes.txt", "train/00009.tfrecord"]
    assert contents(dataset) == before


def test_entries_are_made_again_only_by_a_source_that_lies_as_the_one_that_was_ingested(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    before = contents(dataset)
    flip(dataset / "plan/entries-val.arrow")
    facts = repaired(dataset, tiny_source.official)
    (told,) = facts["damages"]
    assert told["path"] == "plan/entries-val.arrow"
    assert "the source holds the same pictures, but not where they lay at the ingest" in told["problem"]
    assert repaired(dataset, tiny_source.folders)["repaired"] == ["plan/entries-val.arrow"]
    assert contents(dataset) == before


def test_an_older_damaged_file_is_kept_beside_a_newer_one(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    before = contents(dataset)
    spoilt = []
    for seed in range(3):
        spoilt.append(flip(dataset / "statistics/pca.json", seed))
        assert repaired(dataset, tiny_source.folders)["repaired"] == ["statistics/pca.json"]
    assert contents(dataset) == before
    assert list(aside(dataset).values()) != []
    assert aside(dataset) == {f"statistics/pca.json{end}": spoilt[n] for n, end in enumerate(("", ".1", ".2"))}


def test_only_what_is_damaged_is_moved(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    before = contents(dataset)
    inodes = {path: (dataset / path).stat().st_ino for path in before}
    spoilt = flip(dataset / "train/00002.arrow")
    facts = repaired(dataset, tiny_source.folders)
    assert (facts["repaired"], facts["set_aside"]) == (["train/00002.arrow"], [])
    assert facts["damaged_files_in"] == f"{dataset}/damaged"
    assert contents(dataset) == before
    assert aside(dataset) == {"train/00002.arrow": spoilt}
    changed = {path for path, inode in inodes.items() if (dataset / path).stat().st_ino != inode}
    assert changed <= {"train/00002.arrow"}
    told = list(RunReader(repaired.place).events())
    assert [e.data["path"] for e in told if e.kind == "repaired"] == ["train/00002.arrow"]
    assert any(e.text.startswith("1 damaged file; first train/00002.arrow: same size") for e in told)
    assert [p.name for p in sorted((dataset / "damaged").rglob("*"))] == ["train", "00002.arrow"]


def test_a_whole_dataset_is_left_alone_and_its_source_not_even_opened(
    tiny_dataset: str, copied: Callable[[str], Path], tmp_path: Path, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    before = contents(dataset)
    facts = repaired(dataset, tmp_path / "no such source")
    assert (facts["ok"], facts["repaired"], facts["set_aside"], facts["damages"]) == (True, [], [], [])
    assert (contents(dataset), aside(dataset), facts["damaged_files_in"]) == (before, {}, None)
    assert "Nothing is damaged: nothing to do." in [e.text for e in RunReader(repaired.place).events()]


def test_ray_is_connected_only_for_shards_that_are_to_be_made_again(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, tmp_path: Path
) -> None:
    dataset = copied(tiny_dataset)
    connected: list[str] = []
    for path in ("plan.json", "index/val.arrow", "train/00000.arrow"):
        (dataset / path).unlink()
        run = RunWriter.begin(Place(tmp_path / "run"), "repair", {})
        settings = RepairSettings(num_actors=1)
        repair(str(dataset), str(tiny_source.folders), settings, run, lambda path=path: connected.append(path))  # type: ignore[misc]
    assert connected == ["train/00000.arrow"]
    assert not (dataset / "damaged").exists()


def test_foreign_files_are_set_aside_without_the_source(
    tiny_dataset: str, copied: Callable[[str], Path], tmp_path: Path, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    before = contents(dataset)
    shutil.copy(dataset / "train/00000.arrow", dataset / "train/00004.arrow")
    facts = repaired(dataset, tmp_path / "no such source")
    assert (facts["ok"], facts["set_aside"]) == (True, ["train/00004.arrow"])
    assert (contents(dataset), aside(dataset)) == (before, {"train/00004.arrow": before["train/00000.arrow"]})


def test_another_source_is_refused_by_what_differs_and_nothing_is_touched(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, tmp_path: Path, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    spoilt = flip(dataset / "val/00000.arrow")
    source = shutil.copytree(tiny_source.folders, tmp_path / "source")
    gone = sorted((source / "val").rglob("*.JPEG"))[4]
    gone.unlink()
    with pytest.raises(RefusedError) as refused:
        repaired(dataset, source)
    assert f"split val: 1 key missing: {gone.parent.name}/{gone.stem}" in refused.value.message
    assert "split val had 30 pictures, now 29" in refused.value.message
    assert ((dataset / "val/00000.arrow").read_bytes(), aside(dataset)) == (spoilt, {})


def test_a_picture_that_changed_is_told_and_its_shard_left_as_it_is(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, tmp_path: Path, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    source = shutil.copytree(tiny_source.folders, tmp_path / "source")
    one, other = sorted((source / "train/n90000011").iterdir())[:2]
    size = one.stat().st_size
    one.write_bytes(other.read_bytes()[:size].ljust(size, b"\0"))
    spoilt = {path: flip(dataset / path) for path in shards_of(dataset, "train")}
    facts = repaired(dataset, source)
    (told,) = facts["damages"]
    assert facts["ok"] is False
    assert f"made again it has other bytes (kept as damaged/rebuilt/{told['path']})" in told["problem"]
    assert (dataset / told["path"]).read_bytes() == spoilt[told["path"]]
    assert len(facts["repaired"]) == len(spoilt) - 1
    assert repaired(dataset, tiny_source.folders)["repaired"] == [told["path"]]
    assert verify(str(dataset), VerifySettings())["ok"]


def shards_of(dataset: Path, split: str) -> list[str]:
    """The shards of a split."""
    return sorted(str(p.relative_to(dataset)) for p in (dataset / split).iterdir())


def test_a_manifest_that_is_damaged_cannot_be_repaired(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    manifest = dataset / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_samples":60', '"num_samples":61'))
    with pytest.raises(DamageError, match=r"manifest\.json: .*A manifest cannot be repaired.*copy"):
        repaired(dataset, tiny_source.folders)


def test_another_imaging_library_is_refused_by_name_but_does_not_matter_to_other_files(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, repaired: Repair,
    monkeypatch: pytest.MonkeyPatch, manifest_of: Any,
) -> None:  # fmt: skip
    dataset = copied(tiny_dataset)
    monkeypatch.setattr("ingest.repair.pixel_fingerprint", lambda: "f" * 64)
    flip(dataset / "index/val.arrow")
    assert repaired(dataset, tiny_source.folders)["repaired"] == ["index/val.arrow"]
    flip(dataset / "val/00000.arrow")
    imaging = manifest_of(str(dataset))["imaging"]
    with pytest.raises(RefusedError, match=f"was made with {imaging['name']} {imaging['version']}; the imaging"):
        repaired(dataset, tiny_source.folders)


def test_pictures_in_quarantine_are_brought_back_with_their_verdicts(
    tiny_source: TinySource, convert: Convert, tmp_path: Path, repaired: Repair
) -> None:
    source = shutil.copytree(tiny_source.folders, tmp_path / "source")
    for folder in ("train/n90000023", "val/n90000041"):
        sorted((source / folder).iterdir())[1].write_bytes(b"no picture at all")
    dataset = tmp_path / "dataset"
    convert(source, dataset, max_bad="2")
    before = contents(dataset)
    verdicts = sorted(path for path in before if path.startswith("quarantine/"))
    assert len(verdicts) == 4
    (dataset / verdicts[0]).unlink()
    (dataset / verdicts[1]).unlink()
    flip(dataset / verdicts[3])
    facts = repaired(dataset, source)
    assert (facts["ok"], facts["repaired"]) == (True, [verdicts[0], verdicts[1], verdicts[3]])
    assert contents(dataset) == before


def test_a_verdict_that_binds_is_kept_when_its_shard_is_made_again(
    tiny_source: TinySource, convert: Convert, tmp_path: Path, repaired: Repair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(tiny_source.folders, tmp_path / "source")
    picture = sorted((source / "train/n90000023").iterdir())[1]
    picture.write_bytes(picture.read_bytes() + poison.CRASH)

    def poisonous(*arguments: Any) -> Iterator[ShardTask]:
        return (replace(task, job=replace(task.job, decode=poison.decode)) for task in shard_tasks(*arguments))

    monkeypatch.setattr("ingest.run.shard_tasks", poisonous)
    dataset = tmp_path / "dataset"
    assert convert(source, dataset, max_bad="1")["num_quarantined"] == 1
    before = contents(dataset)
    for path in shards_of(dataset, "train"):
        flip(dataset / path)
    # The decoder is an honest one now, and would take the picture.
    assert repaired(dataset, source)["damages"] == []
    assert contents(dataset) == before


def test_a_repair_that_was_killed_is_run_again(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, repaired: Repair
) -> None:
    dataset = copied(tiny_dataset)
    before = contents(dataset)
    spoilt = flip(dataset / "train/00000.arrow")
    flip(dataset / "train/00001.arrow")
    # Between the two moves of one shard, with another one half made: as a kill leaves it.
    for path, data in {
        "damaged/train/00000.arrow": spoilt,
        "damaged/rebuilt/train/00000.arrow": before["train/00000.arrow"],
        "damaged/rebuilt/train/00001.arrow": before["train/00001.arrow"][:1000],
        "damaged/rebuilt/parts/train-00001.arrow": b"other",
    }.items():
        (dataset / path).parent.mkdir(parents=True, exist_ok=True)
        (dataset / path).write_bytes(data)
    (dataset / "train/00000.arrow").unlink()
    assert repaired(dataset, tiny_source.folders)["ok"]
    assert contents(dataset) == before
    assert set(aside(dataset)) == {"train/00000.arrow", "train/00001.arrow"}


def test_a_stop_is_heeded_and_nothing_is_touched(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, tmp_path: Path
) -> None:
    dataset = copied(tiny_dataset)
    flip(dataset / "train/00000.arrow")
    before = contents(dataset)
    run = RunWriter.begin(Place(tmp_path / "run"), "repair", {})
    run.request_stop()
    with pytest.raises(Interrupted):
        repair(str(dataset), str(tiny_source.folders), RepairSettings(), run)
    assert (contents(dataset), aside(dataset)) == (before, {})


def test_a_centred_dataset_is_verified_like_others_but_not_repaired_from_pictures(
    tiny_raw_dataset: str, tiny_source: TinySource, tmp_path: Path, repaired: Repair
) -> None:
    run = RunWriter.begin(Place(tmp_path / "run"), "recentre", {})
    dataset = tmp_path / "centred"
    recentre(tiny_raw_dataset, str(dataset), RecentreSettings(num_actors=1), run)
    assert verify(str(dataset), VerifySettings(deep=True))["damages"] == []
    flip(dataset / "val/00000.arrow")
    (damage, *_) = verify(str(dataset), VerifySettings())["damages"]
    assert damage["path"] == "val/00000.arrow"
    with pytest.raises(RefusedError, match=r"was made of dataset .* not of pictures.*tench recentre"):
        repaired(dataset, tiny_source.folders)


@pytest.mark.slow
def test_the_command_leaves_with_0_4_and_3(
    tiny_dataset: str, copied: Callable[[str], Path], tiny_source: TinySource, tmp_path: Path
) -> None:
    dataset = copied(tiny_dataset)
    before = contents(dataset)
    lacking = shutil.copytree(tiny_source.folders, tmp_path / "lacking")
    sorted((lacking / "train").rglob("*.JPEG"))[0].unlink()
    changed = shutil.copytree(tiny_source.folders, tmp_path / "changed")
    for picture in (changed / "train").rglob("*.JPEG"):
        picture.write_bytes(bytes(picture.stat().st_size))
    flip(dataset / "train/00000.arrow")
    for source, code, repaired in (
        (lacking, 3, None),
        (changed, 4, []),
        (tiny_source.folders, 0, ["train/00000.arrow"]),
    ):
        command = ["repair", str(dataset), "--source", str(source), "--num-actors", "1", "--json"]
        ended = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *command], capture_output=True, text=True, timeout=200, check=False,
            env=environment(TENCH_HOME=str(tmp_path / "home")),
        )  # fmt: skip
        told = json.loads(ended.stdout)
        assert (ended.returncode, told.get("repaired")) == (code, repaired), ended.stderr
    manifest = json.loads(before["manifest.json"])
    data = (dataset / "train/00000.arrow").read_bytes()
    assert hashlib.sha256(data).hexdigest() == manifest["files"]["train/00000.arrow"]["sha256"]
    assert contents(dataset) == before
