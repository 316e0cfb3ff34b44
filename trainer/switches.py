"""Every point at which networks of the AlexNet family differ, as a named switch; presets are rows of them.

`Recipe` is all of them together: everything that determines the numbers of a run, as the checkpoint records it.
"""

import difflib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from augment.settings import LoaderSettings
from ingest.settings import Content, Settings

PresetName = Literal["museum145", "paper", "convnet2", "caffe", "torchvision", "cnn_star", "fast", "cifar", "demo"]
Precision = Literal["fp32", "tf32", "bf16"]
LayerName = Annotated[str, Field(pattern=r"^(conv|fc)[1-9]$")]
FromEpoch = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0, le=100)]]
Width = Annotated[int, Field(ge=1, le=1_000_000)]


class NetworkSettings(Settings):
    """The network: the switches that shape the function from pictures to logits."""

    architecture: Annotated[Literal["alexnet", "cifar"], Content] = "alexnet"
    """alexnet: five convolutions, three fully connected layers; cifar: the small network for 32-pixel pictures."""

    side: Annotated[int, Content, Field(ge=8, le=1024)] = 224
    """Side of the pictures that it is built for: the loader's crop."""

    num_classes: Annotated[int, Content, Field(ge=2, le=1_000_000)] = 1000
    """Units of the last layer: one for each class of the dataset."""

    widths: Annotated[tuple[Width, ...], Content] = (96, 256, 384, 384, 256)
    """Filters of the convolutions, conv1 first: five (alexnet) or three (cifar)."""

    columns: Annotated[Literal[1, 2], Content] = 2
    """Columns of the network (one a GPU in 2012): conv2, conv4 and conv5 read their own column only."""

    exchange: Annotated[bool, Content] = True
    """conv3 and the fully connected layers read both columns; without it only the last layer does."""

    hidden: Annotated[tuple[Width, ...], Content] = (4096, 4096)
    """Units of the fully connected layers before the last."""

    sixth: Annotated[bool, Content] = False
    """A sixth convolution (256 filters of 3 x 3 over both columns) after the last pool, as in the paper's CNN*."""

    without: Annotated[Literal["none", "conv3", "conv4", "conv5"], Content] = "none"
    """A middle layer that is left out (the paper's section 7)."""

    conv1_border: Annotated[Literal["after", "around", "none"], Content] = "after"
    """Zeros beside the picture: 3 on the right and below (2012), 2 all around (torchvision), none (crops of 227)."""

    pool: Annotated[Literal[2, 3], Content] = 3
    """Side of the pools, which step by 2: 3 overlap; 2 do not, with a border of 1 at conv2 and of 0 at conv5 (#147)."""

    pool_rounding: Annotated[Literal["ceil", "floor"], Content] = "ceil"
    """Whether a last pool that hangs over the edge counts."""

    pool_ties: Annotated[Literal["all", "first"], Content] = "all"
    """Who gets the gradient of a pool with several equal maxima: each of them in full (2012), or the first."""

    activation: Annotated[Literal["relu", "tanh", "sigmoid"], Content] = "relu"
    """Nonlinearity of all layers but the last."""

    norm_first: Annotated[bool, Content] = True
    """Layer 1 as convolution, LRN, pool, ReLU (museum); otherwise convolution, ReLU, LRN, pool (paper)."""

    spatial_norm: Annotated[bool, Content] = True
    """A second, spatial response normalisation after the LRN of layer 2 (museum)."""

    lrn: Annotated[bool, Content] = True
    """Local response normalisation across channels in layers 1 and 2."""

    lrn_k: Annotated[float, Content, Field(gt=0)] = 2.0
    """Constant inside the LRN denominator."""

    lrn_factor: Annotated[float, Content, Field(ge=0)] = 2e-5
    """Factor on the sum of squares (1e-4 in the paper, 1e-4 / 5 in the released code)."""

    lrn_span: Annotated[Literal["half", "layer"], Content] = "half"
    """Channels that are normalised together: each column's own, or the whole layer."""

    dropout: Annotated[Literal["mask", "scaled", "none"], Content] = "mask"
    """Half of the units are dropped: masked and halved at test (2012), masked and doubled in training, or none."""

    dropout_place: Annotated[Literal["outputs", "inputs"], Content] = "outputs"
    """Where: at the outputs of fc6 and fc7 (2012), or at their inputs (torchvision)."""

    init: Annotated[Literal["museum", "paper", "caffe", "he", "torch"], Content] = "museum"
    """Initial weights: deviations of the released files, the paper or Caffe; He's; or torch's uniform ones."""

    bias_one: Annotated[float, Content] = 1.0
    """Initial biases of conv2, conv4, conv5, conv6, fc6 and fc7."""

    bias_last: Annotated[float, Content] = 0.0
    """Initial biases of the last layer (-7 in cuda-convnet2)."""

    input_scale: Annotated[tuple[float, float, float] | None, Content] = None
    """What the network divides red, green and blue by, in pixel units; None leaves them as they are."""


class RuleSettings(Settings):
    """The update rule v <- m v - d e w - e g; w <- w + v, and the schedule of the rate e."""

    learning_rate: Annotated[float, Content, Field(gt=0)] = 0.01
    """First rate of the weights."""

    bias_rate_factor: Annotated[float, Content, Field(ge=0)] = 2.0
    """First rate of the biases, in units of the weights' rate."""

    lower_biases: Annotated[bool, Content] = True
    """Lower the biases' rate together with the weights' (not so in the 2012 run)."""

    momentum: Annotated[float, Content, Field(ge=0, lt=1)] = 0.9
    """Share of the velocity that is kept."""

    velocity: Annotated[Literal["with_rate", "without_rate"], Content] = "with_rate"
    """Whether the velocity holds the rate (2012), so that old velocity keeps its scale after a change (torch: not)."""

    decay: Annotated[float, Content, Field(ge=0)] = 5e-4
    """Weight decay; biases are not decayed unless `decay_biases`."""

    decay_biases: Annotated[bool, Content] = False
    """Decay the biases as well."""

    trust: Annotated[float, Content, Field(ge=0, le=1)] = 0.0
    """LARS: a weight's rate is multiplied by trust x |w| / (|g| + decay |w|), layer by layer; 0 leaves it out."""

    schedule: Annotated[Literal["plateau", "epochs", "dexp", "cosine", "constant"], Content] = "epochs"
    """How the rate falls: as validation error stalls (paper), at given epochs, by equal factors at equal shares of the
    run (cuda-convnet2), along half a cosine to zero, or not at all."""

    warmup_epochs: Annotated[float, Content, Field(ge=0, le=1000)] = 0.0
    """Epochs in which the rate rises linearly from nothing to where the schedule has it (for large batches)."""

    divide_at: Annotated[tuple[int, ...], Content] = ()
    """Epochs at which the rate is divided, for schedule `epochs`, counted from 0: at 25, once 25 epochs are done."""

    divide_by: Annotated[float, Content, Field(gt=1)] = 10.0
    """What the rate is divided by, for schedules `epochs` and `plateau`."""

    divisions: Annotated[int, Content, Field(ge=0, le=100)] = 3
    """Divisions made at most, for schedule `plateau`."""

    patience: Annotated[int, Content, Field(ge=1, le=1000)] = 4
    """Evaluations without a better validation error before a division, for schedule `plateau`."""

    threshold: Annotated[float, Content, Field(ge=0, lt=1)] = 0.0
    """By how much an error (0 to 1) has to fall to be better, for schedule `plateau`."""

    dexp: Annotated[tuple[Annotated[float, Field(ge=1)], Annotated[int, Field(ge=2)]], Content] = (250.0, 4)
    """Factor between the first and the last rate of the weights, and number of levels, for schedule `dexp`."""

    dexp_biases: Annotated[tuple[Annotated[float, Field(ge=1)], Annotated[int, Field(ge=2)]], Content] = (10.0, 2)
    """The same for the biases."""

    layer_rates: Annotated[dict[LayerName, tuple[FromEpoch, ...]], Content] = {}  # noqa: RUF012 - pydantic copies it
    """Rates of single layers: {layer: [[epoch, rate], ...]}. From that epoch on (it may be a fraction) the layer's
    weights have that rate; 0 freezes the layer. Epochs are counted as those of `divide_at`."""


class InitialWeights(Settings):
    """Weights that a run began with in place of drawn ones (trainer/transfer.py)."""

    weights_sha256: Annotated[str, Content, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the file that they were taken from."""

    layers: Annotated[tuple[LayerName, ...], Content]
    """The layers that were taken; the others were drawn."""


class Recipe(Settings):
    """Everything that determines the numbers of a run."""

    preset: Annotated[PresetName, Content]
    """The preset it came from."""

    epochs: Annotated[int, Content, Field(ge=1)]
    """Epochs to train."""

    precision: Annotated[Precision, Content]
    """Precision of convolutions and matrix products."""

    seed: Annotated[int, Content]
    """Seed of everything random."""

    network: Annotated[NetworkSettings, Content]
    """The network."""

    rule: Annotated[RuleSettings, Content]
    """The update rule and its schedule."""

    loader: Annotated[LoaderSettings, Content]
    """The batches."""

    initial: Annotated[InitialWeights | None, Content] = None
    """What of another run it began with; None where all layers were drawn."""


PARTS: dict[str, type[Settings]] = {"network": NetworkSettings, "rule": RuleSettings, "loader": LoaderSettings}
GIVEN = {"network": {"num_classes", "side"}, "rule": set(), "loader": {"seed"}}
"""What follows from the dataset, from the loader's crop, and from --seed."""


def switch(text: str) -> tuple[str, str, Any]:
    """ "network.lrn_k=1" -> ("network", "lrn_k", 1). Raises ValueError that says which switches there are."""
    path, equals, value = text.partition("=")
    part, _, name = path.partition(".")
    names = {f"{p}.{n}" for p in PARTS for n in switch_names(p)}
    if not equals or path not in names:
        near = [known for known in names if known.endswith(f".{path}")] or difflib.get_close_matches(path, names, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; switches begin with {', '.join(PARTS)}"
        raise ValueError(f"{text!r} is not a switch as in network.lrn_k=1{meant}")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    try:
        PARTS[part](**{name: parsed})
    except ValidationError as error:
        raise ValueError(f"{text!r}: {error.errors()[0]['msg'].lower()}") from None
    return part, name, parsed


def switch_names(part: str) -> list[str]:
    """Names of a part's switches: what determines numbers and is free to choose."""
    fields = PARTS[part].model_fields
    return [
        name for name, field in fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("role") == "content"
        and name not in GIVEN[part]
    ]  # fmt: skip
