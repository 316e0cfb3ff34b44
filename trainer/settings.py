"""What a person may choose about training and evaluation, defined once.

A preset is a row of switches (`presets.py`); the settings here name the preset and override single switches
(`switches.py`).
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from ingest.settings import Content, Execution, Settings, Uri
from trainer.switches import Precision, PresetName, switch

VariantName = Literal[
    "one_column", "no_norm", "no_overlap", "tanh", "sigmoid", "no_colour", "no_dropout", "no_conv3", "no_conv4",
    "no_conv5", "no_exchange", "sixth",
]  # fmt: skip
Ties = Literal["fractional", "better", "order"]


def _checked(text: str) -> str:
    switch(text)
    return text


def _as_number(value: object) -> object:
    """A number that comes as text, as from the command line: a choice of numbers takes no text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Views = Annotated[Literal[1, 10], BeforeValidator(_as_number)]
SwitchText = Annotated[str, AfterValidator(_checked)]


class TrainSettings(Settings):
    """A training run. What is left out comes from the preset."""

    preset: Annotated[PresetName, Content] = "museum145"
    """Row of switches: museum145 (the released 2012 network), paper (the text), convnet2 (one weird trick), caffe,
    torchvision, cnn_star (fine-tuning of the paper's CNN*), fast (large batches), cifar (figure 1), demo (minutes)."""

    variant: Annotated[tuple[VariantName, ...], Content] = ()
    """Ablations of the preset; several go together."""

    switch: Annotated[tuple[SwitchText, ...], Content] = ()
    """Single switches over all that, as in network.lrn_k=1, rule.patience=6 or loader.colour=none; a dry run shows
    every one."""

    epochs: Annotated[int | None, Content, Field(ge=1, le=100_000)] = None
    """Epochs to train; the preset's own length unless told."""

    global_batch: Annotated[int | None, Content, Field(ge=1, le=1_000_000)] = None
    """Samples in a batch, over all workers together."""

    learning_rate: Annotated[float | None, Content, Field(gt=0, le=100)] = None
    """First learning rate of the weights; the preset's schedule divides it later."""

    precision: Annotated[Precision | None, Content] = None
    """fp32; tf32 (GPU only: products rounded to 10 bits); bf16 for convolutions and matrix products (weights, velocity,
    sums, LRN and loss stay in fp32)."""

    seed: Annotated[int, Content, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of initial weights, order, crops, flips, colour and dropout."""

    initial: Annotated[Uri | None, Execution] = None
    """Run whose newest checkpoint the weights are taken from at the start: its folder, or run:ID for the one of this name
    beside this run (a job of the service); layers that do not fit are drawn."""

    initial_layers: Annotated[str | None, Content, Field(pattern=r"^[a-z0-9]+(,[a-z0-9]+)*$")] = None
    """Layers to take of that run, with commas between: conv1,conv2; all that fit unless told."""

    num_workers: Annotated[int, Execution, Field(ge=0, le=10_000)] = 1
    """Workers of Ray Train; 0 trains in this process, without Ray."""

    min_workers: Annotated[int | None, Execution, Field(ge=1, le=10_000)] = None
    """Elastic: begin, and go on, with as few workers as this when no more can be had; all of them unless told."""

    resize_minutes: Annotated[float, Execution, Field(gt=0, le=1e6)] = 5.0
    """Elastic: minutes between looks whether more workers can be had; each change costs a restart from the newest
    checkpoint, so that these are written a little more often than that."""

    split_columns: Annotated[bool, Execution] = False
    """Put the two columns of the network on two workers, as the paper has them on two GPUs; pairs share out the batch."""

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

    stuck_after: Annotated[int, Execution, Field(ge=0, le=1_000_000_000)] = 5000
    """Steps after which a run that is no better than a guess (loss at ln of the number of classes) stops; 0: never."""

    tensorboard: Annotated[bool, Execution] = True
    """Write the figures for TensorBoard as well, to RUN/tensorboard/."""

    profile: Annotated[bool, Execution] = False
    """Write one trace of a few steps to RUN/profile/trace.json.gz (chrome://tracing, ui.perfetto.dev)."""

    @property
    def save_minutes(self) -> float:
        """Minutes between checkpoints inside an epoch: before a look whether to restart with more workers, if elastic."""
        return min(self.checkpoint_minutes, 0.8 * self.resize_minutes) if self.min_workers else self.checkpoint_minutes

    @field_validator("min_workers")
    @classmethod
    def _not_above_the_most(cls, least: int | None, others: ValidationInfo) -> int | None:
        most = others.data.get("num_workers")
        if least is not None and most is not None and least > most:
            raise ValueError(f"{least} is more than the {most} of num_workers")
        return least


class EvaluateSettings(Settings):
    """An evaluation of a trained network."""

    views: Annotated[Views, Content] = 1
    """Views of each picture: the centre, or corners and centre with their reflections, averaged (the paper's ten)."""

    split: Annotated[Literal["train", "val", "test"], Content] = "val"
    """Split of the dataset that is evaluated."""

    ties: Annotated[Ties, Content] = "fractional"
    """Classes with equal scores: share the credit (2012 source), count as better than the label (Caffe), or rank by
    label, the lower first (order: as a sort, torchvision)."""

    batch: Annotated[int, Execution, Field(ge=1, le=100_000)] = 64
    """Pictures taken through the network at once."""

    device: Annotated[Literal["auto", "cpu", "gpu"], Execution] = "auto"
    """Where the network runs; auto takes a GPU if there is one."""


class PredictSettings(Settings):
    """Naming what is on pictures of any origin."""

    views: Annotated[Views, Content] = 1
    """Views of each picture: the centre, or corners and centre with their reflections, averaged (the paper's ten)."""

    device: Annotated[Literal["auto", "cpu", "gpu"], Execution] = "auto"
    """Where the network runs; auto takes a GPU if there is one."""


def takes_gpus(device: str, fewest: int, gpus: int) -> bool:
    """Whether each worker gets a GPU of its own: as it was told, or, left to Tench (`auto`), because the cluster has one
    for each of the fewest workers that will do."""
    return device == "gpu" or (device == "auto" and gpus >= fewest > 0)
