"""The loader beside decoding alone: seconds an epoch, the same threads, the same payloads.

Decoding alone is DALI's decoder on the payloads as they lie in memory, batch after batch, two under way. The loader
besides reads and checks payloads, crops, flips, subtracts the mean, adds lighting noise and hands over float32.
"""

import time
from collections.abc import Callable

import torch

from augment.graph import decoded
from augment.loader import Loader
from augment.pipeline import IN_FLIGHT, Background
from augment.reader import PayloadReader
from augment.settings import LoaderSettings
from cluster.ray_session import own_ray
from ingest.dataset import Dataset
from tests.benchmarks import report
from tests.benchmarks.material import dataset, many, scratch

TIMES, BATCH, THREADS = 9, 128, 2


def main() -> None:
    """Measure and write the result file."""
    with scratch() as out:
        source, words = many(out)
        with own_ray():
            jpeg = dataset(out / "jpeg", source)
            raw = dataset(out / "raw", source, payload="raw")
        figures = {"source": words, "batch": BATCH, "threads": THREADS, **_jpeg(jpeg), **_raw(raw)}
    report.write("loader", figures, "Seconds of an epoch of the training split; in turn, medians of the pairs.")


def _jpeg(uri: str) -> dict[str, float]:
    opened = Dataset.open(uri)
    samples = opened.split("train").num_samples
    cpu: dict[str, list[float]] = {"decode": [], "loader": []}

    def timed(name: str, work: Callable[[Dataset], None]) -> float:
        started, before = time.perf_counter(), time.process_time()
        work(opened)
        cpu[name].append(time.process_time() - before)
        return time.perf_counter() - started

    runs = {"decode": lambda: timed("decode", decode_alone), "loader": lambda: timed("loader", load)}
    found = report.in_turn(runs, TIMES)
    return {
        "decode_alone_samples_per_s": report.median([samples / s for s in found["decode"]]),
        "loader_jpeg_samples_per_s": report.median([samples / s for s in found["loader"]]),
        "loader_to_decode_alone_wall": round(report.ratio(found, "loader", "decode"), 3),
        "loader_to_decode_alone_cpu": round(report.ratio(cpu, "loader", "decode"), 3),
    }


def _raw(uri: str) -> dict[str, float]:
    opened = Dataset.open(uri)
    samples = opened.split("train").num_samples
    found = report.in_turn({"raw": lambda: _seconds(lambda: load(opened))}, TIMES)
    return {"loader_raw_samples_per_s": report.median([samples / s for s in found["raw"]])}


def decode_alone(opened: Dataset) -> None:
    """Every payload of the split through the decoder."""
    split = opened.split("train")
    reader = PayloadReader(split, split.map_shard, replace=False)
    views = [reader.payload(row)[0] for row in range(split.num_samples)]
    batches = [views[i : i + BATCH] for i in range(0, len(views), BATCH)]
    decoder = Background(decoded, BATCH, THREADS, torch.device("cpu"))
    for number, batch in enumerate(batches):
        if number >= IN_FLIGHT:
            decoder.wait()
        decoder.start({"picture": batch})
    decoder.close()


def load(opened: Dataset) -> None:
    """The same samples through the loader, as in training."""
    with Loader(opened, LoaderSettings(global_batch=BATCH, threads=THREADS)) as loader:
        for batch in loader:
            assert batch.images.shape[1:] == (3, 224, 224)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
