"""Training together with the loader, beside the same steps on pictures that lie ready; what Ray Train adds to the plain
function; what a checkpoint costs. One process (or one worker), museum145, real pictures.

    python -m tests.benchmarks.bench_train     about three minutes on two cores
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from augment.loader import Batch
from cluster.ray_session import own_ray
from ingest.dataset import Dataset
from ingest.errors import Interrupted
from ingest.progress import RunReader, RunWriter
from ingest.storage import Place
from tests.benchmarks import report
from tests.benchmarks.material import dataset, full_size, scratch
from trainer import checkpoint
from trainer.fit import RankContext, Training, prepare, train_step
from trainer.launch import train
from trainer.presets import recipe
from trainer.settings import TrainSettings
from trainer.step import told

BATCH, ROUNDS, SKIPPED = 32, 3, 2
THREADS = len(os.sched_getaffinity(0))
IMAGENET, EPOCHS = 1_281_167, 90
NOTES = f"""\
museum145 in fp32, batches of {BATCH}, {THREADS} threads, medians of the rounds, all in turn. raw, jpeg: samples a second \
of steps with their updates, batches from the loader of that payload, an epoch a round, its first {SKIPPED} steps not \
counted; resident: the same steps on batches that were loaded before. wait: share of the time in which the next batch was \
not there. hours: {EPOCHS} epochs of {IMAGENET:,} pictures at that rate, without evaluation. plain, ray: an epoch through \
`train`, with no worker and with one of Ray Train that has all cores. start: from the call to the end of the first step; \
plain in a process that has everything imported, ray on a Ray that runs already, its worker's process and imports \
included. The rate is that of the steps after the first. Ray starts its workers with niceness 15: on a machine that is \
not quiet, ray's figures suffer from that and plain's do not. resumed: as start, from a checkpoint, which has to be \
read. Checkpoint: weights and velocity, serialised, hashed and written with fsync; read: the same back."""


class OneStep(RunWriter):
    """Asks for a stop after the first step."""

    def stop_requested(self) -> bool:
        return True


def main() -> None:
    """Measure and write the result file."""
    with scratch() as out:
        source, words = full_size(out)
        started = time.perf_counter()
        with own_ray():
            started_s = time.perf_counter() - started
            uris = {name: dataset(out / name, source, payload=name) for name in ("raw", "jpeg")}
            epochs = _epochs(uris["raw"], out)
        figures = {
            "source": words, "batch": BATCH, "threads": THREADS, "ray_init_s": round(started_s, 2),
            **_together(uris), **epochs, **_checkpoint(uris["raw"], out / "plain-0", out / "copy"),
        }  # fmt: skip
    report.write("train", figures, NOTES)


def _settings(**chosen: Any) -> TrainSettings:
    return TrainSettings(preset="museum145", global_batch=BATCH, keep_checkpoints=1, stuck_after=0, **chosen)


def _together(uris: dict[str, str]) -> dict[str, float]:
    """Steps with the loader beside steps on resident batches."""
    trainings = {name: _prepared(uri) for name, uri in uris.items()}
    resident = list(trainings["raw"].loader)
    waits: dict[str, list[float]] = {name: [] for name in uris}

    def rate(name: str) -> float:
        training = trainings[name]
        training.epoch += 1
        training.loader.set_epoch(training.epoch)
        samples_per_s, share = _rate(training, training.waiting.batches())
        waits[name].append(share)
        return samples_per_s

    found = report.in_turn(
        {
            "raw": lambda: rate("raw"),
            "jpeg": lambda: rate("jpeg"),
            "resident": lambda: _rate(trainings["raw"], resident)[0],
        },
        ROUNDS, warm_up=0,
    )  # fmt: skip
    for training in trainings.values():
        training.loader.close()
    figures = {f"{name}_samples_per_s": report.median(values) for name, values in found.items()}
    for name in uris:
        figures[f"{name}_to_resident"] = round(report.ratio(found, name, "resident"), 3)
        figures[f"{name}_wait_share"] = report.median(waits[name])
        figures[f"{name}_hours"] = round(EPOCHS * IMAGENET / report.median(found[name]) / 3600, 1)
    return figures


def _prepared(uri: str) -> Training:
    opened, settings = Dataset.open(uri), _settings(switch=("loader.tail=drop",))
    context = RankContext(0, 1, torch.device("cpu"), THREADS)
    return prepare(context, opened, recipe(settings, opened), settings, None)


def _rate(training: Training, batches: Iterable[Batch]) -> tuple[float, float]:
    """Samples a second of steps with their updates, and the share of the time that they waited for data."""
    started, samples, waited = 0.0, 0, 0.0
    for number, batch in enumerate(batches):
        sums, _ = told(train_step(training, batch))
        training.rule.step(training.next_rates)
        training.step += 1
        samples, waited = samples + len(batch.labels), waited + sums.waited_s
        if number == SKIPPED - 1:
            started, samples, waited = time.perf_counter(), 0, 0.0
    seconds = time.perf_counter() - started
    return samples / seconds, waited / seconds


def _epochs(uri: str, out: Path) -> dict[str, float]:
    """An epoch as a plain function and through Ray Train with one worker, in turn: start-up and rate of each."""
    starts: dict[str, list[float]] = {"plain": [], "ray": []}

    def rate(name: str, num_workers: int) -> float:
        folder = out / f"{name}-{len(starts[name])}"
        called = time.time()
        run = RunWriter.begin(Place(folder), "train", {})
        train(uri, str(folder), _settings(num_workers=num_workers, cpus_per_worker=THREADS, epochs=1), run)
        run.flush()
        steps = [event for event in RunReader(run.place).events() if event.kind == "metrics"]
        starts[name].append(steps[0].at - called)
        return float(sum(e.data["samples"] for e in steps[1:]) / (steps[-1].at - steps[0].at))

    runs = {"plain": lambda: rate("plain", 0), "ray": lambda: rate("ray", 1)}
    found = report.in_turn(runs, ROUNDS, warm_up=0)
    return {
        **{f"{name}_start_s": report.median(values) for name, values in starts.items()},
        **{f"{name}_epoch_samples_per_s": report.median(values) for name, values in found.items()},
        "ray_to_plain": round(report.ratio(found, "ray", "plain"), 3),
    }


def _checkpoint(uri: str, folder: Path, copy: Path) -> dict[str, float]:
    """What writing, reading and going on from a checkpoint takes."""
    size = sum(file.stat().st_size for file in (folder / checkpoint.complete(Place(folder))[-1]).iterdir())
    called = time.time()
    run = OneStep.begin(Place(folder), "train", {})
    try:
        train(uri, str(folder), _settings(num_workers=0, cpus_per_worker=THREADS, epochs=2), run)
    except Interrupted:
        run.flush()
    resumed = next(event for event in RunReader(run.place).events() if event.kind == "metrics").at - called
    writing, reading = [], []
    for number in range(ROUNDS):
        started = time.perf_counter()
        found = checkpoint.needed(Place(folder))
        reading.append(time.perf_counter() - started)
        started = time.perf_counter()
        checkpoint.save(Place(copy), number, found.state, found.network, found.velocity)
        writing.append(time.perf_counter() - started)
    return {
        "checkpoint_bytes": size,
        "checkpoint_write_s": report.median(writing),
        "checkpoint_read_s": report.median(reading),
        "plain_resumed_start_s": round(resumed, 2),
    }


if __name__ == "__main__":
    main()
