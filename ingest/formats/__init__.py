"""File formats of shards. Each turns records into bytes and reports where every payload lies."""

from types import ModuleType

from ingest.formats import arrow, tfrecord
from ingest.formats.record import Record as Record
from ingest.formats.record import WrittenShard as WrittenShard

FORMATS: dict[str, ModuleType] = {"arrow": arrow, "tfrecord": tfrecord}
