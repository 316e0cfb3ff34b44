"""Two columns on two workers, over real processes (gloo), beside the one network that holds both."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.spawn import spawn

from ingest.errors import RefusedError
from tests.trainer.column_worker import BATCH, CASES, FIT, RATES, SEED, SMALL, Found, batch, rank_main
from tests.trainer.runs import RECIPE, Left, Tensors, train_here
from trainer.columns import ColumnNet, ColumnPlace
from trainer.dropout import DropoutKey
from trainer.launch import plan_only
from trainer.networks import AlexNet, build
from trainer.settings import TrainSettings
from trainer.switches import NetworkSettings, RuleSettings
from trainer.update import Rule

Ranks = dict[int, list[Found]]
STEPS = ("step-00000001.0001", "step-00000002.0001")
JOBS = {2: [*CASES, FIT]}
# Rounding leaves 1e-6; a ReLU or a maximum that it turns the other way, 2e-4 (so it does in one network whose weights
# are changed by 6e-8 of themselves). A wrong mask, norm, bias or sum: from 0.01 on.
NEAR, NEAR_LATER = 1e-3, 0.1
"""After the first step; then sums in another order, which differ with the processor, let a ReLU or a pool choose otherwise,
and the first steps of so wide a network are long."""
ABOUT = ("epoch_sums", "errors", "execution", "recent_losses")
MORE_JOBS = {4: [*CASES, FIT]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("columns")
    yield folder
    shutil.rmtree(folder)


def spawned(place: Path, dataset: str, jobs: dict[int, list[str]]) -> Ranks:
    """By world size: what each rank found."""
    spawn(rank_main, (str(place), dataset, jobs), nprocs=max(jobs))
    return {world: [torch.load(place / f"{world}-{rank}.pt") for rank in range(world)] for world in jobs}


@pytest.fixture(scope="module")
def ranks(place: Path, tiny_dataset: str) -> Ranks:
    return spawned(place, tiny_dataset, JOBS)


@pytest.fixture(scope="module")
def more_ranks(place: Path, tiny_dataset: str, unbroken: Left) -> Ranks:
    """Two pairs. The run goes on from a checkpoint of a process that held both columns."""
    unbroken.copy_checkpoint(STEPS[0], place / "run-4")
    return spawned(place, tiny_dataset, MORE_JOBS)


def each(jobs: dict[int, list[str]]) -> list[tuple[int, str]]:
    return [(world, case) for world, cases in jobs.items() for case in cases if case != FIT]


@pytest.fixture(scope="module")
def wholes() -> dict[str, Found]:
    """By case: losses, answers, weights and velocities of the network that holds both columns."""
    return {case: train_whole(case) for case in CASES}


def train_whole(case: str) -> Found:
    switches, steps = CASES[case]
    network = build(NetworkSettings(**{**SMALL, **switches}), SEED)
    rule, losses = Rule(network, RuleSettings()), []
    for step in range(steps):
        images, labels = batch(step, network.settings.num_classes)
        network.zero_grad()
        loss = F.cross_entropy(network(images, dropout=DropoutKey(SEED, step, np.arange(BATCH))), labels)
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).double().norm()
        rule.step(RATES)
        losses.append(loss.item() * BATCH)
    with torch.no_grad():
        logits = network(batch(99, 10)[0])
    tensors = {"network": network.state_dict(), "velocity": rule.state_dict()}
    return {"losses": losses, "logits": logits, "norm": float(norm), **tensors}


def apart(found: Tensors, expected: Tensors) -> float:
    """The largest distance of a tensor from what it should be, in units of its length."""
    assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in expected.items()}
    return max(float((found[name] - t).norm() / t.norm()) for name, t in expected.items())


def assert_like_one_network(ranks: list[Found], wholes: dict[str, Found], case: str) -> None:
    expected, first = wholes[case], ranks[0][case]
    # Every rank knows the sum over all of them, in which both workers of a pair count.
    assert [loss / 2 for loss in first["losses"]] == pytest.approx(expected["losses"], rel=1e-5)
    assert apart(first["network"], expected["network"]) < NEAR
    assert apart(first["velocity"], expected["velocity"]) < NEAR
    assert apart({"": first["logits"]}, {"": expected["logits"]}) < NEAR
    for rank in ranks:
        assert rank[case]["losses"] == first["losses"]
        assert torch.equal(rank[case]["logits"], first["logits"])
        assert rank[case]["norm"] == pytest.approx(expected["norm"], rel=NEAR)


@pytest.mark.parametrize(("world", "case"), each(JOBS))
def test_two_columns_on_two_workers_train_like_one_network(
    ranks: Ranks, wholes: dict[str, Found], world: int, case: str
) -> None:
    assert_like_one_network(ranks[world], wholes, case)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "case"), each(MORE_JOBS))
def test_two_pairs_of_workers_train_like_one_network_as_well(
    more_ranks: Ranks, wholes: dict[str, Found], world: int, case: str
) -> None:
    assert_like_one_network(more_ranks[world], wholes, case)


@pytest.mark.parametrize(("world", "case"), each(JOBS))
def test_each_worker_holds_its_half_and_nothing_twice(
    ranks: Ranks, wholes: dict[str, Found], world: int, case: str
) -> None:
    one, other, *_ = (rank[case]["sizes"] for rank in ranks[world])
    for name, tensor in wholes[case]["network"].items():
        assert one[name] + other[name] == tensor.numel()
        assert one[name] - other[name] in (0, 1)
    assert all(not rank[case]["network"] for rank in ranks[world][1:])


def test_a_number_of_one_column_that_is_not_finite_is_seen_by_both_workers(ranks: Ranks) -> None:
    assert [rank["finite"] for rank in ranks[2]] == [False, False]


def test_a_column_takes_its_part_of_a_layer_that_another_run_learnt() -> None:
    whole, other = (build(NetworkSettings(**SMALL), seed) for seed in (1, 2))
    assert isinstance(whole, AlexNet)
    alone: Any = None  # nothing is sent
    column = ColumnNet(whole, ColumnPlace(0, 1, 1, alone, alone))
    learnt = {name: tensor for name, tensor in other.state_dict().items() if name in ("conv3.weight", "fc8.weight")}
    column.load_state_dict({**column.state_dict(), **learnt})
    own, drawn = column.state_dict(), whole.state_dict()
    assert torch.equal(own["conv3.weight"], learnt["conv3.weight"][192:])
    assert torch.equal(own["fc8.weight"], learnt["fc8.weight"][:, 16:])
    assert torch.equal(own["fc8.bias"], drawn["fc8.bias"][5:])
    assert torch.equal(own["conv2.weight"], drawn["conv2.weight"][128:])


def test_a_run_over_two_workers_says_and_leaves_what_one_process_does(
    ranks: Ranks, place: Path, unbroken: Left
) -> None:
    left, facts = Left(place / "run-2"), ranks[2][0][FIT]
    assert (facts["world_size"], facts["steps"], facts["num_samples"]) == (2, 2, 30)
    assert facts["num_parameters"] == sum(t.numel() for t in unbroken.tensors(STEPS[0])["network"].values())
    assert left.names == list(STEPS)
    for name, within in zip(STEPS, (NEAR, NEAR_LATER), strict=True):
        assert_same_state(left, unbroken, name)
        assert_near(left, unbroken, name, within)
    assert left.events("delivered") == unbroken.events("delivered")[:1]
    ours, expected = left.events("metrics")[0], unbroken.events("metrics")[0]
    for name in ("loss", "train_top1_error", "samples", "gradient_norm"):
        assert ours[name] == pytest.approx(expected[name], rel=1e-3), name
    for layer, figures in expected["layers"].items():
        # The update is looked at in other weights than there.
        for name, within in (("weight_norm", 1e-4), ("gradient_norm", 1e-3), ("update_ratio", 0.3)):
            assert ours["layers"][layer][name] == pytest.approx(figures[name], rel=within), (layer, name)


@pytest.mark.slow
def test_four_workers_go_on_from_one_that_held_both_columns(more_ranks: Ranks, place: Path, unbroken: Left) -> None:
    assert [rank["finite"] for rank in more_ranks[4]] == [True, True, False, False]
    left = Left(place / "run-4")
    assert [event["step"] for event in left.events("resumed")] == [1]
    assert left.names == list(STEPS)
    assert_same_state(left, unbroken, STEPS[1])
    assert_near(left, unbroken, STEPS[1], NEAR_LATER)


def assert_same_state(left: Left, expected: Left, name: str) -> None:
    """Where a run stands: counts alike, figures nearly."""
    ours, theirs = left.state(name), expected.state(name)
    ours["recipe"]["epochs"] = theirs["recipe"]["epochs"]
    assert {k: v for k, v in ours.items() if k not in ABOUT} == {k: v for k, v in theirs.items() if k not in ABOUT}
    for figures in ("epoch_sums", "errors"):
        assert ours[figures] == (theirs[figures] and pytest.approx(theirs[figures], rel=1e-3))


def assert_near(left: Left, expected: Left, name: str, within: float) -> None:
    """Weights and velocities."""
    ours, theirs = left.tensors(name), expected.tensors(name)
    assert max(apart(ours[part], theirs[part]) for part in ("network", "velocity")) < within


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"num_workers": 3}, "3 workers do not make pairs; take an even --num-workers"),
        ({"num_workers": 0}, "0 workers do not make pairs"),
        ({"min_workers": 2}, "an elastic run may come to an odd number of workers; leave out --min-workers"),
        ({"variant": ("one_column",)}, "this network is one column; take network.columns=2"),
        ({"preset": "paper"}, "LRN over the whole layer needs the squares of both columns; take network.lrn_span=half"),
        ({"preset": "cifar", "switch": ()}, "the cifar network has no columns"),
        ({"switch": ("network.hidden=[63, 32]",)}, r"network.hidden=\[63, 32\] cannot be halved; take even numbers"),
        ({"switch": ("rule.trust=0.001",)}, "LARS needs the lengths of whole layers"),
    ],
)
def test_networks_and_workers_that_do_not_fit_two_columns_are_refused(
    tiny_dataset: str, folder: Path, chosen: dict[str, Any], words: str
) -> None:
    settings = {**RECIPE, "num_workers": 2, "split_columns": True, **chosen}
    with pytest.raises(RefusedError, match=f"--split-columns: {words}"):
        plan_only(tiny_dataset, TrainSettings(**settings))
    with pytest.raises(RefusedError, match=words):
        train_here(tiny_dataset, folder, **{**settings, "cpus_per_worker": 1})
