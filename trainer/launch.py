"""A training run: in this process (0 workers), or as a Ray Train job. Only here and in vigil.py is Ray Train imported."""

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.dataset import Dataset
from ingest.errors import LostError, RefusedError, TenchError, is_loss
from ingest.progress import RunWriter, new_run_id
from ingest.storage import Place
from ingest.words import counted
from trainer import checkpoint, columns, failures, model_card, outcomes, placing, transfer
from trainer.evaluate import pick_device
from trainer.presets import misfits, recipe
from trainer.settings import TrainSettings, takes_gpus
from trainer.switches import Recipe

if TYPE_CHECKING:
    from trainer.training import Training

COLLECTIVE_TIMEOUT_S = 600
RESTARTS, ELASTIC_RESTARTS = 2, 100
STARTS, ELASTIC_STARTS = 10, 100
"""Failed starts of workers, over the whole run. One that finds no place takes a minute
(RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S). Ray Train's own limit is none: a training without a place would hang for ever.

An elastic run waits for nodes as long as it takes, and its limit does not shorten that: with less than its least number
of workers it begins no start that could fail. What counts are starts on nodes that went away, or that others use."""


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
    """What a run would do (`--dry-run`): the recipe, steps, parameters, and what does not fit the dataset. Raises what
    the run itself would refuse."""
    import torch

    from augment.loader import refuse_misfits
    from trainer.networks import blank, count_parameters

    opened = Dataset.open(dataset)
    chosen = recipe(settings, opened)
    columns.refuse_misfit(settings, chosen)
    refuse_misfits(opened.split("train"), chosen.loader, views=0)
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
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from trainer.vigil import Vigil

    cpus, use_gpu = _resources(settings, _nodes())
    least = f"{settings.min_workers} to " if settings.min_workers else ""
    run.event("phase", f"Workers: {least}{settings.num_workers}, each with {placing.node_words(cpus, use_gpu)}.")
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
            name=new_run_id("fit"), storage_path=str(storage), failure_config=_failure_config(settings),
            callbacks=[Vigil(run.place, run.attempt)],
            worker_runtime_env={"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0"}},
        ),
    )  # fmt: skip
    try:
        _fit(trainer, run)
    finally:
        _remove_folder(storage)
        run.resume_after_others()
        failures.note(run)
    return outcomes.facts_of(run.place, run.attempt)


def _fit(trainer: Any, run: RunWriter) -> None:
    """Run the job. What the workers raise of ours, they have written down; the rest is Ray's.

    In a thread of its own: in the main thread Ray Train would take over Ctrl-C and end the workers at once, where a
    stop is to leave a checkpoint. A second Ctrl-C leaves through here, and the workers end with this process.
    """
    raised: list[BaseException] = []

    def job() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread, as one of ours
            raised.append(error)

    thread = threading.Thread(target=job, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if raised and outcomes.found(run.place, run.attempt) is None:
        raise _ended_by_ray(raised[0], trainer.scaling_config) from raised[0]


def _ended_by_ray(error: BaseException, asked: Any) -> TenchError:
    """Ray Train's error as one of ours; `asked`: the ScalingConfig that it was given."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    if isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError):
        each = asked.resources_per_worker
        return LostError(
            f"no place was found, in one try after the other, for {counted(asked.min_workers, 'worker')}, each with "
            f"{placing.node_words(each['CPU'], each.get('GPU', 0))} on one node: the cluster has "
            f"{placing.words(_nodes())}, of which other jobs may hold a part; bring nodes back or wait for the others, then "
            "resume"
        )
    if _is_loss(error):
        return LostError(f"the training job lost its workers in Ray: {failures.lines(error)[0]}")
    return TenchError(f"the training job failed in Ray: {failures.lines(error)[-1]}")


def _is_loss(error: BaseException) -> bool:
    """Whether processes went away, as often as Ray Train may replace them; not if code of a worker raised an error."""
    from ray.train.v2._internal.exceptions import RayTrainError

    met = getattr(error, "worker_failures", {}).values() or [error]
    return all(is_loss(failure) or isinstance(failure, RayTrainError) for failure in met)


def _worker(arguments: dict[str, Any]) -> None:
    """What every worker runs. An error of ours is written down and ends the job: Ray must not try it again."""
    import ray.train
    import torch.distributed as dist

    rank = ray.train.get_context().get_world_rank()
    place, attempt = Place(arguments["run"]), arguments["attempt"]
    if outcomes.error_stands(place, attempt):
        return
    try:
        facts = _train_as(rank, place, arguments)
        if rank == 0:
            outcomes.put_facts(place, attempt, facts)
    except TenchError as error:
        outcomes.put_error(place, attempt, outcomes.rank_name(rank), error)
        if dist.is_initialized():
            _let_the_others_go(dist.get_backend(), error.message)
    except Exception:
        if not outcomes.error_stands(place, attempt):
            raise


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
    import ray.util

    from trainer.fit import fit

    attempt = arguments["attempt"]
    run = RunWriter.join(place, attempt) if rank == 0 else None
    # Ray Train makes a placement group for each start of all workers.
    group = ray.util.get_current_placement_group()
    met = failures.Failures(place, attempt, group.id.hex() if group else "", rank, run)
    try:
        with met.told():
            training = _ready(rank, place, arguments, run)
        with met.told(training):
            found = checkpoint.agreed(place, training.context.device)
            if found is None:
                transfer.load_initial(training.network, place)
            return fit(training, found)
    finally:
        if run is not None:
            run.flush()


def _ready(rank: int, place: Place, arguments: dict[str, Any], run: RunWriter | None) -> "Training":
    """A worker's part of the training, before its first step."""
    import ray.train

    from trainer.fit import RankContext, prepare

    settings = TrainSettings.model_validate(arguments["settings"])
    opened = Dataset.open(arguments["dataset"])
    device = _device(arguments["use_gpu"])
    world_size = ray.train.get_context().get_world_size()
    column = columns.join(rank, world_size, COLLECTIVE_TIMEOUT_S) if settings.split_columns else None
    context = RankContext(rank, world_size, device, arguments["threads"], column)
    return prepare(context, opened, transfer.with_initial(recipe(settings, opened), place), settings, run)


def _device(use_gpu: bool) -> Any:
    """A worker's device. Not by what its machine has: workers without a GPU of their own would all take its first one."""
    import ray.train.torch
    import torch

    return ray.train.torch.get_device() if use_gpu else torch.device("cpu")


def _world_sizes(settings: TrainSettings, cpus: int) -> int | tuple[int, int]:
    """How many workers Ray Train is to find: a number, or the least and the most. A job never grows over its grant."""
    if settings.min_workers is None:
        return settings.num_workers
    most = int(os.environ.get("TENCH_CPUS", cpus * settings.num_workers)) // cpus
    return settings.min_workers, max(settings.min_workers, min(settings.num_workers, most))


def _failure_config(settings: TrainSettings) -> Any:
    """How often workers that die are replaced, and how often a start may fail. Nodes of an elastic run may come and go for
    days."""
    from ray.train import FailureConfig

    restarts, starts = (ELASTIC_RESTARTS, ELASTIC_STARTS) if settings.min_workers else (RESTARTS, STARTS)
    return FailureConfig(max_failures=restarts, controller_failure_limit=starts)


def _nodes() -> list[tuple[int, int]]:
    """CPUs and GPUs of each node of the cluster that is alive."""
    import ray

    has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in has]


def _resources(settings: TrainSettings, nodes: Sequence[tuple[int, int]]) -> tuple[int, bool]:
    """CPUs of each worker and whether it gets a GPU. Raises RefusedError if the nodes, each by itself, cannot hold the
    workers; for an elastic run the least number of them: it may wait for nodes that it has lost, not for its first ones."""
    gpus, least = sum(gpus for _, gpus in nodes), settings.min_workers or settings.num_workers
    use_gpu = takes_gpus(settings.device, least, gpus)
    flag = f"--{'min' if settings.min_workers else 'num'}-workers {least}"
    if use_gpu and gpus < least:
        raise RefusedError(f"{flag}: the cluster has {gpus} GPUs, one is needed for each")
    cpus = settings.cpus_per_worker or _share(settings, nodes, use_gpu)
    held = placing.places(nodes, cpus, use_gpu)
    if held < least:
        raise RefusedError(
            f"{flag} with {placing.node_words(cpus, use_gpu)} each, on one node: the cluster holds {held or 'none'} of "
            f"these, it has {placing.words(nodes)}; take fewer workers or a smaller --cpus-per-worker"
        )
    return cpus, use_gpu


def _share(settings: TrainSettings, nodes: Sequence[tuple[int, int]], use_gpu: bool) -> int:
    """CPUs of each worker if nobody said: the most that leave a place for every worker (of an elastic run: for every one
    that has a place now), within the grant of TENCH_CPUS."""
    granted = int(os.environ.get("TENCH_CPUS", sum(cpus for cpus, _ in nodes)))
    workers = max(1, min(settings.num_workers, placing.places(nodes, 1, use_gpu)))
    return max(1, min(placing.widest(nodes, workers, use_gpu), granted // settings.num_workers))


def _remove_folder(folder: Path) -> None:
    import shutil

    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)
