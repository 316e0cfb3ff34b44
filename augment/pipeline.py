"""JPEG payloads to pixels with DALI. The only place that imports it.

The graph decodes whole pictures: cropping and flipping them afterwards, in the finish, costs less than DALI's own
crop and flip operators on the CPU (the benchmark of the loader shows both).
"""

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Views = list[npt.NDArray[np.uint8]]
IN_FLIGHT = 2


class JpegDecoder:
    """Decodes batches in the background: `start` a batch, `wait` for the oldest one started.

    At most `IN_FLIGHT` batches may be under way. Each has a pipeline of its own with a queue of one, so that there
    is no prefetching whose end would have to be managed. Pipelines are built at the first use, in the process that
    uses them: one that went through a fork would hang.
    """

    def __init__(self, max_batch: int, threads: int) -> None:
        self._max_batch, self._threads = max_batch, threads
        self._idle: deque[Any] = deque()
        self._under_way: deque[tuple[Any, Views]] = deque()

    def start(self, payloads: Views) -> None:
        """Begin to decode n > 0 JPEG payloads."""
        assert len(self._under_way) < IN_FLIGHT, "wait for a batch before starting another"
        pipeline = self._idle.popleft() if self._idle else _pipeline(self._max_batch, self._threads)
        _feed(pipeline, payloads)
        # The payloads stay referenced until their pixels are there: DALI reads them in place.
        self._under_way.append((pipeline, payloads))

    def wait(self) -> torch.Tensor:
        """uint8 (n, side, side, 3) RGB of the oldest batch. Raises RuntimeError if a payload cannot be decoded."""
        pipeline, _ = self._under_way.popleft()
        (pixels,) = pipeline.outputs()
        # Only a pipeline that decoded is used again: DALI calls one that failed invalid.
        self._idle.append(pipeline)
        return torch.utils.dlpack.from_dlpack(pixels.as_tensor())

    def decode(self, payloads: Views) -> torch.Tensor:
        """The same for one batch out of turn: it waits, and what is under way stays so."""
        pipeline = _pipeline(self._max_batch, self._threads)
        _feed(pipeline, payloads)
        (pixels,) = pipeline.outputs()
        return torch.utils.dlpack.from_dlpack(pixels.as_tensor())

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


def _feed(pipeline: Any, payloads: Views) -> None:
    from nvidia.dali.tensors import TensorListCPU

    # One call for the batch: half of what a list of arrays would take of this thread.
    batch: Any = TensorListCPU
    pipeline.feed_input("payload", batch.from_dlpack_list(payloads))
    pipeline.schedule_run()


def _pipeline(max_batch: int, threads: int) -> Any:
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(batch_size=max_batch, num_threads=threads, device_id=None, prefetch_queue_depth=1)
    # The older executors overwrite the memory of an output that was handed on.
    assert pipeline.exec_dynamic, "the graph must run on DALI's dynamic executor"
    with pipeline:
        payload = fn.external_source(name="payload", dtype=types.UINT8, ndim=1, no_copy=True)
        pipeline.set_outputs(fn.decoders.image(payload, device="cpu", output_type=types.RGB, adjust_orientation=False))
    pipeline.build()
    return pipeline
