"""What is computed in which precision, seen at the layers of a real network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import trainer.normalisation
from tests.trainer.runs import Left, train_here
from trainer.dropout import DropoutKey
from trainer.networks import build
from trainer.precision import computing
from trainer.switches import NetworkSettings, Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "products"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_have_the_precision_and_all_else_is_float32(
    precision: Precision, products: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(NetworkSettings(side=64, hidden=(64, 32), num_classes=10), 0)
    seen: dict[str, torch.dtype] = {}
    for name in network.layer_names:
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.dtype}))
    squares: list[torch.dtype] = []
    window = trainer.normalisation._Window.sums

    def watched(self: Any, out: torch.Tensor) -> None:
        squares.extend((self.room.dtype, out.dtype))
        window(self, out)

    monkeypatch.setattr(trainer.normalisation._Window, "sums", watched)
    with computing(precision, CPU):
        logits = network(torch.randn(3, 3, 64, 64) * 60, dropout=DropoutKey(0, 0, np.arange(3)))
    loss = F.cross_entropy(logits, torch.arange(3), reduction="sum")
    loss.backward()
    assert set(seen.values()) == {products}
    assert set(squares) == {torch.float32}
    assert {logits.dtype, loss.dtype, *(p.dtype for p in network.parameters())} == {torch.float32}
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}


def test_tf32_is_on_only_where_it_was_asked_for() -> None:
    found = {}
    for precision in ("tf32", "fp32", "bf16"):
        with computing(precision, CPU):
            found[precision] = (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]
    assert found == {"tf32": ("tf32", "tf32"), "fp32": ("ieee", "ieee"), "bf16": ("ieee", "ieee")}


def test_bf16_on_a_processor_without_it_is_advised_against(tiny_dataset: str, tmp_path: Path) -> None:
    has_it = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512bw", " bf16"))
    for precision in ("fp32", "bf16"):
        train_here(tiny_dataset, tmp_path / precision, precision=precision, epochs=1)
        said = [text for text in Left(tmp_path / precision).texts("warning") if "no bfloat16" in text]
        assert len(said) == (precision == "bf16" and not has_it)
