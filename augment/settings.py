"""What a person may choose about batches: order, crops, flips, mean, colour; defined once."""

from typing import Annotated, Literal

from pydantic import Field

from ingest.settings import Content, Execution, Settings


class LoaderSettings(Settings):
    """Which samples form a batch and what happens to each of them."""

    seed: Annotated[int, Content, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of order, crops, flips and colour."""

    global_batch: Annotated[int, Content, Field(ge=1, le=1_000_000)] = 128
    """Samples in a batch, over all ranks together."""

    order: Annotated[Literal["permuted", "fixed"], Content] = "permuted"
    """Order of an epoch: permuted anew each epoch, or the dataset's own every time (as in 2012)."""

    tail: Annotated[Literal["drop", "short", "wrap"], Content] = "short"
    """The samples that do not fill the last batch: dropped, a short batch (2012), or filled up from the start."""

    window: Annotated[int, Content, Field(ge=0, le=1_000_000)] = 0
    """Shards within which the order permutes; 0 permutes over the whole epoch."""

    crop: Annotated[int, Content, Field(ge=1, le=1024)] = 224
    """Side of the crop in pixels."""

    crop_positions: Annotated[Literal["all", "paper"], Content] = "all"
    """Places of a training crop along a side: all (33 for crops of 224 in 256), or without the last one (the paper
    counts 32)."""

    crop_chunk: Annotated[int, Content, Field(ge=1, le=1_000_000)] = 1
    """Consecutive samples that share one crop position and flip (32 in the 2012 source)."""

    flip: Annotated[bool, Content] = True
    """Mirror half of the training pictures."""

    mean: Annotated[Literal["aligned", "centre", "channel", "published", "none"], Content] = "aligned"
    """Mean subtracted: the mean image under the crop, its centre under every crop (2012), one value a channel, the
    three values that torchvision publishes for ImageNet."""

    colour: Annotated[Literal["none", "museum", "paper"], Content] = "museum"
    """Lighting noise: 0.1 x standard deviation of the PCA (2012 source), 0.1 x eigenvalue on [0, 1] (paper)."""

    colour_until_epoch: Annotated[int | None, Content, Field(ge=0)] = None
    """First epoch without lighting noise, and divided by `divide_test` (in 2012 the division went with the noise); None
    keeps both to the end."""

    divide: Annotated[float, Content, Field(gt=0, le=1000)] = 1.0
    """Training inputs are divided by this after the noise (1.1 in the 2012 source)."""

    divide_test: Annotated[float, Content, Field(gt=0, le=1000)] = 1.0
    """Evaluation inputs are divided by this (1 in the 2012 source)."""

    border: Annotated[int, Content, Field(ge=0, le=64)] = 0
    """Zeros to the right of and below each crop, after the mean: 3 make 227 of 224, the border of 2012."""

    output: Annotated[Literal["float32", "bfloat16", "uint8"], Content] = "float32"
    """Type of the delivered pictures; uint8 delivers the bare crops, without mean and noise."""

    finish: Annotated[Literal["auto", "dali", "torch"], Execution] = "auto"
    """Who crops, flips and subtracts: one DALI graph (auto on a GPU), or threads of ours (auto on a CPU: quicker there)."""

    damaged: Annotated[Literal["stop", "replace"], Execution] = "stop"
    """A sample whose bytes changed: stop the run, or take the next intact one of the split, and count it."""

    cache: Annotated[str, Execution] = "~/.cache/tench"
    """Local folder for the shards of a dataset in an object store, shared by all loaders of a machine."""

    cache_gb: Annotated[float, Execution, Field(gt=0, le=1_000_000)] = 100.0
    """What the cache may hold, in gigabytes (10^9 bytes)."""

    threads: Annotated[int | None, Execution, Field(ge=1, le=1024)] = None
    """Decoding threads; one for each core of the worker unless told."""

    prefetch: Annotated[int, Execution, Field(ge=1, le=16)] = 2
    """Batches prepared ahead."""
