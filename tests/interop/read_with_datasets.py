"""Read Arrow shards with Hugging Face `load_dataset`; print one JSON object: key -> [label, wnid, SHA-256]."""

import hashlib
import json
import sys
import tempfile

import datasets

with tempfile.TemporaryDirectory() as cache:
    rows = datasets.load_dataset("arrow", data_files=sorted(sys.argv[1:]), split="train", cache_dir=cache)
    found = {r["key"]: [r["label"], r["wnid"], hashlib.sha256(r["payload"]).hexdigest()] for r in rows}
print(json.dumps(found))
