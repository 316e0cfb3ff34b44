"""A real `tench serve`, a dataset that it made, and a real browser, for all tests of the page together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_S, JOB_S, STOP_S = 120, 300, 60
TERMINAL = ("succeeded", "failed", "stopped")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SMALL = ["loader.crop=64", "network.hidden=[64, 32]"]


@dataclass(frozen=True)
class Service:
    """A running `tench serve`."""

    url: str
    home: Path

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST of a JSON body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def submit(self, kind: str, **settings: Any) -> str:
        """The id of a new job."""
        return str(self.call("/v1/jobs", {"kind": kind, "settings": settings})["id"])

    def train(self, dataset: str, **settings: Any) -> str:
        """The id of a small training."""
        return self.submit("train", dataset=dataset, preset="demo", device="cpu", switch=SMALL, **settings)

    def wait(self, job: str) -> dict[str, Any]:
        """The job once it has succeeded; fails the test with its error if it does not."""
        deadline = time.monotonic() + JOB_S
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.call(f"/v1/jobs/{job}")
            if found["state"] in TERMINAL:
                assert found["state"] == "succeeded", found["error"]
                return found
            time.sleep(0.5)
        pytest.fail(f"{job}: not done after {JOB_S} s, state {found['state']}")

    def run_folder(self, job: str) -> Path:
        return self.home / "runs" / job


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """`tench serve` as a process of its own on a free port; gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="td", dir="/tmp"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cluster.cli", "serve", "--port", str(port), "--home", str(home)]
    log = home / "serve.out"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    served = Service(f"http://127.0.0.1:{port}", home)
    try:
        _wait_until_ready(served, process, log)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"serve did not end within {STOP_S} s of SIGTERM:\n{log.read_text()[-3000:]}")
        shutil.rmtree(home, ignore_errors=True)


def _wait_until_ready(served: Service, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            served.call("/readyz")
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    pytest.fail(f"serve is not ready (exit {process.poll()}):\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def dataset(service: Service) -> str:
    """A small sealed dataset that the service itself made: 80 and 20 pictures, and two in quarantine."""
    from ingest.sample_source import write_sample
    from ingest.settings import SampleSettings

    data = service.home / "data"
    data.mkdir(exist_ok=True)
    write_sample(str(data / "sample"), SampleSettings(num_train=8, num_val=2))
    one, *_ = sorted((data / "sample" / "folders" / "train").glob("*/*"))
    (one.parent / "cut.jpg").write_bytes(one.read_bytes()[: one.stat().st_size // 2])
    (one.parent / "page.jpg").write_bytes(b"<html>not found</html>")
    service.wait(
        service.submit("ingest", source=str(data / "sample" / "folders"), dataset=str(data / "ten"), max_bad="2")
    )
    return str(data / "ten")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium as the system has it."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium: make test-slow installs it")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def trainings(service: Service, dataset: str) -> tuple[str, str]:
    """Two small trainings that have succeeded, at different learning rates."""
    ids = [
        service.train(dataset, epochs=2, global_batch=40, cpus_per_worker=1, learning_rate=rate)
        for rate in (0.01, 0.02)
    ]
    first, second = (service.wait(job)["id"] for job in ids)
    return first, second


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh tab; script errors and refusals of the content policy fail the test."""
    context = browser.new_context()
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda m: wrong.append(m.text) if "Content Security Policy" in m.text else None)
    yield opened
    context.close()
    assert wrong == []
