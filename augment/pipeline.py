"""DALI pipelines that work in the background, a batch each. With `graph.py` the only place that imports DALI."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Inputs = dict[str, list[npt.NDArray[Any]]]
"""What a graph is fed, by name: an array for each sample."""
Graph = Callable[[], Any]
"""Defines a graph: called inside a pipeline, it returns the output."""
IN_FLIGHT = 2


class Background:
    """Runs a graph on batches: `start` one, `wait` for the oldest one started.

    At most `IN_FLIGHT` batches may be under way. Each has a pipeline of its own with a queue of one, so that there
    is no prefetching whose end would have to be managed. Pipelines are built at the first use, in the process that
    uses them: one that went through a fork would hang.
    """

    def __init__(self, graph: Graph, max_batch: int, threads: int, device: torch.device) -> None:
        self._graph, self._max_batch, self._threads, self._device = graph, max_batch, threads, device
        self._idle: deque[Any] = deque()
        self._under_way: deque[tuple[Any, Inputs]] = deque()

    def start(self, inputs: Inputs) -> None:
        """Begin a batch of n > 0 samples."""
        assert len(self._under_way) < IN_FLIGHT, "wait for a batch before starting another"
        self._start(self._idle.popleft() if self._idle else self._built(), inputs, self._under_way)

    def wait(self) -> torch.Tensor:
        """The output for the oldest batch, on the device. Raises RuntimeError if a payload cannot be decoded."""
        return self._wait(self._under_way)

    def once(self, inputs: Inputs) -> torch.Tensor:
        """The output for one batch out of turn, at once; what is under way stays so."""
        alone: deque[tuple[Any, Inputs]] = deque()
        self._start(self._built(), inputs, alone)
        return self._wait(alone)

    def discard(self) -> None:
        """Wait for what is under way and throw it away."""
        while self._under_way:
            try:
                self.wait()
            except RuntimeError:
                continue  # Nobody wants this batch, and `wait` has dropped its pipeline.

    def close(self) -> None:
        """Discard what is under way and let the pipelines go; `start` builds new ones."""
        self.discard()
        self._idle.clear()

    def _start(self, pipeline: Any, inputs: Inputs, under_way: deque[tuple[Any, Inputs]]) -> None:
        from nvidia.dali.tensors import TensorListCPU

        batch: Any = TensorListCPU
        for name, arrays in inputs.items():
            # One call for the batch: half of what a list of arrays would take of this thread.
            pipeline.feed_input(name, batch.from_dlpack_list(arrays))
        pipeline.schedule_run()
        # The inputs stay referenced until the output is there: DALI reads them in place.
        under_way.append((pipeline, inputs))

    def _wait(self, under_way: deque[tuple[Any, Inputs]]) -> torch.Tensor:
        pipeline, _ = under_way.popleft()
        if self._device.type == "cuda":
            (done,) = pipeline.outputs(cuda_stream=torch.cuda.current_stream(self._device).cuda_stream)
        else:
            (done,) = pipeline.outputs()
        # Only a pipeline that came to its end is used again: DALI calls one that failed invalid.
        self._idle.append(pipeline)
        return torch.utils.dlpack.from_dlpack(done.as_tensor())

    def _built(self) -> Any:
        from nvidia.dali import Pipeline

        number = self._device.index if self._device.type == "cuda" else None
        pipeline = Pipeline(self._max_batch, self._threads, number, prefetch_queue_depth=1)
        # The older executors overwrite the memory of an output that was handed on.
        assert pipeline.exec_dynamic, "the graph must run on DALI's dynamic executor"
        with pipeline:
            pipeline.set_outputs(self._graph())
        pipeline.build()
        return pipeline


def scalars(values: npt.NDArray[np.int32]) -> list[npt.NDArray[Any]]:
    """A zero-dimensional array for each value: how a graph is fed one number a sample."""
    return [values[i, ...] for i in range(len(values))]
