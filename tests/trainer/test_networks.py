"""The network of 2012 and its relatives: counts, shapes, order of layers and initial weights, as published."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ingest.errors import RefusedError
from tests.trainer.plain_networks import torchvisions
from trainer.networks import Network, blank, build, count_parameters
from trainer.presets import PRESETS, VARIANTS
from trainer.switches import NetworkSettings

# Layer: weights, biases, input, output, multiply-accumulates of one picture.
LAYERS: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...], int]] = {
    "conv1": (34_848, 96, (3, 227, 227), (96, 55, 55), 105_415_200),
    "conv2": (307_200, 256, (96, 27, 27), (256, 27, 27), 223_948_800),
    "conv3": (884_736, 384, (256, 13, 13), (384, 13, 13), 149_520_384),
    "conv4": (663_552, 384, (384, 13, 13), (384, 13, 13), 112_140_288),
    "conv5": (442_368, 256, (384, 13, 13), (256, 13, 13), 74_760_192),
    "fc6": (37_748_736, 4096, (9216,), (4096,), 37_748_736),
    "fc7": (16_777_216, 4096, (4096,), (4096,), 16_777_216),
    "fc8": (4_096_000, 1000, (4096,), (1000,), 4_096_000),
}
# Parameters and multiply-accumulates of the relatives, with 1000 outputs (CIFAR: 10).
RELATIVES: dict[str, tuple[int, int]] = {
    "museum145": (60_965_224, 724_406_816),
    "paper": (60_965_224, 724_406_816),
    "caffe": (60_965_224, 724_406_816),
    "convnet2": (61_100_840, 714_188_480),
    "torchvision": (61_100_840, 714_188_480),
    "cnn_star": (61_555_304, 745_640_480),
    "cifar": (89_578, 12_298_240),
    "one_column": (59_798_312, 391_514_384),
    "no_overlap": (60_965_224, 686_891_552),
    "no_exchange": (60_714_408, 724_323_872),
    "no_norm": (60_965_224, 724_406_816),
    "no_conv3": (59_858_920, 537_506_336),
}
# Deviations of the initial weights and the biases, conv1 to fc8.
INITIAL: dict[str, tuple[list[float], list[float]]] = {
    "museum145": ([0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01], [0, 1, 0, 1, 1, 1, 1, 0]),
    "paper": ([0.01] * 8, [0, 1, 0, 1, 1, 1, 1, 0]),
    "caffe": ([0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01], [0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0]),
    "convnet2": ([0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01], [0, 1, 0, 1, 1, 1, 1, -7]),
}
# LRN as torch states it (alpha is divided by the size), whether it comes before the first ReLU, channel groups.
NORMS: dict[str, tuple[float, float, bool, int]] = {
    "museum145": (1e-4, 2.0, True, 2),
    "paper": (5e-4, 2.0, False, 1),
    "caffe": (1e-4, 1.0, False, 1),
}


def preset_network(preset: str, seed: int = 0, **chosen: Any) -> Network:
    return build(NetworkSettings(**{"num_classes": 10, **PRESETS[preset]["network"], **chosen}), seed)


def shapes_only(**chosen: Any) -> Network:
    """A network whose weights are whatever lay in memory."""
    with torch.device("meta"):
        network = blank(NetworkSettings(**chosen))
    return network.to_empty(device="cpu")


def seen_by_layers(network: Network, images: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Input and output of each layer that has weights."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: (i[0], o)}))
        for name in network.layer_names
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return seen


def reference(preset: str, state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Logits in evaluation, float64, from the layer tables; the two halves are computed one after another."""
    w = {name: tensor.double() for name, tensor in state.items()}
    alpha, k, norm_first, groups = NORMS[preset]
    norm = nn.LocalResponseNorm(5, alpha, 0.75, k)

    def conv(name: str, x: torch.Tensor, padding: int) -> torch.Tensor:
        halves = x.chunk(x.shape[1] // w[f"{name}.weight"].shape[1], 1)
        kernels, biases = (w[f"{name}.{part}"].chunk(len(halves)) for part in ("weight", "bias"))
        return torch.cat([F.conv2d(*each, padding=padding) for each in zip(halves, kernels, biases, strict=True)], 1)

    def normed(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([norm(part) for part in x.chunk(groups, 1)], 1)

    x = F.conv2d(F.pad(images.double(), (0, 3, 0, 3)), w["conv1.weight"], w["conv1.bias"], stride=4)
    x = F.max_pool2d(normed(x) if norm_first else normed(x.relu()), 3, 2).relu()
    x = normed(conv("conv2", x, 2).relu())
    if preset == "museum145":
        x = x / (1 + 0.001 * F.avg_pool2d(x * x, 5, 1, 2)) ** 0.75
    x = conv("conv4", conv("conv3", F.max_pool2d(x, 3, 2), 1).relu(), 1).relu()
    x = F.max_pool2d(conv("conv5", x, 1).relu(), 3, 2).flatten(1)
    test_scale = 1.0 if preset == "caffe" else 0.5
    for name in ("fc6", "fc7"):
        x = F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]).relu() * test_scale
    return F.linear(x, w["fc8.weight"], w["fc8.bias"])


def test_the_network_has_the_parameters_of_2012() -> None:
    network = shapes_only()
    assert count_parameters(network) == 60_965_224
    sizes = {name: tensor.numel() for name, tensor in network.state_dict().items()}
    assert sizes == {f"{n}.{p}": LAYERS[n][p == "bias"] for n in LAYERS for p in ("weight", "bias")}


def test_every_layer_has_its_published_shape_units_and_multiplications() -> None:
    network = shapes_only()
    seen = seen_by_layers(network, torch.zeros(1, 3, 224, 224))
    assert {name: (tuple(i[0].shape), tuple(o[0].shape)) for name, (i, o) in seen.items()} == {
        name: facts[2:4] for name, facts in LAYERS.items()
    }
    macs = {name: o.numel() * network.get_parameter(f"{name}.weight")[0].numel() for name, (_, o) in seen.items()}
    assert macs == {name: facts[4] for name, facts in LAYERS.items()}
    assert sum(macs.values()) == 724_406_816
    assert sum(o.numel() for _, o in seen.values()) == 659_272


@pytest.mark.parametrize("name", RELATIVES)
def test_each_relative_has_its_published_parameters_and_multiplications(name: str) -> None:
    switches = (PRESETS.get(name) or VARIANTS[name])["network"]
    side = {"caffe": 227, "cifar": 32}.get(name, 224)
    network = shapes_only(**switches, side=side, num_classes=10 if name == "cifar" else 1000)
    seen = seen_by_layers(network, torch.zeros(1, 3, side, side))
    macs = sum(o.numel() * network.get_parameter(f"{layer}.weight")[0].numel() for layer, (_, o) in seen.items())
    assert (count_parameters(network), macs) == RELATIVES[name]


@pytest.mark.parametrize("num_classes", [2, 10, 21_843])
def test_the_output_has_one_unit_a_class(num_classes: int) -> None:
    network = shapes_only(num_classes=num_classes)
    assert count_parameters(network) == 60_965_224 + (num_classes - 1000) * 4097
    assert network(torch.zeros(2, 3, 224, 224)).shape == (2, num_classes)


def test_the_last_filters_hang_three_pixels_over_the_right_and_lower_edge() -> None:
    network = shapes_only()
    with torch.no_grad():
        network.get_parameter("conv1.weight").fill_(1)
        network.get_parameter("conv1.bias").zero_()
    (found,) = seen_by_layers(network, torch.ones(1, 3, 224, 224))["conv1"][1][:, 17]
    expected = torch.full((55, 55), 363.0)
    expected[-1], expected[:, -1], expected[-1, -1] = 264, 264, 192
    assert torch.equal(found, expected)


# A network of small pictures and few units has the same order of layers, and is quickly built.
SMALL: dict[str, Any] = {"side": 64, "hidden": (64, 32), "init": "he"}


@pytest.mark.parametrize("preset", NORMS)
def test_the_order_of_layers_follows_each_preset(preset: str) -> None:
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(2, 3, 64, 64, generator=generator) * 60
    network = preset_network(preset, **{**SMALL, "conv1_border": "after"})
    with torch.no_grad():
        for layer in ("conv1", "conv3", "fc8"):
            network.get_parameter(f"{layer}.bias").normal_(0, 5, generator=generator)
        found = network(images)
    expected = reference(preset, network.state_dict(), images)
    assert found.dtype == torch.float32
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * scale
    others = [reference(other, network.state_dict(), images) for other in NORMS if other != preset]
    assert all((found - other).abs().max() > 1e-2 * scale for other in others)


def test_torchvisions_preset_is_torchvisions_network() -> None:
    network, other = (
        preset_network("torchvision", **{**SMALL, "init": "torch", "side": 64}),
        torchvisions(256, (64, 32), 10).eval(),
    )
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        theirs.data.copy_(mine)
    pixels = torch.rand(2, 3, 64, 64) * 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = other((pixels / 255 - mean) / std)
    torch.testing.assert_close(network(pixels - 255 * mean), expected, rtol=1e-4, atol=1e-5)
    bounds = [p.abs().max() * (p[0].numel() if p.ndim > 1 else q) ** 0.5 for p, q in with_fan_in(network)]
    assert all(0.9 < bound <= 1 for bound in bounds)


def with_fan_in(network: Network) -> list[tuple[torch.Tensor, int]]:
    """Each parameter and how many inputs a unit of its layer has."""
    layers = [network.get_submodule(name) for name in network.layer_names]
    return [(p, layer.get_parameter("weight")[0].numel()) for layer in layers for p in layer.parameters()]


def test_columns_without_exchange_meet_in_the_last_layer_only() -> None:
    network = preset_network("museum145", **SMALL, exchange=False)
    images = torch.randn(1, 3, 64, 64)
    before = seen_by_layers(network, images)
    with torch.no_grad():
        network.get_parameter("conv1.weight")[:48] *= 1.5  # the first column alone
    after = seen_by_layers(network, images)
    for name in network.layer_names[:-1]:
        (one, other), (was_one, was_other) = (seen[name][1].chunk(2, 1) for seen in (after, before))
        assert torch.equal(other, was_other)
        assert not torch.equal(one, was_one)
    assert not torch.equal(after["fc8"][1], before["fc8"][1])


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_another_nonlinearity_takes_the_place_of_relu_everywhere(activation: str) -> None:
    network = preset_network("paper", **SMALL, activation=activation, lrn=False, dropout="none")
    images, act = torch.randn(2, 3, 64, 64), getattr(torch, activation)
    seen = seen_by_layers(network, images)
    for name, before in (("conv4", "conv3"), ("conv5", "conv4"), ("fc7", "fc6"), ("fc8", "fc7")):
        torch.testing.assert_close(seen[name][0], act(seen[before][1]))
    torch.testing.assert_close(seen["conv2"][0], F.max_pool2d(act(seen["conv1"][1]), 3, 2, ceil_mode=True))
    torch.testing.assert_close(network.features(images), act(seen["fc7"][1]))


def test_the_sixth_convolution_begins_as_in_the_released_files() -> None:
    conv6 = preset_network("cnn_star", side=64, num_classes=4).get_submodule("conv6")
    assert conv6.get_parameter("weight").std().item() == pytest.approx(0.03, rel=0.01)
    assert torch.equal(conv6.get_parameter("bias"), torch.ones(256))


def test_the_sixth_convolution_reads_the_last_pool() -> None:
    network = preset_network("cnn_star", **SMALL)
    seen = seen_by_layers(network, torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(seen["conv6"][0], F.max_pool2d(seen["conv5"][1].relu(), 3, 2, ceil_mode=True))
    torch.testing.assert_close(seen["fc6"][0], seen["conv6"][1].relu().flatten(1))


def test_pictures_too_small_for_the_network_are_refused() -> None:
    assert blank(NetworkSettings(side=60)).get_parameter("fc6.weight").shape == (4096, 256)
    with pytest.raises(RefusedError, match="pictures of 12 pixels are too small"):
        blank(NetworkSettings(side=12))


@pytest.mark.parametrize("preset", INITIAL)
def test_initial_weights_have_the_deviations_and_biases_of_the_preset(preset: str) -> None:
    network = preset_network(preset, hidden=(400, 300))
    for name, deviation, bias in zip(LAYERS, *INITIAL[preset], strict=True):
        weights = network.get_parameter(f"{name}.weight").detach().flatten()[:400_000].double() / deviation
        assert abs(weights.std() - 1) < 5 / len(weights) ** 0.5
        assert abs(weights.mean()) < 5 / len(weights) ** 0.5
        assert network.get_parameter(f"{name}.bias").unique().tolist() == pytest.approx([bias])


@pytest.mark.parametrize(("hidden", "last"), [((), 0.01), ((64,), 0.1)], ids=["19pct", "80sec"])
def test_the_small_network_is_drawn_as_the_released_file_with_as_many_layers(hidden: Any, last: float) -> None:
    network = preset_network("cifar", hidden=hidden)
    wanted = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, **dict.fromkeys(network.layer_names[3:], last)}
    for name, deviation in wanted.items():
        weights = network.get_parameter(f"{name}.weight").detach().double()
        assert abs(weights.std() / deviation - 1) < 5 / weights.numel() ** 0.5


def test_he_weights_carry_the_variance_through_relu() -> None:
    network = preset_network("demo", hidden=(400, 300))
    # Inputs that each unit reads: colours x kernel, or half of the channels x kernel in the layers of two groups.
    fan_ins = (3 * 121, 48 * 25, 256 * 9, 192 * 9, 192 * 9, 9216, 400, 300)
    for name, fan_in in zip(LAYERS, fan_ins, strict=True):
        weights = network.get_parameter(f"{name}.weight").detach().flatten()[:400_000].double()
        assert abs(weights.std() * (fan_in / 2) ** 0.5 - 1) < 5 / len(weights) ** 0.5


def test_the_seed_alone_determines_the_initial_weights() -> None:
    small = {name: SMALL[name] for name in ("side", "hidden")}
    first = preset_network("museum145", 3, **small).state_dict()
    torch.manual_seed(1)
    again, other = (preset_network("museum145", seed, **small).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[f"{name}.weight"], other[f"{name}.weight"]) for name in LAYERS)
