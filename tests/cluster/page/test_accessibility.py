"""The page for everybody: axe finds nothing serious, keys reach everything, a phone needs no sideways scrolling."""

from typing import Any

import pytest

from tests.cluster.page.conftest import Service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BAD = ("serious", "critical")
REACHABLE = """() => [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')]
    .filter((e) => !e.disabled && e.checkVisibility({visibilityProperty: true}) && !e.closest('dialog:not([open])')).length"""
FOCUS = """() => {
    const e = document.activeElement;
    if (e === document.body) return null;
    if (!e.dataset.visited) e.dataset.visited = Math.random();
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    return {id: e.dataset.visited, seen: style.outlineStyle !== 'none' && box.width > 0, words: e.outerHTML.slice(0, 90)};
}"""
MOVING = """() => {
    const active = (rules) => [...rules].flatMap((rule) =>
        rule.media ? (matchMedia(rule.media.mediaText).matches ? active(rule.cssRules) : []) : [rule]);
    return [...document.styleSheets].flatMap((sheet) => active(sheet.cssRules))
        .filter((rule) => rule.style?.transitionDuration || rule.style?.animationName).length;
}"""
SIDEWAYS = "() => document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="session")
def addresses(service: Service, dataset: str, trainings: tuple[str, str]) -> dict[str, str]:
    """Every page, each with what is there once it is drawn."""
    dataset_id = next(d["dataset_id"] for d in service.call("/v1/datasets")["datasets"] if d["uri"] == dataset)
    ingest = next(job["id"] for job in service.call("/v1/jobs?kind=ingest&state=succeeded")["jobs"])
    return {
        "/jobs": ".job",
        "/new": ".choice",
        "/new/train": "#field-preset",
        "/datasets": "tbody a",
        f"/datasets/{dataset_id}": ".gallery li",
        "/cluster": ".tile",
        f"/jobs/{trainings[0]}": ".u-wrap",
        f"/jobs/{ingest}": ".facts",
        "/compare": ".pick",
        f"/compare/{','.join(trainings)}": ".errors-card",
        "/jobs/no-such-job": "[role=alert]",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(
    service: Service, addresses: dict[str, str], browser: Any, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    wrong = []
    for address, drawn in addresses.items():
        page.goto(f"{service.url}/#{address}")
        page.wait_for_selector(drawn)
        found = axe.run(page).response["violations"]
        wrong += [(address, v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in BAD]
    context.close()
    assert wrong == []


def test_no_page_scrolls_sideways_on_a_phone(service: Service, addresses: dict[str, str], browser: Any) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    wide = {}
    for address, drawn in addresses.items():
        page.goto(f"{service.url}/#{address}")
        page.wait_for_selector(drawn)
        wide[address] = page.evaluate(SIDEWAYS)
    context.close()
    assert {address: px for address, px in wide.items() if px > 0} == {}


@pytest.mark.parametrize("kind", ["/jobs", "/new/train", "/compare", "training", "dataset"])
def test_the_keyboard_alone_reaches_everything_and_shows_where_it_is(
    service: Service, addresses: dict[str, str], page: Any, kind: str
) -> None:
    named = {"training": next(a for a in addresses if "-train-" in a), "dataset": [*addresses][4]}
    address = named.get(kind, kind)
    page.goto(f"{service.url}/#{address}")
    page.wait_for_selector(addresses[address])
    page.wait_for_timeout(500)
    wanted = page.evaluate(REACHABLE)
    visited: dict[str, Any] = {}
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        if at is not None:
            visited[at["id"]] = at
    assert [at["words"] for at in visited.values() if not at["seen"]] == []
    assert len(visited) >= wanted


def test_a_chart_can_be_read_by_keys_and_as_a_table(service: Service, trainings: tuple[str, str], page: Any) -> None:
    loss = service.call(f"/v1/jobs/{trainings[0]}/metrics")["series"]["loss"]
    page.goto(f"{service.url}/#/jobs/{trainings[0]}")
    card = page.locator("[aria-label='Loss']").first
    card.locator(".u-wrap").wait_for()
    card.locator(".plot").focus()
    page.keyboard.press("End")
    newest = f"step {loss[-1][0]:g}: train {loss[-1][1]:.3f}"
    page.wait_for_function(f"() => document.querySelector('[aria-label=Loss] output').textContent === '{newest}'")
    card.locator("summary").focus()
    page.keyboard.press("Enter")
    card.locator("tbody td").first.wait_for()  # it is filled once it is open
    cells = card.locator("tbody tr").first.locator("td").all_text_contents()
    assert cells == ["train", f"{loss[-1][0]:g}", f"{loss[-1][1]:.3f}"]


@pytest.mark.parametrize(("wish", "moves"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_those_who_want_no_motion(service: Service, browser: Any, wish: str, moves: bool) -> None:
    context = browser.new_context(reduced_motion=wish)
    page = context.new_page()
    page.goto(f"{service.url}/#/jobs")
    page.wait_for_selector("#link[data-link=live]")
    assert (page.evaluate(MOVING) > 0) == moves
    context.close()
