"""What the page says when there is nothing, when something failed, when Ray is out of reach, when the service is gone."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.page.conftest import TERMINAL, Service
from tests.cluster.served import serving

ABOVE = """() => document.querySelector('[data-field=error]')
    .compareDocumentPosition(document.querySelector('.tiles'))"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_without_jobs_the_page_says_how_to_begin_and_without_ray_that_it_is_out_of_reach(
    no_ray: str, dataset: str, tmp_path: Path, page: Any
) -> None:
    with serving(tmp_path, no_ray) as served:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served.url)
        page.goto(f"{served.url}/#/jobs")
        page.click(".welcome button[aria-label='Copy tench demo']")
        assert page.evaluate("navigator.clipboard.readText()") == "tench demo"
        assert served.url in page.locator(".command code").last.text_content()
        page.goto(f"{served.url}/#/datasets")
        page.wait_for_selector("h2:text-is('No dataset yet')")
        page.goto(f"{served.url}/#/cluster")
        page.wait_for_selector("[role=alert]:has-text('Ray cannot be reached')")
        shutil.copytree(dataset, served.root / "d")
        job = served.submit()["id"]
        page.goto(f"{served.url}/#/jobs/{job}")
        page.wait_for_selector(".doing:has-text('Waits until enough CPUs and GPUs are free.')")
        served.stopped(job)
        page.wait_for_function("() => document.querySelector('[data-field=state]').textContent === 'stopped'")
        assert page.is_visible("button:text-is('Resume')")


def test_a_failed_job_shows_its_reason_first_then_the_end_of_its_log(service: Service, page: Any) -> None:
    empty = service.home / "data" / "nothing"
    empty.mkdir(exist_ok=True)
    job = service.submit("ingest", source=str(empty), dataset=str(service.home / "data" / "never"))
    page.goto(f"{service.url}/#/jobs/{job}")
    page.wait_for_selector("[data-field=error]", timeout=60_000)
    found = service.call(f"/v1/jobs/{job}")
    assert found["state"] in TERMINAL
    shown = page.locator("[data-field=error]")
    assert f"exit {found['exit_code']}" in shown.text_content()
    assert found["error"].split("\n")[0] in shown.text_content()
    page.wait_for_function("() => document.querySelector('.log').textContent.includes('no known layout')")
    above = page.evaluate(ABOVE)
    assert above & 4, "the reason stands before the figures"
    page.wait_for_selector("p:has-text('No dataset was sealed: the job failed.')")
    assert page.get_by_text("when the dataset is sealed").count() == 0


def test_a_service_that_is_gone_is_said_and_found_again(service: Service, page: Any) -> None:
    page.goto(f"{service.url}/#/cluster")
    page.wait_for_selector("#link[data-link=live]")
    assert page.locator("#gone").text_content() == ""
    page.context.set_offline(True)
    page.wait_for_selector("#gone p:has-text('tench serve')", timeout=30_000)
    page.wait_for_selector(".old")
    page.context.set_offline(False)
    page.wait_for_selector("#gone p", state="detached", timeout=30_000)
    page.wait_for_selector(".old", state="detached", timeout=30_000)


def test_a_service_that_was_killed_leaves_what_it_last_said_dimmed(no_ray: str, tmp_path: Path, page: Any) -> None:
    with serving(tmp_path, no_ray) as served:
        job = served.submit()["id"]
        page.goto(f"{served.url}/#/jobs")
        page.wait_for_selector(f".job[data-key='{job}']")
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
        page.wait_for_selector("#gone p")
        assert page.locator("#gone").get_attribute("role") == "status"
        page.wait_for_selector(f".old .job[data-key='{job}']")


def test_the_page_of_an_ended_job_says_that_the_service_is_gone_and_finds_it_again(
    no_ray: str, tmp_path: Path, page: Any
) -> None:
    with serving(tmp_path, no_ray) as served:
        job = served.stopped(served.submit()["id"])["id"]
        page.goto(f"{served.url}/#/jobs/{job}")
        page.wait_for_selector("button:text-is('Resume')")
        page.wait_for_selector("#link[data-link=live]")
    page.wait_for_selector("#link[data-link=lost]")
    page.wait_for_selector(".job-page.old:has-text('connection lost')")
    with serving(tmp_path, no_ray, port=int(served.url.rsplit(":", 1)[1])):
        page.wait_for_selector("#link[data-link=live]")
        page.wait_for_selector(".job-page:not(.old)")
        assert "connection lost" not in page.locator(".job-page").text_content()
