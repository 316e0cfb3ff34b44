"""Ingest beside the bare loop that decodes, rescales and encodes: images per CPU second.

The bare loop is what nobody can do without: PIL reads a file, rescales, cuts and encodes it, and throws the result
away. Ingest besides lists, sums pixels exactly, hashes, checks, and writes shard, index rows, sums and report.
"""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ingest.convert import convert_shard, shard_tasks
from ingest.pixels import pixel_fingerprint
from ingest.plan import make_plan
from ingest.settings import IngestSettings
from ingest.sources import detect
from ingest.storage import Place
from tests.benchmarks import report
from tests.benchmarks.material import full_size, scratch

TIMES = 7
SHARD = 1024
"""Pictures of a shard: as many as by default; there are fewer full-size ones, so each comes several times."""


def main() -> None:
    """Measure and write the result file."""
    with scratch() as out:
        source, words = full_size(out)
        files = sorted(p for p in source.rglob("*") if p.is_file())
        files = (files * (SHARD // len(files) + 1))[:SHARD]
        runs: dict[str, Callable[[], float]] = {}
        for payload in ("jpeg", "raw"):
            shards = _shards(source, out, payload)
            runs[f"bare {payload}"] = lambda p=payload: report.cpu_seconds(lambda: [bare(f, p) for f in files])  # type: ignore[misc]
            runs[f"shard {payload}"] = lambda s=shards: report.cpu_seconds(next(s))  # type: ignore[misc]
        found = report.in_turn(runs, TIMES)
    per_cpu_s = {name: report.median([SHARD / s for s in found[name]]) for name in found}
    figures: dict[str, Any] = {"source": f"{words}, repeated to a shard of {SHARD:,}"}
    for payload in ("jpeg", "raw"):
        figures[f"images_per_cpu_s_bare_loop_{payload}"] = per_cpu_s[f"bare {payload}"]
        figures[f"images_per_cpu_s_{payload}_shard"] = per_cpu_s[f"shard {payload}"]
        figures[f"ratio_{payload}_shard_to_bare"] = round(report.ratio(found, f"bare {payload}", f"shard {payload}"), 3)
    report.write(
        "ingest",
        figures,
        "CPU seconds of one process, all its threads; all in turn in one process, medians of the rounds. A shard has "
        "everything on: statistics, hashes, checksums, index rows, report, fsync.",
    )


def bare(path: Path, payload: str) -> bytes:
    """Decode, rescale the shorter side to 256, cut out the centre, encode."""
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        opened.load()
        image = opened if opened.mode == "RGB" else opened.convert("RGB")
    scale = 256 / min(image.size)
    width, height = (max(256, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 256) // 2, (height - 256) // 2
    square = image.crop((left, top, left + 256, top + 256))
    if payload == "raw":
        return square.tobytes()
    file = io.BytesIO()
    square.save(file, "JPEG", quality=90, subsampling="4:2:0")
    return file.getvalue()


def _shards(source: Path, out: Path, payload: str) -> Iterator[Callable[[], object]]:
    """Conversions of as many pictures to one shard, each into a new folder."""
    many = out / "many"
    if not many.is_dir():
        originals = sorted(p for p in source.rglob("*") if p.is_file())
        for copy in range(SHARD // len(originals) + 1):
            for path in originals[: SHARD - copy * len(originals)]:
                target = many / path.parent.name / f"{copy}-{path.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    opened, settings = (
        detect(str(many)),
        IngestSettings.model_validate({"payload": payload, "samples_per_shard": SHARD}),
    )
    plan = make_plan(opened, settings, pixel_fingerprint())
    number = 0
    while True:
        target = out / f"{payload}-{number}"
        task = next(shard_tasks(opened, Place(target), plan, plan.settings, [("train", 0)]))
        yield lambda task=task: convert_shard(task)  # type: ignore[misc]
        shutil.rmtree(target)
        number += 1


if __name__ == "__main__":
    main()
