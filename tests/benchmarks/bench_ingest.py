"""Ingest beside the bare loop that decodes, rescales and encodes: images per CPU second.

The bare loop is what nobody can do without: PIL reads a file, rescales, cuts and encodes it, and throws the result
away. Ingest besides lists, sums pixels exactly, hashes, checks, writes shards, index and reports, and seals.
"""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from cluster.ray_session import own_ray
from ingest.convert import ShardTask, convert_shard
from ingest.pixels import pixel_fingerprint
from ingest.plan import make_plan, shard_entries
from ingest.settings import IngestSettings
from ingest.sources import detect
from ingest.storage import Place
from tests.benchmarks import report
from tests.benchmarks.material import dataset, full_size, scratch

TIMES = 7


def main() -> None:
    """Measure and write the result file."""
    with scratch() as out:
        source, words = full_size(out)
        files = sorted(p for p in source.rglob("*") if p.is_file())
        shards = _shards(source, out)
        runs: dict[str, Callable[[], float]] = {
            "bare": lambda: report.cpu_seconds(lambda: [bare(path) for path in files]),
            "shard": lambda: report.cpu_seconds(next(shards)),
        }
        found = report.in_turn(runs, TIMES)
        whole = _whole_run(out, source)
    per_cpu_s = {name: report.median([len(files) / s for s in found[name]]) for name in found}
    report.write(
        "ingest",
        {
            "source": words,
            "images_per_cpu_s_bare_loop": per_cpu_s["bare"],
            "images_per_cpu_s_converted_to_a_shard": per_cpu_s["shard"],
            "ratio_converted_to_bare": round(report.ratio(found, "bare", "shard"), 3),
            **whole,
        },
        "CPU seconds of one process, all its threads; both in turn in one process, medians of the pairs. "
        "The whole run: wall seconds between the plan and the seal, one actor a core.",
    )


def bare(path: Path) -> bytes:
    """Decode, rescale the shorter side to 256, cut out the centre, encode."""
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        image = opened.convert("RGB")
    scale = 256 / min(image.size)
    width, height = (max(256, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 256) // 2, (height - 256) // 2
    file = io.BytesIO()
    image.crop((left, top, left + 256, top + 256)).save(file, "JPEG", quality=90, subsampling="4:2:0")
    return file.getvalue()


def _shards(source: Path, out: Path):  # type: ignore[no-untyped-def] # an endless iterator of calls
    """Conversions of the whole source to one shard, each into a new folder."""
    opened, settings = detect(str(source)), IngestSettings()
    plan = make_plan(opened, settings, pixel_fingerprint())
    entries = tuple(shard_entries(plan.entries["train"], 0, settings.samples_per_shard))
    number = 0
    while True:
        target = Place(out / f"shards-{number}")
        task = ShardTask(opened.place, opened.read, target, plan.settings, tuple(plan.wnids), "train", 0, entries)
        yield lambda task=task: convert_shard(task)
        number += 1


def _whole_run(out: Path, source: Path) -> dict[str, float]:
    """Samples a second of a whole run with real actors, from its own events."""
    import json

    with own_ray():
        dataset(out, source, samples_per_shard=32)
    lines = [line for file in sorted((out / "run").glob("events/*/*.jsonl")) for line in file.read_text().splitlines()]
    at = {event["kind"]: event["at"] for event in map(json.loads, lines)}
    samples = sum(1 for p in source.rglob("*") if p.is_file())
    return {"whole_run_samples_per_s": round(samples / (at["sealed"] - at["planned"]), 1)}


if __name__ == "__main__":
    main()
