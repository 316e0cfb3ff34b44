"""The large-batch recipe of preset `fast` on all of Imagenette: batches of 1,024 against batches of 128 at equal epochs.

    python -m tests.benchmarks.bench_large_batch FOLDER SOURCE [ROW]      a second call goes on with what is missing

SOURCE holds Imagenette's train/ and val/ of class folders. With a ROW only that one is trained, so that two calls use
two cores; the call that finds all rows trained writes the result file. An hour a row on one core without AVX-512.
"""

import sys
from pathlib import Path
from typing import Any

from cluster.ray_session import own_ray
from tests.benchmarks import material, report
from tests.benchmarks.runs import DONE, trained
from trainer.figures.record import events_of, series_of

EPOCHS = 40
ROWS: dict[str, dict[str, Any]] = {
    "1024": {"global_batch": 1024},
    "128": {"global_batch": 128, "learning_rate": 0.005},
}
"""By global batch; the rate in proportion to it."""
SETTINGS: dict[str, Any] = {
    "preset": "fast", "epochs": EPOCHS, "precision": "fp32", "switch": ("loader.crop=68",), "micro_batch": 128,
    "stuck_after": 0, "cpus_per_worker": 1,
}  # fmt: skip
DATASET: dict[str, Any] = {"payload": "raw", "side": 78}
NOTES = f"""\
Preset fast (rate in proportion to the batch, five epochs of warm-up, half a cosine) over {EPOCHS} epochs of all of \
Imagenette (9,469 training, 3,925 validation pictures of ten classes), crops of 68 from 78 x 78, fp32; top-1 error of the \
centre view by epoch; 0.9 is chance. points: how many points 1024 ends above 128. Of ImageNet an epoch of 1,024 has 1,252 \
steps, of Imagenette ten: this is a run of a few hundred steps against one of a few thousand."""


def main() -> None:
    """Train the rows asked for; write the result file once all are there."""
    out, source, *asked = map(str, sys.argv[1:])
    dataset = _dataset(Path(out), source)
    folders = {row: Path(out) / row for row in ROWS}
    for row in asked or ROWS:
        trained(dataset, folders[row], **SETTINGS, **ROWS[row])
    if not all((folder / DONE).exists() for folder in folders.values()):
        return
    found = {row: trained(dataset, folder) for row, folder in folders.items()}
    points = 100 * (found["1024"]["top1_error"] - found["128"]["top1_error"])
    figures = {row: {"steps": found[row]["steps"], "errors": _errors(folders[row])} for row in ROWS}
    report.write("large_batch", {"settings": SETTINGS, "points": round(points, 2), **figures}, NOTES)


def _errors(folder: Path) -> list[float]:
    """Top-1 errors of the run's evaluations, by epoch."""
    return [round(error, 4) for _, error in series_of(events_of(str(folder)))["top1_error"]]


def _dataset(out: Path, source: str) -> str:
    if not (out / "imagenette/dataset/manifest.json").exists():
        with own_ray():
            material.dataset(out / "imagenette", Path(source), **DATASET)
    return str(out / "imagenette/dataset")


if __name__ == "__main__":
    main()
