"""Which layout a source has: each layout says which names at the top are its own."""

from ingest.errors import RefusedError
from ingest.sources.cifar10 import Cifar10
from ingest.sources.entry import SPLITS
from ingest.sources.fall2011 import Fall2011
from ingest.sources.folders import Folders
from ingest.sources.ilsvrc2010 import Ilsvrc2010
from ingest.sources.ilsvrc2012 import Ilsvrc2012
from ingest.sources.kaggle import Kaggle
from ingest.sources.parquet import Parquet
from ingest.sources.source import Listing, Source
from ingest.sources.webdataset import WebDataset
from ingest.storage import Place

LAYOUTS: tuple[type[Source], ...] = (Ilsvrc2012, Ilsvrc2010, Kaggle, Fall2011, Parquet, WebDataset, Cifar10)
"""All but class folders, which any folder might be: they are what is left."""


def detect(uri: str) -> Source:
    """Open a source. Raises RefusedError saying what was found and what was expected."""
    place = Place(uri)
    if place.is_local and not place.local_path().is_dir():
        raise RefusedError(f"{place.uri}: no such folder; {expected()}")
    listing = _listing(place)
    found = {layout: claims for layout in LAYOUTS if (claims := layout.claims(place, listing))}
    if len(found) > 1 or (found and (listing.folders & set(SPLITS)) - set().union(*found.values())):
        raise RefusedError(_mixture(place, found, listing))
    for layout in found:
        return _with_train(layout(place, listing))
    if Folders.claims(place, listing):
        return _with_train(Folders(place, listing))
    if not place.can_list:
        raise RefusedError(
            f"{place.uri}: holds none of the files that it was asked for, since a web server lists nothing: "
            f"{', '.join(_known_files())}. Give the address of the folder that holds them"
        )
    shown = ", ".join(sorted(listing.files)[:5]) or "nothing"
    raise RefusedError(f"{place.uri}: no known layout; {expected()}; found {shown}")


def expected() -> str:
    """What a source may look like, in words."""
    layouts: tuple[type[Source], ...] = (*LAYOUTS, Folders)
    return "expected one of: " + "; ".join(f"{layout.expected} ({layout.layout})" for layout in layouts)


def _listing(place: Place) -> Listing:
    if not place.can_list:
        sizes = ((name, place.size(name)) for name in _known_files())
        return Listing({name: size for name, size in sizes if size is not None}, frozenset())
    files = {f.path: f.size for f in place.files() if not f.path.startswith(".")}
    return Listing(files, frozenset(f for f in place.folders() if not f.startswith(".")))


def _known_files() -> list[str]:
    return [name for layout in LAYOUTS for name in layout.known_files]


def _mixture(place: Place, found: dict[type[Source], set[str]], listing: Listing) -> str:
    """What lies side by side and does not belong together."""
    kinds = [f"{layout.layout} ({min(claims)})" for layout, claims in found.items()]
    if rest := sorted((listing.folders & set(SPLITS)) - set().union(*found.values())):
        kinds.append(f"{Folders.layout} ({rest[0]}/)")
    return f"{place.uri}: found {' and '.join(kinds)} side by side; move one of them to a folder of its own"


def _with_train(source: Source) -> Source:
    """Refuse a source that has only other splits: mean image and colours are those of the training pictures."""
    if "train" not in source.splits():
        raise RefusedError(
            f"{source.place.uri}: found {', '.join(source.splits())} without train ({source.layout}); {expected()}"
        )
    return source
