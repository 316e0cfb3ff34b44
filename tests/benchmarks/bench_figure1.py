"""Figure 1 of the paper, measured: epochs that ReLU and tanh take to 25 % training error on CIFAR-10.

    python -m tests.benchmarks.bench_figure1 FOLDER          runs and dataset; a second call goes on with what is missing
    python -m tests.benchmarks.bench_figure1 FOLDER KIND     the runs of relu or of tanh only, without the result

Needs the pictures of CIFAR-10. An epoch takes about a minute of one core, and a second on a GPU. Two calls, one for each
kind, may run beside each other in one folder once it has the dataset.
"""

import io
import math
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cluster.ray_session import own_ray
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.benchmarks import material, report
from tests.benchmarks.runs import trained
from tests.conftest import pictures_folder
from tests.ingest.cifar10_files import files_of, member, sheet, write_archive
from trainer.figures import relu_tanh_figure
from trainer.figures.record import events_of, training_errors
from trainer.figures.relu_tanh import crossing

RATES = tuple(0.0005 * 2**i for i in range(8))
FIRST_RATE = {"relu": 0.002, "tanh": 0.008}
"""Where the search begins: the best ones of an earlier measurement, so that it is short."""
EPOCHS = {"relu": 25, "tanh": 80}
GIVEN_EPOCHS, BEHIND = 5, 0.02
SEEDS = (0, 1, 2)
"""Of the best rate; the others are run with the first."""
NOTES = """\
Preset cifar: three convolutions and one fully connected layer (cuda-convnet's layers-19pct), decay 0, no crops, no flips, \
mean image subtracted, batch 128, momentum 0.9, constant rates, float32, the first of equal values wins a pool. \
Rates: from 0.002 (ReLU) and 0.008 (tanh) up and down by factors of two until they grow worse. \
A run ends at 25 %, in the epoch in which the best \
rate of its kind got there, or after its fifth epoch once its error is two points above the best rate's of \
that epoch. Error of an epoch: mean over its batches as they were trained, at the epoch's end, straight lines between. The \
paper's figure: ReLU six times as fast."""


class Racing(RunWriter):
    """Asks for a stop after the epoch in which the training error reaches figure 1's line, or is known to reach it later
    than the best run of its kind."""

    best: ClassVar[dict[float, float]] = {}
    """Training error of that run by the number of its epochs."""

    def flush(self) -> None:
        """As ever; an epoch ends with one."""
        super().flush()
        errors = _errors(self.place)
        if errors and (crossing(errors) is not None or self._is_behind(*errors[-1])) and not self.stop_requested():
            self.request_stop()

    def _is_behind(self, epoch: float, error: float) -> bool:
        return epoch >= GIVEN_EPOCHS and epoch in self.best and error > self.best[epoch] + BEHIND


def main() -> None:
    """Train what is missing, write the result file and the figure."""
    out, kinds = Path(sys.argv[1]), sys.argv[2:] or list(EPOCHS)
    dataset = _dataset(out)
    folders = [folder for kind in kinds for folder in _runs(dataset, out, kind)]
    if len(kinds) < len(EPOCHS):
        return
    figure = relu_tanh_figure([str(folder) for folder in folders])
    (report.RESULTS / f"{time.strftime('%Y-%m-%d')}-figure1.png").write_bytes(figure.png)
    report.write("figure1", {**figure.facts, "runs": [_short(run) for run in figure.facts["runs"]]}, NOTES)


def _runs(dataset: str, out: Path, kind: str) -> list[Path]:
    """The folders of all runs of a kind, trained."""
    folders: list[Path] = []
    best_rate, epochs = _best_rate(dataset, out, kind, folders)
    return folders + [_train(dataset, out, kind, best_rate, seed, 2 * epochs) for seed in SEEDS[1:]]


def _best_rate(dataset: str, out: Path, kind: str, folders: list[Path]) -> tuple[float, int]:
    """The rate that reaches the line first, and the epochs that its run had. Adds the runs' folders to `folders`."""
    found: dict[int, float] = {}
    first, epochs = RATES.index(FIRST_RATE[kind]), EPOCHS[kind]
    Racing.best = {}

    def tried(i: int) -> float:
        nonlocal epochs
        folders.append(_train(dataset, out, kind, RATES[i], SEEDS[0], epochs))
        errors = _errors(Place(folders[-1]))
        found[i] = crossing(errors) or math.inf
        if found[i] == min(found.values()) < math.inf:
            epochs, Racing.best = math.ceil(found[i]), {point[0]: point[1] for point in errors}
        return found[i]

    tried(first)
    for step in (1, -1):
        i = first + step
        while 0 <= i < len(RATES) and tried(i) < found[i - step]:
            i += step
    Racing.best = {}
    return RATES[min(found, key=lambda i: found[i])], epochs


def _errors(run: Place) -> list[list[float]]:
    """[epochs, training error] as the figure reads them from a run's events."""
    return training_errors(events_of(run.uri))


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


def _train(dataset: str, out: Path, kind: str, rate: float, seed: int, epochs: int) -> Path:
    folder = out / _name(kind, rate, seed)
    trained(
        dataset, folder, Racing, preset="cifar", variant=("tanh",) if kind == "tanh" else (), precision="fp32",
        switch=("network.pool_ties=first",), learning_rate=rate, epochs=epochs, seed=seed,
    )  # fmt: skip
    return folder


def _name(kind: str, rate: float, seed: int) -> str:
    return f"{kind}-{rate:g}-{seed}"


def _short(run: dict[str, Any]) -> dict[str, Any]:
    return {name: run[name] for name in ("run", "activation", "learning_rate", "crossing")}


if __name__ == "__main__":
    main()
