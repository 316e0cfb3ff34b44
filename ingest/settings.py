"""What a person may choose about a conversion, defined once; also the rules for every settings model of Tench.

From these models come the flags of the command line, the HTTP bodies and their documentation, the dashboard's
forms, `plan.json` and the manifest. A field is marked `Content` when it determines bytes or numbers, or
`Execution` when it does not (numbers of workers, paths, budgets): only content enters ids, and a rerun or a
resume may change execution settings only.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Content = Field(json_schema_extra={"role": "content"})
Execution = Field(json_schema_extra={"role": "execution"})
Uri = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f]+$")]
"""A folder, a file or an address (s3://...)."""


class Settings(BaseModel):
    """Frozen, unknown keys refused, help taken from the attribute docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )

    def content(self) -> dict[str, Any]:
        """The settings that determine bytes or numbers, as JSON-able values."""
        return self._with_role("content")

    def execution(self) -> dict[str, Any]:
        """The settings that do not."""
        return self._with_role("execution")

    def _with_role(self, role: str) -> dict[str, Any]:
        values = self.model_dump(mode="json")
        return {name: values[name] for name, field in type(self).model_fields.items() if _role(field) == role}


def _role(field: Any) -> str:
    extra = field.json_schema_extra
    if not isinstance(extra, dict) or extra.get("role") not in ("content", "execution"):
        raise AssertionError(f"setting is marked neither Content nor Execution: {field!r}")
    return str(extra["role"])


Share = Annotated[str, StringConstraints(pattern=r"^(\d+|\d+(\.\d+)?%)$")]


class IngestSettings(Settings):
    """How raw pictures become shards."""

    format: Annotated[Literal["arrow", "tfrecord"], Content] = "arrow"
    """File format of the shards. Both hold the same samples and have the same content id."""

    payload: Annotated[Literal["jpeg", "raw"], Content] = "jpeg"
    """What is stored of each picture: jpeg (small) or raw RGB bytes (exact, nine times larger)."""

    side: Annotated[int | None, Content, Field(ge=8, le=1024)] = None
    """Side of the stored square in pixels: the shorter side is scaled to it, then the centre is cut out. 256 unless
    the pictures have a size of their own (CIFAR-10: 32)."""

    quality: Annotated[int, Content, Field(ge=1, le=100)] = 90
    """JPEG quality of the stored pictures (jpeg payload only)."""

    subsampling: Annotated[Literal["4:2:0", "4:4:4"], Content] = "4:2:0"
    """JPEG chroma subsampling of the stored pictures (jpeg payload only)."""

    filter: Annotated[Literal["bilinear", "bicubic", "lanczos"], Content] = "bicubic"
    """Filter that rescales pictures; all of them average over the area when shrinking."""

    orientation: Annotated[Literal["ignore", "obey"], Content] = "ignore"
    """What becomes of EXIF orientation: ignored, as in 2012, or obeyed (some pictures are then turned)."""

    draft: Annotated[bool, Content] = False
    """Let the JPEG decoder shrink by 2, 4 or 8 while it decodes: faster for pictures of at least twice the side (one
    in twenty of ILSVRC), with other pixels there (1.8 of 255 on average)."""

    samples_per_shard: Annotated[int, Content, Field(ge=1, le=1_000_000)] = 1024
    """Samples in a shard; the last shard of a split holds the rest."""

    seed: Annotated[int, Content, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of the order that mixes classes over shards."""

    order: Annotated[Literal["shuffled", "source"] | None, Content] = None
    """Order of the samples: shuffled by seed and key, or as the source stores them (for disks that seek slowly).
    Shuffled unless told, but as stored where only whole groups of pictures can be read (Parquet)."""

    label_order: Annotated[Literal["wnid", "ilsvrc"], Content] = "wnid"
    """Which class is label 0: sorted by wnid, or by ILSVRC_ID as in the devkit (needs a source that states it)."""

    num_actors: Annotated[int | None, Execution, Field(ge=1, le=100_000)] = None
    """Actors that convert shards side by side; one for each core unless told."""

    max_bad: Annotated[Share, Execution] = "0.1%"
    """Pictures that may be put into quarantine before the run stops: a count (25) or a share (0.1%)."""

    picture_timeout_s: Annotated[int, Execution, Field(ge=1, le=3600)] = 60
    """Seconds of CPU after which a picture that keeps its decoder busy is given up and put into quarantine."""


class PlannedSettings(IngestSettings):
    """Settings with nothing left open: what a plan records and an actor works by."""

    side: Annotated[int, Content, Field(ge=8, le=1024)] = 256
    """Side of the stored square in pixels."""

    order: Annotated[Literal["shuffled", "source"], Content] = "shuffled"
    """Order of the samples."""

    payload: Annotated[Literal["jpeg", "raw", "centered"], Content] = "jpeg"  # type: ignore[assignment]
    """What is stored of each picture. `centered` (int16, 128 x (pixel - mean)) is made of `raw`, by `recentre`."""


class VerifySettings(Settings):
    """How closely a dataset is looked at."""

    deep: Annotated[bool, Execution] = False
    """Also add up every stored raw picture again and compare the pixel sums."""

    source: Annotated[Uri | None, Execution] = None
    """Compare keys and labels with this source as well."""


class RepairSettings(Settings):
    """How a damaged dataset is made whole."""

    num_actors: Annotated[int | None, Execution, Field(ge=1, le=100_000)] = None
    """Actors that convert shards side by side; one for each core unless told."""


class RecentreSettings(Settings):
    """How a raw dataset becomes a centred one."""

    num_actors: Annotated[int | None, Execution, Field(ge=1, le=100_000)] = None
    """Actors that convert shards side by side; one for each core unless told."""


class SampleSettings(Settings):
    """A small source in the shape of ImageNet."""

    num_train: Annotated[int, Content, Field(ge=1, le=1000)] = 40
    """Training pictures of each of the ten classes."""

    num_val: Annotated[int, Content, Field(ge=1, le=1000)] = 24
    """Validation pictures of each class."""

    seed: Annotated[int, Content, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of the pictures."""
