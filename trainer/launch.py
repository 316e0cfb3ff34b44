"""A training run: in this process (0 workers), or as a Ray Train job. The only Ray Train import."""

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ingest.dataset import Dataset
from ingest.errors import DamageError, Interrupted, LostError, RefusedError, TenchError, UsageError, is_loss
from ingest.progress import RunWriter, new_run_id, to_json
from ingest.storage import Place
from trainer import checkpoint, columns, model_card, transfer
from trainer.evaluate import pick_device
from trainer.presets import misfits, recipe
from trainer.settings import TrainSettings, takes_gpus
from trainer.switches import Recipe

ERRORS: dict[str, type[TenchError]] = {
    e.__name__: e for e in (TenchError, UsageError, RefusedError, DamageError, Interrupted)
}
COLLECTIVE_TIMEOUT_S = 600
RESTARTS, ELASTIC_RESTARTS = 2, 100


def train(dataset: str, run_folder: str, settings: TrainSettings, run: RunWriter) -> dict[str, Any]:
    """Train, or go on from the newest whole checkpoint of the run folder. Returns the final facts.

    With workers, the caller has connected Ray. Raises RefusedError (dataset, settings or checkpoint do not fit),
    DamageError, Interrupted.
    """
    opened = Dataset.open(dataset)
    if "train" not in opened.split_names:
        raise RefusedError(f"{opened.uri}: has no training split")
    chosen = recipe(settings, opened)
    columns.refuse_misfit(settings, chosen)
    for sentence in misfits(settings, opened):
        run.event("warning", sentence)
    found, damages = checkpoint.newest(run.place)
    for damage in damages:
        run.event("warning", f"{damage}; an older checkpoint is used.")
    chosen = transfer.begin(run, settings, chosen, [c.wnid for c in opened.classes], found is not None)
    facts = {"dataset_id": opened.dataset_id, "preset": settings.preset, "num_classes": opened.num_classes}
    run.event(
        "phase", f"Training {settings.preset} on {opened.split('train').num_samples:,} samples.",
        recipe=chosen.model_dump(mode="json"), resumed_from=found.path if found else None,
    )  # fmt: skip
    if settings.num_workers == 0:
        facts |= _in_process(opened, chosen, settings, run, found)
    else:
        del found
        facts |= _with_ray(opened, settings, run)
    model_card.write(run.place, opened, run)
    return facts


def plan_only(dataset: str, settings: TrainSettings) -> dict[str, Any]:
    """What a run would do (`--dry-run`): the recipe, steps, parameters, and what does not fit the dataset."""
    import torch

    from trainer.networks import blank, count_parameters

    opened = Dataset.open(dataset)
    chosen = recipe(settings, opened)
    columns.refuse_misfit(settings, chosen)
    with torch.device("meta"):
        network = blank(chosen.network)
    samples = opened.split("train").num_samples
    steps = samples // chosen.loader.global_batch
    if chosen.loader.tail != "drop" and samples % chosen.loader.global_batch:
        steps += 1
    return {
        "dataset": opened.uri,
        "dataset_id": opened.dataset_id,
        "recipe": chosen.model_dump(mode="json"),
        "num_parameters": count_parameters(network),
        "steps_per_epoch": steps,
        "steps": steps * chosen.epochs,
        "samples": samples * chosen.epochs,
        "misfits": misfits(settings, opened),
        "initial": transfer.planned(settings, chosen, [c.wnid for c in opened.classes]),
    }


def _in_process(
    dataset: Dataset, chosen: Recipe, settings: TrainSettings, run: RunWriter, found: checkpoint.Checkpoint | None
) -> dict[str, Any]:
    from trainer.fit import RankContext, fit, prepare

    threads = settings.cpus_per_worker or len(os.sched_getaffinity(0))
    context = RankContext(0, 1, pick_device(settings.device), threads)
    training = prepare(context, dataset, chosen, settings, run)
    if found is None:
        transfer.load_initial(training.network, run.place)
    return fit(training, found)


def _with_ray(dataset: Dataset, settings: TrainSettings, run: RunWriter) -> dict[str, Any]:
    """Run `_worker` on every worker of a Ray Train job; rank 0 writes the run folder meanwhile."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cpus, use_gpu = _resources(settings)
    gpu = " and a GPU" if use_gpu else ""
    least = f"{settings.min_workers} to " if settings.min_workers else ""
    run.event("phase", f"Workers: {least}{settings.num_workers}, each with {cpus} CPUs{gpu}.")
    run.flush()
    arguments = {
        "dataset": dataset.uri,
        "settings": settings.model_dump(mode="json"),
        "run": run.place.uri,
        "attempt": run.attempt,
        "threads": cpus,
        "use_gpu": use_gpu,
    }
    # Ray's own record of the run is not ours: it goes to a folder of its own, which goes with the job.
    storage = run.place.local_path("ray") if run.place.is_local else Path(tempfile.mkdtemp(prefix="tench-train-"))
    trainer = TorchTrainer(
        _worker,
        train_loop_config=arguments,
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=_world_sizes(settings, cpus), use_gpu=use_gpu,
            elastic_resize_monitor_interval_s=60 * settings.resize_minutes,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=new_run_id("fit"), storage_path=str(storage), failure_config=FailureConfig(max_failures=_restarts(settings)),
            worker_runtime_env={"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0"}},
        ),
    )  # fmt: skip
    try:
        _fit(trainer, run)
    finally:
        run.resume_after_others()
        _remove_folder(storage)
    return _outcome(run)


def _fit(trainer: Any, run: RunWriter) -> None:
    """Run the job. What the workers raise of ours, they have written down; the rest is Ray's.

    In a thread of its own: in the main thread Ray Train would take over Ctrl-C and end the workers at once, where a
    stop is to leave a checkpoint. A second Ctrl-C leaves through here, and the workers end with this process.
    """
    failures: list[BaseException] = []

    def job() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread, as one of ours
            failures.append(error)

    thread = threading.Thread(target=job, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failures and _outcome_file(run.place, run.attempt) is None:
        error = failures[0]
        if _is_loss(error):
            raise LostError(f"the training job lost its workers in Ray: {_lines(error)[0]}") from error
        raise TenchError(f"the training job failed in Ray: {_lines(error)[-1]}") from error


def _is_loss(error: BaseException) -> bool:
    """Whether processes went away, as often as Ray Train may replace them; not if code of a worker raised an error."""
    from ray.train.v2._internal.exceptions import RayTrainError

    failures = getattr(error, "worker_failures", {}).values() or [error]
    return all(is_loss(failure) or isinstance(failure, RayTrainError) for failure in failures)


def _worker(arguments: dict[str, Any]) -> None:
    """What every worker runs. An error of ours is written down and ends the job: Ray must not try it again."""
    import ray.train
    import torch.distributed as dist

    rank = ray.train.get_context().get_world_rank()
    place, attempt = Place(arguments["run"]), arguments["attempt"]
    outcome: dict[str, Any]
    if _error_stands(place, attempt):
        return
    try:
        outcome = {"facts": _train_as(rank, place, arguments)}
    except TenchError as error:
        outcome = {"error": type(error).__name__, "message": error.message}
    except RuntimeError:
        if _error_stands(place, attempt):
            return
        raise
    if rank == 0 or "error" in outcome:
        place.put_new(_outcome_path(attempt, rank), to_json(outcome))
    if "error" in outcome and dist.is_initialized():
        _let_the_others_go(dist.get_backend(), outcome["message"])


def _let_the_others_go(backend: str, message: str) -> None:
    """This rank ends with an error, and the others may wait for it in a collective, for minutes."""
    import torch.distributed as dist

    if backend == "nccl":
        # Nobody there hears that a rank has left. Ray ends them all and starts anew; then the error that was written
        # down ends every worker at once.
        raise RuntimeError(message)
    dist.destroy_process_group()  # gloo: their collective fails


def _train_as(rank: int, place: Place, arguments: dict[str, Any]) -> dict[str, Any]:
    """Train as one of the ranks; rank 0 writes the run folder."""
    import ray.train

    from trainer.fit import RankContext, fit, prepare

    settings = TrainSettings.model_validate(arguments["settings"])
    opened = Dataset.open(arguments["dataset"])
    device = _device(arguments["use_gpu"])
    world_size = ray.train.get_context().get_world_size()
    column = columns.join(rank, world_size, COLLECTIVE_TIMEOUT_S) if settings.split_columns else None
    context = RankContext(rank, world_size, device, arguments["threads"], column)
    run = RunWriter.join(place, arguments["attempt"]) if rank == 0 else None
    try:
        chosen = transfer.with_initial(recipe(settings, opened), place)
        training = prepare(context, opened, chosen, settings, run)
        found = checkpoint.agreed(place, device)
        if found is None:
            transfer.load_initial(training.network, place)
        return fit(training, found)
    finally:
        if run is not None:
            run.flush()


def _device(use_gpu: bool) -> Any:
    """A worker's device. Not by what its machine has: workers without a GPU of their own would all take its first one."""
    import ray.train.torch
    import torch

    return ray.train.torch.get_device() if use_gpu else torch.device("cpu")


def _outcome(run: RunWriter) -> dict[str, Any]:
    outcome = _outcome_file(run.place, run.attempt)
    if outcome is None:
        raise TenchError(f"{run.place.uri}: the workers ended without saying how; see Ray's logs of the run")
    if "error" in outcome:
        raise ERRORS.get(outcome["error"], TenchError)(outcome["message"])
    facts: dict[str, Any] = outcome["facts"]
    return facts


def _outcome_file(place: Place, attempt: int) -> dict[str, Any] | None:
    """How the workers ended: an error of any rank goes before rank 0's facts."""
    import json

    found: list[dict[str, Any]] = [json.loads(place.get(f.path)) for f in place.files(f"workers/{attempt:04d}")]
    return next((o for o in found if "error" in o), found[0] if found else None)


def _error_stands(place: Place, attempt: int) -> bool:
    """Whether a rank of this attempt has ended with an error of ours."""
    return "error" in (_outcome_file(place, attempt) or {})


def _outcome_path(attempt: int, rank: int) -> str:
    return f"workers/{attempt:04d}/{rank:05d}.json"


def _world_sizes(settings: TrainSettings, cpus: int) -> int | tuple[int, int]:
    """How many workers Ray Train is to find: a number, or the least and the most. A job never grows over its grant."""
    if settings.min_workers is None:
        return settings.num_workers
    most = int(os.environ.get("TENCH_CPUS", cpus * settings.num_workers)) // cpus
    return settings.min_workers, max(settings.min_workers, min(settings.num_workers, most))


def _restarts(settings: TrainSettings) -> int:
    """How often workers that die are replaced. Nodes of an elastic run may come and go for days."""
    return ELASTIC_RESTARTS if settings.min_workers else RESTARTS


def _resources(settings: TrainSettings) -> tuple[int, bool]:
    """CPUs of each worker and whether it gets a GPU. Raises RefusedError if the cluster cannot hold the workers."""
    import ray

    total = ray.cluster_resources()
    gpus, least = int(total.get("GPU", 0)), settings.min_workers or settings.num_workers
    use_gpu = takes_gpus(settings.device, least, gpus)
    granted = int(os.environ.get("TENCH_CPUS", total.get("CPU", 1)))
    cpus = settings.cpus_per_worker or max(1, granted // settings.num_workers)
    flag = f"--{'min' if settings.min_workers else 'num'}-workers {least}"
    if use_gpu and gpus < least:
        raise RefusedError(f"{flag}: the cluster has {gpus} GPUs, one is needed for each")
    if cpus * least > total.get("CPU", 1):
        raise RefusedError(
            f"{flag} with {cpus} CPUs each: the cluster has {int(total.get('CPU', 1))} CPUs; "
            "take fewer workers or a smaller --cpus-per-worker"
        )
    return cpus, use_gpu


def _remove_folder(folder: Path) -> None:
    import shutil

    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)


def _lines(error: BaseException) -> list[str]:
    """What an error says, line by line; its type if it says nothing."""
    return [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
