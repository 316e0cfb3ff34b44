"""A decoder that loops, takes all memory or crashes on marked pictures: what a real one does on a made-up file."""

import os
import signal
import time

import numpy as np

from ingest.pixels import Picture, rescale
from ingest.settings import PlannedSettings

LOOP, SLEEP, MEMORY, CRASH, EXIT = b"#loop", b"#sleep", b"#memory", b"#crash", b"#exit"
"""Marks behind the end of a picture, where an honest decoder does not look."""


def decode(data: bytes, settings: PlannedSettings) -> Picture:
    """`rescale`, but for the marks."""
    while data.endswith(LOOP):
        pass
    while data.endswith(SLEEP):
        time.sleep(1)
    hoard = []
    while data.endswith(MEMORY):
        hoard.append(np.empty(2**24))
    if data.endswith(CRASH):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(EXIT):
        os._exit(7)
    return rescale(data, settings)
