"""The loader for as many batches as an hour of training takes: its memory has to stay flat.

    python -m tests.benchmarks.soak_loader [IMAGES]     default: 3,600,000 of each payload, an hour at 1,000 a second

Ends with exit code 1 if it does not.
"""

import sys
import time
from pathlib import Path

from augment.loader import Loader
from augment.settings import LoaderSettings
from cluster.ray_session import own_ray
from ingest.dataset import Dataset
from tests.benchmarks import report
from tests.benchmarks.material import dataset, many, scratch

IMAGES, BATCH = 3_600_000, 128
PARTS = 10
MIB = 2**20
BUFFER_MIB = BATCH * 3 * 224 * 224 * 4 // MIB
GROWTH_MIB = BUFFER_MIB + 32
"""What may come on top of the highest of the first half: the pool of batch buffers grows by one when the threads happen
to meet badly, up to its bound, and allocators settle late."""
NOTES = f"""\
Anonymous memory of the process (RssAnon: no mapped shards), looked at after every batch of {BATCH}; highest in each tenth \
of the run. float32 batches with mean and noise; a new epoch after each, as in training."""


def main() -> int:
    """Measure, write the result file; whether it stayed flat."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    figures: dict[str, object] = {"images": images}
    is_flat = True
    with scratch() as out:
        source, figures["source"] = many(out)
        with own_ray():
            uris = {name: dataset(out / name, source, payload=name) for name in ("raw", "jpeg")}
        for name, uri in uris.items():
            started, peaks = time.monotonic(), _peaks(Dataset.open(uri), images)
            figures[f"{name}_seconds"] = round(time.monotonic() - started)
            figures[f"{name}_highest_mib_by_tenth"] = peaks
            is_flat &= peaks[-1] <= max(peaks[: PARTS // 2]) + GROWTH_MIB
    report.write("soak-loader", figures, NOTES)
    return 0 if is_flat else 1


def _peaks(opened: Dataset, images: int) -> list[int]:
    """Highest anonymous memory, in MiB, in each tenth of the run."""
    peaks, seen, epoch = [0] * PARTS, 0, 0
    with Loader(opened, LoaderSettings(global_batch=BATCH)) as loader:
        while seen < images:
            loader.set_epoch(epoch)
            for batch in loader:
                part = min(PARTS * seen // images, PARTS - 1)
                peaks[part] = max(peaks[part], _anonymous_bytes() // MIB)
                seen += len(batch.labels)
                if sys.stderr.isatty():
                    print(f"\r{seen:,} / {images:,} images, {peaks[part]} MiB ", end="", file=sys.stderr)
            epoch += 1
    return peaks


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status states no RssAnon")


if __name__ == "__main__":
    raise SystemExit(main())
