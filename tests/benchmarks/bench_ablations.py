"""Presets and ablations under one budget on ten classes of ImageNet: top-1 error of several seeds, mean and spread.

    python -m tests.benchmarks.bench_ablations FOLDER [small]     a second call goes on with what is missing

The whole budget, 60 epochs of crops of 224, takes half a minute a run on a GPU. The small one is for a CPU: seven
minutes a run on one core without AVX-512; with it networks begin to learn, and no more. The result file is written after
every seed.
"""

import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.ray_session import own_ray
from tests.benchmarks import material, report
from tests.benchmarks.runs import trained
from tests.conftest import pictures_folder

MUSEUM: dict[str, Any] = {"preset": "museum145"}
ROWS: dict[str, dict[str, Any]] = {
    "museum145": MUSEUM,
    "paper": {"preset": "paper"},
    "torchvision": {"preset": "torchvision"},
    "museum145, no colour noise": {**MUSEUM, "variant": ("no_colour",)},
    "museum145, no normalisation": {**MUSEUM, "variant": ("no_norm",)},
    "museum145, no dropout": {**MUSEUM, "variant": ("no_dropout",)},
}
"""Order, crops, masks and weights of a row follow from the seed alone."""
FURTHER: dict[str, dict[str, Any]] = {
    "museum145, pools without overlap": {**MUSEUM, "variant": ("no_overlap",)},
    "museum145, one column": {**MUSEUM, "variant": ("one_column",)},
    "fast, batch 128": {"preset": "fast", "global_batch": 128, "learning_rate": 0.005},
    "fast": {"preset": "fast"},
}
NOTES = """\
Imagenette's small copy: 1,500 training and 360 validation pictures of ten classes; centre view. Schedules are the \
presets' own, cut off at the budget's end: museum145 divides its rate at epochs 25 and 51. spread: standard deviation over \
the seeds; 0.9 is chance. A row with errors states how many seeds stopped, and why the first did."""


@dataclass(frozen=True)
class Budget:
    """How long and on which pictures every row is trained. `chosen`: settings that all rows share."""

    rows: dict[str, dict[str, Any]]
    epochs: int
    seeds: tuple[int, ...]
    dataset: dict[str, Any]
    chosen: dict[str, Any] = field(default_factory=dict)


BUDGETS = {
    "whole": Budget({**ROWS, **FURTHER}, 60, (0, 1, 2), {"payload": "jpeg"}),
    "small": Budget(
        ROWS, 12, (0, 1, 2), {"payload": "raw", "side": 96},
        {"switch": ("loader.crop=84",), "global_batch": 32, "stuck_after": 0, "cpus_per_worker": 1},
    ),
}  # fmt: skip


def main() -> None:
    """Train what is missing, seed by seed; write the result file after each."""
    out, name = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "whole"
    budget = BUDGETS[name]
    dataset = _dataset(out / name, budget)
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in budget.rows}
    for num_seeds, seed in enumerate(budget.seeds, start=1):
        for row, chosen in budget.rows.items():
            folder = out / name / row.replace(", ", "-").replace(" ", "-") / str(seed)
            found[row].append(
                trained(dataset, folder, seed=seed, **{"epochs": budget.epochs, **budget.chosen, **chosen})
            )
            print(row, _row(found[row]), file=sys.stderr)
        figures = {
            "budget": name, "epochs": budget.epochs, "seeds": num_seeds, "dataset": budget.dataset,
            "all_rows": budget.chosen,
        }  # fmt: skip
        report.write("ablations", {**figures, **{row: _row(runs) for row, runs in found.items()}}, NOTES)


def _dataset(out: Path, budget: Budget) -> str:
    if (out / "imagenette/dataset/manifest.json").exists():
        return str(out / "imagenette/dataset")
    if pictures_folder() is None:
        raise SystemExit("bench_ablations: needs the small Imagenette; set TENCH_DATA to its folder")
    source, _ = material.many(out)
    with own_ray():
        return material.dataset(out / "imagenette", source, **budget.dataset)


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
