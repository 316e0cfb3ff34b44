"""The two columns of AlexNet on two workers (2012 paper, section 3.2), several such pairs side by side.

Workers 2 i and 2 i + 1 are pair i: together they hold one copy of the network, the first the first column, the second
the other one, and take the same rows of the batch through it. Of conv1 to conv5 and of the fully connected layers
before the last each has half of the units; of the last layer it has the inputs that come from its own units, and the
biases of half of the classes. The pairs share out the batch; gradients are added over the workers with the same column.

The two talk only before conv3 (both columns' pool2), before conv6 where there is one, before each fully connected
layer but the last, and after the last one (parts of the logits are added). Numbers of a picture that each sends to the
other, for pictures of 224, 4096 units and 1000 classes:

                            forward           backward
    into conv3              128 x 13 x 13     as many: gradients of what the other sent
    into fc6                128 x 6 x 6       as many
    into fc7                2,048             as many
    logits                  1,000             none
    without exchange        1,000             none (the logits alone)

Together 29,288 + 28,288 = 57,576 numbers, 230,304 bytes in float32, each way; 29.5 MB for 128 pictures, where sharing
out the batch over two workers takes each of them 244 MB of gradients, however many pictures it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ingest.errors import RefusedError
from trainer.dropout import DropoutKey
from trainer.layers import ColumnLinear
from trainer.networks import AlexNet
from trainer.settings import TrainSettings
from trainer.switches import Recipe

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ColumnPlace:
    """Which column of which copy of the network a worker holds, and whom it talks to."""

    pair: int
    num_pairs: int
    column: int
    partners: dist.ProcessGroup
    """The two workers of the pair; a rank in this group is a column."""
    peers: dist.ProcessGroup
    """The workers that hold the same column; a rank in this group is a pair."""


def refuse_misfit(settings: TrainSettings, recipe: Recipe) -> None:
    """Raise RefusedError, with the reason, where two workers cannot hold one column each."""
    if not settings.split_columns:
        return
    network, rule, workers = recipe.network, recipe.rule, settings.num_workers
    reasons = {
        f"{workers} workers do not make pairs; take an even --num-workers": workers == 0 or workers % 2 == 1,
        "an elastic run may come to an odd number of workers; leave out --min-workers": settings.min_workers
        is not None,
        f"the {network.architecture} network has no columns": network.architecture != "alexnet",
        "this network is one column; take network.columns=2": network.columns != 2,
        "LRN over the whole layer needs the squares of both columns; take network.lrn_span=half": (
            network.lrn and network.lrn_span != "half"
        ),
        f"network.hidden={list(network.hidden)} cannot be halved; take even numbers": any(
            units % 2 == 1 for units in network.hidden
        ),
        "LARS needs the lengths of whole layers, which no worker has; take rule.trust=0": rule.trust > 0,
    }
    if said := [reason for reason, applies in reasons.items() if applies]:
        raise RefusedError(f"--split-columns: {said[0]}")


def join(rank: int, world_size: int, timeout_s: float) -> ColumnPlace:
    """This worker's place among an even number of them. Every worker calls it, once torch.distributed is there."""
    pairs = [[first, first + 1] for first in range(0, world_size, 2)]
    columns = [list(range(column, world_size, 2)) for column in (0, 1)]
    timeout = timedelta(seconds=timeout_s)
    partners, _ = dist.new_subgroups_by_enumeration(pairs, timeout=timeout)  # type: ignore[no-untyped-call]
    peers, _ = dist.new_subgroups_by_enumeration(columns, timeout=timeout)  # type: ignore[no-untyped-call]
    return ColumnPlace(rank // 2, world_size // 2, rank % 2, partners, peers)


class ColumnNet(AlexNet):
    """One column of an AlexNet: pictures (n, 3, side, side) -> the whole network's logits (n, num_classes) float32.

    Both workers of the pair call it with the same pictures. Parameters have the names that they have in the whole
    network, and hold this column's part of them; `features` are this column's.
    """

    def __init__(self, whole: AlexNet, place: ColumnPlace) -> None:
        # As shapes only, until the weights of `whole` come.
        with torch.device("meta"):
            super().__init__(whole.settings)
            self.place = place
            self.whole_shapes = {name: p.shape for name, p in self.named_parameters()}
            for name, layer in list(self.named_children()):
                self.add_module(name, _own_layer(name, layer, name == self.layer_names[-1], place))
        # Seen from inside there is one column, whose channels are normalised together.
        self.settings = whole.settings.model_copy(update={"columns": 1})
        self.to_empty(device="cpu")
        self.load_state_dict(whole.state_dict())
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors of the whole network, of which this column's parts are taken, or such parts."""
        return super().load_state_dict(self.own(state_dict), strict, assign)

    @property
    def num_parameters(self) -> int:
        """Of the whole network."""
        return sum(shape.numel() for shape in self.whole_shapes.values())

    def own(self, tensors: Mapping[str, torch.Tensor]) -> Tensors:
        """This column's parts of the whole network's tensors, by parameter name; what is a part stays as it is."""
        return {
            name: self._parts(name, tensor)[self.place.column] if tensor.shape == self.whole_shapes[name] else tensor
            for name, tensor in tensors.items()
        }

    def whole(self, own: Mapping[str, torch.Tensor]) -> Tensors:
        """The whole network's tensors, on the CPU, from both columns' parts: on the first of all workers; {} on others.

        Both workers of the first pair take part, or neither.
        """
        if self.place.pair > 0:
            return {}
        if self.place.column == 1:
            for tensor in own.values():
                dist.send(tensor.detach().contiguous(), group=self.place.partners, group_dst=0)
            return {}
        return {
            name: torch.cat([t.detach().cpu(), self._received(name, t)], self._cut(name)) for name, t in own.items()
        }

    def _received(self, name: str, own: torch.Tensor) -> torch.Tensor:
        """The second column's part of a parameter, or of its velocity."""
        whole = torch.empty(self.whole_shapes[name], device="meta")
        other = torch.empty(self._parts(name, whole)[1].shape, dtype=own.dtype, device=own.device)
        dist.recv(other, group=self.place.partners, group_src=1)
        return other.cpu()

    def _parts(self, name: str, whole: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Both columns' parts; of an odd number of classes the first has the biases of one more."""
        return whole.chunk(2, self._cut(name))

    def _cut(self, name: str) -> int:
        """The dimension in which a parameter is cut: its layer's units, the last layer's inputs."""
        return 1 if name == f"{self.layer_names[-1]}.weight" else 0

    def _mask(self, key: DropoutKey, layer: int, units: int, device: torch.device) -> torch.Tensor:
        return super()._mask(key, layer, 2 * units, device).chunk(2, 1)[self.place.column]


class LastLayer(nn.Module):
    """The last layer, cut by its inputs: this column's (n, inputs / 2) -> logits (n, outputs) float32, whole on both.

    Both workers then work out the same loss. Each adds the biases of its half of the outputs.
    """

    def __init__(self, num_inputs: int, num_outputs: int, place: ColumnPlace) -> None:
        super().__init__()
        halves = torch.empty(num_outputs).chunk(2)
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs // 2))
        self.bias = nn.Parameter(torch.empty_like(halves[place.column]))
        self._border = (0, len(halves[1])) if place.column == 0 else (len(halves[0]), 0)
        self._partners = place.partners

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part = F.linear(x, self.weight).float() + F.pad(self.bias, self._border)
        out: torch.Tensor = _Sum.apply(part, self._partners)  # type: ignore[no-untyped-call]
        return out


def _own_layer(name: str, layer: nn.Module, is_last: bool, place: ColumnPlace) -> nn.Module:
    """The layer that makes this column's half of a layer's units (of the last layer, its part of all outputs)."""
    outputs, inputs, *_ = layer.get_parameter("weight").shape
    if is_last:
        return LastLayer(inputs, outputs, place)
    if isinstance(layer, nn.Conv2d):
        own: nn.Module = nn.Conv2d(inputs, outputs // 2, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
    else:
        own = nn.Linear(inputs, outputs // 2)
    in_columns = isinstance(layer, ColumnLinear) or getattr(layer, "groups", 1) > 1
    if name != "conv1" and not in_columns:
        own.register_forward_pre_hook(lambda _, given: _Gather.apply(given[0], place.partners))  # type: ignore[no-untyped-call]
    return own


class _Gather(torch.autograd.Function):
    """This column's channels or units (n, c, ...) -> both columns' (n, 2 c, ...). The gradient is added over the pair."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, partners: dist.ProcessGroup) -> torch.Tensor:
        ctx.partners = partners
        # Channels last, as the convolutions have them in memory: nothing is moved there.
        own = x.movedim(1, -1).contiguous()
        parts = [torch.empty_like(own) for _ in range(2)]
        dist.all_gather(parts, own, group=partners)
        return torch.cat(parts, -1).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grad,) = grads
        # (column that it is for, n, ..., c) goes out; (column that it comes from, n, ..., c) comes in.
        sent = torch.stack(grad.movedim(1, -1).chunk(2, -1))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=ctx.partners)
        return (received[0] + received[1]).movedim(-1, 1), None


class _Sum(torch.autograd.Function):
    """The sum over the pair. Its gradient is that of each part, and both workers have it: they work out one loss."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, partners: dist.ProcessGroup) -> torch.Tensor:
        total = part.clone()
        dist.all_reduce(total, group=partners)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None
