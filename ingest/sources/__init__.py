"""Sources of pictures: `detect` finds the layout, `Entry` is what each yields, `read_entries` gives the bytes."""

from ingest.sources.detect import detect as detect
from ingest.sources.entry import Entry as Entry
from ingest.sources.entry import Source as Source
from ingest.sources.read import read_entries as read_entries
