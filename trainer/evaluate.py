"""Top-1 and top-5 error of a network on a split: every sample exactly once, over all ranks."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from augment.loader import Loader
from ingest.dataset import Dataset
from ingest.errors import Interrupted, RefusedError
from ingest.progress import RunWriter
from ingest.storage import Place
from trainer import checkpoint
from trainer.networks import AlexNet, build
from trainer.reduce import sum_over_ranks
from trainer.settings import EvaluateSettings, Recipe

TOP = 5


@dataclass(frozen=True)
class Errors:
    """Shares of samples (0 to 1) whose label is not the first, or not among the first five; mean loss in nats."""

    top1_error: float
    top5_error: float
    loss: float
    num_samples: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(network: AlexNet, loader: Loader, precision: str, run: RunWriter | None = None) -> Errors:
    """Errors over a whole split. `loader` has 1 or 10 views; those of a picture are averaged as probabilities.

    Raises Interrupted if the run is asked to stop meanwhile.
    """
    device = next(network.parameters()).device
    counts = torch.zeros(4, dtype=torch.float64)
    for images, labels, *_ in loader:
        if len(labels):
            counts += _counts(network, images.to(device), labels.to(device), precision).cpu()
        if run is not None:
            total = loader.split.num_samples
            run.progress("evaluating", min(int(counts[3]) * loader.world_size, total), total, "samples")
            if loader.world_size == 1 and run.stop_requested():
                raise Interrupted("Stopped during an evaluation.")
    top1, top5, loss, num = sum_over_ranks(counts.tolist(), device)
    return Errors(top1 / num, top5 / num, loss / num, int(num))


def evaluate_run(dataset: str, run_folder: str, settings: EvaluateSettings, run: RunWriter | None) -> dict[str, Any]:
    """Errors of a run's newest checkpoint (`tench evaluate`). Raises RefusedError if there is none, or other classes."""
    opened, place = Dataset.open(dataset), Place(run_folder)
    found, _ = checkpoint.newest(place)
    if found is None:
        raise RefusedError(f"{place.uri}: holds no checkpoint; `tench train DATASET {place.uri}` writes them")
    if found.state["classes"] != [c.wnid for c in opened.classes]:
        raise RefusedError(
            f"{place.uri}: was trained on {len(found.state['classes'])} classes that are not the "
            f"{opened.num_classes} of {opened.uri}; evaluate with a dataset of the same classes"
        )
    _refuse_without_labels(opened, settings.split)
    recipe = Recipe.model_validate(found.state["recipe"])
    device = pick_device(settings.device)
    network = build(recipe.network, recipe.seed).to(device)
    network.load_state_dict(found.network)
    batch = max(1, settings.batch // settings.views)
    loading = recipe.loader.model_copy(update={"global_batch": batch})
    with Loader(opened, loading, split=settings.split, device=device, views=settings.views) as loader:
        errors = evaluate(network, loader, recipe.precision, run)
    facts = {
        **errors.to_json(),
        "split": settings.split,
        "views": settings.views,
        "checkpoint": found.path,
        "epoch": found.state["epoch"],
        "step": found.state["step"],
        "dataset_id": opened.dataset_id,
    }
    if run is not None:
        run.event("evaluated", _sentence(errors, settings.views), **facts)
    return facts


def pick_device(device: str) -> torch.device:
    """auto, cpu or gpu to a torch device. Raises RefusedError if a GPU is asked for and there is none."""
    if device == "gpu" and not torch.cuda.is_available():
        raise RefusedError("--device gpu: this machine has no usable NVIDIA GPU; take --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _counts(network: AlexNet, images: torch.Tensor, labels: torch.Tensor, precision: str) -> torch.Tensor:
    """float64 (4,): top-1 errors, top-5 errors, summed loss, samples."""
    views = images.shape[1] if images.dim() == 5 else 1
    with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = network(images.flatten(0, 1) if views > 1 else images)
    log_probability = F.log_softmax(logits.double(), dim=1)
    if views > 1:
        log_probability = log_probability.exp().view(len(labels), views, -1).mean(dim=1).log()
    best = log_probability.topk(min(TOP, log_probability.shape[1]), dim=1).indices == labels[:, None]
    loss = -log_probability.gather(1, labels[:, None]).sum()
    wrong1, wrong5 = (~best[:, 0]).sum().double(), (~best.any(dim=1)).sum().double()
    return torch.stack([wrong1, wrong5, loss, torch.tensor(float(len(labels)), device=loss.device)])


def _refuse_without_labels(dataset: Dataset, split: str) -> None:
    if (dataset.split(split).label < 0).any():
        raise RefusedError(f"{dataset.uri}: split {split} has no labels, so there is no error to measure")


def _sentence(errors: Errors, views: int) -> str:
    what = "centre view" if views == 1 else "ten views"
    return f"Top-1 error {errors.top1_error:.2%}, top-5 error {errors.top5_error:.2%} on {errors.num_samples:,} samples, {what}."
