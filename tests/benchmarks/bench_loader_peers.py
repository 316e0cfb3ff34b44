"""The loader beside eight peers that deliver the same stored pictures: microseconds of CPU per image, images per second.

    python -m tests.benchmarks.bench_loader_peers --make [FOLDER]    make the peers' environments (/tmp/loader-peers)
    python -m tests.benchmarks.bench_loader_peers [FOLDER]           measure

One process a row, all alive at once and waiting, asked in turn for epochs. The peers' part is `peer_readers.py`.
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import PIL

from cluster.ray_session import own_ray
from ingest.dataset import Dataset
from tests.benchmarks import peer_readers, report
from tests.benchmarks.bench_peers import TreeCpu
from tests.benchmarks.material import dataset, many, scratch
from tests.benchmarks.peer_readers import BATCH, CROP, SIDE, Delivered, Epoch

FOLDER = "/tmp/loader-peers"
REPOSITORY = Path(__file__).parents[2]
ROUNDS = 3
EPOCHS = {"jpeg": 2, "raw": 8}
"""Of a round: enough for a clock that ticks in hundredths of a second."""
SETTLE_S = 0.3
"""What a pipeline gets to finish what it prefetches, which belongs to its CPU seconds."""
END_WITHIN_S = 15.0
QUIET = {"OMP_NUM_THREADS": "1", "LITDATA_DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}
OURS = {"tench": "uint8", "tench float32": "float32"}
"""Rows of the loader, and what it puts out."""
TORCH = ["torch==2.13.0", "numpy<2.2"]
PACKAGES: dict[str, list[list[str]]] = {
    # Streaming and LitData without their own dependencies, which bring a torchvision that wants another torch.
    "streaming": [
        [*TORCH, "Brotli", "python-snappy<1", "xxhash<4", "zstd<2", "catalogue<3", "boto3<2", "tqdm", "requests"],
        ["--no-deps", "mosaicml-streaming==0.13.0"],
    ],
    "litdata": [
        [*TORCH, "lightning-utilities", "filelock", "boto3", "requests", "obstore", "tifffile"],
        ["--no-deps", "litdata==0.2.76"],
    ],
    "webdataset": [[*TORCH, "webdataset==1.0.2"]],
    "grain": [[*TORCH, "grain==0.2.18", "array_record==0.8.6"]],
    "datasets": [[*TORCH, "datasets==5.2.0"]],
}
FFCV = [
    *TORCH, "numba", "opencv-python-headless", "fastargs", "terminaltables", "assertpy", "pytorch_pfn_extras", "tqdm",
]  # fmt: skip
FFCV_SOURCE = ["--no-deps", "ffcv==1.0.2"]
FFCV_DEBIAN = (
    "libopencv-core-dev", "libopencv-imgproc-dev", "libopencv-core406", "libopencv-imgproc406", "libtbb12",
    "libturbojpeg0", "libturbojpeg0-dev", "liblapack3", "libblas3", "libgfortran5", "libquadmath0",
)  # fmt: skip
NOTES = f"""\
CPU: user and system seconds of a row's process and its descendants, from /proc/PID/stat before and after a round's \
epochs and {SETTLE_S} s more, in which prefetching ends; per image. Each row is a process of its own that has read a \
whole epoch before (so the page cache is warm and everything compiled); the processes wait while another is measured. \
All rows deliver the same payloads, every one once an epoch, in an order that the row's own loader shuffles anew, as \
batches of {BATCH} with their labels: a random {CROP} crop, mirrored with probability 0.5, uint8 in height, width, \
channel order, except `tench float32` (mean image under the crop subtracted, lighting noise) and `decode alone` (DALI's \
decoder, whole pictures in stored order). Checked in each epoch: number of samples, samples of each class, type and \
shape; in the first also the channel means. `cpu_to_tench`: the row's CPU over that of `tench` with the same payload in the \
same round (above 1: the row takes more), median of the rounds. Threads: nobody has worker processes. Tench: one \
decoding thread and one thread that makes the batches, checksums on. torch, streaming, LitData, datasets: DataLoader \
with num_workers=0. Grain: ReadOptions(num_threads=0). FFCV: num_workers=1, a thread. DALI: num_threads=1, its reader \
has a thread of its own, and two batches lie ready when a round begins, so that its images_per_s is too good by up \
to 2 batches. OMP_NUM_THREADS=1 for all. Decoders: `tench`, `decode alone` and `dali` DALI's (libjpeg-turbo); FFCV its own \
(TurboJPEG with the fast, inexact DCT; JPEGs are put into its file unchanged), and its crop is a resize to the same size, \
since it has no other. All others: the files of Tench's own PIL, then torch's flip of a view. `dataloader` \
reads Tench's Arrow shards, `dali` Tench's TFRecord shards (readers.tfrecord; JPEG: decoders.image_crop and flip, raw: \
crop_mirror_normalize); shuffle buffers of DALI and WebDataset: {peer_readers.SHUFFLE_BUFFER} samples. Checksums: Tench's \
and ArrayRecord's of each record are verified; the others have none on this path (DALI passes TFRecord's over). Peers run \
with numpy below 2.2 and with the torch named under versions."""


@dataclass(frozen=True)
class Run:
    """What some epochs took."""

    cpu_s: float
    wall_s: float


class Row:
    """A process that delivers epochs when asked."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._command, self._log = command, log
        with log.open("w") as errors:
            self._child = subprocess.Popen(
                command, env={**os.environ, **QUIET, **environment}, cwd=REPOSITORY, stderr=errors,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        self.begun: dict[str, Any] = {}

    def __enter__(self) -> "Row":
        self.begun = self._heard()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(0 if error else END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def run(self, epochs: int, wanted: dict[str, Any]) -> Run:
        """Let it deliver epochs. Raises RuntimeError if one of them is not what was wanted."""
        assert self._child.stdin is not None
        cpu, started = TreeCpu(self._child.pid), time.perf_counter()
        self._child.stdin.write(f"{epochs}\n")
        self._child.stdin.flush()
        found = self._heard()["found"]
        wall_s = time.perf_counter() - started
        time.sleep(SETTLE_S)
        if found != [wanted] * epochs:
            raise RuntimeError(f"{self._command}: delivered {found}, not {epochs} times {wanted}")
        return Run(cpu.seconds(), wall_s)

    def _heard(self) -> dict[str, Any]:
        """The next line it says; other lines (of its libraries) are passed over."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith("{"):
                record: dict[str, Any] = json.loads(line)
                return record
        raise RuntimeError(f"{self._command} ended early:\n{self._log.read_text()[-3000:]}")


Key = tuple[str, str]
"""Payload and name of a row."""


def main(folder: Path) -> None:
    """Measure and write the result file."""
    with scratch() as out, contextlib.ExitStack() as stack:
        words, classes = _material(out)
        rows = {}
        for kind, name in keys(folder):
            rows[kind, name] = stack.enter_context(_row(folder, kind, name, out / kind))
            print(f"{kind}, {name}: {rows[kind, name].begun['found']}", flush=True)
        check_begun(rows, classes)
        rounds = []
        for number in range(ROUNDS):
            rounds.append({key: row.run(EPOCHS[key[0]], wanted(key[1], classes)) for key, row in rows.items()})
            print(f"round {number + 1}:", {" ".join(k): round(r.cpu_s, 2) for k, r in rounds[-1].items()}, flush=True)
        versions = {name: row.begun["versions"] for (_, name), row in rows.items()}
        figures = {"source": words, "samples": sum(classes), "rounds": ROUNDS, "epochs_a_round": EPOCHS}
        missing = {"ffcv_missing": _why_not(folder).read_text()} if _why_not(folder).exists() else {}
        # Before the rows end, which some of them take long to do.
        report.write(
            "loader-peers", {**figures, **missing, **summary(rounds, sum(classes)), "versions": versions}, NOTES
        )


def _material(out: Path) -> tuple[str, list[int]]:
    """Store pictures of all splits in Tench's formats and as plain payloads; what they are, how many of each class.

    A whole number of batches, so that no row has to do with what does not fill one.
    """
    source, words = many(out)
    pictures = sorted(path for path in source.rglob("*") if path.is_file())
    for picture in random.Random(0).sample(pictures, len(pictures) // BATCH * BATCH):
        path = out / "pictures" / picture.parent.name / picture.name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.rename(path)
    with own_ray():
        for kind, form in itertools.product(EPOCHS, ("arrow", "tfrecord")):
            dataset(out / kind / form, out / "pictures", payload=kind, format=form)
    for kind in EPOCHS:
        _plain(out / kind)
    split = Dataset.open(str(out / "jpeg" / "arrow" / "dataset")).split("train")
    return f"{words}, of which {split.num_samples} are used", list(split.class_counts)


def _plain(out: Path) -> None:
    split = Dataset.open(str(out / "arrow" / "dataset")).split("train")
    with (out / "payloads.bin").open("wb") as file:
        for row in range(split.num_samples):
            file.write(split.payload(row))
    lengths = split.length.tolist()
    starts = itertools.accumulate(lengths, initial=0)
    samples = list(zip(starts, lengths, split.label.tolist(), strict=False))
    (out / "samples.json").write_text(json.dumps(samples))


def keys(folder: Path) -> list[Key]:
    """The rows, in the order of their turns."""
    peers = [name for name in peer_readers.READERS if name != "ffcv" or not _why_not(folder).exists()]
    names = [*OURS, *peer_readers.OVER_OURS, *peers]
    return [(kind, name) for kind in EPOCHS for name in names if (kind, name) != ("raw", "decode alone")]


def _row(folder: Path, kind: str, name: str, out: Path) -> Row:
    """Start a row's process; a peer with a format of its own first writes it, in another."""
    log = out / f"{name}.log"
    if name in OURS:
        return Row([sys.executable, "-m", __spec__.name, "--row", name, str(out / "arrow" / "dataset")], {}, log)
    words = ["-m", peer_readers.__name__, "read", name, kind, str(out)]
    if name in peer_readers.OVER_OURS:
        return Row([sys.executable, *words], {}, log)
    python, environment = str(folder / name / "bin" / "python"), {"PYTHONPATH": str(folder / "pil-same")}
    if name == "ffcv":
        environment.update(_unpacked(folder))
    with (out / f"{name}-writing.log").open("w") as file:
        subprocess.run(
            [python, *words[:2], "write", *words[3:]], env={**os.environ, **QUIET, **environment}, cwd=REPOSITORY,
            stdout=file, stderr=file, check=True,
        )  # fmt: skip
    return Row([python, *words], environment, log)


def wanted(name: str, classes: list[int]) -> dict[str, Any]:
    """What every epoch of a row has to deliver."""
    side = SIDE if name == "decode alone" else CROP
    form = f"{OURS.get(name, 'uint8')} {(side, side, 3)}"
    return {"samples": sum(classes), "classes": classes, "forms": [form]}


def check_begun(rows: dict[Key, Row], classes: list[int]) -> None:
    """Refuse a row whose first epoch was not the same pictures: number, classes, form, and mean of each channel."""
    for (kind, name), row in rows.items():
        found, ours = dict(row.begun["found"]), rows[kind, "tench"].begun["found"]["channel_means"]
        means = found.pop("channel_means")
        far = OURS.get(name) != "float32" and np.abs(np.subtract(means, ours)).max() > 2
        if found != wanted(name, classes) or far:
            raise RuntimeError(f"{kind}, {name}: delivered {found} with channel means {means}, Tench's are {ours}")


def summary(rounds: list[dict[Key, Run]], num_samples: int) -> dict[str, Any]:
    """CPU per image and images per second of each row, beside Tench's of the same payload and round."""
    table: dict[str, Any] = {kind: {} for kind in EPOCHS}
    for kind, name in rounds[0]:
        images = num_samples * EPOCHS[kind]
        runs, ours = [found[kind, name] for found in rounds], [found[kind, "tench"] for found in rounds]
        table[kind][name] = {
            "cpu_us_per_image": report.median([1e6 * run.cpu_s / images for run in runs]),
            "cpu_to_tench": report.median([a.cpu_s / b.cpu_s for a, b in zip(runs, ours, strict=True)]),
            "images_per_s": report.median([images / run.wall_s for run in runs]),
            "rounds_cpu_us_per_image": [round(1e6 * run.cpu_s / images, 1) for run in runs],
        }
    return table


def loaded(opened: Dataset, output: str) -> Epoch:
    """Epochs of the loader."""
    from augment.loader import Loader
    from augment.settings import LoaderSettings

    settings = LoaderSettings.model_validate({"global_batch": BATCH, "threads": 1, "output": output})
    loader, numbers = Loader(opened, settings), itertools.count()

    def epoch() -> Iterator[Delivered]:
        loader.set_epoch(next(numbers))
        for batch in loader:
            yield batch.images.permute(0, 2, 3, 1), batch.labels

    return epoch


def make(folder: Path) -> None:
    """Make an environment for each peer without PIL, and the build of PIL that they are run with: Tench's own."""
    for name, calls in PACKAGES.items():
        _environment(folder / name, calls)
    same = folder / "pil-same"
    shutil.rmtree(same, ignore_errors=True)
    shutil.copytree(Path(PIL.__file__).parent, same / "PIL")
    for described in Path(PIL.__file__).parents[1].glob("pillow*.dist-info"):
        shutil.copytree(described, same / described.name)
    _why_not(folder).unlink(missing_ok=True)
    try:
        _make_ffcv(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        _why_not(folder).write_text(f"FFCV could not be built: {error}")
        print(_why_not(folder).read_text())


def _make_ffcv(folder: Path) -> None:
    """Compile FFCV against Debian 12's OpenCV and TurboJPEG, which are unpacked here and not installed."""
    unpacked = folder / "debian"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    subprocess.run(["apt-get", "--quiet", "download", *FFCV_DEBIAN], cwd=unpacked, check=True)
    for package in unpacked.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(unpacked)], check=True)
    # It asks for all of OpenCV and uses two of its libraries.
    include, libraries = unpacked / "usr/include/opencv4", unpacked / "usr/lib/x86_64-linux-gnu"
    (include / "opencv2/opencv.hpp").write_text("#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n")
    flags = f"Cflags: -I{include} -I{unpacked}/usr/include/x86_64-linux-gnu/opencv4\n"
    (libraries / "pkgconfig/opencv4.pc").write_text(
        f"Name: opencv4\nDescription: two of its libraries\nVersion: 4\n{flags}"
        f"Libs: -L{libraries} -lopencv_imgproc -lopencv_core\n"
    )
    os.environ.update(_unpacked(folder), PKG_CONFIG_PATH=str(libraries / "pkgconfig"))
    os.environ.update(CPATH=str(unpacked / "usr/include"), LIBRARY_PATH=str(libraries))
    _environment(folder / "ffcv", [FFCV, FFCV_SOURCE])


def _unpacked(folder: Path) -> dict[str, str]:
    libraries = folder / "debian/usr/lib/x86_64-linux-gnu"
    return {"LD_LIBRARY_PATH": f"{libraries}:{libraries / 'lapack'}:{libraries / 'blas'}"}


def _why_not(folder: Path) -> Path:
    """Exists if FFCV could not be built."""
    return folder / "ffcv-missing.txt"


def _environment(folder: Path, calls: list[list[str]]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    for words in calls:
        command = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "install", *words]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--row"]:
        peer_readers.serve(loaded(Dataset.open(words[2]), OURS[words[1]]))
    elif words[:1] == ["--make"]:
        make(Path((*words[1:], FOLDER)[0]))
    else:
        main(Path((*words, FOLDER)[0]))
