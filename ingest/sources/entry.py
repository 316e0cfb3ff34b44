"""What every layout yields: one `Entry` a picture."""

from typing import NamedTuple

SPLITS = ("train", "val", "test")


class Entry(NamedTuple):
    """One picture of a source. (A tuple: there may be 14 million of them.)

    `key` is `<wnid>/<file stem>` (`<stem>` without label), so that archives and folders of the same pictures
    give the same keys. Its bytes are [offset, offset + length) of the file `archive`, relative to the source; a
    layout with a reader of its own may count otherwise (Parquet: row `offset`, `length` not stated and 0).
    """

    key: str
    wnid: str
    archive: str
    offset: int
    length: int


def stem(name: str) -> str:
    """File name without folders and without its last extension."""
    last = name.rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] if "." in last else last
