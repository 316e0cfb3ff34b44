"""Gradients summed over real processes (gloo) equal those of one process, bit for bit where sums are exact."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from trainer.reduce import FlatGradients, sum_over_ranks

ROWS = 7
LARGEST_WORLD = 3
CPU = torch.device("cpu")


class SmallNetwork(nn.Module):
    """Layers by AlexNet's names; a convolution in channels-last order as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3)
        self.conv2 = nn.Conv2d(4, 6, 3, groups=2)
        self.fc6 = nn.Linear(6 * 4, 5)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=generator))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc6(self.conv2(self.conv1(x)).flatten(1))
        return out


def pictures(whole: bool) -> torch.Tensor:
    """(7, 2, 6, 6): small whole numbers, whose sums are exact in any order, or normal deviates."""
    generator = torch.Generator().manual_seed(2)
    shape = (ROWS, 2, 6, 6)
    return (
        torch.randint(-2, 3, shape, generator=generator).float() if whole else torch.randn(shape, generator=generator)
    )


def gradients(images: torch.Tensor, micro: int = ROWS) -> dict[str, Any]:
    """Sums over these rows and those of all other ranks, taken through the network in micro-batches."""
    network = SmallNetwork()
    flat = FlatGradients(network, 2)
    for _ in range(2):  # a second step, so that nothing of the first may be left
        flat.zero()
        for first in range(0, len(images), micro):
            if first + micro >= len(images):
                flat.arm()
            network(images[first : first + micro]).sum().backward()
        flat.extras += torch.tensor([len(images), images.double().sum()])
        extras = flat.reduce()
    return {"extras": extras, **{name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}}


def rank_main(rank: int, folder: str) -> None:
    """In one process group after another: what this rank holds after each kind of reduction."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for world_size in range(2, LARGEST_WORLD + 1):
        if rank >= world_size:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/{world_size}", rank=rank, world_size=world_size)
        found = {f"{rows} rows": gradients(pictures(whole=True)[:rows][rank::world_size]) for rows in (ROWS, 2, 1, 0)}
        found["micro"] = gradients(pictures(whole=True)[rank::world_size], micro=2)
        found["real"] = gradients(pictures(whole=False)[rank::world_size])
        found["again"] = gradients(pictures(whole=False)[rank::world_size])
        found["values"] = {"extras": sum_over_ranks([rank, 2.5], CPU)}
        dist.destroy_process_group()
        torch.save(found, f"{folder}/{world_size}-{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, dict[str, Any]]]]:
    """By world size: what each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(rank_main, (str(folder),), nprocs=LARGEST_WORLD)
    return {w: [torch.load(Path(folder, f"{w}-{rank}.pt")) for rank in range(w)] for w in (2, 3)}


def plain(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients by autograd alone."""
    network = SmallNetwork()
    network(images).sum().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def assert_equal(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("micro", [1, 2, 3, ROWS])
def test_one_process_sums_over_its_rows(micro: int) -> None:
    found = gradients(pictures(whole=True), micro)
    assert_equal(found, plain(pictures(whole=True)))
    assert found["extras"] == [ROWS, pictures(whole=True).sum().item()]


@pytest.mark.parametrize("kind", ["7 rows", "micro"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_gets_the_sums_of_one_process(ranks: Any, world_size: int, kind: str) -> None:
    expected = plain(pictures(whole=True))
    for rank in ranks[world_size]:
        assert_equal(rank[kind], expected)
        assert rank[kind]["extras"] == [ROWS, pictures(whole=True).sum().item()]


@pytest.mark.parametrize("rows", [2, 1])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_without_rows_take_part_with_zeros(ranks: Any, world_size: int, rows: int) -> None:
    expected = plain(pictures(whole=True)[:rows])
    for rank in ranks[world_size]:
        assert_equal(rank[f"{rows} rows"], expected)
        assert rank[f"{rows} rows"]["extras"][0] == rows


def test_a_step_without_any_row_gives_zeros(ranks: Any) -> None:
    nothing = {name: torch.zeros_like(gradient) for name, gradient in plain(pictures(whole=True)).items()}
    for rank in ranks[2]:
        assert_equal(rank["0 rows"], nothing)


@pytest.mark.parametrize("world_size", [2, 3])
def test_real_sums_are_the_same_bits_on_every_rank_and_every_time(ranks: Any, world_size: int) -> None:
    first = ranks[world_size][0]["real"]
    expected = plain(pictures(whole=False))
    for rank in ranks[world_size]:
        assert_equal(rank["real"], {name: first[name] for name in expected})
        assert_equal(rank["again"], {name: first[name] for name in expected})
    assert all(torch.allclose(first[name], gradient, rtol=1e-5, atol=1e-5) for name, gradient in expected.items())


@pytest.mark.parametrize("world_size", [2, 3])
def test_values_are_summed_in_float64(ranks: Any, world_size: int) -> None:
    assert all(rank["values"]["extras"] == [sum(range(world_size)), 2.5 * world_size] for rank in ranks[world_size])
    assert sum_over_ranks([1 / 3, 2**53 - 1], CPU) == [1 / 3, 2**53 - 1]


def test_sums_become_means_over_the_true_batch() -> None:
    network = SmallNetwork()
    flat = FlatGradients(network, 1)
    network(pictures(whole=False)).mean(dim=1).sum().backward()
    before = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    flat.divide(ROWS)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, before[name] / ROWS)
