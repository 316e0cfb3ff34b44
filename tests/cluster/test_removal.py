"""Datasets removed, in folders and in a store over HTTP, from here and by the service: what is refused, what goes, what
stays."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.app import run as tench
from cluster.engines import note_place
from cluster.upkeep.removal import belongings, remove
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.rows import put_job
from tests.cluster.served import Served, closed_port, environment, serving
from tests.s3_server import s3_server

Copy = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HOME of Tench."""
    monkeypatch.setenv("TENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def copy(tmp_path: Path, tiny_dataset: str) -> Copy:
    """Copies of a sealed dataset, each in a folder of its own."""

    def make(name: str = "pictures", parent: Path = tmp_path) -> Path:
        return Path(shutil.copytree(tiny_dataset, parent / name))

    return make


def said(capsys: pytest.CaptureFixture[str], *line: str, code: int = 0) -> str:
    """What a command line prints on both."""
    assert tench(line) == code
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_a_dataset_goes_with_all_its_files_and_its_folder(
    home: Path, copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = copy()
    files = [path for path in dataset.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    dataset_id = json.loads((dataset / "manifest.json").read_text())["dataset_id"]
    facts = json.loads(said(capsys, "datasets", "rm", str(dataset), "--yes", "--json"))
    assert facts == {
        "dataset_id": dataset_id, "removed": str(dataset), "num_files": len(files), "bytes": size, "left": [],
    }  # fmt: skip
    assert not dataset.exists()


def test_what_is_no_part_of_it_stays_and_is_named_and_no_link_is_followed(
    home: Path, copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, other = copy(), copy("other")
    (dataset / "README").write_text("mine")
    (dataset / "train" / "notes.txt").write_text("mine")
    (dataset / "train" / "00009.arrow").symlink_to(other / "train" / "00000.arrow")
    (dataset / "val2").symlink_to(other / "val")
    (dataset / "statistics" / "mean.npy#3").write_bytes(b"staged")
    (dataset / "damaged" / "train").mkdir(parents=True)
    (dataset / "damaged" / "train" / "00000.arrow.1").write_bytes(b"set aside")
    before = {path: path.stat().st_mtime_ns for path in other.rglob("*")}
    words = said(capsys, "datasets", "rm", str(dataset), "--yes")
    left = ["README", "train/00009.arrow", "train/notes.txt", "val2"]
    assert sorted(line.rsplit(": ", 1)[1] for line in words.splitlines() if line.startswith("! left")) == left
    remaining = sorted(str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.is_symlink() or not p.is_dir())
    assert remaining == left
    assert {path: path.stat().st_mtime_ns for path in other.rglob("*")} == before


@pytest.mark.parametrize("what", ["nothing", "strange", "link", "missing"])
def test_what_is_no_dataset_is_refused(
    home: Path, copy: Copy, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    if what == "link":
        folder.symlink_to(copy())
    elif what != "missing":
        folder.mkdir()
    if what == "strange":
        (folder / "manifest.json").write_text('{"name": "an app"}')
        (folder / "plan.json").write_text("[]")
    words = said(capsys, "datasets", "rm", str(folder), "--yes", code=3)
    assert ("is a link to" if what == "link" else "is no dataset") in words
    assert what != "link" or (folder / "manifest.json").exists()
    assert what != "strange" or len(list(folder.iterdir())) == 2


def test_an_unfinished_and_a_damaged_dataset_go_as_well(
    home: Path, copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished, damaged = copy("unfinished"), copy("damaged")
    (unfinished / "manifest.json").unlink()
    (damaged / "manifest.json").write_bytes(b"\x00 no JSON")
    for dataset in (unfinished, damaged):
        said(capsys, "datasets", "rm", str(dataset), "--yes")
        assert not dataset.exists()


@pytest.mark.parametrize(
    ("job", "refused", "forced"),
    [
        ({"kind": "verify", "state": "queued"}, "is queued; stop them", False),
        ({"kind": "train", "state": "running"}, "is running; stop them", False),
        ({"kind": "evaluate", "state": "lost"}, "is lost; stop them", False),
        ({"kind": "train", "state": "stopped"}, "stopped and could go on with it; remove it all the same", True),
        ({"kind": "recentre", "state": "failed"}, "failed and could go on with it", True),
        ({"kind": "verify", "state": "failed", "resume_requested": True}, "is failed; stop them", False),
        ({"kind": "verify", "state": "failed"}, None, True),
        ({"kind": "train", "state": "succeeded"}, None, True),
    ],
)
def test_a_dataset_in_use_is_refused_with_the_job_that_uses_it(
    home: Path, copy: Copy, capsys: pytest.CaptureFixture[str], job: dict[str, Any], refused: str | None, forced: bool
) -> None:
    dataset = copy()
    name = put_job(home, settings={"dataset": f"{dataset}/"}, **job)
    if refused is not None:
        words = said(capsys, "datasets", "rm", str(dataset), "--yes", code=3)
        assert f"{job['kind']} {name} {refused}" in words
        assert (dataset / "manifest.json").exists()
    said(capsys, "datasets", "rm", str(dataset), "--yes", *(("--force",) if refused else ()), code=0 if forced else 3)
    assert dataset.exists() != forced


def test_a_run_of_the_command_line_uses_its_dataset_too_by_whatever_name(
    home: Path, copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = copy()
    (tmp_path / "also").symlink_to(tmp_path)
    run = RunWriter.begin(
        Place(home / "runs" / "mine"), "train", {"settings": {"dataset": f"{tmp_path}/also/pictures"}}
    )
    assert "train mine is running" in said(capsys, "datasets", "rm", str(dataset), "--yes", code=3)
    run.finish("failed", 1, "broke")
    assert "train mine failed and could go on" in said(capsys, "datasets", "rm", str(dataset), "--yes", code=3)
    said(capsys, "datasets", "rm", str(dataset), "--yes", "--force")


def test_it_asks_for_the_name_at_a_terminal_and_wants_yes_elsewhere(home: Path, copy: Copy) -> None:
    dataset = copy()
    command = [sys.executable, "-m", "cluster.cli", "datasets", "rm", str(dataset)]
    variables = environment(TENCH_HOME=str(home))
    away = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=variables, check=False)
    assert (away.returncode, "give --yes" in away.stderr) == (2, True)
    for typed, code in (("picture", 3), ("pictures", 0)):
        ours, theirs = pty.openpty()
        asked = subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=variables)
        os.write(ours, f"{typed}\n".encode())
        _, errors = asked.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)
        assert (asked.returncode, b"Type its name (pictures)" in errors) == (code, True), errors
        assert dataset.exists() == (code != 0)


def test_after_a_kill_no_manifest_is_left_and_the_same_command_goes_on(
    home: Path, copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = copy()
    for number in range(4000):
        (dataset / "parts" / f"train-{10000 + number}.json").write_bytes(b"")
    command = [sys.executable, "-m", "cluster.cli", "datasets", "rm", str(dataset), "--yes"]
    killed = subprocess.Popen(command, env=environment(TENCH_HOME=str(home)))
    while killed.poll() is None and (dataset / "manifest.json").exists():
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert dataset.exists(), "the kill came too late to tell anything"
    assert not (dataset / "manifest.json").exists()
    assert "not finished" in said(capsys, "inspect", str(dataset), code=3)
    said(capsys, "datasets", "rm", str(dataset), "--yes")
    assert not dataset.exists()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server on loopback; its address."""
    with s3_server("removals") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield "s3://removals"


def test_a_dataset_in_a_bucket_goes_and_its_neighbours_stay(
    home: Path, bucket: str, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(f"{bucket}/pictures")
    for path in Path(tiny_dataset).rglob("*"):
        if path.is_file():
            place.put_new(str(path.relative_to(tiny_dataset)), path.read_bytes())
    Place(bucket).put_new("pictures-2/manifest.json", b"{}")
    place.put_new("README", b"mine")
    job = put_job(home, kind="train", state="running", settings={"dataset": place.uri})
    assert f"train {job} is running" in said(capsys, "datasets", "rm", place.uri, "--yes", code=3)
    put_job(home, kind="train", state="succeeded", settings={"dataset": place.uri})
    remove(place, belongings(place))
    assert [file.path for file in Place(bucket).walk()] == ["pictures-2/manifest.json", "pictures/README"]


def test_the_service_removes_by_id_what_no_job_uses(
    served: Served, tiny_raw_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Path(shutil.copytree(tiny_raw_dataset, served.root / "raw"))
    (listed,) = [d for d in served.get("/v1/datasets").json()["datasets"] if d["uri"] == str(dataset)]
    path = f"/v1/datasets/{listed['dataset_id']}"
    job = served.submit(settings={"dataset": str(dataset)})["id"]
    refused = served.ask("DELETE", path)
    assert (refused.status, f"verify {job} is queued" in refused.json()["detail"]) == (409, True)
    assert f"verify {job}" in said(
        capsys, "datasets", "rm", listed["dataset_id"][:12], "--yes", "--server", served.url, code=3
    )
    served.stopped(job)
    shown = said(capsys, "datasets", "show", listed["dataset_id"][:12], "--server", served.url)
    assert str(dataset) in shown
    said(capsys, "datasets", "rm", listed["dataset_id"][:12], "--yes", "--server", served.url)
    assert not dataset.exists()
    assert served.ask("DELETE", path).status == 404
    assert "no such dataset" in said(
        capsys, "datasets", "rm", listed["dataset_id"][:12], "--yes", "--server", served.url, code=2
    )


def test_of_several_copies_the_service_removes_the_one_that_is_named(
    served: Served, tiny_tfrecord_dataset: str, tmp_path: Path
) -> None:
    first, second, outside = served.root / "copy-1", served.root / "copy-2", tmp_path / "copy-3"
    for folder in (first, second, outside):
        shutil.copytree(tiny_tfrecord_dataset, folder)
    (served.root / "linked").symlink_to(outside)
    path = f"/v1/datasets/{json.loads((first / 'manifest.json').read_text())['dataset_id']}"
    unclear = served.ask("DELETE", path)
    assert (unclear.status, str(first) in unclear.json()["detail"], str(second) in unclear.json()["detail"]) == (
        409, True, True,
    )  # fmt: skip
    assert served.ask("DELETE", f"{path}?uri={outside}").status == 404
    assert served.ask("DELETE", f"{path}?uri={served.root}/linked").status == 404
    answer = served.ask("DELETE", f"{path}?uri={second}").json()
    assert (answer["removed"], answer["left"]) == (str(second), [])
    assert (first.exists(), second.exists(), outside.exists()) == (True, False, True)
    assert served.ask("DELETE", path).status == 200


def test_a_token_that_may_only_read_removes_nothing(
    tmp_path: Path, no_ray: str, tiny_dataset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "service"
    tokens = {}
    for right in ("read", "submit"):
        tokens[right] = said(
            capsys, "token", "add", right, "--right", right, "--token-file", str(home / "tokens.json")
        ).strip()
        (tmp_path / right).write_text(tokens[right])
    with serving(home, no_ray, "--require-token") as service:
        dataset = Path(shutil.copytree(tiny_dataset, service.root / "d"))
        letters = json.loads((dataset / "manifest.json").read_text())["dataset_id"][:16]
        line = ("datasets", "rm", letters, "--yes", "--server", service.url)
        monkeypatch.setenv("TENCH_TOKEN_FILE", str(tmp_path / "read"))
        assert "may read only" in said(capsys, *line, code=3)
        assert (dataset / "manifest.json").exists()
        monkeypatch.setenv("TENCH_TOKEN_FILE", str(tmp_path / "submit"))
        said(capsys, *line)
        assert not dataset.exists()


def test_no_dataset_is_removed_while_the_jobs_of_the_last_service_cannot_be_read(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, dataset = tmp_path / "home", tmp_path / "dataset"
    home.mkdir()
    shutil.copytree(tiny_dataset, dataset)
    monkeypatch.setenv("TENCH_HOME", str(home))
    monkeypatch.delenv("TENCH_STORE", raising=False)
    with closed_port() as port:
        note_place(home, f"postgresql://tench:secret@127.0.0.1:{port}/tench")
        assert "secret" not in (home / "store.json").read_text()
        assert tench(["datasets", "rm", str(dataset), "--yes"]) == 3
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert (dataset / "manifest.json").exists()
    assert tench(["datasets", "rm", str(dataset), "--yes", "--store", str(home / "store.sqlite")]) == 0
    assert not dataset.exists()
