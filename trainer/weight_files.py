"""Files of weights, read with distrust: no file is unpickled, and what does not fit a network is refused by name."""

import hashlib
import io
import json
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from ingest.errors import RefusedError
from ingest.storage import Place, split_file, writable_file
from trainer import transfer
from trainer.switches import NetworkSettings

FORMAT_VERSION = 1
PARTS = ("weight", "bias")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """A file of weights that was read: float32 tensors by our names, its SHA-256, and what it says of itself."""

    tensors: Tensors
    sha256: str
    told: dict[str, Any] | None


def read(path: str) -> Weights:
    """The tensors of a file, unpickling nothing. Raises RefusedError for what is not a file of weights."""
    place, name = split_file(path)
    try:
        data = place.get(name)
    except FileNotFoundError:
        raise RefusedError(f"{path}: there is no such file") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if path.endswith(".safetensors"):
        try:
            return Weights(safetensors.load(data), sha256, _told(path, data))
        except SafetensorError as error:
            raise RefusedError(f"{path}: is not a whole safetensors file ({error})") from None
    try:
        found = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise RefusedError(
            f"{path}: is not a plain state dict ({_first_line(error)}); nothing was unpickled. Save its tensors "
            "with torch.save(model.state_dict(), FILE), or as safetensors"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise RefusedError(f"{path}: is not a plain state dict: expected names with tensors; save model.state_dict()")
    return Weights({str(key): value for key, value in found.items()}, sha256, None)


def _told(path: str, data: bytes) -> dict[str, Any] | None:
    """What a safetensors file of ours says of itself; None of others. The library has found the header whole."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = header.get("__metadata__", {}).get("tench")
    if text is None:
        return None
    try:
        told = json.loads(text)
        version, _, _ = told["format_version"], told["classes"], told["recipe"]
    except (ValueError, TypeError, KeyError):
        raise RefusedError(f"{path}: its metadata is not what `tench export` writes") from None
    if version > FORMAT_VERSION:
        raise RefusedError(f"{path}: format {version}, this Tench reads {FORMAT_VERSION}; update it")
    return dict(told)


def fitting(path: str, tensors: Tensors, network: NetworkSettings, names: dict[str, str]) -> Tensors:
    """The tensors by our names, in float32. Raises RefusedError naming those that are missing, extra or unfit."""
    wanted = {f"{names[layer]}.{part}": f"{layer}.{part}" for layer in names for part in PARTS}
    shapes = transfer.shapes(network)
    said = [f"{name} is missing" for name in wanted if name not in tensors]
    said += [f"{name} is not of this network" for name in tensors if name not in wanted]
    for name in (known for known in wanted if known in tensors):
        found, shape = tensors[name], shapes[wanted[name]]
        if tuple(found.shape) != shape:
            said.append(f"{name} is {transfer.sides(found.shape)}, expected {transfer.sides(shape)}")
        elif not found.is_floating_point():
            said.append(f"{name} is {found.dtype}, expected floats")
        elif not torch.isfinite(found).all():
            said.append(f"{name} holds values that are not finite")
    if said:
        more = f" (and {len(said) - 5} more)" if len(said) > 5 else ""
        raise RefusedError(f"{path}: does not fit the network: {'; '.join(said[:5])}{more}")
    return {ours: tensors[name].float() for name, ours in wanted.items()}


def target(out: str) -> tuple[Place, str]:
    """The folder of a new file and its name there. Raises RefusedError for what would only fail at the end."""
    place, name = writable_file(out)
    if place.exists(name):
        raise RefusedError(f"{out}: is there already; give another name, or remove it")
    return place, name


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
