"""The page in a real browser beside a real `tench serve`: what it shows is what the run folder says.

The run folder is read here as plain files, without any of our code.
"""

import json
import re
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.page.conftest import JOB_S, TERMINAL, Service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DASH = "–"

SNAPSHOT = """() => {
    const page = document.querySelector(".job-page");
    const read = (name) => {
        const element = page.querySelector(`[data-field="${name}"]`);
        return element && {text: element.textContent, value: element.dataset.value};
    };
    return {attempt: page.dataset.attempt, seq: page.dataset.seq,
            state: read("state"), samples_done: read("samples_done"), loss: read("loss")};
}"""

EVENTS = """() => [...document.querySelectorAll(".events li[data-seq]")].map((line) => ({
    attempt: Number(line.dataset.attempt), seq: Number(line.dataset.seq),
    kind: line.dataset.kind, text: line.querySelector(".text").textContent}))"""


class ProgressLog(threading.Thread):
    """Keeps every progress that a run folder shows, by (attempt, seq)."""

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self.run_folder, self.done = run, threading.Event()
        self.seen: dict[tuple[int, int], dict[str, Any]] = {}

    def run(self) -> None:
        while not self.done.wait(0.02):
            self.look()

    def look(self) -> None:
        for file in self.run_folder.glob("progress/*.json"):
            try:
                progress = json.loads(file.read_text())
            except FileNotFoundError:  # replaced in this moment
                continue
            self.seen[progress["attempt"], progress["seq"]] = progress


def _shown(page: Any) -> tuple[tuple[int, int] | None, dict[str, Any]]:
    snapshot = page.evaluate(SNAPSHOT)
    at = (int(snapshot["attempt"]), int(snapshot["seq"])) if snapshot["seq"] else None
    return at, snapshot


def _check_same(snapshot: dict[str, Any], progress: dict[str, Any]) -> None:
    assert snapshot["samples_done"]["text"] == f"{progress['done']:,}"
    loss = progress["figures"].get("loss")
    if loss is None:
        assert snapshot["loss"]["text"] == DASH
        return
    assert float(snapshot["loss"]["value"]) == loss
    assert abs(float(snapshot["loss"]["text"]) - loss) <= 0.000501, "the shown loss is the folder's, rounded"


def test_the_page_shows_what_the_run_folder_says_at_the_same_sequence_number(
    service: Service, dataset: str, page: Any
) -> None:
    job = service.submit("train", dataset=dataset, preset="demo", epochs=2, device="cpu")
    folder = service.run_folder(job)
    log = ProgressLog(folder)
    log.start()
    page.goto(f"{service.url}/#/jobs/{job}")
    page.wait_for_selector(".job-page")
    compared: dict[tuple[int, int], str] = {}
    deadline = time.monotonic() + JOB_S
    while time.monotonic() < deadline:
        at, snapshot = _shown(page)
        state = snapshot["state"]["text"]
        if at is not None and at in log.seen:
            _check_same(snapshot, log.seen[at])
            compared[at] = state
        if state in TERMINAL:
            break
        time.sleep(0.1)
    log.done.set()
    log.look()
    _check_end(page, folder, log, compared)


def _check_end(page: Any, folder: Path, log: ProgressLog, compared: dict[tuple[int, int], str]) -> None:
    at, snapshot = _shown(page)
    result = json.loads(max(folder.glob("result/*.json")).read_text())
    assert snapshot["state"]["text"] == result["state"] == "succeeded", result
    assert at == max(log.seen), "the last progress shown is the last one written"
    _check_same(snapshot, log.seen[at])
    while_running = [seen for seen, state in compared.items() if state == "running"]
    assert len(while_running) >= 3, f"only {len(while_running)} progresses were seen while it ran"
    assert len({log.seen[seen]["done"] for seen in while_running}) >= 2, "the page moved while the job ran"


def test_events_on_the_page_are_the_run_folders_in_order(service: Service, dataset: str, page: Any) -> None:
    job = service.submit("verify", dataset=dataset)
    service.wait(job)
    page.goto(f"{service.url}/#/jobs/{job}")
    page.wait_for_function("() => document.querySelector('[data-field=state]')?.textContent === 'succeeded'")
    files = sorted(service.run_folder(job).glob("events/*/*.jsonl"))
    written = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert written
    page.wait_for_function(f"() => document.querySelectorAll('.events li[data-seq]').length >= {len(written)}")
    expected = [{name: event[name] for name in ("attempt", "seq", "kind", "text")} for event in written]
    assert page.evaluate(EVENTS) == expected[::-1]


def test_every_page_opens_under_a_policy_without_inline_code(service: Service, dataset: str, page: Any) -> None:
    with urllib.request.urlopen(service.url + "/", timeout=30) as answer:
        policy, html = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "unsafe" not in policy
    assert "default-src" in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    dataset_id = service.call("/v1/datasets")["datasets"][0]["dataset_id"]
    titles = {
        "/jobs": "Jobs", "/datasets": "Datasets", f"/datasets/{dataset_id}": "ten", "/cluster": "Cluster",
        "/new": "New job", "/new/train": "New train",
    }  # fmt: skip
    for path, title in titles.items():
        page.goto(f"{service.url}/#{path}")
        page.wait_for_selector(f"h1:text-is('{title}')")
    assert page.locator(".field").count() > 10


def test_a_dataset_is_shown_with_its_counts_and_pictures(service: Service, dataset: str, page: Any) -> None:
    dataset_id = service.call("/v1/datasets")["datasets"][0]["dataset_id"]
    page.goto(f"{service.url}/#/datasets/{dataset_id}")
    page.wait_for_selector("[aria-label='Mean image'] canvas:not([hidden])")
    page.wait_for_selector("[aria-label='Contact sheet'] canvas:not([hidden])")
    assert page.locator("[aria-label='Mean image'] canvas").evaluate("(c) => [c.width, c.height]") == [256, 256]
    cells = page.locator("[aria-label='Splits'] tbody tr").first.locator("td").all_text_contents()
    assert cells[:2] == ["train", "80"]
    assert page.locator("[aria-label='RGB principal axes'] tbody tr").count() == 3


def test_a_value_out_of_bounds_is_named_at_its_field_before_anything_is_sent(service: Service, page: Any) -> None:
    posted: list[str] = []
    page.on("request", lambda r: posted.append(r.url) if r.method == "POST" else None)
    page.goto(f"{service.url}/#/new/ingest")
    page.fill("#field-source", "/somewhere")
    page.fill("#field-dataset", "/elsewhere")
    page.fill("#field-side", "5000")
    page.click("button[type=submit]")
    assert "at most 1024" in page.locator("#field-side-fault").text_content()
    assert page.evaluate("document.activeElement.id") == "field-side"
    assert posted == []


def test_what_the_service_refuses_is_shown_at_the_field(service: Service, page: Any) -> None:
    page.goto(f"{service.url}/#/new/verify")
    page.fill("#field-dataset", "/etc/elsewhere")
    page.click("button[type=submit]")
    page.wait_for_selector("#field-dataset-fault:not([hidden])")
    assert "/etc/elsewhere" in page.locator("#field-dataset-fault").text_content()
    assert page.locator("#field-dataset").get_attribute("aria-invalid") == "true"


def test_a_job_is_started_from_the_form_and_listed(service: Service, dataset: str, page: Any) -> None:
    page.goto(f"{service.url}/#/new/verify")
    page.fill("#field-dataset", dataset)
    page.click("button[type=submit]")
    page.wait_for_selector(".job-page")
    job = page.locator(".job-page").get_attribute("data-job")
    assert service.wait(job)["kind"] == "verify"
    page.click("nav a[data-page=jobs]")
    page.wait_for_selector(f".job[data-key='{job}']")


def test_a_token_travels_as_a_header_and_never_in_an_address(service: Service, page: Any) -> None:
    token = "tench_of_this_test"
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request))
    page.add_init_script(f"sessionStorage.setItem('tench-token', '{token}')")
    page.goto(f"{service.url}/#/jobs")
    page.wait_for_timeout(1500)
    calls = [request for request in asked if "/v1/" in request.url]
    assert calls
    assert all(request.headers.get("authorization") == f"Bearer {token}" for request in calls)
    assert not [request.url for request in asked if token in request.url]


def test_a_lost_connection_is_said_and_found_again(service: Service, page: Any) -> None:
    page.goto(f"{service.url}/#/jobs")
    page.wait_for_selector("#link[data-link=live]")
    page.context.set_offline(True)
    page.wait_for_selector("#link[data-link=lost]")
    assert "connection lost, reconnecting" in page.locator("#link").text_content()
    page.context.set_offline(False)
    page.wait_for_selector("#link[data-link=live]")
