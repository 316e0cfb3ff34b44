"""The network: milliseconds a picture for a training step, and what each part of it costs; and `tench --help`."""

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from tests.benchmarks import report
from trainer.dropout import DropoutKey
from trainer.networks import build
from trainer.normalisation import across_channels
from trainer.switches import NetworkSettings

TIMES, BATCH = 7, 16


def main() -> None:
    """Measure and write the result file."""
    museum, plain = (build(NetworkSettings(lrn=lrn, spatial_norm=lrn), seed=0) for lrn in (True, False))
    images = torch.randn(BATCH, 3, 224, 224).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH)
    key = DropoutKey(0, 0, np.arange(BATCH))
    map1 = torch.randn(BATCH, 96, 55, 55).to(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], float]] = {
        "step": lambda: _ms(lambda: _step(museum, images, labels, key, False)),
        "step_bf16": lambda: _ms(lambda: _step(museum, images, labels, key, True)),
        "step_without_norms": lambda: _ms(lambda: _step(plain, images, labels, key, False)),
        "lrn_ours": lambda: _ms(lambda: _there_and_back(lambda x: across_channels(x, 2.0, 2e-5, 2), map1)),
        "lrn_torch": lambda: _ms(lambda: _there_and_back(lambda x: F.local_response_norm(x, 5, 1e-4, 0.75, 2.0), map1)),
    }
    found = report.in_turn(runs, TIMES)
    figures = {f"{name}_ms_a_picture": report.median(values) for name, values in found.items()}
    helps = report.in_turn({"help": _help_seconds, "bare": _python_seconds}, TIMES)
    report.write(
        "network",
        {
            "batch": BATCH,
            "threads": torch.get_num_threads(),
            **figures,
            "lrn_ours_to_torch": round(report.ratio(found, "lrn_ours", "lrn_torch"), 3),
            "tench_help_s": report.median(helps["help"]),
            "python_alone_s": report.median(helps["bare"]),
        },
        "Forward and backward, no update; LRN on conv1's map (96 x 55 x 55). In turn, medians.",
    )


def _step(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, key: DropoutKey, bf16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(images, dropout=key)
    F.cross_entropy(logits, labels, reduction="sum").backward()


def _there_and_back(normalise: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> None:
    x = values.detach().requires_grad_()
    normalise(x).sum().backward()


def _ms(work: Callable[[], None]) -> float:
    """Milliseconds a picture."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000 / BATCH


def _help_seconds() -> float:
    return _process_seconds([sys.executable, "-m", "cluster.cli", "--help"])


def _python_seconds() -> float:
    return _process_seconds([sys.executable, "-c", "pass"])


def _process_seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
