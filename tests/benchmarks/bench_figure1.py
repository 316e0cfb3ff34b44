"""Figure 1 of the paper, measured: epochs that ReLU and tanh take to 25 % training error on CIFAR-10.

    python -m tests.benchmarks.bench_figure1 FOLDER     runs and dataset; a second call goes on with what is missing

Needs the pictures of CIFAR-10. An epoch takes minutes on two cores and a second on a GPU.
"""

import io
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cluster.ray_session import own_ray
from tests.benchmarks import material, report
from tests.benchmarks.runs import trained
from tests.conftest import pictures_folder
from tests.ingest.cifar10_files import files_of, member, sheet, write_archive

RATES = {"relu": (0.0005, 0.001, 0.002, 0.004), "tanh": (0.0005, 0.001, 0.002, 0.004, 0.008)}
EPOCHS = {"relu": 25, "tanh": 100}
SEEDS = (0, 1, 2)
"""Of the best rate; the others are run with the first."""
NOTES = """\
Preset cifar: three convolutions and one fully connected layer (cuda-convnet's layers-19pct), decay 0, no crops, no flips, \
mean image subtracted, batch 128, momentum 0.9, constant rates. Error of an epoch: mean over its batches as they were \
trained, at the epoch's end, straight lines between. The paper's figure: ReLU six times as fast."""


def main() -> None:
    """Train what is missing, write the result file and the figure."""
    from trainer.figures import relu_tanh_figure

    out = Path(sys.argv[1])
    dataset = _dataset(out)
    folders = [out / _name(kind, rate, 0) for kind, rates in RATES.items() for rate in rates]
    for kind, rates in RATES.items():
        for rate in rates:
            _train(dataset, out, kind, rate, SEEDS[0])
    facts = relu_tanh_figure([str(folder) for folder in folders]).facts
    for kind in RATES:
        for seed in SEEDS[1:]:
            folders.append(_train(dataset, out, kind, facts[kind]["learning_rate"], seed))
    figure = relu_tanh_figure([str(folder) for folder in folders])
    (report.RESULTS / f"{time.strftime('%Y-%m-%d')}-figure1.png").write_bytes(figure.png)
    report.write("figure1", {**figure.facts, "runs": [_short(run) for run in figure.facts["runs"]]}, NOTES)


def _dataset(out: Path) -> str:
    """CIFAR-10 as its archive was published, converted to raw pictures of 32 pixels."""
    if (out / "cifar10/dataset/manifest.json").exists():
        return str(out / "cifar10/dataset")
    folder = pictures_folder()
    if folder is None:
        raise SystemExit("bench_figure1: needs the pictures of CIFAR-10; set TENCH_DATA to their folder")
    with tarfile.open(folder / "cifar10.tar") as archive:
        train = np.concatenate([sheet(archive, f"train-{n}.jpg") for n in range(10)])
        test = np.concatenate([sheet(archive, f"test-{n}.jpg") for n in range(2)])
        labels = np.load(io.BytesIO(member(archive, "labels.npy"))).tolist()
    write_archive(out / "source", files_of(train, labels[: len(train)], test, labels[len(train) :]))
    with own_ray():
        return material.dataset(out / "cifar10", out / "source", payload="raw")


def _train(dataset: str, out: Path, kind: str, rate: float, seed: int) -> Path:
    folder = out / _name(kind, rate, seed)
    variant: tuple[Any, ...] = ("tanh",) if kind == "tanh" else ()
    trained(
        dataset, folder, preset="cifar", variant=variant, learning_rate=rate, epochs=EPOCHS[kind], seed=seed
    )  # fmt: skip
    return folder


def _name(kind: str, rate: float, seed: int) -> str:
    return f"{kind}-{rate:g}-{seed}"


def _short(run: dict[str, Any]) -> dict[str, Any]:
    return {name: run[name] for name in ("run", "activation", "learning_rate", "crossing")}


if __name__ == "__main__":
    main()
