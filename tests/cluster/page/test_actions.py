"""What a person does on the page: stop, resume, clone, dry run; seen at the service itself."""

import json
from typing import Any

import pytest

from tests.cluster.page.conftest import SMALL, Service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STATE_IS = "(state) => document.querySelector('.job-page [data-field=state]')?.textContent === state"
LONG_MS = 120_000


def test_a_training_is_watched_stopped_and_resumed_on_its_page(service: Service, dataset: str, page: Any) -> None:
    job = service.train(dataset, epochs=500, global_batch=40, num_workers=2, cpus_per_worker=1)
    page.goto(f"{service.url}/#/jobs/{job}")
    workers = page.wait_for_selector("[aria-label='Workers'] tbody tr:nth-child(2)", timeout=LONG_MS)
    assert workers.text_content().startswith("1")
    page.wait_for_selector("[aria-label='Loss'] .u-wrap")
    page.wait_for_selector("[aria-label='Gradient norm'] .u-wrap")
    assert page.is_hidden("[aria-label='GPU memory']"), "there is no GPU, so nothing is said of one"
    page.click("button:text-is('Stop')")
    page.wait_for_function(STATE_IS, arg="stopped", timeout=LONG_MS)
    assert service.call(f"/v1/jobs/{job}")["state"] == "stopped"
    page.click("button:text-is('Resume')")
    page.wait_for_function(STATE_IS, arg="running", timeout=LONG_MS)
    page.wait_for_selector(".events li[data-kind=resumed]", timeout=LONG_MS)
    assert service.call(f"/v1/jobs/{job}")["attempt"] == 2
    page.click("button:text-is('Stop')")
    page.wait_for_function(STATE_IS, arg="stopped", timeout=LONG_MS)


def test_a_clone_opens_the_form_filled_and_sends_what_was_changed(
    service: Service, trainings: tuple[str, str], page: Any
) -> None:
    page.goto(f"{service.url}/#/jobs/{trainings[0]}")
    page.click("a:text-is('Clone')")
    page.wait_for_selector("#field-switch")
    assert page.input_value("#field-switch") == "\n".join(SMALL), "a setting with a space in it stays one setting"
    assert page.input_value("#field-learning_rate") == "0.01"
    page.fill("#field-learning_rate", "0.03")
    page.fill("#field-name", "warmer")
    page.fill("#field-max_attempts", "7")
    with page.expect_request(lambda r: r.method == "POST") as asked:
        page.click("button:text-is('Start')")
    page.wait_for_selector(".job-page")
    body = json.loads(asked.value.post_data)
    before = service.call(f"/v1/jobs/{trainings[0]}")["settings"]
    made = service.call(f"/v1/jobs/{page.locator('.job-page').get_attribute('data-job')}")
    service.call(f"/v1/jobs/{made['id']}/stop", {})
    assert (body["name"], made["name"], made["max_attempts"]) == ("warmer", "warmer", 7)
    assert made["settings"] == {**before, "learning_rate": 0.03}


def test_a_clone_keeps_every_digit_of_a_large_seed(service: Service, dataset: str, page: Any) -> None:
    seed = 2**60 + 1
    job = service.submit("train", dataset=dataset, preset="demo", seed=seed)
    service.call(f"/v1/jobs/{job}/stop", {})
    page.goto(f"{service.url}/#/new/train?clone={job}")
    page.wait_for_selector("#field-seed", state="attached")
    assert page.input_value("#field-seed") == str(seed)


def test_a_dry_run_says_what_a_job_would_do_and_starts_nothing(service: Service, dataset: str, page: Any) -> None:
    before = service.call("/v1/jobs")["jobs"]
    page.goto(f"{service.url}/#/new/train?dataset={dataset}")
    page.wait_for_selector("#field-preset")
    page.select_option("#field-preset", "demo")
    page.fill("#field-epochs", "5")
    page.click("button:text-is('Dry run')")
    page.wait_for_selector(".dry-run")
    values = {
        name: page.locator(f".dry-run [data-field={name}]").text_content() for name in ("steps", "samples", "cpus")
    }
    assert (values["steps"], values["samples"]) == ("25", "400")
    assert int(values["cpus"]) >= 1
    assert [job["id"] for job in service.call("/v1/jobs")["jobs"]] == [job["id"] for job in before]


def test_each_kind_has_a_form_with_the_help_bounds_and_defaults_of_its_schema(service: Service, page: Any) -> None:
    kinds = service.call("/v1/kinds")
    assert len(kinds) >= 6
    for kind, schema in kinds.items():
        page.goto(f"{service.url}/#/new/{kind}")
        page.wait_for_selector(f"h1:text-is('New {kind}')")
        for name, spec in schema["properties"].items():
            words = page.locator(f"#field-{name}-help").text_content()
            assert words.startswith(spec["description"]), (kind, name)
            default = spec.get("default")
            if isinstance(default, bool):
                assert page.is_checked(f"#field-{name}") == default, (kind, name)
                continue
            expected = "" if default in (None, []) else f"{default:g}" if isinstance(default, float) else str(default)
            assert page.input_value(f"#field-{name}") == expected, (kind, name)


def test_a_fault_in_a_folded_group_opens_the_group(service: Service, page: Any) -> None:
    page.goto(f"{service.url}/#/new/verify")
    page.fill("#field-dataset", "/data/somewhere")
    page.click("summary:has-text('How it runs')")
    page.fill("#field-priority", "1000")
    page.click("summary:has-text('How it runs')")
    page.click("button:text-is('Start')")
    assert page.is_visible("#field-priority-fault")
    assert page.evaluate("document.activeElement.id") == "field-priority"
