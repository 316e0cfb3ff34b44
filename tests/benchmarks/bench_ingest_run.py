"""Whole runs of ingest with real actors: two beside one on two cores, and the memory of an actor over a long run."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from cluster.ray_session import own_ray
from ingest.progress import RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings
from ingest.storage import Place
from tests.benchmarks import report
from tests.benchmarks.material import full_size, scratch

TIMES, COPIES, SAMPLES = 5, 8, 50
LONG_COPIES = 40


def main() -> None:
    """Measure and write the result file."""
    with scratch() as out, own_ray(2):
        source, words = full_size(out)
        short, long = (_repeated(source, out / name, n) for name, n in (("short", COPIES), ("long", LONG_COPIES)))
        found = report.in_turn(
            {
                f"{actors} actors": lambda actors=actors: _samples_per_s(short, out, actors)  # type: ignore[misc]
                for actors in (1, 2)
            },
            TIMES,
        )
        memory = _memory(long, out)
    rates = {name.replace(" ", "_"): report.median(values) for name, values in found.items()}
    report.write(
        "ingest-run",
        {
            "source": f"{words}, repeated {COPIES} times ({LONG_COPIES} times for the memory)",
            **{f"samples_per_s_{name}": rate for name, rate in rates.items()},
            "ratio_2_actors_to_1": round(report.ratio(found, "2 actors", "1 actors"), 3),
            **memory,
        },
        f"Wall time between the first and the last of the shards ({SAMPLES} samples each), so without the start of the "
        "actors. Memory: PSS of an actor, sampled ten times a second: the highest of the first and of the last third.",
    )


def _repeated(source: Path, out: Path, copies: int) -> Path:
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        for copy in range(copies):
            target = out / path.parent.name / f"{copy}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    return out


def _converted(source: Path, out: Path, num_actors: int) -> list[dict[str, Any]]:
    """The events of a run."""
    for name in ("dataset", "run"):
        shutil.rmtree(out / name, ignore_errors=True)
    run = RunWriter.begin(Place(out / "run"), "ingest", {})
    settings = IngestSettings(samples_per_shard=SAMPLES, num_actors=num_actors)
    ingest(str(source), str(out / "dataset"), settings, run)
    run.flush()
    files = sorted((out / "run").glob("events/*/*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _samples_per_s(source: Path, out: Path, num_actors: int) -> float:
    """Over the shards that end after the first one of each actor has ended."""
    shards = [e for e in _converted(source, out, num_actors) if e["kind"] == "shard"]
    counted = shards[num_actors:]
    return sum(e["data"]["num_samples"] for e in counted) / float(counted[-1]["at"] - shards[num_actors - 1]["at"])


def _memory(source: Path, out: Path) -> dict[str, float]:
    """Peak PSS of the actors, early and late in a long run."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::_Converter"):
                        seen.append(process.memory_full_info().pss)
                except psutil.Error:
                    continue  # it ended meanwhile
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    shards = sum(e["kind"] == "shard" for e in _converted(source, out, 2))
    over.set()
    watcher.join()
    third = len(seen) // 3
    early, late = max(seen[:third]) / 2**20, max(seen[-third:]) / 2**20
    return {
        "long_run_shards": shards,
        "actor_peak_mib_first_third": round(early, 1),
        "actor_peak_mib_last_third": round(late, 1),
    }


if __name__ == "__main__":
    main()
