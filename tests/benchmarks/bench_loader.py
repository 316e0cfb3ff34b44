"""The loader by itself: CPU of an image beside decoding alone, the feeding thread's share, start-up to the first batch.

Decoding alone is DALI's decoder on the payloads as they lie in memory, batch after batch, two under way. The loader
besides reads and checks payloads, crops, flips, and, for float32, subtracts the mean and adds lighting noise.
"""

import subprocess
import sys
import time
from collections.abc import Callable

import torch

from augment.batches import BatchMaker
from augment.graph import decoded
from augment.loader import Loader
from augment.pipeline import IN_FLIGHT, Background
from augment.planner import Planner
from augment.reader import PayloadReader
from augment.settings import LoaderSettings
from augment.workers import Workers
from cluster.ray_session import own_ray
from ingest.dataset import Dataset
from tests.benchmarks import report
from tests.benchmarks.material import dataset, many, scratch

TIMES, BATCH, FEED_THREADS = 7, 256, 2
NOTES = f"""\
Epochs of the training split, all in turn in one process, medians of the rounds, the first not counted; batches of {BATCH}. \
CPU: user and system time of the process, one thread of the loader's own beside the one that feeds. Feed: CPU time of the \
thread that plans, hands out and collects, with {FEED_THREADS} others for the work on samples. Start: from the call of \
Loader to its first batch in a new process that has imported it."""
START = """
import sys, time
from augment.loader import Loader
from augment.settings import LoaderSettings
started = time.perf_counter()
with Loader(sys.argv[1], LoaderSettings(global_batch=256)) as loader:
    next(iter(loader))
    print(time.perf_counter() - started)
"""


def main() -> None:
    """Measure and write the result file."""
    with scratch() as out:
        source, words = many(out)
        with own_ray():
            opened = {
                name: Dataset.open(dataset(out / name, source, payload=name)) for name in ("jpeg", "raw")
            }  # fmt: skip
        figures = {"source": words, "batch": BATCH, **_cpu(opened), **_feed(opened), **_start(opened)}
    report.write("loader", figures, NOTES)


def _cpu(opened: dict[str, Dataset]) -> dict[str, float]:
    num_samples = opened["jpeg"].split("train").num_samples
    with (
        Loader(opened["jpeg"], _settings("uint8")) as jpeg_bytes,
        Loader(opened["jpeg"], _settings("float32")) as jpeg_floats,
        Loader(opened["raw"], _settings("uint8")) as raw_bytes,
        Loader(opened["raw"], _settings("float32")) as raw_floats,
    ):
        loaders = {
            "jpeg_uint8": jpeg_bytes, "jpeg_float32": jpeg_floats, "raw_uint8": raw_bytes, "raw_float32": raw_floats
        }  # fmt: skip
        runs: dict[str, Callable[[], float]] = {
            "decode_alone": lambda: report.cpu_seconds(lambda: decode_alone(opened["jpeg"]))
        }
        for name, loader in loaders.items():
            runs[name] = lambda loader=loader: report.cpu_seconds(lambda: load(loader))  # type: ignore[misc]
        for run in runs.values():
            run()
        found = report.in_turn(runs, TIMES)
    figures = {f"{name}_us": report.median([1e6 * s / num_samples for s in found[name]]) for name in found}
    ratios = {f"{n}_to_decode_alone": round(report.ratio(found, n, "decode_alone"), 3) for n in list(found)[1:3]}
    return {**figures, **ratios}


def decode_alone(opened: Dataset) -> None:
    """Every payload of the split through the decoder."""
    split = opened.split("train")
    reader = PayloadReader(split, split.map_shard, replace=False)
    views = [reader.payload(row)[0] for row in range(split.num_samples)]
    batches = [views[i : i + BATCH] for i in range(0, len(views), BATCH)]
    decoder = Background(decoded, BATCH, 1, torch.device("cpu"))
    for number, batch in enumerate(batches):
        if number >= IN_FLIGHT:
            decoder.wait()
        decoder.start({"picture": batch})
    decoder.close()


def load(loader: Loader) -> None:
    """The same samples through the loader, as in training."""
    for batch in loader:
        assert batch.images.shape[1:] == (3, 224, 224)


def _feed(opened: dict[str, Dataset]) -> dict[str, float]:
    """Microseconds of the feeding thread for an image: planning, feeding, collecting."""
    figures = {}
    for name, found in opened.items():
        split = found.split("train")
        settings = _settings("uint8", FEED_THREADS)
        reader = PayloadReader(split, split.map_shard, replace=False)
        planner = Planner(split, settings, 0, 1, 0)
        maker = BatchMaker(planner, reader, torch.device("cpu"))
        workers = Workers(FEED_THREADS)
        seconds = []
        for epoch in range(TIMES + 1):
            started = time.thread_time()
            for planned in planner.planned(epoch, range(planner.num_steps)):
                reader.read_ahead(planned.share.rows)
                maker.complete(maker.begin(planned, workers), workers)
            seconds.append(time.thread_time() - started)
        figures[f"feed_{name}_us"] = report.median([1e6 * s / split.num_samples for s in seconds[1:]])
        maker.close()
        workers.close()
    return figures


def _start(opened: dict[str, Dataset]) -> dict[str, float]:
    figures = {}
    for name, found in opened.items():
        command = [sys.executable, "-c", START, found.uri]
        seconds = [
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)
        ]  # fmt: skip
        figures[f"start_{name}_s"] = report.median(seconds)
    return figures


def _settings(output: str, threads: int = 1) -> LoaderSettings:
    return LoaderSettings.model_validate({"global_batch": BATCH, "threads": threads, "output": output})


if __name__ == "__main__":
    main()
