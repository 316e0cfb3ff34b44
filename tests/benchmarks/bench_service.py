"""How quickly the service answers while it is busy: `python -m tests.benchmarks.bench_service` (under two minutes).

A job's status is asked for again and again while 200 clients follow the job's events, which keep coming, and other
processes keep all cores at work. Clients, events and work are processes of their own. Then, on a Ray of the service's
own: the time from asking for a small ingest to its first progress.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from ingest.progress import RunWriter
from ingest.settings import SampleSettings
from ingest.storage import Place
from tests.benchmarks import material, report
from tests.cluster.ray_api import TOKEN, ray_api
from tests.cluster.rows import put_job
from tests.cluster.served import Served, environment, serving

LISTENERS, EVENTS_PER_S, SECONDS, PAUSE_S, CONNECTING_S = 200, 20, 15.0, 0.02, 4.0
START_S, PROGRESS_S = 90.0, 60.0


async def _listen(host: str, port: int, path: str, last: str, since: float, until: float) -> int:
    """Events that one client was told between two times."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nLast-Event-ID: {last}\r\n\r\n".encode())
    count = 0
    try:
        while (left := until - time.monotonic()) > 0:
            line = await asyncio.wait_for(reader.readline(), left)
            count += line.rstrip() == b"event: event" and time.monotonic() >= since
    except TimeoutError:
        pass
    writer.close()
    return count


async def _ask(host: str, port: int, path: str, until: float) -> list[float]:
    """Seconds that each request took, one after another on one connection."""
    reader, writer = await asyncio.open_connection(host, port)
    took = []
    while time.monotonic() < until:
        before = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        took.append(time.perf_counter() - before)
        assert head.startswith(b"HTTP/1.1 200"), head
        await asyncio.sleep(PAUSE_S)
    writer.close()
    return took


async def _clients(url: str, job: str, listeners: int, seconds: float) -> dict[str, Any]:
    address = urlsplit(url)
    host, port, path = str(address.hostname), int(address.port or 0), f"/v1/jobs/{job}"
    with urllib.request.urlopen(f"{url}{path}") as answer:  # So that what happened before is not told again.
        last = f"0.1.{json.load(answer)['progress']['seq']}"
    since = time.monotonic() + CONNECTING_S
    until = since + seconds
    told = [asyncio.create_task(_listen(host, port, f"{path}/events", last, since, until)) for _ in range(listeners)]
    await asyncio.sleep(CONNECTING_S)  # Connecting is not part of the measure.
    took = await _ask(host, port, path, until)
    counts = await asyncio.gather(*told)
    return {"took": took, "events": counts}


def clients(served: Served, job: str, listeners: int) -> dict[str, Any]:
    """Percentiles of the time to answer (ms), CPU of the service, events a second of a client; from another process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_service", "clients", served.url, job, str(listeners)]
    before = sum(psutil.Process(served.process.pid).cpu_times()[:2])
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    found = json.loads(ended.stdout)
    took = [1000 * seconds for seconds in found["took"]]
    cuts = statistics.quantiles(took, n=100)
    figures = {"requests": len(took), "p50_ms": round(cuts[49], 1), "p99_ms": round(cuts[98], 1)}
    used = sum(psutil.Process(served.process.pid).cpu_times()[:2]) - before
    figures["service_cpu_share"] = round(used / (SECONDS + CONNECTING_S), 3)
    if listeners:
        figures["events_per_s_of_a_client"] = round(statistics.median(found["events"]) / SECONDS, 1)
        figures["events_per_s_of_the_slowest"] = round(min(found["events"]) / SECONDS, 1)
    return figures


@contextmanager
def working(*commands: list[str]) -> Iterator[None]:
    """Processes at work; gone at the end."""
    processes = [subprocess.Popen([sys.executable, *command], env=environment()) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def keep_telling(folder: str) -> None:
    """Write events, and progress, of a run for ever: a metrics event, as a training writes them."""
    run = RunWriter.begin(Place(folder), "train", {}, attempt=1)
    figures = {
        "loss": 6.9,
        "learning_rate": 0.01,
        "samples_per_s": 700.0,
        "data_wait_share": 0.01,
        "layers": [[0.1] * 8] * 8,
    }
    step = 0
    while True:
        for _ in range(EVENTS_PER_S // 2):
            step += 1
            run.event("metrics", f"Step {step}: loss 6.9.", step=step, **figures)
        run.flush()
        run.progress("training", step, None, "samples", force=True, **figures)
        time.sleep(0.5)


def latency(home: Path) -> dict[str, Any]:
    """Figures of a quiet service, of one with listeners, and of one with listeners and busy cores."""
    # As Ray starts the workers of a job: at niceness 15.
    busy = ["-c", "import os; os.nice(15)\nwhile True: pass"]
    with ray_api() as api, serving(home, api.url, "--reads-per-second", "100000", ray_token=TOKEN) as served:
        job = put_job(home, kind="train", state="running", attempt=1)
        api.jobs[f"tench-{job}-1"] = {"submission_id": f"tench-{job}-1", "status": "RUNNING"}
        telling = ["-m", "tests.benchmarks.bench_service", "events", str(home / "runs" / job)]
        with working(telling):
            served.eventually(f"/v1/jobs/{job}", lambda found: found["progress"])
            figures = {"quiet": clients(served, job, 0), "listeners": clients(served, job, LISTENERS)}
            with working(*[busy] * (os.cpu_count() or 1)):
                figures["listeners_and_busy_cores"] = clients(served, job, LISTENERS)
            figures["service_rss_mb"] = round(psutil.Process(served.process.pid).memory_info().rss / 2**20, 1)
        return figures


@contextmanager
def with_own_ray(home: Path) -> Iterator[Served]:
    """`tench serve` with a Ray of its own."""
    command = [sys.executable, "-m", "cluster.cli", "serve", "--port", "0", "--home", str(home), "--root", str(home)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment())
    note, deadline = home / "service.json", time.monotonic() + START_S
    try:
        while not note.exists():
            assert process.poll() is None, "tench serve ended"
            assert time.monotonic() < deadline, f"tench serve did not start within {START_S} s"
            time.sleep(0.1)
        yield Served(json.loads(note.read_text())["url"], home, home, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def first_progress_s(home: Path) -> float:
    """Seconds from asking for a small ingest to its first progress."""
    from ingest.sample_source import write_sample

    write_sample(str(home / "source"), SampleSettings(num_train=6, num_val=3))
    with with_own_ray(home) as served:
        before = time.monotonic()
        settings = {"source": f"{home}/source/folders", "dataset": f"{home}/dataset", "num_actors": 1}
        job = served.submit("ingest", settings=settings)["id"]
        served.eventually(f"/v1/jobs/{job}", lambda found: found["progress"])
        took = time.monotonic() - before
        served.job_once(job, "succeeded")
        return round(took, 1)


def main() -> None:
    """Measure all of it, and write the result down."""
    with material.scratch() as folder:
        figures: dict[str, Any] = {
            "listeners": LISTENERS,
            "events_per_s": EVENTS_PER_S,
            "latency": latency(folder / "a"),
        }
    with material.scratch() as folder:
        figures["post_to_first_progress_s"] = first_progress_s(folder)
    report.write("service", figures, "GET /v1/jobs/{id} on one connection; clients in one process of their own.")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["clients", url, job, listeners]:
            print(json.dumps(asyncio.run(_clients(url, job, int(listeners), SECONDS))))
        case ["events", folder]:
            keep_telling(folder)
        case _:
            main()
