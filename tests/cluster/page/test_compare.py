"""Trainings side by side, in a real browser: what is shown is what the service answers of each."""

from typing import Any

import pytest

from tests.cluster.page.conftest import Service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = "(table) => [...table.querySelectorAll('tbody tr')].map((r) => [...r.children].map((c) => c.textContent.trim()))"


def rows(page: Any, caption: str) -> list[list[str]]:
    """The cells of the table with this caption."""
    found: list[list[str]] = page.locator("table", has=page.locator(f"caption:text-is('{caption}')")).evaluate(ROWS)
    return found


def test_two_trainings_are_compared_by_curves_errors_and_settings(
    service: Service, trainings: tuple[str, str], page: Any
) -> None:
    page.goto(f"{service.url}/#/compare/{','.join(trainings)}")
    page.wait_for_selector(".errors-card")
    results = [service.call(f"/v1/jobs/{job}")["result"] for job in trainings]
    lowest = min(result["top1_error"] for result in results)
    for cells, result, job, letter in zip(rows(page, "Errors"), results, trainings, "AB", strict=True):
        assert cells[0].startswith(letter)
        assert job in cells[0]
        assert cells[1:3] == ["succeeded", "2 of 2"]
        mark = "lowest " if result["top1_error"] == lowest else ""
        assert cells[3:5] == [f"{mark}{result['top1_error']:.3f}", f"{result['top5_error']:.3f}"]
    assert rows(page, "Settings that differ") == [["Learning rate differs", "0.01", "0.02"]]
    assert ["Preset", "demo", "demo"] in rows(page, "Settings that are the same")
    page.click("[aria-label='Error, top-1'] summary")
    drawn = rows(page, "Error, top-1, the newest 200 of each line")
    for job, letter in zip(trainings, "AB", strict=True):
        curve = service.call(f"/v1/jobs/{job}/metrics")["series"]["top1_error"]
        assert sorted(row for row in drawn if row[0] == letter) == [[letter, f"{x:g}", f"{y:.3f}"] for x, y in curve]


def test_a_choice_stands_in_the_address_and_the_address_shows_the_choice(
    service: Service, trainings: tuple[str, str], page: Any
) -> None:
    first, second = trainings
    page.goto(f"{service.url}/#/jobs/{first}")
    page.click("a:text-is('Compare')")
    page.wait_for_selector(".picker[open]")
    page.check(f"input[value='{second}']")
    page.wait_for_selector("table caption:text-is('Settings that differ')", state="attached")
    assert page.url == f"{service.url}/#/compare/{first},{second}"
    page.reload()
    page.wait_for_selector("table caption:text-is('Settings that differ')", state="attached")
    assert {box.get_attribute("value") for box in page.locator(".pick input:checked").all()} == {first, second}


def test_an_unknown_run_is_named_and_the_others_are_still_shown(
    service: Service, trainings: tuple[str, str], page: Any
) -> None:
    page.goto(f"{service.url}/#/compare/{trainings[0]},no-such-run")
    page.wait_for_selector(".errors-card")
    assert "no-such-run" in page.locator(".compare-page [role=alert]").text_content()
    assert len(rows(page, "Errors")) == 1
