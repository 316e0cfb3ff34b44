"""Memory and utilisation of the GPU that a rank computes on. Without a GPU there is nothing to say, and nothing is said."""

import ctypes
from functools import cache
from typing import Any

import torch


class _Shares(ctypes.Structure):
    """nvmlUtilization_t: per cent of the last sampling period (1 s at most)."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def gpu_figures(device: torch.device) -> dict[str, float]:
    """Of this process: gpu_allocated_bytes, gpu_peak_bytes (since its start), gpu_reserved_bytes; of the whole GPU:
    gpu_utilisation, the share of the last second in which a kernel ran, if the driver tells. {} without a GPU."""
    if device.type != "cuda":
        return {}
    figures: dict[str, float] = {
        "gpu_allocated_bytes": torch.cuda.memory_allocated(device),
        "gpu_peak_bytes": torch.cuda.max_memory_allocated(device),
        "gpu_reserved_bytes": torch.cuda.memory_reserved(device),
    }
    share = utilisation(_nvml(), str(torch.cuda.get_device_properties(device).uuid))
    return figures if share is None else {**figures, "gpu_utilisation": share}


def utilisation(nvml: Any, uuid: str) -> float | None:
    """Share of time (0 to 1) in which the GPU of a UUID was busy, asked of NVML's C interface.

    None where that does not know: no library, a GPU in parts (MIG), no permission.
    """
    handle, shares = ctypes.c_void_p(), _Shares()
    if nvml is None or nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)):
        return None
    if nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(shares)):
        return None
    return float(shares.gpu) / 100


@cache
def _nvml() -> Any:
    """The driver's own library, which needs no Python package; None if it is not there or does not start."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return None if library.nvmlInit_v2() else library
