"""What the service answers of datasets, as types."""

from typing import Any

from cluster.api.views import View


class SplitCount(View):
    """A split in short."""

    num_samples: int
    """Samples in its shards."""


class _Dataset(View):
    """What both views of a dataset have."""

    dataset_id: str
    """SHA-256 over all that determines its bytes."""

    content_id: str
    """The same for any split into shards, and for either format."""

    name: str
    """Its folder's name."""

    uri: str
    """Where it lies."""

    num_samples: int
    """Samples of all splits."""

    num_classes: int
    """Its classes."""

    num_quarantined: int
    """Pictures that are in no shard."""

    bytes: int
    """Bytes of its shards."""

    settings: dict[str, Any]
    """Format, payload and side of what is stored; of the dataset itself, all that shaped its bytes."""

    created_at: float
    """When it was sealed, in Unix seconds."""


class DatasetView(_Dataset):
    """A sealed dataset, in short."""

    splits: dict[str, SplitCount]
    """Its splits by name."""


class DatasetsView(View):
    """The datasets under the service's roots."""

    datasets: list[DatasetView]
    """By name."""

    unfinished: list[str]
    """Roots that hold so many folders that not all of them were looked into, or that do not answer; usually none."""


class ClassView(View):
    """A class of a dataset; labels are positions in the list."""

    wnid: str
    """Its WordNet id, as in n01440764."""

    words: str
    """Its names."""


class SplitView(SplitCount):
    """A split."""

    num_quarantined: int | None = None
    """Pictures of it that are in no shard."""

    num_shards: int | None = None
    """Its shards."""

    bytes: int | None = None
    """Their bytes."""

    class_counts: list[int] | None = None
    """Samples by label."""


class QuarantinedKeyView(View):
    """A picture that is in no shard."""

    split: str
    """The split that it was meant for."""

    row: int
    """Its row in the plan of that split."""

    key: str
    """Its key."""

    code: str
    """Why, in a word."""


class DatasetDetailView(_Dataset):
    """Everything that is known of a dataset. Of a damaged one there is `damage`, and what its manifest states in short."""

    damage: str | None
    """What is wrong with its files; null if they are as they were sealed."""

    splits: dict[str, SplitView]
    """Its splits by name."""

    dataset: str | None = None
    """Where it lies."""

    parent: str | None = None
    """Id of the dataset that it was made of, if it was made of one."""

    layout: str | None = None
    """Layout of its source, as it was recognised."""

    classes: list[ClassView] | None = None
    """Its classes by label."""

    quarantine: list[QuarantinedKeyView] | None = None
    """The first hundred pictures that are in no shard."""

    statistics: dict[str, list[Any]] | None = None
    """Mean colour and principal components of the training split's pixels."""

    imaging: dict[str, Any] | None = None
    """How pictures are decoded and scaled."""

    versions: dict[str, str] | None = None
    """Versions of the libraries that did it."""

    pixel_fingerprint: str | None = None
    """SHA-256 of what these libraries make of a known picture."""


class QuarantinedPictureView(QuarantinedKeyView):
    """A picture that is in no shard, with what can be told of it."""

    message: str
    """Why, in words."""

    size: int
    """Bytes of its file."""

    picture: bool
    """Whether something of it can be shown: `.../quarantine/{split}/{row}.png`."""


class QuarantineView(View):
    """Pictures of a dataset that are in no shard."""

    pictures: list[QuarantinedPictureView]
    """From the first that was asked for on."""

    total: int
    """How many there are altogether."""
