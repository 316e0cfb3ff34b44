"""Workers on nodes: the formula against a search that puts them there one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.placing import places, widest, words

Nodes = list[tuple[int, int]]
NODES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=4)


def placed_one_by_one(nodes: Nodes, cpus: int, use_gpu: bool) -> int:
    """How many workers find a place if each takes the first node that still has what it needs."""
    free = [list(node) for node in nodes]
    placed = 0
    while True:
        for node in free:
            if node[0] >= cpus and (node[1] >= 1 or not use_gpu):
                node[0], node[1] = node[0] - cpus, node[1] - use_gpu
                placed += 1
                break
        else:
            return placed


@given(NODES, st.integers(1, 10), st.booleans())
def test_as_many_workers_are_counted_as_can_be_put_on_the_nodes(nodes: Nodes, cpus: int, use_gpu: bool) -> None:
    assert places(nodes, cpus, use_gpu) == placed_one_by_one(nodes, cpus, use_gpu)


@given(NODES, st.integers(1, 12), st.booleans())
def test_the_widest_workers_fit_and_wider_ones_do_not(nodes: Nodes, workers: int, use_gpu: bool) -> None:
    fitting = [cpus for cpus in range(1, 10) if placed_one_by_one(nodes, cpus, use_gpu) >= workers]
    assert widest(nodes, workers, use_gpu) == max(fitting, default=0)


@pytest.mark.parametrize(
    ("nodes", "workers", "use_gpu", "cpus"),
    [
        ([(4, 0)] * 3, 4, False, 2),  # the sum alone would say 3 CPUs each, of which only three have a place
        ([(4, 0)] * 3, 3, False, 4),
        ([(8, 2), (2, 2)], 4, True, 1),
        ([(8, 2), (0, 2)], 2, True, 4),
        ([(8, 2), (0, 2)], 3, True, 0),  # a GPU without a CPU beside it
        ([], 1, False, 0),
    ],
)
def test_workers_take_as_many_cpus_as_leave_a_place_for_each(
    nodes: Nodes, workers: int, use_gpu: bool, cpus: int
) -> None:
    assert widest(nodes, workers, use_gpu) == cpus


def test_nodes_are_told_the_largest_first_and_alike_ones_together() -> None:
    assert words([(4, 0), (8, 1), (4, 0), (8, 0)]) == "1 node of 8 CPUs and 1 GPU, 1 node of 8 CPUs, 2 nodes of 4 CPUs"
    assert words([]) == "no nodes"
