"""Which layout a source has."""

from ingest.errors import RefusedError
from ingest.sources import ilsvrc2012
from ingest.sources.entry import SPLITS, Source
from ingest.sources.folders import Folders
from ingest.storage import Place

EXPECTED = (
    "expected the official archives (ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, "
    "ILSVRC2012_devkit_t12.tar.gz), or folders train/<wnid>/ and val/<wnid>/, or class folders <wnid>/"
)


def detect(uri: str) -> Source:
    """Open a source. Raises RefusedError saying what was found and what was expected."""
    place = Place(uri)
    if place.is_local and not place.local_path().is_dir():
        raise RefusedError(f"{place.uri}: no such folder; {EXPECTED}")
    files = [f.path for f in place.files()]
    folders = [f for f in place.folders() if not f.startswith(".")]
    archives = [f for f in files if f in (ilsvrc2012.TRAIN, ilsvrc2012.VAL, *ilsvrc2012.TESTS)]
    if archives and set(folders) & set(SPLITS):
        raise RefusedError(
            f"{place.uri}: found both archives ({archives[0]}) and class folders; point to one of them: "
            "move the folders or the archives to a folder of their own"
        )
    if archives:
        return _with_train(ilsvrc2012.Ilsvrc2012(place))
    if folders:
        return _with_train(Folders(place))
    found = ", ".join(sorted(files)[:5]) or "nothing"
    raise RefusedError(f"{place.uri}: no known layout; {EXPECTED}; found {found}")


def _with_train(source: Source) -> Source:
    """Refuse a source that has only other splits: mean image and colours are those of the training pictures."""
    if "train" not in source.splits():
        raise RefusedError(
            f"{source.place.uri}: found {', '.join(source.splits())} without train ({source.layout}); {EXPECTED}"
        )
    return source
