"""How long a rank's steps wait for their batches, as the device that computes sees it.

On a CPU: the time in which the loader's next batch was not there. On a GPU a batch may be handed over while it is
still being decoded or copied there, and the host may wait while the GPU is still busy with the last step; so the GPU's
own clock counts, between the end of what was queued before the batch and the moment from which the batch can be used.
"""

from collections.abc import Iterator

import torch

from augment.loader import Batch, Loader


class DataWait:
    """Counts the waiting of one loader's consumer."""

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self._counted = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def batches(self) -> Iterator[Batch]:
        """The loader's batches of an epoch, the waiting for each of them counted."""
        batches = iter(self._loader)
        while True:
            before = self._mark()
            batch = next(batches, None)
            after = self._mark()
            if batch is None:
                return
            if before is not None and after is not None:
                self._marks.append((before, after))
            yield batch

    def new_seconds(self) -> float:
        """Seconds waited that were not yet told. A GPU's come a step late: it has not got there before."""
        if self._device.type != "cuda":
            before, self._counted = self._counted, self._loader.waited_s
            return self._counted - before
        seconds = 0.0
        while self._marks and self._marks[0][1].query():  # type: ignore[no-untyped-call]
            first, last = self._marks.pop(0)
            seconds += first.elapsed_time(last) / 1000
        return seconds

    def _mark(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        mark.record(torch.cuda.current_stream(self._device))
        return mark
