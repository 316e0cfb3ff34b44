"""AlexNet of 2012, every numbered point of difference a switch (trainer/switches.py).

Shapes for 3 x 224 x 224 pictures with 1000 outputs; 60,965,224 parameters:

    conv1  11x11, stride 4, 96    55 x 55   (the picture gets 3 zeros on its right and lower border)
    pool1  3x3, stride 2          27 x 27
    conv2  5x5, 2 columns, 256    27 x 27
    pool2                         13 x 13
    conv3  3x3, 384               13 x 13
    conv4  3x3, 2 columns, 384    13 x 13
    conv5  3x3, 2 columns, 256    13 x 13
    pool5                          6 x 6
    fc6 4096, fc7 4096, fc8 num_classes
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ingest.errors import RefusedError
from trainer.cifar_network import CifarNet
from trainer.dropout import DropoutKey, keep_mask
from trainer.layers import ACTIVATIONS, ColumnLinear, FullLinear, max_pool, pooled_side, scaled
from trainer.normalisation import across_channels, within_maps
from trainer.switches import NetworkSettings

ONE_BIASES = ("conv2", "conv4", "conv5", "conv6", "fc6", "fc7")
DEVIATIONS: dict[str, dict[str, float]] = {
    "museum": {"conv3": 0.03, "conv4": 0.03, "conv5": 0.03, "conv6": 0.03},
    "paper": {},
    "caffe": {"fc6": 0.005, "fc7": 0.005},
}
"""Standard deviations of initial weights where they are not 0.01."""
BORDERS = {"after": (0, 3, 0, 3), "around": (2, 2, 2, 2), "none": (0, 0, 0, 0)}
"""Zeros to the left of, to the right of, above and below a picture."""
SIXTH_WIDTH = 256


class AlexNet(nn.Module):
    """Pictures (n, 3, side, side) with the mean subtracted -> logits (n, num_classes) float32."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        one, two, three, four, five = settings.widths
        columns, third = settings.columns, 1 if settings.exchange else settings.columns
        overlap = settings.pool == 3
        self.conv1 = nn.Conv2d(3, one, 11, stride=4)
        self.conv2 = nn.Conv2d(one, two, 5, padding=2 if overlap else 1, groups=columns)
        width = two
        for name, filters, groups in (("conv3", three, third), ("conv4", four, columns), ("conv5", five, columns)):
            if settings.without != name:
                padding = 0 if name == "conv5" and not overlap else 1
                self.add_module(name, nn.Conv2d(width, filters, 3, padding=padding, groups=groups))
                width = filters
        if settings.sixth:
            self.conv6 = nn.Conv2d(width, SIXTH_WIDTH, 3, padding=1)
            width = SIXTH_WIDTH
        inputs = width * _last_side(settings) ** 2
        for i, units in enumerate(settings.hidden):
            self.add_module(f"fc{6 + i}", _full(inputs, units, 1 if settings.exchange else columns))
            inputs = units
        self.add_module(f"fc{6 + len(settings.hidden)}", FullLinear(inputs, settings.num_classes))
        self.layer_names = tuple(name for name, _ in self.named_children())

    def forward(self, images: torch.Tensor, *, dropout: DropoutKey | None = None) -> torch.Tensor:
        """Logits. With a dropout key as in training, without as in evaluation."""
        logits: torch.Tensor = self.get_submodule(self.layer_names[-1])(self._hidden(images, dropout))
        return logits.float()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (n, units): what the last layer reads in evaluation (the output of fc7)."""
        return self._hidden(images, None).float()

    def _hidden(self, images: torch.Tensor, dropout: DropoutKey | None) -> torch.Tensor:
        s, place = self.settings, self.settings.dropout_place
        x = self._maps(images).flatten(1)
        for i in range(len(s.hidden)):
            if place == "inputs":
                x = self._dropped(x, i, dropout)
            x = self._act(self.get_submodule(f"fc{6 + i}")(x))
            if place == "outputs":
                x = self._dropped(x, i, dropout)
        return x

    def _maps(self, images: torch.Tensor) -> torch.Tensor:
        """What the fully connected layers read, (n, channels, side, side)."""
        x = self._second(
            self._first(F.pad(scaled(images, self.settings.input_scale), BORDERS[self.settings.conv1_border]))
        )
        for name in ("conv3", "conv4", "conv5"):
            if name != self.settings.without:
                x = self._act(self.get_submodule(name)(x))
        x = self._pool(x)
        return self._act(self.conv6(x)) if self.settings.sixth else x

    def _first(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv1(images)
        if self.settings.norm_first:
            return self._act(self._pool(self._lrn(x)))
        return self._pool(self._lrn(self._act(x)))

    def _second(self, x: torch.Tensor) -> torch.Tensor:
        x = self._lrn(self._act(self.conv2(x)))
        return self._pool(within_maps(x) if self.settings.spatial_norm else x)

    def _act(self, x: torch.Tensor) -> torch.Tensor:
        return ACTIVATIONS[self.settings.activation](x)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return max_pool(x, self.settings.pool, self.settings.pool_rounding, self.settings.pool_ties)

    def _lrn(self, x: torch.Tensor) -> torch.Tensor:
        s = self.settings
        if not s.lrn:
            return x
        return across_channels(x, s.lrn_k, s.lrn_factor, s.columns if s.lrn_span == "half" else 1)

    def _dropped(self, x: torch.Tensor, layer: int, dropout: DropoutKey | None) -> torch.Tensor:
        kind = self.settings.dropout
        if kind == "none":
            return x
        if dropout is None:
            return x * 0.5 if kind == "mask" else x
        mask = self._mask(dropout, layer, x.shape[1], x.device)
        return x * (mask * 2 if kind == "scaled" else mask)

    def _mask(self, key: DropoutKey, layer: int, units: int, device: torch.device) -> torch.Tensor:
        return keep_mask(key, layer, units, device)


Network = AlexNet | CifarNet


def build(settings: NetworkSettings, seed: int) -> Network:
    """A network with initial weights that the seed determines. Raises RefusedError for pictures too small for it."""
    network = blank(settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in network.layer_names:
            layer = network.get_submodule(name)
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            if settings.init == "torch":
                bound = 1 / math.sqrt(weight[0].numel())
                weight.uniform_(-bound, bound, generator=generator)
                bias.uniform_(-bound, bound, generator=generator)
            else:
                weight.normal_(0.0, _deviation(settings, name, weight), generator=generator)
                bias.fill_(_bias(settings, name, network.layer_names))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def blank(settings: NetworkSettings) -> Network:
    """A network whose weights nobody has chosen yet. Raises RefusedError as `build` does."""
    if settings.architecture == "cifar":
        return CifarNet(settings)
    if _last_side(settings) < 1:
        raise RefusedError(
            f"pictures of {settings.side} pixels are too small for AlexNet: nothing is left of them after its pools; take "
            "a larger loader.crop"
        )
    return AlexNet(settings)


def count_parameters(network: nn.Module) -> int:
    """Numbers that are learnt."""
    return sum(p.numel() for p in network.parameters())


def _deviation(settings: NetworkSettings, name: str, weight: torch.Tensor) -> float:
    if settings.init == "he":
        return math.sqrt(2.0 / weight[0].numel())
    if settings.architecture == "cifar":
        return CifarNet.deviation(settings, name)
    return DEVIATIONS[settings.init].get(name, 0.01)


def _bias(settings: NetworkSettings, name: str, names: tuple[str, ...]) -> float:
    if name == names[-1]:
        return settings.bias_last
    return settings.bias_one if settings.architecture == "alexnet" and name in ONE_BIASES else 0.0


def _full(num_inputs: int, num_outputs: int, columns: int) -> nn.Module:
    return FullLinear(num_inputs, num_outputs) if columns == 1 else ColumnLinear(num_inputs, num_outputs, columns)


def _last_side(settings: NetworkSettings) -> int:
    """Side of the maps that the fully connected layers read."""
    before, after, *_ = BORDERS[settings.conv1_border]
    side = pooled_side(settings.side + before + after, 11, "floor", step=4)
    side = pooled_side(side, settings.pool, settings.pool_rounding)
    side = pooled_side(side if settings.pool == 3 else side - 2, settings.pool, settings.pool_rounding)
    side = side if settings.pool == 3 or settings.without == "conv5" else side - 2
    return pooled_side(side, settings.pool, settings.pool_rounding)
