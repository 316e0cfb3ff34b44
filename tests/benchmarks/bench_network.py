"""The network on pictures that lie ready: milliseconds a picture of a training step, beside torchvision's net written
plainly, at two batches; how near that is to what the cores can multiply; the share of each layer; the response
normalisation; the update, a checkpoint; and `tench --help`."""

import functools
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

from tests.benchmarks import report
from tests.trainer.plain_networks import torchvisions
from trainer.dropout import DropoutKey
from trainer.networks import Network, build
from trainer.normalisation import across_channels
from trainer.precision import computing
from trainer.schedules import Rates
from trainer.switches import NetworkSettings, Precision, RuleSettings
from trainer.update import Rule

TIMES = {16: 7, 64: 3}
"""Rounds at each batch."""
BATCH = 16
"""Pictures of what is measured at one batch only."""
CPU = torch.device("cpu")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
MACS = {"museum145": 724_406_816, "plain": 714_188_480}
GFLOP = (6 * MACS["museum145"] - 2 * 105_415_200) / 1e9
"""Of one picture, forward and backward; conv1 needs no gradient of its input."""
SIDE = 2048
NOTES = f"""\
Milliseconds a picture, forward and backward without the update unless named; medians, all in turn; the batch is the last \
part of a name, {BATCH} where it is not told. Gradients are added to what lies in .grad, in all networks. `plain`: \
torchvision's AlexNet as an nn.Sequential with its own dropout and without normalisation, as one writes it down. per_mac: \
ours over plain, each over its own multiply-accumulates; below 1 ours is ahead. gflops: {GFLOP:.2f} GFLOP a picture over \
the time of a step, beside a product of two matrices of {SIDE} x {SIDE} in the same turn; of_product: their ratio. LRN: \
conv1's map, 96 x 55 x 55. layers: share of a step in fp32; the rest is normalisation, pools, ReLU, dropout and loss."""


def main() -> None:
    """Measure and write the result file."""
    museum = build(NetworkSettings(), 0)
    rule = Rule(museum, RuleSettings())
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    for batch in TIMES:
        figures |= _steps(museum, batch)
    figures |= _parts(rule)
    figures["layers"] = _layers(museum, *_pictures(BATCH))
    figures["serialised_checkpoint_s"] = report.median([_serialised_seconds(museum, rule) for _ in range(3)])
    helps = report.in_turn({"tench_help": _help_seconds, "python_alone": _python_seconds}, TIMES[BATCH])
    figures |= {f"{name}_s": report.median(seconds) for name, seconds in helps.items()}
    report.write("network", figures, NOTES)


def _pictures(batch: int) -> tuple[torch.Tensor, DropoutKey]:
    images = torch.randn(batch, 3, 224, 224).mul_(60).to(memory_format=torch.channels_last)
    return images, DropoutKey(0, 0, np.arange(batch))


def _steps(museum: Network, batch: int) -> dict[str, float]:
    """A step of our network and of the plain one in both precisions, and large products in between."""
    (images, key), plain = _pictures(batch), torchvisions(9216, (4096, 4096), 1000)
    rows = images.contiguous()
    runs: dict[str, Callable[[], float]] = {}
    for precision in PRECISIONS:
        matrix = torch.randn(SIDE, SIDE, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
        runs[f"step_{precision}"] = lambda p=precision: _ms(lambda: _step(museum, p, images, dropout=key), batch)  # type: ignore[misc]
        runs[f"plain_{precision}"] = lambda p=precision: _ms(lambda: _step(plain, p, rows), batch)  # type: ignore[misc]
        runs[f"product_{precision}"] = lambda m=matrix: _ms(lambda: m @ m, 1)  # type: ignore[misc]
    found = report.in_turn(runs, TIMES[batch])
    figures = {
        f"{name}_ms_a_picture_{batch}": report.median(values)
        for name, values in found.items() if not name.startswith("product")
    }  # fmt: skip
    for precision in PRECISIONS:
        per_mac = report.ratio(found, f"step_{precision}", f"plain_{precision}") * MACS["plain"] / MACS["museum145"]
        speeds = {
            "gflops": [GFLOP * 1000 / ms for ms in found[f"step_{precision}"]],
            "product_gflops": [2 * SIDE**3 / 1e6 / ms for ms in found[f"product_{precision}"]],
        }
        figures[f"per_mac_{precision}_{batch}"] = round(per_mac, 3)
        figures |= {f"{name}_{precision}_{batch}": report.median(values) for name, values in speeds.items()}
        figures[f"of_product_{precision}_{batch}"] = round(report.ratio(speeds, "gflops", "product_gflops"), 3)
    return figures


def _parts(rule: Rule) -> dict[str, float]:
    """What a step consists of besides: normalisation, update; and a step without normalisation."""
    (images, key), bare = _pictures(BATCH), build(NetworkSettings(lrn=False, spatial_norm=False), 0)
    map1 = torch.randn(BATCH, 96, 55, 55).mul_(60).to(memory_format=torch.channels_last)
    work: dict[str, Callable[[], None]] = {
        "step_without_norms_fp32": lambda: _step(bare, "fp32", images, dropout=key),
        "update": lambda: rule.step(Rates(1e-9, 1e-9)),
        "lrn_ours": lambda: _there_and_back(lambda x: across_channels(x, 2.0, 2e-5, 2), map1),
        "lrn_torch": lambda: _there_and_back(lambda x: F.local_response_norm(x, 5, 1e-4, 0.75, 2.0), map1),
    }
    runs: dict[str, Callable[[], float]] = {name: functools.partial(_ms, each, BATCH) for name, each in work.items()}
    found = report.in_turn(runs, TIMES[BATCH])
    return {
        **{f"{name}_ms_a_picture": report.median(values) for name, values in found.items()},
        "lrn_ours_to_torch": round(report.ratio(found, "lrn_ours", "lrn_torch"), 3),
    }


def _step(network: Any, precision: Precision, images: torch.Tensor, **dropout: Any) -> None:
    with computing(precision, CPU):
        logits = network(images, **dropout)
    F.cross_entropy(logits.float(), torch.arange(len(images)), reduction="sum").backward()


def _there_and_back(normalise: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> None:
    x = values.detach().requires_grad_()
    normalise(x).sum().backward()


def _layers(network: Network, images: torch.Tensor, key: DropoutKey) -> dict[str, dict[str, float]]:
    """Share of a step that each layer with weights takes, forward and backward with the adding of its gradients."""
    spent: dict[str, dict[str, float]] = {"forward": defaultdict(float), "backward": defaultdict(float)}

    def clock(way: str, name: str, sign: int) -> None:
        spent[way][name] += sign * time.perf_counter()

    def before(name: str, given: torch.Tensor) -> None:
        if given.requires_grad:  # not the pictures: there the backward pass ends with conv1
            given.register_hook(lambda _: clock("backward", name, 1))
        clock("forward", name, -1)

    def after(name: str, out: torch.Tensor) -> None:
        clock("forward", name, 1)
        out.register_hook(lambda _: clock("backward", name, -1))

    _step(network, "fp32", images, dropout=key)
    hooks = []
    for name in network.layer_names:
        layer = network.get_submodule(name)
        hooks.append(layer.register_forward_pre_hook(lambda m, i, name=name: before(name, i[0])))
        hooks.append(layer.register_forward_hook(lambda m, i, o, name=name: after(name, o)))
    started = time.perf_counter()
    for _ in range(3):
        _step(network, "fp32", images, dropout=key)
        clock("backward", network.layer_names[0], 1)
    seconds = time.perf_counter() - started
    for hook in hooks:
        hook.remove()
    return {way: {name: round(s / seconds, 3) for name, s in layers.items()} for way, layers in spent.items()}


def _serialised_seconds(network: Network, rule: Rule) -> float:
    """What a checkpoint costs before it meets a disk."""
    started = time.perf_counter()
    torch.save({"network": network.state_dict(), "velocity": rule.state_dict()}, io.BytesIO())
    return time.perf_counter() - started


def _ms(work: Callable[[], Any], batch: int) -> float:
    """Milliseconds a picture."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000 / batch


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
