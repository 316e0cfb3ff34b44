"""Batches of an epoch made by a background thread, a few ahead of use."""

import atexit
import queue
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch

from augment.batches import Batch, BatchMaker, Begun
from augment.ledger import Ledger
from augment.pipeline import IN_FLIGHT
from augment.workers import Workers, run_alone

POLL_S = 0.1


class _Made(NamedTuple):
    batch: Batch
    ledger: Ledger
    ready: torch.cuda.Event | None


class Producer:
    """Makes the batches of `epoch` from `first_step` on, `prefetch` of them ahead of use. One consumer.

    `fetch_ahead` is told now and then which shards come next, by number.
    """

    def __init__(
        self,
        maker: BatchMaker,
        epoch: int,
        first_step: int,
        device: torch.device,
        fetch_ahead: Callable[[list[int]], None] | None = None,
    ) -> None:
        self._maker, self._epoch, self._device = maker, epoch, device
        self._steps = range(first_step, maker.planner.num_steps)
        self._fetch_ahead = fetch_ahead
        self._made: queue.Queue[_Made | BaseException] = queue.Queue(maker.settings.prefetch)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._stopping = threading.Event()
        self._running = threading.Event()
        # A daemon, so that a forgotten loader cannot keep a program alive; ended by `_stop_all` at exit.
        self._thread = threading.Thread(target=self._run, name="tench-loader", daemon=True)
        own_threads = torch.get_num_threads()
        _alive.add(self)
        self._thread.start()
        self._running.wait()
        torch.set_num_threads(own_threads)

    def next(self) -> tuple[Batch, Ledger]:
        """The next batch, and what was delivered with it. Raises what the thread ended with, RuntimeError if it was stopped."""
        while not self._stopping.is_set():
            try:
                made = self._made.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(made, BaseException):
                raise made
            return self._handed_over(made), made.ledger
        raise RuntimeError("this iteration of the loader has ended, since it was closed or begun anew; use the newest")

    def stop(self) -> None:
        """End the thread; what it has under way is thrown away."""
        self._stopping.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _handed_over(self, made: _Made) -> Batch:
        """Order the consumer's stream after the copy to the GPU, and keep the memory while that stream uses it."""
        if made.ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(made.ready)
            made.batch.images.record_stream(stream)
            made.batch.labels.record_stream(stream)
        return made.batch

    def _run(self) -> None:
        workers = None
        try:
            run_alone()
            workers = Workers(self._maker.threads)
            self._running.set()
            self._make_all(workers)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            self._put(error)
        finally:
            self._running.set()
            self._maker.discard()
            if workers is not None:
                workers.close()

    def _make_all(self, workers: Workers) -> None:
        under_way: list[Begun] = []
        planned = self._maker.planner.planned(self._epoch, self._steps)
        following = next(planned, None)
        for step in self._steps:
            self._look_ahead(step)
            now, following = following, next(planned, None)
            assert now is not None
            if following is not None:
                self._maker.reader.read_ahead(following.share.rows)
            under_way.append(self._maker.begin(now, workers))
            if len(under_way) == IN_FLIGHT and not self._put(self._made_of(under_way.pop(0), workers)):
                return
        while under_way and self._put(self._made_of(under_way.pop(0), workers)):
            continue

    def _look_ahead(self, step: int) -> None:
        """Four times a window, say which shards come next."""
        if self._fetch_ahead is None:
            return
        quarter = max(1, self._maker.planner.steps_of_window // 4)
        if (step - self._steps.start) % quarter == 0:
            self._fetch_ahead(self._maker.planner.shards_ahead(self._epoch, step))

    def _made_of(self, begun: Begun, workers: Workers) -> _Made:
        if self._stream is None:
            return _Made(*self._maker.complete(begun, workers), None)
        with torch.cuda.stream(self._stream):
            batch, ledger = self._maker.complete(begun, workers)
            return _Made(batch, ledger, self._stream.record_event())

    def _put(self, made: _Made | BaseException) -> bool:
        """Hand over; False if the consumer has gone."""
        while not self._stopping.is_set():
            try:
                self._made.put(made, timeout=POLL_S)
                return True
            except queue.Full:
                continue
        return False


_alive: "weakref.WeakSet[Producer]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Before the interpreter goes away, end the threads that still work: they run native code."""
    for producer in list(_alive):
        producer.stop()
