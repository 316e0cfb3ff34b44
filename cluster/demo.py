"""`tench demo`: a small source through the whole of Tench, by the service on this machine; nothing is left running."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.cli.display import duration, step_bar
from cluster.cli.watching import watched
from cluster.client import Client, Job, raise_for
from cluster.serve import read_note
from ingest.errors import Interrupted, RefusedError, TenchError
from ingest.settings import SampleSettings

MARK = ".tench-demo"
"""A folder that holds this file is a demo's, and may be made anew."""
SERVICE_STARTS_WITHIN_S, SERVICE_ENDS_WITHIN_S = 120.0, 90.0
SHUFFLE_SEED = 1


def run_demo(out: str, shuffle_labels: bool, as_json: bool) -> int:
    """Run everything; 0 if all of it succeeded. Raises TenchError with the exit code of the job that did not."""
    started, folder = time.monotonic(), _fresh_folder(out)
    _say(f"Everything goes to {folder}: source, dataset, runs, figures.")
    source = _source(folder / "source", shuffle_labels)
    with _service(folder) as client:
        _say(f"Open {client.server} to watch.")
        jobs = _jobs(client, folder, source)
    facts = _facts(folder, jobs, time.monotonic() - started)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _print_summary(facts, jobs)
    return 0


def _fresh_folder(out: str) -> Path:
    folder = Path(out).expanduser().absolute()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise RefusedError(f"{folder}: is not empty and not an earlier demo's; give another folder: tench demo OUT")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return folder


def _source(folder: Path, shuffle_labels: bool) -> Path:
    """The archives; with shuffled labels the class folders, whose pictures change places."""
    from ingest.sample_source import write_sample

    on_progress, end = step_bar("drawing pictures")
    try:
        made = write_sample(str(folder), SampleSettings(), on_progress)
    finally:
        end()
    count = f"{made['num_train']} training and {made['num_val']} validation pictures in ten classes"
    if not shuffle_labels:
        _say(f"A source in the shape of ImageNet: {count}, as the official archives.")
        return folder / "official"
    _shuffle(folder / "folders")
    _say(f"A source with labels at random: {count}, as class folders.")
    return folder / "folders"


def _shuffle(folders: Path) -> None:
    for split in ("train", "val"):
        pictures = sorted(p for p in (folders / split).rglob("*") if p.is_file())
        places = [p.parent for p in pictures]
        random.Random(SHUFFLE_SEED).shuffle(places)
        # By a name that no other picture has, so that none is overwritten on the way.
        moving = [picture.rename(picture.with_name(f".{i}.moving")) for i, picture in enumerate(pictures)]
        for picture, now, place in zip(pictures, moving, places, strict=True):
            now.rename(place / picture.name)


@contextmanager
def _service(folder: Path) -> Iterator[Client]:
    """`tench serve` as a process of its own; gone afterwards, whatever happens."""
    home, log = folder / "home", folder / "serve.log"
    command = [
        sys.executable, "-m", "cluster.cli", "serve", "--port", "0", "--home", str(home), "--root", str(folder)
    ]  # fmt: skip
    _say("Starting the service and its own Ray on this machine (10 to 30 s) ...")
    with log.open("wb") as output:
        # In a session of its own: Ctrl-C reaches this process, which then ends the service in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        client = Client(_wait_until_ready(process, home, log))
        yield client
        client.close()
    finally:
        _end(process)


def _wait_until_ready(process: "subprocess.Popen[bytes]", home: Path, log: Path) -> str:
    deadline = time.monotonic() + SERVICE_STARTS_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        if (url := read_note(home)) is not None:
            return url
        time.sleep(0.2)
    words = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
    raise TenchError(f"the service did not start: {words or 'it said nothing'} (the whole text: {log})")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the service, and with it its Ray. Another Ctrl-C must not leave half of it behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _say("Ending the service and its Ray ...")
        process.send_signal(signal.SIGTERM)
        process.wait(SERVICE_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _jobs(client: Client, folder: Path, source: Path) -> dict[str, Job]:
    """The five jobs, one after another; each by its name in the summary."""
    dataset = str(folder / "dataset")
    done: dict[str, Job] = {}

    def run(name: str, kind: str, words: str, **settings: Any) -> None:
        _say(words)
        try:
            done[name] = watched(client, client.submit(kind, settings)["id"])
        except KeyboardInterrupt:
            raise Interrupted(f"Interrupted. What was made lies in {folder}; `tench demo` begins anew.") from None
        raise_for(done[name])

    run("ingest", "ingest", "1/5 ingest: archives to a dataset", source=str(source), dataset=dataset,
        samples_per_shard=64)  # fmt: skip
    run("verify", "verify", "2/5 verify: every hash, every checksum, every entry", dataset=dataset)
    run("train", "train", "3/5 train: the AlexNet of 2012, 57 million parameters (preset demo: He's initial weights, "
        "inputs divided by their deviation, a small batch, so that it learns from 400 pictures)",
        dataset=dataset, preset="demo")  # fmt: skip
    trained = done["train"]["id"]
    run("1 view", "evaluate", "4/5 evaluate with the centre view", dataset=dataset, run=trained, views=1)
    run("10 views", "evaluate", "5/5 evaluate with ten views", dataset=dataset, run=trained, views=10)
    return done


def _facts(folder: Path, jobs: dict[str, Job], seconds: float) -> dict[str, Any]:
    from trainer.figures import run_png

    run = folder / "home" / "runs" / jobs["train"]["id"]
    picture = folder / "demo.png"
    picture.write_bytes(run_png(str(run)))
    return {
        "seconds": round(seconds, 1),
        "top1_error": jobs["1 view"]["result"]["top1_error"],
        "top5_error": jobs["1 view"]["result"]["top5_error"],
        "top1_error_ten_views": jobs["10 views"]["result"]["top1_error"],
        "num_samples": jobs["1 view"]["result"]["num_samples"],
        "dataset_id": jobs["ingest"]["result"]["dataset_id"],
        "source": str(folder / "source"),
        "dataset": str(folder / "dataset"),
        "run": str(run),
        "picture": str(picture),
    }


def _print_summary(facts: dict[str, Any], jobs: dict[str, Job]) -> None:
    table = Table(title=f"Done in {duration(facts['seconds'])}", title_justify="left")
    for column in ("job", "took", "outcome"):
        table.add_column(column, justify="right" if column == "took" else "left")
    for name, job in jobs.items():
        table.add_row(name, duration(job["ended_at"] - job["started_at"]), _outcome(job))
    console = Console(highlight=False)
    console.print()
    console.print(table)
    for name, words in (
        ("source", "archives and class folders"), ("dataset", "`tench inspect` shows it"),
        ("run", "checkpoints, events, progress"), ("picture", "training curves and first-layer kernels"),
    ):  # fmt: skip
        console.print(f"{name:<8} {facts[name]}  ({words})", soft_wrap=True)


def _outcome(job: Job) -> str:
    result = job["result"]
    if job["kind"] == "ingest":
        return (
            f"{result['num_samples']} samples, {result['samples_per_s']:.0f} a second, {result['num_quarantined']} bad"
        )
    if job["kind"] == "verify":
        return f"{result['num_files']} files undamaged"
    if job["kind"] == "train":
        return f"{result['epochs']} epochs, {result['samples_per_s']:.0f} samples a second"
    return f"top-1 error {result['top1_error']:.3f}, top-5 error {result['top5_error']:.3f} on {result['num_samples']}"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
