"""AlexNet of 2012, every numbered point of difference a setting (trainer/settings.py).

Shapes for 3 x 224 x 224 pictures with 1000 outputs; 60,965,224 parameters:

    conv1  11x11, stride 4, 96    55 x 55   (the picture gets 3 zeros on its right and lower border)
    pool1  3x3, stride 2          27 x 27
    conv2  5x5, 2 groups, 256     27 x 27
    pool2                         13 x 13
    conv3  3x3, 384               13 x 13
    conv4  3x3, 2 groups, 384     13 x 13
    conv5  3x3, 2 groups, 256     13 x 13
    pool5                          6 x 6
    fc6 4096, fc7 4096, fc8 num_classes
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from trainer.dropout import DropoutKey, keep_mask
from trainer.normalisation import across_channels, within_maps
from trainer.settings import NetworkSettings

CROP = 224
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
ONE_BIASES = ("conv2", "conv4", "conv5", "fc6", "fc7")
DEVIATIONS = {
    "museum": {"conv3": 0.03, "conv4": 0.03, "conv5": 0.03},
    "paper": {},
    "caffe": {"fc6": 0.005, "fc7": 0.005},
}
"""Standard deviations of initial weights where they are not 0.01."""


class AlexNet(nn.Module):
    """Pictures (n, 3, 224, 224) with the mean subtracted -> logits (n, num_classes) float32.

    Caffe's crops of 227 pixels are taken as well: no filter reaches the zeros beyond them.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(9216, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, settings.num_classes)

    def forward(self, images: torch.Tensor, *, dropout: DropoutKey | None = None) -> torch.Tensor:
        """Logits. With a dropout key as in training, without as in evaluation."""
        x = self._first(F.pad(images, (0, 3, 0, 3)))
        x = self._second(x)
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = _pool(F.relu(self.conv5(x)))
        x = x.reshape(len(x), 9216)
        x = self._dropped(F.relu(self.fc6(x)), 0, dropout)
        x = self._dropped(F.relu(self.fc7(x)), 1, dropout)
        logits: torch.Tensor = self.fc8(x)
        return logits.float()

    def _first(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv1(images)
        if self.settings.norm_first:
            return F.relu(_pool(self._lrn(x)))
        return _pool(self._lrn(F.relu(x)))

    def _second(self, x: torch.Tensor) -> torch.Tensor:
        x = self._lrn(F.relu(self.conv2(x)))
        return _pool(within_maps(x) if self.settings.spatial_norm else x)

    def _lrn(self, x: torch.Tensor) -> torch.Tensor:
        s = self.settings
        if not s.lrn:
            return x
        return across_channels(x, s.lrn_k, s.lrn_factor, 2 if s.lrn_span == "half" else 1)

    def _dropped(self, x: torch.Tensor, layer: int, dropout: DropoutKey | None) -> torch.Tensor:
        kind = self.settings.dropout
        if kind == "none":
            return x
        if dropout is None:
            return x * 0.5 if kind == "mask" else x
        mask = keep_mask(dropout, layer, x.shape[1], x.device)
        return x * (mask * 2 if kind == "scaled" else mask)


def build(settings: NetworkSettings, seed: int) -> AlexNet:
    """A network with initial weights that the seed determines (normal deviates, biases constant)."""
    network = AlexNet(settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in LAYERS:
            layer = network.get_submodule(name)
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            weight.normal_(0.0, _deviation(settings, name, weight), generator=generator)
            bias.fill_(settings.bias_one if name in ONE_BIASES else 0.0)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def count_parameters(network: nn.Module) -> int:
    """Numbers that are learnt."""
    return sum(p.numel() for p in network.parameters())


def _deviation(settings: NetworkSettings, name: str, weight: torch.Tensor) -> float:
    if settings.init == "he":
        return math.sqrt(2.0 / weight[0].numel())
    return DEVIATIONS[settings.init].get(name, 0.01)


def _pool(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)
