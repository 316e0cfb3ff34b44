"""A damaged dataset and its source -> the dataset as it was sealed: every file with its recorded hash again.

What is damaged is made anew beside the dataset (`damaged/rebuilt/`), and takes its place only if it has the recorded
hash; what lay there before goes to `damaged/`. So nothing is lost, and a repair that was killed can be run again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ingest.errors import DamageError, RefusedError
from ingest.formats.arrow import read_table
from ingest.key_check import source_differences, source_plan
from ingest.listing import ENTRIES
from ingest.manifest import Manifest, read_manifest
from ingest.pixels import pixel_fingerprint
from ingest.plan import Plan, differences
from ingest.progress import RunWriter
from ingest.rebuild import ASIDE, Rebuild
from ingest.settings import RepairSettings
from ingest.shard_check import damage
from ingest.sources import Source, detect
from ingest.storage import Place
from ingest.verify import damaged_files, extra_files
from ingest.words import counted


def repair(
    dataset: str, source: str, settings: RepairSettings, run: RunWriter, connect: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Give every damaged file its recorded hash again. `connect` connects Ray once shards are to be made again.

    Returns {"ok", "dataset", "dataset_id", "repaired", "set_aside", "damaged_files_in", "damages"}: the paths that are
    whole again, those of files that did not belong, where what was moved lies (None if nothing does), and what is
    still damaged and why. Raises DamageError if the manifest is damaged, RefusedError if the source or the imaging
    library is not the one of the dataset, Interrupted.
    """
    place = Place(dataset)
    manifest = _manifest(place)
    damaged = damaged_files(place, manifest, run, "verifying")
    extra = [known["path"] for known in extra_files(place, manifest)]
    work = Rebuild(place, manifest, damaged, run)
    if damaged:
        first = f"first {damaged[0]['path']}: {damaged[0]['problem']}"
        run.event("phase", f"{counted(len(damaged), 'damaged file')}; {first}.")
        opened = _source(place, manifest, source)
        plan = _plan(opened, place, manifest, list(work.damaged))
        if work.shards:
            _refuse_other_pixels(place, manifest)
            if connect is not None:
                connect()
        work.put_plan(plan)
        work.make_shards(opened, plan, settings.num_actors)
        work.join()
    for path in extra:
        work.set_aside(path)
    work.sweep()
    if not damaged and not extra:
        run.event("phase", "Nothing is damaged: nothing to do.")
    return {
        "ok": not work.damaged,
        "dataset": place.uri,
        "dataset_id": manifest.dataset_id,
        "repaired": sorted(work.repaired),
        "set_aside": extra,
        "damaged_files_in": place.name(ASIDE) if next(place.walk(ASIDE), None) else None,
        "damages": [damage(path, why) for path, why in sorted(work.damaged.items())],
    }


def _manifest(place: Place) -> Manifest:
    try:
        return read_manifest(place)
    except DamageError as error:
        raise DamageError(
            f"{error.message}. A manifest cannot be repaired: it says what the others should be. Restore it from a "
            "copy, or ingest the source into a new folder"
        ) from error


def _source(place: Place, manifest: Manifest, source: str) -> Source:
    """The source of the dataset. Raises RefusedError if no source can give what is damaged."""
    if manifest.parent:
        raise RefusedError(
            f"{place.uri}: was made of dataset {manifest.parent}, not of pictures; make it again of that one, in a new "
            "folder: `tench recentre`"
        )
    return detect(source)


def _plan(source: Source, place: Place, manifest: Manifest, damaged: Sequence[str]) -> Plan:
    """The plan of the dataset. Raises RefusedError naming where source or imaging library differ from it."""
    plan = source_plan(source, manifest)
    recorded = {
        "format_version": manifest.format_version,
        "settings": manifest.settings,
        "classes": [c.wnid for c in manifest.classes],
        "splits": {split: s.num_samples + s.num_quarantined for split, s in manifest.splits.items()},
        "listing_hash": manifest.listing_hash,
        "plan_hash": manifest.plan_hash,
        "pixel_fingerprint": manifest.pixel_fingerprint,
    }
    if said := differences(recorded, plan.record):
        paths = {split: f"plan/entries-{split}.arrow" for split in manifest.splits}
        whole = {split: path for split, path in paths.items() if path not in damaged}
        entries = {
            split: read_table(np.frombuffer(place.get(path), np.uint8), ENTRIES) for split, path in whole.items()
        }
        said += source_differences(manifest, entries, plan)
        raise RefusedError(f"{source.place.uri}: is not what {place.uri} was made of: {'; '.join(said)}")
    return plan


def _refuse_other_pixels(place: Place, manifest: Manifest) -> None:
    if pixel_fingerprint() != manifest.pixel_fingerprint:
        made_by = f"{manifest.imaging['name']} {manifest.imaging['version']}"
        raise RefusedError(
            f"{place.uri}: was made with {made_by}; the imaging library here gives other pixels, so that its shards "
            f"cannot be made again. Install {made_by}"
        )
