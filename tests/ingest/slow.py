"""A decoder that takes its time, as slow disks and large pictures do: runs last long enough to be disturbed."""

import os
import time
from pathlib import Path

from ingest.pixels import Picture, rescale
from ingest.settings import PlannedSettings

PER_PICTURE_S = float(os.environ.get("TENCH_TEST_SLEEP_S", "0.05"))
HOLD = os.environ.get("TENCH_TEST_HOLD", "")
"""While there is a file of this name, nothing is decoded. Both are of the host that decodes."""


def decode(data: bytes, settings: PlannedSettings) -> Picture:
    """`rescale`, later."""
    time.sleep(PER_PICTURE_S)
    while HOLD and Path(HOLD).exists():
        time.sleep(0.05)
    return rescale(data, settings)
