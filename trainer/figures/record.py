"""What the folder of a training run says: its curves, its training error by epoch, its recipe, its evaluations.

In: events or a run folder. Out: plain numbers. Drawing them is the business of `curves.py`, `results.py` and others.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ingest.errors import RefusedError
from ingest.progress import Event, RunReader
from ingest.storage import Place
from trainer import checkpoint

OVER_STEP = (
    "loss", "learning_rate", "samples_per_s", "train_top1_error", "data_wait_share", "gradient_norm",
    "gpu_allocated_bytes", "gpu_peak_bytes", "gpu_utilisation",
)  # fmt: skip
OVER_EPOCH = ("top1_error", "top5_error")


def events_of(run_folder: str) -> list[Event]:
    """The events of all attempts, in order, without the norms of layers. Raises RefusedError if the folder holds no run."""
    reader = RunReader(Place(run_folder))
    attempts = reader.latest_attempt()
    if not attempts:
        raise RefusedError(f"{run_folder}: holds no run; `tench train DATASET {run_folder}` makes one")
    return [event for attempt in range(1, attempts + 1) for event in map(_lean, reader.events(attempt))]


def _lean(event: Event) -> Event:
    """Without the norms of layers: no figure shows them, and they are most of what a long run's events take in memory."""
    event.data.pop("layers", None)
    return event


def series_of(events: Sequence[Event]) -> dict[str, list[list[float]]]:
    """Curves: those of `OVER_STEP` over the step, top1_error and top5_error over the epoch (from 1).

    Each a list of [x, y], in order of x, empty if the run does not tell it (a GPU's on a CPU); a repeated step counts
    once, the latest.
    """
    points: dict[str, dict[float, float]] = {name: {} for name in (*OVER_STEP, *OVER_EPOCH)}
    for _, data in _metrics(events):
        for name in OVER_STEP:
            if data.get(name) is not None:
                points[name][data["step"]] = data[name]
    for event in events:
        if event.kind == "evaluated" and "epoch" in event.data:
            for name in OVER_EPOCH:
                points[name][event.data["epoch"] + 1] = event.data[name]
    return {name: [[x, y] for x, y in sorted(values.items())] for name, values in points.items()}


def thinned(points: list[list[float]], most: int) -> list[list[float]]:
    """At most `most` of the points (4 or more), in their order: the first, the last, and of each of equally long
    stretches between them the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return points
    inner, num_stretches = points[1:-1], (most - 2) // 2
    edges = [i * len(inner) // num_stretches for i in range(num_stretches + 1)]
    kept = [points[0]]
    for first, last in pairwise(edges):
        stretch = inner[first:last]
        kept += sorted((min(stretch, key=_height), max(stretch, key=_height)))
    return [*kept, points[-1]]


def _height(point: list[float]) -> float:
    return point[1]


def training_errors(events: Sequence[Event]) -> list[list[float]]:
    """[epochs trained (from 1), mean top-1 error of the training batches of that epoch] of each epoch that ended.

    A mean over samples if the metrics count them (`samples`), else over steps: these differ by the epoch's last,
    shorter batch.
    """
    ended = {event.data["epoch"] for event in events if event.kind == "delivered"}
    sums: dict[int, list[float]] = {}
    for num_steps, data in _metrics(events):
        weight = data.get("samples", num_steps)
        wrong = sums.setdefault(data["epoch"], [0.0, 0.0])
        wrong[0] += weight * data["train_top1_error"]
        wrong[1] += weight
    return [[epoch + 1, wrong / count] for epoch, (wrong, count) in sorted(sums.items()) if epoch in ended]


def newest_state(run_folder: str) -> dict[str, Any] | None:
    """The state of the newest complete checkpoint without its weights; None while there is none."""
    place = Place(run_folder)
    paths = checkpoint.complete(place)
    if not paths:
        return None
    return checkpoint.state_of(place, paths[-1])


def evaluations(run_folder: str) -> list[dict[str, Any]]:
    """Facts of the run's evaluations, the latest of each (split, views, number of networks, dataset), in this order.

    Those of `tench evaluate`, and the one that the run made itself after its last epoch.
    """
    latest: dict[tuple[str, int, int, str], dict[str, Any]] = {}
    for _, facts in sorted(_evaluated(run_folder), key=lambda found: found[0]):
        latest[facts["split"], facts["views"], facts.get("num_networks", 1), facts["dataset_id"]] = facts
    return [latest[kind] for kind in sorted(latest)]


def _metrics(events: Iterable[Event]) -> list[tuple[int, dict[str, Any]]]:
    """(steps since the one before, data) of the metrics that stand, in order of steps.

    Not those of steps beyond the checkpoint from which a training went on, nor any from before it began anew: in a later
    attempt, or within one, when its workers were replaced before the first checkpoint.
    """
    kept: list[tuple[int, dict[str, Any]]] = []
    attempt = before = 0
    for event in events:
        if event.kind == "resumed":
            attempt, before = event.attempt, event.data["step"]
            kept = [metrics for metrics in kept if metrics[1]["step"] <= before]
        elif event.kind == "metrics":
            if event.attempt != attempt or event.data["step"] <= before:  # begun anew, from no checkpoint
                attempt, before, kept = event.attempt, 0, []
            kept.append((event.data["step"] - before, event.data))
            before = event.data["step"]
    return kept


def _evaluated(run_folder: str) -> list[tuple[float, dict[str, Any]]]:
    """(Unix time, facts) of each evaluation: dataset_id, split, views, epoch (epochs trained), errors, num_samples."""
    place = Place(run_folder)
    found: list[tuple[float, dict[str, Any]]] = []
    for name in place.folders("evaluations"):
        result = RunReader(place.inside(f"evaluations/{name}")).result()
        if result is not None and result.state == "succeeded" and result.facts.get("top1_error") is not None:
            found.append((result.at, result.facts))
    own = [event for event in events_of(run_folder) if event.kind == "evaluated" and "epoch" in event.data]
    state = newest_state(run_folder) or {}
    # Inside a run epochs count from 0, and the split and the view are always these.
    common = {"dataset_id": state.get("dataset_id", ""), "split": "val", "views": 1}
    return found + [(event.at, {**common, **event.data, "epoch": event.data["epoch"] + 1}) for event in own[-1:]]
