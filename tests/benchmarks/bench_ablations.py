"""Presets and ablations under one budget on ten classes of ImageNet: top-1 error of several seeds, mean and spread.

    python -m tests.benchmarks.bench_ablations FOLDER [EPOCHS]     a second call goes on with what is missing

60 epochs unless told. A run takes an hour or more on two cores and half a minute on a GPU.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

from cluster.ray_session import own_ray
from tests.benchmarks import material, report
from tests.benchmarks.runs import trained
from tests.conftest import pictures_folder

SEEDS = (0, 1, 2)
MUSEUM: dict[str, Any] = {"preset": "museum145"}
ROWS: dict[str, dict[str, Any]] = {
    "museum145": MUSEUM,
    "museum145, no colour noise": {**MUSEUM, "variant": ("no_colour",)},
    "museum145, no normalisation": {**MUSEUM, "variant": ("no_norm",)},
    "museum145, no dropout": {**MUSEUM, "variant": ("no_dropout",)},
    "museum145, pools without overlap": {**MUSEUM, "variant": ("no_overlap",)},
    "museum145, one column": {**MUSEUM, "variant": ("one_column",)},
    "paper": {"preset": "paper"},
    "torchvision": {"preset": "torchvision"},
    "fast, batch 128": {"preset": "fast", "global_batch": 128, "learning_rate": 0.005},
    "fast": {"preset": "fast"},
}
"""Order, crops, masks and weights of a row follow from the seed alone."""
NOTES = """\
Imagenette's small copy: 1,500 training and 360 validation pictures of ten classes, JPEG at 256 pixels, label order wnid; \
centre view. Schedules are the presets' own, cut off at the budget's end: museum145 divides its rate at epochs 25 and 51. \
spread: standard deviation over the seeds. A row with errors states how many seeds stopped, and why the first did."""


def main() -> None:
    """Train what is missing, write the result file."""
    out, epochs = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60
    dataset = _dataset(out)
    figures: dict[str, Any] = {"epochs": epochs, "seeds": len(SEEDS)}
    for name, chosen in ROWS.items():
        folder = out / name.replace(", ", "-").replace(" ", "-")
        runs = [trained(dataset, folder / str(seed), epochs=epochs, seed=seed, **chosen) for seed in SEEDS]
        figures[name] = _row(runs)
        print(name, figures[name], file=sys.stderr)
    report.write("ablations", figures, NOTES)


def _dataset(out: Path) -> str:
    if (out / "imagenette/dataset/manifest.json").exists():
        return str(out / "imagenette/dataset")
    if pictures_folder() is None:
        raise SystemExit("bench_ablations: needs the small Imagenette; set TENCH_DATA to its folder")
    source, _ = material.many(out)
    with own_ray():
        return material.dataset(out / "imagenette", source, payload="jpeg")


def _row(runs: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [run["top1_error"] for run in runs if "error" not in run]
    failed = [run["error"] for run in runs if "error" in run]
    row: dict[str, Any] = {}
    if errors:
        row["top1_error"] = round(statistics.mean(errors), 4)
        row["spread"] = round(statistics.stdev(errors), 4) if len(errors) > 1 else None
        row["samples_per_s"] = report.median([run["samples_per_s"] for run in runs if "error" not in run])
    return {**row, "stopped": len(failed), "why": failed[0][:200]} if failed else row


if __name__ == "__main__":
    main()
