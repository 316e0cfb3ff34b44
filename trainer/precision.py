"""Precision of convolutions and matrix products; sums, LRN, softmax and loss are float32 whatever it is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.switches import Precision


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute in a precision: fp32 in full (no TF32), tf32 with products rounded to 10 bits on a GPU, bf16 by
    autocast."""
    kind = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = kind
    torch.backends.cudnn.conv.fp32_precision = kind  # type: ignore[attr-defined]
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def slowness(precision: Precision, device: torch.device) -> str | None:
    """A sentence if this processor has no products in bf16, and torch does them one by one (15 to 40 times slower)."""
    if precision != "bf16" or device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return "This processor has no bfloat16: bf16 is many times slower here than --precision fp32."
