"""Bodies that the OpenAPI description shows: one that works for each kind of job."""

from typing import Any

DATASET = "/data/imagenet"
_REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ingest": ("Archives to shards", {"source": "/data/archives", "dataset": DATASET, "samples_per_shard": 1024}),
    "verify": ("Every byte against its hash", {"dataset": DATASET, "deep": True}),
    "repair": ("Damaged files anew from the source", {"dataset": DATASET, "source": "/data/archives"}),
    "recentre": ("Each pixel minus the mean", {"dataset": "/data/raw", "out": "/data/centred"}),
    "train": ("AlexNet on four GPUs", {"dataset": DATASET, "preset": "museum145", "num_workers": 4}),
    "evaluate": ("Ten views of each picture", {"dataset": DATASET, "run": "20261124-093015-train-4f1a2b", "views": 10}),
}
JOB_EXAMPLES: Any = {
    kind: {"summary": summary, "value": {"kind": kind, "settings": settings, "name": summary}}
    for kind, (summary, settings) in _REQUESTS.items()
}
"""By kind of job, as OpenAPI has examples."""
