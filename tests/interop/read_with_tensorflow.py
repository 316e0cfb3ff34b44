"""Read TFRecord shards with TensorFlow alone; print one JSON object: key -> [label, wnid, SHA-256 of the pixels]."""

import hashlib
import json
import sys

import tensorflow as tf

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/class/synset": tf.io.FixedLenFeature([], tf.string),
    "image/filename": tf.io.FixedLenFeature([], tf.string),
}

found = {}
for record in tf.data.TFRecordDataset(sorted(sys.argv[1:])):
    row = tf.io.parse_single_example(record, FEATURES)
    payload = row["image/encoded"].numpy()
    shape = tf.io.decode_jpeg(payload).shape
    assert tuple(shape) == (256, 256, 3), shape
    key = row["image/filename"].numpy().decode()
    found[key] = [
        int(row["image/class/label"]),
        row["image/class/synset"].numpy().decode(),
        hashlib.sha256(payload).hexdigest(),
    ]
print(json.dumps(found))
