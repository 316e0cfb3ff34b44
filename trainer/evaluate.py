"""Top-1 and top-5 error of networks on a split: every sample exactly once, over all ranks or all members."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from augment.loader import Loader
from ingest.dataset import Dataset, Split
from ingest.errors import Interrupted, RefusedError
from ingest.progress import RunWriter, to_json
from ingest.storage import Place, writable_file
from trainer import model_card, predictions
from trainer.ensemble import LogSums, Member, Said, open_members, said_of
from trainer.findings import Findings, class_table, confusions
from trainer.reduce import sum_over_ranks
from trainer.scores import TOP, Errors, credit, loss, standing
from trainer.settings import EvaluateSettings, Ties
from trainer.switches import Precision

__all__ = ["Errors", "Outputs", "evaluate", "evaluate_run", "evaluate_runs", "pick_device"]

PER_CLASS = "per_class.json"
"""In the evaluation's own run folder: the table of classes and the pairs that are taken for each other."""
WORST_PAIRS = 100


@dataclass(frozen=True)
class Outputs:
    """Files that are asked for besides the errors: local paths or s3://, gs://, az:// addresses."""

    predictions: str | None = None
    """Parquet: the five best classes of every sample."""
    submission: str | None = None
    """Text as the ILSVRC server took it: five ILSVRC2012_IDs a line, in the order of the file names."""

    @property
    def uris(self) -> list[str]:
        return [uri for uri in (self.predictions, self.submission) if uri]


NO_OUTPUTS = Outputs()


def evaluate(
    network: nn.Module,
    loader: Loader,
    precision: Precision,
    run: RunWriter | None = None,
    ties: Ties = "fractional",
    group: dist.ProcessGroup | None = None,
    before_batch: Callable[[], None] | None = None,
) -> Errors:
    """Errors over a whole split, during training, over the ranks of `group` (all, unless told), which have it between
    them. `loader` has 1 or 10 views; those of a picture are averaged as probabilities. `before_batch` is called as
    often on every rank.

    Raises Interrupted if the run is asked to stop meanwhile, and what `before_batch` raises.
    """
    counts = torch.zeros(4, dtype=torch.float64)
    for said in said_of(network, loader, precision, before_batch):
        counts += _counts(said, ties).cpu()
        if run is not None:
            total = loader.split.num_samples
            run.progress("evaluating", min(int(counts[3]) * loader.world_size, total), total, "samples")
            if loader.world_size == 1:
                _stop_if_asked(run)
    top1, top5, total_loss, num = sum_over_ranks(counts.tolist(), next(network.parameters()).device, group)
    return Errors(1 - top1 / num, 1 - top5 / num, total_loss / num, int(num))


def evaluate_run(dataset: str, run_folder: str, settings: EvaluateSettings, run: RunWriter | None) -> dict[str, Any]:
    """Errors of a run's newest checkpoint; `evaluate_runs` with one member."""
    return evaluate_runs(dataset, [run_folder], settings, run)


def evaluate_runs(
    dataset: str,
    run_folders: Sequence[str],
    settings: EvaluateSettings,
    run: RunWriter | None,
    outputs: Outputs = NO_OUTPUTS,
) -> dict[str, Any]:
    """Errors of the newest checkpoints of runs, their probabilities averaged with equal weight (`tench evaluate`).

    Writes the table of classes into the folder of `run`, and the files that are asked for. Without labels the errors
    are None. Raises RefusedError (no checkpoint, other classes, neither labels nor outputs), Interrupted.
    """
    opened = Dataset.open(dataset)
    members = open_members(run_folders, opened)
    split = opened.split(settings.split)
    _refuse_without_purpose(split, outputs)
    device = pick_device(settings.device)
    found, members_facts = _found(members, split, settings, device, run)
    errors = found.errors()
    if outputs.predictions:
        predictions.put(outputs.predictions, predictions.parquet(found, split))
    if outputs.submission:
        predictions.put(outputs.submission, predictions.submission(found, split))
    facts = {**_error_facts(errors, split), **_evaluated(settings, members, opened), "members": members_facts}
    if run is not None:
        _record(run, facts, found, opened, errors)
    if errors is not None and len(members) == 1:
        model_card.note_evaluation(Place(members[0].uri), opened, facts, run)
    return facts


def pick_device(device: str) -> torch.device:
    """auto, cpu or gpu to a torch device. Raises RefusedError if a GPU is asked for and there is none."""
    if device == "gpu" and not torch.cuda.is_available():
        raise RefusedError("--device gpu: this machine has no usable NVIDIA GPU; take --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _found(
    members: Sequence[Member], split: Split, settings: EvaluateSettings, device: torch.device, run: RunWriter | None
) -> tuple[Findings, list[dict[str, Any]]]:
    """What the members find together, and the facts of each with its own errors."""
    num_classes = split.dataset.num_classes
    watch = _Watch(run, split.num_samples * len(members))
    sums, together = LogSums(split.num_samples, num_classes), Findings(split.label, num_classes, settings.ties)
    facts = []
    for member in members:
        alone = Findings(split.label, num_classes, settings.ties)
        with member.loader(split.dataset, settings, device) as loader:
            batches = _noted(watch.over(said_of(member.network(device), loader, member.recipe.precision)), alone)
            if member is members[-1]:
                together.add_all(map(sums.mean_with, batches))
            else:
                sums.add(batches)
        facts.append({**member.facts(), **_error_facts(alone.errors(), split)})
    return together, facts


def _noted(batches: Iterator[Said], alone: Findings) -> Iterator[Said]:
    """The batches as they come, noted on the way as one member's own."""
    for said in batches:
        alone.add(said)
        yield said


class _Watch:
    """Tells the run how far an evaluation is, over all its members, and ends it when it is asked to."""

    def __init__(self, run: RunWriter | None, total: int) -> None:
        self._run, self._total, self._done = run, total, 0

    def over(self, batches: Iterator[Said]) -> Iterator[Said]:
        for said in batches:
            yield said
            self._done += len(said.labels)
            if self._run is not None:
                self._run.progress("evaluating", self._done, self._total, "samples")
                _stop_if_asked(self._run)


def _stop_if_asked(run: RunWriter) -> None:
    if run.stop_requested():
        raise Interrupted("Stopped during an evaluation.")


def _counts(said: Said, ties: Ties) -> torch.Tensor:
    """float64 (4,): top-1 credit, top-5 credit, summed loss, samples."""
    where = standing(said.log_probabilities, said.labels)
    credits = [credit(where, k, ties).sum() for k in (1, TOP)]
    total_loss = loss(said.log_probabilities, said.labels).sum()
    return torch.stack([*credits, total_loss, torch.full_like(total_loss, len(said.labels))])


def _refuse_without_purpose(split: Split, outputs: Outputs) -> None:
    dataset = split.dataset
    if (split.label < 0).any() and not outputs.uris:
        raise RefusedError(
            f"{dataset.uri}: split {split.name} has no labels, so there is no error to measure; --predictions FILE or "
            "--submission FILE write what the network takes its pictures for"
        )
    for uri in outputs.uris:
        writable_file(uri)
    if outputs.submission:
        predictions.ilsvrc_ids(dataset.classes, dataset.uri)


def _error_facts(errors: Errors | None, split: Split) -> dict[str, Any]:
    if errors is not None:
        return errors.to_json()
    return {"top1_error": None, "top5_error": None, "loss": None, "num_samples": split.num_samples}


def _evaluated(settings: EvaluateSettings, members: Sequence[Member], dataset: Dataset) -> dict[str, Any]:
    """What was evaluated and how; of an ensemble, checkpoints stand with its members."""
    facts: dict[str, Any] = {"split": settings.split, "views": settings.views, "ties": settings.ties}
    if len(members) == 1:
        facts |= {name: value for name, value in members[0].facts().items() if name in ("checkpoint", "epoch", "step")}
    return {**facts, "num_networks": len(members), "dataset_id": dataset.dataset_id}


def _record(run: RunWriter, facts: dict[str, Any], found: Findings, dataset: Dataset, errors: Errors | None) -> None:
    what = "centre view" if facts["views"] == 1 else "ten views"
    if facts["num_networks"] > 1:
        what = f"{what}, {facts['num_networks']} networks"
    if errors is None:
        run.event("predicted", f"Named {facts['num_samples']:,} samples without labels, {what}.", **facts)
        return
    tables = {
        "classes": class_table(found, dataset.classes),
        "confusions": confusions(found, dataset.classes, WORST_PAIRS),
    }
    run.place.replace(PER_CLASS, to_json(tables))
    run.event(
        "evaluated",
        f"Top-1 error {errors.top1_error:.2%}, top-5 error {errors.top5_error:.2%} on {errors.num_samples:,} samples, {what}.",
        **facts,
    )
