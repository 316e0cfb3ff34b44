"""Sources of pictures: `detect` finds the layout, `Entry` is what each yields, its `read` gives the bytes."""

from ingest.sources.detect import detect as detect
from ingest.sources.entry import Entry as Entry
from ingest.sources.source import ReadEntries as ReadEntries
from ingest.sources.source import Source as Source
