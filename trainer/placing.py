"""Nodes as (CPUs, GPUs) in, how many workers they hold out. Pure: whole numbers, no Ray.

A worker lies on one node: three nodes of 4 CPUs hold three workers of 3 CPUs, though 12 CPUs in one place hold four.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from ingest.words import counted


def places(nodes: Sequence[tuple[int, int]], cpus: int, use_gpu: bool) -> int:
    """How many workers of so many CPUs (at least 1; and a GPU each) the nodes (cpus, gpus) hold."""
    by_cpus = [(has_cpus // cpus, gpus) for has_cpus, gpus in nodes]
    return sum(min(number, gpus) if use_gpu else number for number, gpus in by_cpus)


def widest(nodes: Sequence[tuple[int, int]], workers: int, use_gpu: bool) -> int:
    """The most CPUs that each of so many workers (at least 1) can have; 0 if the nodes cannot hold them."""
    most = max((cpus for cpus, _ in nodes), default=0)
    # Wider workers never have more places, so those that all fit are 1, 2, ... up to the answer.
    return bisect_left(range(1, most + 1), True, key=lambda cpus: places(nodes, cpus, use_gpu) < workers)


def words(nodes: Sequence[tuple[int, int]]) -> str:
    """The nodes for people, the largest first: `2 nodes of 8 CPUs and 1 GPU, 1 node of 4 CPUs`."""
    kinds = sorted(Counter(nodes).items(), reverse=True)
    return ", ".join(f"{counted(number, 'node')} of {node_words(*node)}" for node, number in kinds) or "no nodes"


def node_words(cpus: int, gpus: int) -> str:
    """`8 CPUs and 1 GPU`, `4 CPUs`: what a node has, or a worker asks for."""
    return counted(cpus, "CPU") + (f" and {counted(gpus, 'GPU')}" if gpus else "")
