"""Other people's readers open our shards: TensorFlow, Hugging Face datasets, DuckDB, DALI's own TFRecord reader."""

import collections
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
TENCH = Path(sys.executable).parent / "tench"
OTHERS = Path(os.environ.get("TENCH_INTEROP", HERE.parents[1] / ".venv-interop")) / "bin" / "python"


@pytest.fixture(scope="module")
def datasets(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small Imagenette, ingested in both formats through the command line."""
    folder = tmp_path_factory.mktemp("interop")
    with tarfile.open(shared_data / "imagenette-small.tar") as tar:
        tar.extractall(folder / "source", filter="data")
    made = {}
    for name in ("arrow", "tfrecord"):
        made[name] = folder / name
        command = [str(TENCH), "ingest", str(folder / "source"), str(made[name]), "--format", name, "--json"]
        command += ["--samples-per-shard", "256"]
        subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return made


@pytest.fixture(scope="module")
def expected(datasets: dict[str, Path]) -> dict[str, list[Any]]:
    """What the Arrow files of the training split hold, read by pyarrow alone."""
    rows = {}
    for shard in sorted(datasets["arrow"].glob("train/*.arrow")):
        table = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
        for row in table.to_pylist():
            rows[row["key"]] = [row["label"], row["wnid"], hashlib.sha256(row["payload"]).hexdigest()]
    assert len(rows) == 1500
    return rows


def read_with(reader: str, shards: list[Path]) -> Any:
    if not OTHERS.exists():
        pytest.skip(f"{OTHERS} is missing: run `make test-interop`")
    command = [str(OTHERS), str(HERE / f"read_with_{reader}.py"), *map(str, shards)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_tensorflow_reads_the_tfrecords(datasets: dict[str, Path], expected: dict[str, list[Any]]) -> None:
    assert read_with("tensorflow", list(datasets["tfrecord"].glob("train/*.tfrecord"))) == expected


def test_hugging_face_datasets_loads_the_arrow_files(datasets: dict[str, Path], expected: dict[str, list[Any]]) -> None:
    assert read_with("datasets", list(datasets["arrow"].glob("train/*.arrow"))) == expected


def test_duckdb_counts_the_classes(datasets: dict[str, Path], expected: dict[str, list[Any]]) -> None:
    counts = collections.Counter(wnid for _, wnid, _ in expected.values())
    assert read_with("duckdb", list(datasets["arrow"].glob("train/*.arrow"))) == counts


def test_dalis_own_reader_decodes_the_tfrecords(datasets: dict[str, Path], expected: dict[str, list[Any]]) -> None:
    from nvidia.dali import fn, pipeline_def, tfrecord

    shards = sorted(datasets["tfrecord"].glob("train/*.tfrecord"))

    @pipeline_def(batch_size=100, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        features = {
            "image/encoded": tfrecord.FixedLenFeature([], tfrecord.string, ""),
            "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        }
        row: Any = fn.readers.tfrecord(
            path=list(map(str, shards)), index_path=[str(s.with_suffix(".idx")) for s in shards], features=features
        )
        return fn.decoders.image(row["image/encoded"]), row["image/class/label"]

    reader = pipeline()
    labels = []
    for _ in range(15):
        images, numbers = reader.run()
        assert images.as_array().shape == (100, 256, 256, 3)
        labels += numbers.as_array().ravel().tolist()
    assert collections.Counter(labels) == collections.Counter(label for label, _, _ in expected.values())


def test_both_formats_have_one_content_id(datasets: dict[str, Path], manifest_of: Any) -> None:
    arrow, records = (manifest_of(str(datasets[name])) for name in ("arrow", "tfrecord"))
    assert arrow["content_id"] == records["content_id"]
    assert arrow["dataset_id"] != records["dataset_id"]
