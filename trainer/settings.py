"""What a person may choose about training and evaluation, defined once.

A preset is a row of switches (`presets.py`); the settings here name the preset and override single switches.
`Recipe` is the result: everything that determines the numbers of a run, as the checkpoint records it.
"""

from typing import Annotated, Literal

from pydantic import Field

from augment.settings import LoaderSettings
from ingest.settings import Content, Execution, Settings

PresetName = Literal["museum145", "paper", "caffe", "demo"]


class TrainSettings(Settings):
    """A training run. What is left out comes from the preset."""

    preset: Annotated[PresetName, Content] = "museum145"
    """Row of switches: museum145 (the released 2012 network), paper (the text), caffe, demo (learns in minutes)."""

    epochs: Annotated[int | None, Content, Field(ge=1, le=100_000)] = None
    """Epochs to train; the preset's own length unless told."""

    global_batch: Annotated[int | None, Content, Field(ge=1, le=1_000_000)] = None
    """Samples in a batch, over all workers together."""

    learning_rate: Annotated[float | None, Content, Field(gt=0, le=100)] = None
    """First learning rate of the weights; the preset's schedule divides it later."""

    precision: Annotated[Literal["fp32", "bf16"] | None, Content] = None
    """fp32, or bf16 for convolutions and matrix products (weights, sums, LRN and loss stay in fp32)."""

    seed: Annotated[int, Content, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of initial weights, order, crops, flips, colour and dropout."""

    num_workers: Annotated[int, Execution, Field(ge=0, le=10_000)] = 1
    """Workers of Ray Train; 0 trains in this process, without Ray."""

    device: Annotated[Literal["auto", "cpu", "gpu"], Execution] = "auto"
    """Where the network runs; auto takes a GPU if there is one."""

    micro_batch: Annotated[int | None, Execution, Field(ge=1, le=1_000_000)] = None
    """Samples a worker takes through the network at once; its whole share of the batch unless told."""

    cpus_per_worker: Annotated[int | None, Execution, Field(ge=1, le=1024)] = None
    """CPUs of each worker: threads for decoding and, without a GPU, for the network."""

    checkpoint_minutes: Annotated[float, Execution, Field(gt=0, le=1e6)] = 10.0
    """Minutes between checkpoints inside an epoch; one is written after every epoch anyway."""

    keep_checkpoints: Annotated[int, Execution, Field(ge=1, le=10_000)] = 2
    """Newest checkpoints that are kept."""


class EvaluateSettings(Settings):
    """An evaluation of a trained network."""

    views: Annotated[Literal[1, 10], Content] = 1
    """Views of each picture: the centre, or corners and centre with their reflections, averaged (the paper's ten)."""

    split: Annotated[Literal["train", "val", "test"], Content] = "val"
    """Split of the dataset that is evaluated."""

    batch: Annotated[int, Execution, Field(ge=1, le=100_000)] = 64
    """Pictures taken through the network at once."""

    device: Annotated[Literal["auto", "cpu", "gpu"], Execution] = "auto"
    """Where the network runs; auto takes a GPU if there is one."""


class NetworkSettings(Settings):
    """The network: the numbered switches of the AlexNet family that shape the function."""

    num_classes: Annotated[int, Content, Field(ge=2, le=1_000_000)] = 1000
    """Units of the last layer: one for each class of the dataset."""

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
    """Outputs of fc6 and fc7: masked and halved at test (2012), masked and doubled in training (Caffe), kept."""

    init: Annotated[Literal["museum", "paper", "caffe", "he"], Content] = "museum"
    """Initial weights: standard deviations of the released files, of the paper, of Caffe, or He's."""

    bias_one: Annotated[float, Content] = 1.0
    """Initial biases of conv2, conv4, conv5, fc6 and fc7."""


class RuleSettings(Settings):
    """The update rule v <- m v - d e w - e g; w <- w + v, and the schedule of the rate e."""

    learning_rate: Annotated[float, Content, Field(gt=0)] = 0.01
    """First rate of the weights."""

    bias_rate_factor: Annotated[float, Content, Field(ge=0)] = 2.0
    """First rate of the biases, in units of the weights' rate."""

    lower_biases: Annotated[bool, Content] = True
    """Divide the biases' rate together with the weights' (not so in the 2012 run)."""

    momentum: Annotated[float, Content, Field(ge=0, lt=1)] = 0.9
    """Share of the velocity that is kept; the velocity holds the rate."""

    decay: Annotated[float, Content, Field(ge=0)] = 5e-4
    """Weight decay; biases are not decayed unless `decay_biases`."""

    decay_biases: Annotated[bool, Content] = False
    """Decay the biases as well."""

    schedule: Annotated[Literal["plateau", "epochs", "constant"], Content] = "epochs"
    """When the rate is divided: as validation error stalls (paper), at given epochs, or never."""

    divide_at: Annotated[tuple[int, ...], Content] = ()
    """Epochs (from 0) at which the rate is divided, for schedule `epochs`."""

    divide_by: Annotated[float, Content, Field(gt=1)] = 10.0
    """What the rate is divided by."""

    divisions: Annotated[int, Content, Field(ge=0, le=100)] = 3
    """Divisions made at most, for schedule `plateau`."""

    patience: Annotated[int, Content, Field(ge=1, le=1000)] = 4
    """Evaluations without a better validation error before a division, for schedule `plateau`."""


class Recipe(Settings):
    """Everything that determines the numbers of a run."""

    preset: Annotated[PresetName, Content]
    """The preset it came from."""

    epochs: Annotated[int, Content, Field(ge=1)]
    """Epochs to train."""

    precision: Annotated[Literal["fp32", "bf16"], Content]
    """Precision of convolutions and matrix products."""

    seed: Annotated[int, Content]
    """Seed of everything random."""

    network: Annotated[NetworkSettings, Content]
    """The network."""

    rule: Annotated[RuleSettings, Content]
    """The update rule and its schedule."""

    loader: Annotated[LoaderSettings, Content]
    """The batches."""
