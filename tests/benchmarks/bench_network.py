"""The network on pictures that lie ready: milliseconds a picture of a training step, beside torchvision's net written
plainly; the response normalisation; the share of each layer; the update, a checkpoint, a step through the run's own
functions; and `tench --help`."""

import io
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile, record_function

from tests.benchmarks import report
from tests.trainer.plain_networks import torchvisions
from trainer.dropout import DropoutKey
from trainer.networks import Network, build
from trainer.normalisation import across_channels
from trainer.precision import computing
from trainer.schedules import Rates
from trainer.switches import NetworkSettings, Precision, RuleSettings
from trainer.update import Rule

TIMES, BATCH = 7, 16
CPU = torch.device("cpu")
MACS = {"museum145": 724_406_816, "plain": 714_188_480}
NOTES = f"""\
Milliseconds a picture, batches of {BATCH}, forward and backward without the update unless named; medians, all in turn. \
`plain`: torchvision's AlexNet as an nn.Sequential with its own dropout and without normalisation, as one writes it down. \
per_mac: ours over plain, each over its own multiply-accumulates; below 1 ours is ahead. LRN: conv1's map, 96 x 55 x 55. \
layers: share of the forward pass."""


def main() -> None:
    """Measure and write the result file."""
    museum, bare = build(NetworkSettings(), 0), build(NetworkSettings(lrn=False, spatial_norm=False), 0)
    other = torchvisions(9216, (4096, 4096), 1000)
    images = torch.randn(BATCH, 3, 224, 224).mul_(60).to(memory_format=torch.channels_last)
    key = DropoutKey(0, 0, np.arange(BATCH))
    map1 = torch.randn(BATCH, 96, 55, 55).mul_(60).to(memory_format=torch.channels_last)
    rule = Rule(museum, RuleSettings())
    rows = images.contiguous()

    def step(network: Any, precision: Precision, pictures: torch.Tensor, **dropout: Any) -> float:
        return _ms(lambda: _step(network, precision, pictures, **dropout))

    runs: dict[str, Callable[[], float]] = {
        "step_fp32": lambda: step(museum, "fp32", images, dropout=key),
        "step_bf16": lambda: step(museum, "bf16", images, dropout=key),
        "step_without_norms_fp32": lambda: step(bare, "fp32", images, dropout=key),
        "plain_fp32": lambda: step(other, "fp32", rows),
        "plain_bf16": lambda: step(other, "bf16", rows),
        "update": lambda: _ms(lambda: rule.step(Rates(1e-9, 1e-9))),
        "lrn_ours": lambda: _ms(lambda: _there_and_back(lambda x: across_channels(x, 2.0, 2e-5, 2), map1)),
        "lrn_torch": lambda: _ms(lambda: _there_and_back(lambda x: F.local_response_norm(x, 5, 1e-4, 0.75, 2.0), map1)),
    }
    found = report.in_turn(runs, TIMES)
    helps = report.in_turn({"help": _help_seconds, "bare": _python_seconds}, TIMES)
    per_mac = MACS["plain"] / MACS["museum145"]
    report.write(
        "network",
        {
            "batch": BATCH,
            "threads": torch.get_num_threads(),
            **{f"{name}_ms_a_picture": report.median(values) for name, values in found.items()},
            "lrn_ours_to_torch": round(report.ratio(found, "lrn_ours", "lrn_torch"), 3),
            "per_mac_fp32": round(report.ratio(found, "step_fp32", "plain_fp32") * per_mac, 3),
            "per_mac_bf16": round(report.ratio(found, "step_bf16", "plain_bf16") * per_mac, 3),
            "layers": _layers(museum, images),
            "serialised_checkpoint_s": report.median([_serialised_seconds(museum, rule) for _ in range(3)]),
            "tench_help_s": report.median(helps["help"]),
            "python_alone_s": report.median(helps["bare"]),
        },
        NOTES,
    )


def _step(network: Any, precision: Precision, images: torch.Tensor, **dropout: Any) -> None:
    with computing(precision, CPU):
        logits = network(images, **dropout)
    F.cross_entropy(logits.float(), torch.arange(len(images)), reduction="sum").backward()


def _there_and_back(normalise: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> None:
    x = values.detach().requires_grad_()
    normalise(x).sum().backward()


def _layers(network: Network, images: torch.Tensor) -> dict[str, float]:
    """Share of the forward pass that each layer with weights takes; the rest is normalisation, pools and ReLU."""
    marks: dict[str, Any] = {}

    def begin(name: str) -> None:
        marks[name] = record_function(name).__enter__()

    hooks = []
    for name in network.layer_names:
        layer = network.get_submodule(name)
        hooks.append(layer.register_forward_pre_hook(lambda m, i, name=name: begin(name)))
        hooks.append(layer.register_forward_hook(lambda m, i, o, name=name: marks[name].__exit__(None, None, None)))
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as watched, record_function("forward"):
        for _ in range(3):
            network(images)
    for hook in hooks:
        hook.remove()
    times: dict[str, float] = defaultdict(float)
    for event in watched.key_averages():
        times[event.key] += event.cpu_time_total
    return {name: round(times[name] / times["forward"], 3) for name in network.layer_names}


def _serialised_seconds(network: Network, rule: Rule) -> float:
    """What a checkpoint costs before it meets a disk."""
    started = time.perf_counter()
    torch.save({"network": network.state_dict(), "velocity": rule.state_dict()}, io.BytesIO())
    return time.perf_counter() - started


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
