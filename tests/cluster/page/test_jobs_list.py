"""The list of jobs where there are more than one page of them: nothing vanishes, nothing stays old, filters see all."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.served import Served, serving

PAGE = 100
OLDER = "button:text-is('Older jobs')"
HAS_ROWS = "(n) => document.querySelectorAll('.job').length === n && !document.querySelector('.jobs.old')"
ROWS = "(rows) => rows.map((row) => row.dataset.key)"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(no_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose jobs wait for a Ray that does not answer."""
    with serving(tmp_path_factory.mktemp("list"), no_ray) as service:
        yield service


@pytest.fixture(scope="module")
def jobs(served: Served) -> list[str]:
    """More than two pages of jobs, the oldest first; the first has been stopped, the others are queued."""
    ids = [str(served.submit()["id"]) for _ in range(2 * PAGE + 30)]
    served.stopped(ids[0])
    return ids


def _rows(page: Any) -> list[str]:
    found: list[str] = page.locator(".job").evaluate_all(ROWS)
    return found


def test_a_stopped_job_is_found_by_its_state_behind_pages_of_newer_ones(
    served: Served, jobs: list[str], page: Any
) -> None:
    page.goto(f"{served.url}/#/jobs")
    page.wait_for_function(HAS_ROWS, arg=PAGE)
    page.select_option("[aria-label=State]", "stopped")
    page.wait_for_selector(f".jobs:not(.old) .job[data-key='{jobs[0]}']")
    assert _rows(page) == [job["id"] for job in served.get("/v1/jobs?state=stopped").json()["jobs"]]
    page.select_option("[aria-label=Kind]", "train")
    page.wait_for_selector("p:text-is('No job fits the filter.')")
    page.select_option("[aria-label=State]", "queued")
    page.select_option("[aria-label=Kind]", "verify")
    page.wait_for_function(HAS_ROWS, arg=PAGE)
    page.click(OLDER)
    page.wait_for_function(HAS_ROWS, arg=2 * PAGE)
    page.select_option("[aria-label=State]", "")
    page.wait_for_function(HAS_ROWS, arg=PAGE)


def test_a_text_is_said_to_be_looked_for_in_what_is_loaded(served: Served, jobs: list[str], page: Any) -> None:
    page.goto(f"{served.url}/#/jobs")
    page.wait_for_function(HAS_ROWS, arg=PAGE)
    page.fill("#filter", jobs[0])
    page.wait_for_selector("p:text-is('Found in 0 of the 100 jobs that are loaded; older ones were not searched.')")


def test_older_jobs_that_cannot_be_read_are_said_and_can_be_asked_for_again(
    served: Served, jobs: list[str], page: Any
) -> None:
    page.goto(f"{served.url}/#/jobs")
    page.wait_for_function(HAS_ROWS, arg=PAGE)
    page.route("**/v1/jobs?*", lambda route: route.abort())
    page.click(OLDER)
    page.wait_for_selector(".notice[data-kind=bad]:has-text('Older jobs could not be read')")
    assert len(_rows(page)) == PAGE
    page.unroute("**/v1/jobs?*")
    page.click(OLDER)
    page.wait_for_function(HAS_ROWS, arg=2 * PAGE)
    assert _rows(page) == jobs[: -2 * PAGE - 1 : -1]


def test_an_older_job_neither_vanishes_nor_stays_old_when_new_ones_arrive(
    served: Served, jobs: list[str], page: Any
) -> None:
    page.goto(f"{served.url}/#/jobs")
    page.click(OLDER)
    page.wait_for_function(HAS_ROWS, arg=2 * PAGE)
    before = _rows(page)
    jobs += [str(served.submit()["id"]) for _ in range(10)]
    served.stopped(before[-1])
    page.wait_for_selector(f".job[data-key='{jobs[-1]}']")
    page.wait_for_selector(f".job[data-key='{before[-1]}'] .badge:text-is('stopped')")
    rows = _rows(page)
    assert set(before) < set(rows)
    assert rows == jobs[: -len(rows) - 1 : -1], "newest first, each once"


def test_an_open_log_is_not_asked_for_again_before_it_has_come(served: Served, jobs: list[str], page: Any) -> None:
    asked: list[Any] = []
    page.route("**/logs?*", lambda route: asked.append(route))
    page.clock.install()
    page.goto(f"{served.url}/#/jobs/{jobs[-1]}")
    page.click("summary:has-text('Log')")
    page.clock.run_for(20_000)
    assert len(asked) == 1
    asked[0].fulfill(body="a line of the log")
    page.wait_for_selector(".log:text-is('a line of the log')")
    page.clock.run_for(4000)
    assert len(asked) == 2
