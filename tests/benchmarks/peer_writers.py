"""The same conversion written by four peers: run by the Python of a peer's own environment, without Tench.

    python peer_writers.py NAME SAMPLES.json OUT

SAMPLES.json is a list of [path, label]. Each picture becomes a JPEG of quality 90 of its 256 x 256 centre, in the
peer's own format under OUT, made by two processes. Spoken on stdin and stdout, a line each: this program says what it
runs on, waits for a line, works, says that it is done, waits for a line, then says what a reader finds under OUT.
Only `work` is between the first two lines of the caller, so that he can measure it from outside.
"""

import hashlib
import importlib.metadata
import io
import json
import multiprocessing
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import PIL
from PIL import Image, features

SIDE = 256
NUM_PROCESSES = 2
SETTLE_S = 3.0
"""What Ray's processes get to finish their own start."""
SAMPLES_PER_BLOCK = 150
"""Of Ray Data, whose own choice of about 20 costs it a third more CPU."""
Sample = tuple[str, int]
Work = Callable[[], object]
Read = Callable[[], Iterable[bytes]]


def convert(data: bytes) -> bytes:
    """Decode, scale the shorter side to 256, cut out the centre, encode: the pictures that Tench stores."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened if opened.mode == "RGB" else opened.convert("RGB")
        width, height = image.size
        short = min(width, height)
        scaled = (2 * width * SIDE + short) // (2 * short), (2 * height * SIDE + short) // (2 * short)
        if scaled != image.size:
            image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (scaled[0] - SIDE) // 2, (scaled[1] - SIDE) // 2
    file = io.BytesIO()
    image.crop((left, top, left + SIDE, top + SIDE)).save(file, "JPEG", quality=90, subsampling="4:2:0")
    return file.getvalue()


def key_of(path: str) -> str:
    """Class folder and file name, without its ending."""
    return "/".join(Path(path).with_suffix("").parts[-2:])


def in_processes(write_part: Callable[[int, list[Sample]], None], samples: list[Sample]) -> None:
    """Let two forked processes write every second sample each."""
    fork = multiprocessing.get_context("fork")
    parts = [samples[number::NUM_PROCESSES] for number in range(NUM_PROCESSES)]
    processes = [fork.Process(target=write_part, args=(number, part)) for number, part in enumerate(parts)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if failed := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"a writing process ended with {failed[0]}")


def ray_data(samples: list[Sample], out: Path) -> tuple[Work, Read]:
    """Ray Data: files -> tasks -> Parquet."""
    import pyarrow as pa
    import pyarrow.parquet
    import ray

    ray.init(num_cpus=NUM_PROCESSES, include_dashboard=False, log_to_driver=False, _temp_dir=str(out / "ray"))
    ray.data.DataContext.get_current().enable_progress_bars = False
    time.sleep(SETTLE_S)
    label_of = {Path(path).parent.name: label for path, label in samples}

    def convert_batch(batch: pa.Table) -> pa.Table:
        paths = batch["path"].to_pylist()
        return pa.table({
            "key": [key_of(path) for path in paths],
            "label": pa.array([label_of[Path(path).parent.name] for path in paths], pa.int32()),
            "image": pa.array([convert(data.as_py()) for data in batch["bytes"]], pa.binary()),
        })  # fmt: skip

    blocks = max(NUM_PROCESSES, len(samples) // SAMPLES_PER_BLOCK)

    def work() -> None:
        files = ray.data.read_binary_files(
            [path for path, _ in samples], include_paths=True, override_num_blocks=blocks
        )
        files.map_batches(convert_batch, batch_format="pyarrow", zero_copy_batch=True).write_parquet(str(out / "data"))

    def read() -> Iterable[bytes]:
        return pyarrow.parquet.read_table(out / "data", columns=["image"])["image"].to_pylist()

    return work, read


def hf_datasets(samples: list[Sample], out: Path) -> tuple[Work, Read]:
    """Hugging Face datasets: a table of paths, mapped by two processes, saved as Arrow files."""
    import datasets

    datasets.disable_progress_bars()
    stored = datasets.Features({
        "key": datasets.Value("string"), "label": datasets.Value("int32"), "image": datasets.Value("binary"),
    })  # fmt: skip

    def convert_row(row: dict[str, str]) -> dict[str, object]:
        return {"key": key_of(row["path"]), "image": convert(Path(row["path"]).read_bytes())}

    def work() -> None:
        table = datasets.Dataset.from_list([{"path": path, "label": label} for path, label in samples])
        made = table.map(convert_row, num_proc=NUM_PROCESSES, remove_columns=["path"], features=stored)
        made.save_to_disk(out / "data")

    def read() -> Iterable[bytes]:
        return datasets.load_from_disk(out / "data").data["image"].to_pylist()

    return work, read


def mds(samples: list[Sample], out: Path) -> tuple[Work, Read]:
    """MosaicML streaming: an MDSWriter in each of two processes, their indices merged."""
    for name in (
        "transformers", "transformers.feature_extraction_utils", "transformers.tokenization_utils_base",
        "transformers.models", "transformers.models.auto", "transformers.models.auto.tokenization_auto",
        "torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional",
    ):  # fmt: skip
        sys.modules[name] = Unused(name)
    import streaming
    from streaming.base.util import merge_index

    columns = {"key": "str", "label": "int", "image": "bytes"}

    def write_part(number: int, part: list[Sample]) -> None:
        with streaming.MDSWriter(out=str(out / "data" / str(number)), columns=columns) as writer:
            for path, label in part:
                image = convert(Path(path).read_bytes())
                writer.write({"key": key_of(path), "label": label, "image": image})

    def work() -> None:
        in_processes(write_part, samples)
        merge_index(str(out / "data"), keep_local=True)

    def read() -> Iterable[bytes]:
        return (sample["image"] for sample in streaming.LocalDataset(str(out / "data")))

    return work, read


def webdataset(samples: list[Sample], out: Path) -> tuple[Work, Read]:
    """WebDataset: a ShardWriter in each of two processes."""
    import tarfile

    import webdataset

    (out / "data").mkdir()

    def write_part(number: int, part: list[Sample]) -> None:
        with webdataset.ShardWriter(str(out / "data" / f"{number}-%06d.tar"), verbose=0) as writer:
            for path, label in part:
                image = convert(Path(path).read_bytes())
                writer.write({"__key__": key_of(path), "cls": label, "jpg": image})

    def read() -> Iterator[bytes]:
        for path in sorted((out / "data").glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                        yield file.read()

    return lambda: in_processes(write_part, samples), read


PEERS = {"ray-data": ray_data, "datasets": hf_datasets, "streaming": mds, "webdataset": webdataset}
PACKAGES = ("ray", "datasets", "mosaicml-streaming", "webdataset", "pyarrow", "numpy", "torch", "pillow-simd", "pillow")


class Unused(types.ModuleType):
    """A package that a peer imports and this benchmark never reaches: whatever is asked of it is an empty class."""

    __path__: list[str] = []  # noqa: RUF012 - what makes it a package

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def versions() -> dict[str, str]:
    """What this process runs on."""
    installed = {str(d.metadata["Name"]).lower(): d.version for d in importlib.metadata.distributions()}
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return {**found, "PIL": PIL.__version__, "libjpeg_turbo": str(features.version("libjpeg_turbo"))}


def found(payloads: Iterable[bytes]) -> dict[str, object]:
    """How many payloads there are, their bytes, and a digest of them that does not depend on their order."""
    hashes, size = [], 0
    for payload in payloads:
        hashes.append(hashlib.sha256(payload).digest())
        size += len(payload)
    return {"samples": len(hashes), "bytes": size, "digest": hashlib.sha256(b"".join(sorted(hashes))).hexdigest()}


def serve(work: Work, read: Read) -> None:
    """Speak with the caller: ready, work, done, found."""
    _say(versions())
    sys.stdin.readline()
    work()
    _say({"done": True})
    sys.stdin.readline()
    _say(found(read()))


def _say(record: Mapping[str, object]) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    serve(*PEERS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])))
