"""Pictures of a dataset: its quarantine, the augmentation sheet, what a browser keeps; and a damaged dataset."""

import io
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cluster.page.conftest import Service
from tests.cluster.served import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CANVAS_IS_DRAWN = "(name) => document.querySelector(name)?.width > 100"


def id_of(service: Service, dataset: str) -> str:
    found = service.call("/v1/datasets")["datasets"]
    return str(next(d["dataset_id"] for d in found if d["uri"] == dataset))


def test_each_quarantined_picture_is_shown_with_its_reason(service: Service, dataset: str, page: Any) -> None:
    page.goto(f"{service.url}/#/datasets/{id_of(service, dataset)}")
    page.wait_for_selector(".gallery li")
    tiles = {tile.locator(".badge").text_content(): tile for tile in page.locator(".gallery li").all()}
    assert set(tiles) == {"truncated", "not a picture"}
    tiles["truncated"].locator("canvas:not([hidden])").wait_for()
    assert "cut" in tiles["truncated"].text_content()
    assert tiles["not a picture"].locator("canvas").count() == 0, "a web page is never decoded"
    assert "neither a JPEG nor a PNG file" in tiles["not a picture"].text_content()


def test_the_augmentation_sheet_is_drawn_when_it_is_asked_for(service: Service, dataset: str, page: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/#/datasets/{id_of(service, dataset)}")
    page.wait_for_selector("[aria-label='Augmentation sheet']")
    assert not [url for url in asked if "augmentation" in url]
    page.click("[aria-label='Augmentation sheet'] summary")
    page.wait_for_function(
        CANVAS_IS_DRAWN, arg="[aria-label='Augmentation sheet'] canvas:not([hidden])", timeout=120_000
    )


def test_a_picture_that_a_browser_has_is_not_sent_again(service: Service, dataset: str) -> None:
    url = f"{service.url}/v1/datasets/{id_of(service, dataset)}/contact.png"
    with urllib.request.urlopen(url, timeout=60) as first:
        tag, data = first.headers["ETag"], first.read()
    assert Image.open(io.BytesIO(data)).format == "PNG"
    with pytest.raises(urllib.error.HTTPError) as again:
        urllib.request.urlopen(urllib.request.Request(url, headers={"If-None-Match": tag}), timeout=60)
    assert (again.value.code, again.value.read()) == (304, b"")


def test_a_damaged_dataset_says_what_is_damaged_and_what_to_do(
    dataset: str, no_ray: str, tmp_path: Path, page: Any
) -> None:
    with serving(tmp_path, no_ray) as served:
        copy = Path(shutil.copytree(dataset, served.root / "ten"))
        (found,) = served.get("/v1/datasets").json()["datasets"]
        path = f"/v1/datasets/{found['dataset_id']}"
        quarantined = next(copy.glob("quarantine/*.bin"))
        split, row = quarantined.stem.rsplit("-", 1)
        for broken, asked in (
            (copy / "train" / "00000.arrow", f"{path}/contact.png"),
            (quarantined, f"{path}/quarantine/{split}/{int(row)}.png"),
            (quarantined.with_suffix(".json"), f"{path}/quarantine"),
            (copy / "statistics" / "mean.npy", f"{path}/mean.png"),
        ):
            size = broken.stat().st_size
            broken.chmod(0o644)
            broken.write_bytes(bytes(size))
            answer = served.get(asked)
            assert answer.status == 409, (asked, answer.body)
            assert broken.name in answer.json()["detail"]
        damage = served.get(path)
        assert damage.status == 200
        assert "mean.npy" in damage.json()["damage"]
        page.goto(f"{served.url}/#{path.removeprefix('/v1')}")
        page.wait_for_selector("[role=alert]:has-text('mean.npy')")
        assert (
            page.get_attribute("a:text-is('Repair')", "href") == f"#/new/repair?dataset={str(copy).replace('/', '%2F')}"
        )
        assert page.locator(".tile", has_text="samples").locator(".value").text_content() == "100"
