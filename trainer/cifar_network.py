"""The four-layer network for CIFAR-10 that came with cuda-convnet (layers-19pct and, with one more layer, 80sec).

    conv1  5x5, border 2, 32, max-pool 3/2, ReLU    32 -> 16
    conv2  5x5, border 2, 32, ReLU, average-pool    16 -> 8
    conv3  5x5, border 2, 64, ReLU, average-pool     8 -> 4
    fc4    num_classes (80sec: 64 units before it)

89,578 parameters for 32 x 32 pictures of ten classes. The paper's figure 1 used "a four-layer convolutional network"
that it does not describe; this is the nearest that was published.
"""

from typing import ClassVar

import torch
from torch import nn

from trainer.dropout import DropoutKey
from trainer.layers import ACTIVATIONS, average_pool, max_pool, pooled_side, scaled
from trainer.switches import NetworkSettings


class CifarNet(nn.Module):
    """Pictures (n, 3, side, side) with the mean subtracted -> logits (n, num_classes) float32."""

    DEVIATIONS: ClassVar[dict[str, float]] = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01}
    """Standard deviations of the convolutions' initial weights."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        inputs, side = 3, settings.side
        for i, width in enumerate(settings.widths, 1):
            self.add_module(f"conv{i}", nn.Conv2d(inputs, width, 5, padding=2))
            inputs, side = width, pooled_side(side, 3, "ceil")
        inputs *= side**2
        for i, units in enumerate((*settings.hidden, settings.num_classes), len(settings.widths) + 1):
            self.add_module(f"fc{i}", nn.Linear(inputs, units))
            inputs = units
        self.layer_names = tuple(name for name, _ in self.named_children())

    @classmethod
    def deviation(cls, settings: NetworkSettings, name: str) -> float:
        """Standard deviation of a layer's initial weights: as in layers-19pct, or layers-80sec with a layer between."""
        return cls.DEVIATIONS.get(name, 0.1 if settings.hidden else 0.01)

    def forward(self, images: torch.Tensor, *, dropout: DropoutKey | None = None) -> torch.Tensor:
        """Logits; this network drops nothing."""
        del dropout
        logits: torch.Tensor = self.get_submodule(self.layer_names[-1])(self._hidden(images))
        return logits.float()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (n, units): what the last layer reads."""
        return self._hidden(images).float()

    def _hidden(self, images: torch.Tensor) -> torch.Tensor:
        act = ACTIVATIONS[self.settings.activation]
        x = scaled(images, self.settings.input_scale)
        for name in self.layer_names[:-1]:
            if name.startswith("fc"):
                x = x.flatten(1)
            x = self.get_submodule(name)(x)
            if name == "conv1":
                x = act(max_pool(x, 3, "ceil", self.settings.pool_ties))
            else:
                x = act(x)
                x = average_pool(x) if name.startswith("conv") else x
        return x.flatten(1)
