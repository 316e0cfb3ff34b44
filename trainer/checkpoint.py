"""Checkpoints: complete or absent. RUN/checkpoints/step-00150000.0001/ (step, attempt).

weights.pt    torch.load(weights_only=True) gives {"network": {...}, "velocity": {...}}
state.json    where the run stands: epoch, step, schedule, loader state, recipe, ids, versions
hashes.json   SHA-256 of the two, put last: its presence makes the checkpoint visible

Before an epoch is evaluated, due.json stands in the place of state.json: a run that goes on from there evaluates first.
Afterwards state.json is put beside it, and hashes.json replaced in one go: the weights are not written twice.
"""

import hashlib
import io
import json
import re
import shutil
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ingest.errors import DamageError, RefusedError
from ingest.progress import to_json
from ingest.storage import Place

FORMAT_VERSION = 1
FOLDER = "checkpoints"
WEIGHTS, STATE, DUE, HASHES = "weights.pt", "state.json", "due.json", "hashes.json"
STRETCHED = ("dexp", "cosine")
"""Schedules that depend on the number of epochs."""
NAME = re.compile(r"step-(\d{8})\.(\d{4})$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: str
    state: dict[str, Any]
    network: dict[str, torch.Tensor]
    velocity: dict[str, torch.Tensor]
    weights_sha256: str
    """SHA-256 of weights.pt."""


def save(
    run: Place, attempt: int, state: dict[str, Any], network: dict[str, torch.Tensor], velocity: dict[str, torch.Tensor]
) -> str:
    """Write a checkpoint at `state["step"]`; its path in the run folder. Once it returns, the checkpoint is visible.

    One of this attempt and step that is there whole stays, but for its state if it waited for an evaluation which is over.
    """
    path = f"{FOLDER}/step-{state['step']:08d}.{attempt:04d}"
    name, data = DUE if state.get("evaluation_due") else STATE, to_json({"format_version": FORMAT_VERSION, **state})
    if run.exists(f"{path}/{HASHES}"):
        if name == STATE and _is_due(run, path):
            weights = _hashes(run, path)[WEIGHTS]
            run.replace(f"{path}/{STATE}", data)
            run.replace(f"{path}/{HASHES}", to_json({WEIGHTS: weights, STATE: hashlib.sha256(data).hexdigest()}))
            run.delete(f"{path}/{DUE}")
            return path
        if _is_whole(run, path):
            return path
    file = io.BytesIO()
    torch.save({"network": _on_cpu(network), "velocity": _on_cpu(velocity)}, file)
    files = {WEIGHTS: file.getvalue(), name: data}
    run.delete(f"{path}/{HASHES}")
    for name, data in files.items():
        run.delete(f"{path}/{name}")
        run.put_new(f"{path}/{name}", data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    run.put_new(f"{path}/{HASHES}", to_json(hashes))
    return path


def _is_due(run: Place, path: str) -> bool:
    """Whether a checkpoint waits for its evaluation."""
    try:
        return DUE in _hashes(run, path)
    except DamageError:
        return False


def _is_whole(run: Place, path: str) -> bool:
    """Whether its files have their hashes: one that was damaged made its run go back, and is written anew."""
    try:
        _verified(run, path)
    except DamageError:
        return False
    return True


def complete(run: Place) -> list[str]:
    """Paths of the complete checkpoints, oldest first: by attempt, then by step.

    A later attempt may have gone on from an older step, and an earlier one may still be writing somewhere.
    """
    names = [(match[2], match[1], name) for name in run.folders(FOLDER) if (match := NAME.match(name))]
    return [f"{FOLDER}/{name}" for *_, name in sorted(names) if run.exists(f"{FOLDER}/{name}/{HASHES}")]


def load(run: Place, path: str) -> Checkpoint:
    """Read a checkpoint. Raises DamageError if it does not have its hashes, RefusedError if it is of a newer Tench."""
    hashes, weights, told = _verified(run, path)
    state = json.loads(told)
    if state["format_version"] > FORMAT_VERSION:
        raise RefusedError(
            f"{run.name(path)}: checkpoint format {state['format_version']}, this Tench reads {FORMAT_VERSION}; update it"
        )
    tensors = torch.load(io.BytesIO(weights), weights_only=True, map_location="cpu")
    return Checkpoint(path, state, tensors["network"], tensors["velocity"], hashes[WEIGHTS])


def state_of(run: Place, path: str) -> dict[str, Any]:
    """Where the run stood at a checkpoint, without its weights. Raises DamageError if that is gone."""
    state: dict[str, Any] = json.loads(_standing(run, path)[2])
    return state


def newest(run: Place) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and what is wrong with newer ones.

    Raises DamageError if there are checkpoints but none is whole: going on from nothing would throw work away.
    """
    damages: list[str] = []
    paths = complete(run)
    for path in reversed(paths):
        try:
            return load(run, path), damages
        except DamageError as error:
            damages.append(error.message)
    if damages:
        raise DamageError(f"{run.uri}: none of {len(paths)} checkpoints is whole: {damages[0]}")
    return None, []


def agreed(run: Place, device: torch.device) -> Checkpoint | None:
    """The checkpoint that rank 0 finds newest, on every rank: one that looks later could find another. All take part.

    Raises as `newest` and `load` do, RefusedError on a rank that does not see it.
    """
    if not dist.is_initialized():
        return newest(run)[0]
    found = newest(run)[0] if dist.get_rank() == 0 else None
    told = [found.path if found else None]
    dist.broadcast_object_list(told, src=0, device=device)
    path = told[0]
    if path is None or found is not None:
        return found
    if not run.exists(f"{path}/{HASHES}"):
        raise RefusedError(
            f"{run.name(path)}: rank 0 goes on from it, rank {dist.get_rank()} does not see it; take a run folder that all "
            "workers share"
        )
    return load(run, path)


def needed(run: Place) -> Checkpoint:
    """The newest whole checkpoint. Raises RefusedError if the run has none, DamageError as `newest` does."""
    found, _ = newest(run)
    if found is None:
        raise RefusedError(f"{run.uri}: holds no checkpoint; `tench train DATASET {run.uri}` writes them")
    return found


def refuse_other(state: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise RefusedError naming what differs between a checkpoint and the run that wants to continue it."""
    for key in ("content_id", "classes"):
        if state[key] != wanted[key]:
            raise RefusedError(
                f"checkpoint: {key.replace('_', ' ')} is {_short(state[key])}, the dataset's is {_short(wanted[key])}; "
                "continue with the dataset that the run was begun with"
            )
    said = _differences("", state["recipe"], wanted["recipe"])
    if said:
        raise RefusedError(
            f"the run was begun with other settings: {'; '.join(said)}. Only settings that do not change numbers "
            "(workers, device, threads, intervals) and the number of epochs may change"
        )
    before, now, schedule = state["recipe"]["epochs"], wanted["recipe"]["epochs"], wanted["recipe"]["rule"]["schedule"]
    if before != now and schedule in STRETCHED:
        raise RefusedError(
            f"epochs: the run was begun with {before}, now {now}. Schedule {schedule} falls over the whole run, so another "
            "length changes the rate of every epoch to come; begin a new run with --initial for more"
        )


def prune(run: Place, keep: int) -> None:
    """Remove all but the newest complete checkpoints; the hashes first, so that none is ever seen half."""
    for path in complete(run)[:-keep]:
        _remove(run, path)


def remove_unevaluated(run: Place) -> None:
    """Remove the newest complete checkpoint if it waits for its evaluation."""
    for path in complete(run)[-1:]:
        if _is_due(run, path):
            _remove(run, path)


def _remove(run: Place, path: str) -> None:
    """Remove a checkpoint, the hashes first, and what a killed put left beside it. Another process may do the same."""
    for name in (HASHES, STATE, DUE, WEIGHTS):
        run.delete(f"{path}/{name}")
    if run.is_local:
        shutil.rmtree(run.local_path(path), ignore_errors=True)


def _hashes(run: Place, path: str) -> dict[str, str]:
    try:
        return dict(json.loads(run.get(f"{path}/{HASHES}")))
    except (ValueError, TypeError):
        raise DamageError(f"{run.name(path)}/{HASHES}: is not what was written; it was changed") from None


def _standing(run: Place, path: str) -> tuple[dict[str, str], str, bytes]:
    """A checkpoint's hashes, and the name and bytes of what says where the run stood."""
    hashes = _hashes(run, path)
    name = DUE if DUE in hashes else STATE
    try:
        return hashes, name, _there(run, path, name)
    except DamageError:
        if name == DUE and DUE not in _hashes(run, path):
            return _standing(run, path)  # its evaluation has just ended
        raise


def _verified(run: Place, path: str) -> tuple[dict[str, str], bytes, bytes]:
    """A checkpoint's hashes, its weights, and what says where the run stood. Raises DamageError if they do not agree."""
    hashes, state_name, told = _standing(run, path)
    weights = _there(run, path, WEIGHTS)
    for name, found in ((WEIGHTS, weights), (state_name, told)):
        if hashlib.sha256(found).hexdigest() != hashes.get(name):
            raise DamageError(f"{run.name(path)}/{name}: does not have the hash that was recorded; it was changed")
    return hashes, weights, told


def _there(run: Place, path: str, name: str) -> bytes:
    try:
        return run.get(f"{path}/{name}")
    except FileNotFoundError:
        raise DamageError(f"{run.name(path)}/{name}: is gone") from None


def _differences(prefix: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    said = []
    for name in sorted(set(before) | set(now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            said += _differences(f"{prefix}{name}.", old, new)
        elif old != new and f"{prefix}{name}" != "epochs":
            said.append(f"{prefix}{name} was {old}, now {new}")
    return said


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
