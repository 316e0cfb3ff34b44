"""What every benchmark shares: pairs of runs, medians, and a dated result file that names machine and versions."""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "nvidia-dali-cuda130", "ray", "pyarrow", "pillow-simd", "pillow", "numpy")


def in_turn(runs: dict[str, Callable[[], float]], times: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Call each in turn, A B A B ..., so that a drifting machine meets all alike; what each returned, by name."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(times + warm_up):
        for name, run in runs.items():
            value = run()
            if turn >= warm_up:
                found[name].append(value)
    return found


def ratio(found: dict[str, list[float]], above: str, below: str) -> float:
    """The median of the ratios, pair by pair."""
    return statistics.median(a / b for a, b in zip(found[above], found[below], strict=True))


def median(values: list[float]) -> float:
    """The median, to four digits."""
    return float(f"{statistics.median(values):.4g}")


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process, all threads together, that a call takes."""
    before = time.process_time()
    work()
    return time.process_time() - before


def write(name: str, figures: dict[str, Any], notes: str) -> None:
    """Print the figures, and put them into results/<date>-<name>.json."""
    record = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "notes": notes,
        "figures": figures,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{record['date']}-{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
