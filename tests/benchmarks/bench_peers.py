"""Ingest beside four peers that make the same pictures: images per CPU second of all processes, and per second.

    python -m tests.benchmarks.bench_peers --make [FOLDER]    make the peers' environments (default /tmp/peers)
    python -m tests.benchmarks.bench_peers [FOLDER]           measure

The peers decode, rescale, encode and write in their own format. Ingest besides lists and plans, sums pixels
exactly, hashes, checks, writes an index and reports, and seals.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import psutil

from cluster.ray_session import LOOPBACK_ENVIRONMENT, own_ray
from tests.benchmarks import peer_writers, report
from tests.benchmarks.material import dataset, full_size, scratch

FOLDER = "/tmp/peers"
TIMES = 3
REPEATS = {"short": 2, "long": 8}
SAMPLES_PER_SHARD = 300
LOOK_S, LOOKS_A_SCAN = 0.02, 10
PLAIN_PILLOW = "pillow==13.0.0"
PACKAGES: dict[str, list[list[str]]] = {
    "ray-data": [["ray[data]==2.60.0"]],
    "datasets": [["datasets==5.2.0"]],
    # With its own dependencies pip takes minutes to resolve, and brings a torchvision that wants another torch.
    "streaming": [
        ["torch==2.13.0", "numpy<2.2", "Brotli", "python-snappy<1", "xxhash<4", "zstd<2"],
        ["catalogue<3", "boto3<2", "tqdm", "requests"],
        ["--no-deps", "mosaicml-streaming==0.13.0"],
    ],
    "webdataset": [["webdataset==1.0.2"]],
}
NOTES = f"""\
Every run is a new process that has imported what it needs and, for Tench and Ray Data, has started a Ray of two CPUs \
and let it settle. The work phase begins with the list of files (Tench: the folder, which it lists itself) and ends \
when everything is written; actors, tasks and processes that it starts count. CPU: user and system seconds of the \
process and all its descendants, Ray's own (raylet, GCS, agents) included, from /proc/PID/stat before and after the \
phase; of a process that ends within it the last look counts, at most {LOOK_S * 1000:.0f} ms old. Two writing \
processes or actors, two cores, pictures in the page cache. Tench: the whole `ingest` with statistics, hashes, index, \
fsync and seal, which the peers do not do. `long`: the whole long run. `further`: its samples beyond those of the \
short run over its seconds beyond, the rate of a conversion so large that its start does not count. \
`..._to_tench`: the peer's rate over Tench's (above 1: the peer is faster), median of the rounds' ratios. same PIL: \
the files of Tench's own PIL; plain PIL: {PLAIN_PILLOW} as installed. Peers with one PIL stored the same JPEGs, byte \
for byte: they rescale the whole picture and then cut, as everybody does. Tench scales only what it keeps (0.1 % of the \
values differ, by 1). Ray Data was given {peer_writers.SAMPLES_PER_BLOCK} samples a block; its own choice costs it more."""


class TreeCpu:
    """CPU seconds of a process and its descendants since now, also of those that end, looked at from outside."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: dict[int, float] = {pid: 0.0}
        self._scan()
        self._look()
        self._before = sum(self._seen.values())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        """What it took from the start until now; ends the watch."""
        self._ended.set()
        self._thread.join()
        self._scan()
        self._look()
        return sum(self._seen.values()) - self._before

    def _watch(self) -> None:
        looks = 0
        while not self._ended.wait(LOOK_S):
            looks += 1
            if looks % LOOKS_A_SCAN == 0:
                self._scan()
            self._look()

    def _scan(self) -> None:
        for child in self._root.children(recursive=True):
            self._seen.setdefault(child.pid, 0.0)

    def _look(self) -> None:
        for pid in self._seen:
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            user, system = stat.rpartition(")")[2].split()[11:13]
            self._seen[pid] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """What one run took, on what, and what a reader found afterwards."""

    cpu_s: float
    wall_s: float
    versions: dict[str, str]
    found: dict[str, Any]


Round = dict[str, dict[str, Run]]
"""Runs of a round by size and writer."""


def main(folder: Path) -> None:
    """Measure and write the result file."""
    with scratch() as out:
        sizes = {name: _material(out / name, times) for name, times in REPEATS.items()}
        words = full_size(out)[1]
        rounds = []
        for number in range(TIMES):
            rounds.append({name: _round(folder, out / name) for name in REPEATS})
            for name, num in sizes.items():
                check_same(rounds[-1][name], num)
                print(
                    f"round {number + 1}, {num} samples:", {k: round(r.cpu_s, 2) for k, r in rounds[-1][name].items()}
                )
    report.write(
        "peers",
        {"source": f"{words}, each under several names", "samples": sizes, "rounds": TIMES, **summary(rounds, sizes)},
        NOTES,
    )


def _material(out: Path, times: int) -> int:
    """Put a source and the list of its samples there; how many they are."""
    samples = repeated(full_size(out)[0], times)
    (out / "samples.json").write_text(json.dumps(samples))
    return len(samples)


def repeated(source: Path, times: int) -> list[peer_writers.Sample]:
    """Put every picture there under several names (hard links); path and label of each."""
    pictures = sorted(p for p in source.rglob("*") if p.is_file())
    wnids = sorted({p.parent.name for p in pictures})
    samples = []
    for picture in pictures:
        for number in range(times):
            path = picture.with_name(f"{picture.stem}_r{number}{picture.suffix}")
            os.link(picture, path)
            samples.append((str(path), wnids.index(picture.parent.name)))
        picture.unlink()
    return sorted(samples)


def _round(folder: Path, out: Path) -> dict[str, Run]:
    """Tench, then each peer with Tench's PIL, then each with plain pillow."""
    here = [sys.executable, "-m", "tests.benchmarks.bench_peers", "--tench", str(out / "source")]
    runs = {"tench": measured(here, {}, out)}
    for imaging in ("same", "plain"):
        for name in PACKAGES:
            python, script = folder / name / "bin" / "python", Path(peer_writers.__file__)
            command = [str(python), str(script), name, str(out / "samples.json")]
            runs[f"{name}, {imaging} PIL"] = measured(command, {"PYTHONPATH": str(folder / f"pil-{imaging}")}, out)
    return runs


def measured(command: list[str], environment: dict[str, str], out: Path) -> Run:
    """Run a writer (`command` and its folder), and look at it from outside while it works."""
    target, log, token = out / "run", out / "log", out / "token"
    target.mkdir()
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {**os.environ, **LOOPBACK_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token), **environment}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        log.open("w") as errors,
        subprocess.Popen([*command, str(target)], env=environment, stderr=errors, **pipes) as child,
    ):
        versions = _heard(child, log)
        cpu, started = TreeCpu(child.pid), time.perf_counter()
        _tell(child)
        _heard(child, log)
        wall_s, cpu_s = time.perf_counter() - started, cpu.seconds()
        _tell(child)
        found = _heard(child, log)
    shutil.rmtree(target)
    return Run(cpu_s, wall_s, versions, found)


def _tell(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def _heard(child: "subprocess.Popen[str]", log: Path) -> dict[str, Any]:
    """The next line of a writer; other lines (of its libraries) are passed over."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("{"):
            record: dict[str, Any] = json.loads(line)
            return record
    raise RuntimeError(f"{child.args!r} ended early:\n{log.read_text()[-3000:]}")


def check_same(runs: dict[str, Run], num_samples: int) -> None:
    """Refuse a round in which somebody lost samples, or in which peers with one PIL stored different bytes.

    Tench scales only what it keeps, so that its JPEGs are not the same; their sizes have to be, within 1 in 1,000.
    """
    for imaging in ("same", "plain"):
        found = [runs[f"{peer}, {imaging} PIL"].found for peer in PACKAGES]
        if found[0]["samples"] != num_samples or any(other != found[0] for other in found):
            raise RuntimeError(f"not the same {num_samples} pictures were stored: {found}")
    ours, theirs = runs["tench"].found, runs[f"{next(iter(PACKAGES))}, same PIL"].found
    if ours["samples"] != num_samples or abs(ours["bytes"] / theirs["bytes"] - 1) > 0.001:
        raise RuntimeError(f"not the same {num_samples} pictures were stored: {ours}, peers {theirs}")


def summary(rounds: list[Round], sizes: dict[str, int]) -> dict[str, Any]:
    """Rates of each writer over the long run, and from the short to the long one, beside Tench's of the same round."""
    table: dict[str, Any] = {}
    for name in rounds[0]["long"]:
        row: dict[str, Any] = {"versions": rounds[0]["long"][name].versions}
        for part in ("long", "further"):
            for unit, what in (("cpu_s", "images_per_cpu_s"), ("wall_s", "images_per_s")):
                rates = [_rate(runs, sizes, name, part, unit) for runs in rounds]
                ours = [_rate(runs, sizes, "tench", part, unit) for runs in rounds]
                row[f"{part}_{what}"] = report.median(rates)
                row[f"{part}_{what}_to_tench"] = report.median([a / b for a, b in zip(rates, ours, strict=True)])
        for size in sizes:
            row[f"{size}_cpu_s"] = [round(runs[size][name].cpu_s, 2) for runs in rounds]
            row[f"{size}_wall_s"] = [round(runs[size][name].wall_s, 2) for runs in rounds]
        table[name] = row
    return table


def _rate(runs: Round, sizes: dict[str, int], name: str, part: str, unit: str) -> float:
    """Images per second of the whole long run, or of what it has more than the short one."""
    seconds = {size: getattr(runs[size][name], unit) for size in sizes}
    if part == "long":
        return sizes["long"] / float(seconds["long"])
    return (sizes["long"] - sizes["short"]) / float(seconds["long"] - seconds["short"])


def tench(source: str, out: Path) -> None:
    """Tench's part, spoken with like a peer: the whole `ingest` with two actors."""
    import ingest.pool
    import ingest.run  # noqa: F401 (imported before the work, as the peers' packages are)
    from ingest.dataset import Dataset

    def read() -> Iterator[bytes]:
        split = Dataset.open(str(out / "dataset")).split("train")
        return (split.payload(row) for row in range(split.num_samples))

    settings = {"samples_per_shard": SAMPLES_PER_SHARD, "num_actors": peer_writers.NUM_PROCESSES}
    with own_ray(peer_writers.NUM_PROCESSES):
        time.sleep(peer_writers.SETTLE_S)
        peer_writers.serve(lambda: dataset(out, Path(source), **settings), read)


def make(folder: Path) -> None:
    """Make an environment for each peer without PIL, and the two builds of PIL that they are run with."""
    for name, calls in PACKAGES.items():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / name)], check=True)
        for packages in calls:
            _pip(folder / name, "install", *packages)
    _pip(
        folder / "webdataset", "install", "--no-deps", "--upgrade", "--target", str(folder / "pil-plain"), PLAIN_PILLOW
    )
    same = folder / "pil-same"
    shutil.rmtree(same, ignore_errors=True)
    shutil.copytree(Path(PIL.__file__).parent, same / "PIL")
    for described in Path(PIL.__file__).parents[1].glob("pillow*.dist-info"):
        shutil.copytree(described, same / described.name)


def _pip(environment: Path, *words: str) -> None:
    subprocess.run([str(environment / "bin" / "python"), "-m", "pip", "--quiet", *words], check=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--tench"]:
        tench(words[1], Path(words[2]))
    elif words[:1] == ["--make"]:
        make(Path((*words[1:], FOLDER)[0]))
    else:
        main(Path((*words, FOLDER)[0]))
