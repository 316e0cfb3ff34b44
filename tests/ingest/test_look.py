"""What `tench inspect` shows: facts that can be counted again, tiles of the right class, a page that stands alone."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ingest.look import contact_sheet, describe, pca_swatches, summary_lines, write_html, write_png
from tests.conftest import TinySource
from tests.ingest.conftest import Convert
from tests.ingest.pictures import Pixels, file_of
from tests.ingest.shards import samples

TILE, GAP = 48, 4


def _tile(sheet: Pixels, row: int, column: int) -> Pixels:
    top, left = GAP + row * (TILE + GAP), GAP + column * (TILE + GAP)
    return sheet[top : top + TILE, left : left + TILE]


@pytest.fixture(scope="module")
def coloured(convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three classes of one colour each, as raw payloads: 2, 3 and 4 training pictures."""
    folder = tmp_path_factory.mktemp("coloured")
    for k in range(3):
        (folder / f"source/n{k}").mkdir(parents=True)
        for at in range(k + 2):
            colour = np.zeros((20, 30, 3), np.uint8)
            colour[..., k] = 100 + 30 * at
            (folder / f"source/n{k}/{at}.JPEG").write_bytes(file_of(colour))
    convert(folder / "source", folder / "dataset", payload="raw", side=16)
    return str(folder / "dataset")


def test_each_column_of_the_sheet_shows_the_pictures_of_one_class(coloured: str) -> None:
    sheet = contact_sheet(coloured, columns=3, rows=4, tile=TILE)
    assert (sheet.shape, sheet.dtype) == ((4 * (TILE + GAP) + GAP, 3 * (TILE + GAP) + GAP, 3), np.uint8)
    for k in range(3):
        shown = [tuple(_tile(sheet, row, k)[TILE // 2, TILE // 2].tolist()) for row in range(k + 2)]
        wanted = [tuple(100 + 30 * at if c == k else 0 for c in range(3)) for at in range(k + 2)]
        assert sorted(shown) == sorted(wanted)
        assert all((_tile(sheet, row, k) == 255).all() for row in range(k + 2, 4))
    assert (sheet[:GAP] == 255).all()


def test_the_sheet_of_a_jpeg_dataset_shows_its_samples(tiny_dataset: str) -> None:
    sheet = contact_sheet(tiny_dataset, "val", columns=10, rows=3, tile=TILE)
    assert sheet.shape == (3 * (TILE + GAP) + GAP, 10 * (TILE + GAP) + GAP, 3)
    stored = samples(tiny_dataset, "val")
    for label in range(10):
        small = [
            np.asarray(Image.open(io.BytesIO(s.payload)).resize((TILE, TILE), Image.Resampling.BILINEAR), np.int16)
            for s in stored
            if s.label == label
        ]
        for row in range(3):
            tile = _tile(sheet, row, label).astype(np.int16)
            assert min(np.abs(tile - picture).mean() for picture in small) < 1


def test_facts_are_those_of_the_dataset(tiny_dataset: str, tiny_source: TinySource) -> None:
    facts = describe(tiny_dataset)
    stored = samples(tiny_dataset, "train")
    counts = [sum(s.label == label for s in stored) for label in range(10)]
    assert facts["splits"]["train"]["class_counts"] == counts == [6] * 10
    assert facts["splits"]["val"]["num_samples"] == 30
    assert [c["wnid"] for c in facts["classes"]] == sorted(p.name for p in (tiny_source.folders / "train").iterdir())
    assert facts["splits"]["train"]["bytes"] == sum(p.stat().st_size for p in Path(tiny_dataset, "train").iterdir())
    assert any(line.endswith(facts["dataset_id"]) for line in summary_lines(facts))


def test_swatches_start_and_end_three_deviations_from_the_mean(tiny_dataset: str) -> None:
    swatches, pca = pca_swatches(tiny_dataset, height=8, width=7), describe(tiny_dataset)["statistics"]
    assert swatches.shape == (24, 7, 3)
    for axis in range(3):
        way = 3 * pca["stdevs"][axis] * np.array(pca["eigenvectors_columns"])[:, axis]
        for column, sign in ((0, -1), (3, 0), (6, 1)):
            wanted = np.clip(np.array(pca["channel_mean"]) + sign * way, 0, 255)
            assert np.abs(swatches[axis * 8 + 4, column] - wanted).max() <= 0.5


class _Page(HTMLParser):
    """Collects every value that could lead elsewhere, and the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def test_the_page_and_the_picture_stand_alone(tiny_dataset: str, tmp_path: Path) -> None:
    write_html(tiny_dataset, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert len(page.links) == 4  # two sheets, the mean, the colours
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert not any(words in text for words in ("http:", "https:", "url(", "@import"))
    sizes = [Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).size for link in page.links]
    assert (256, 256) in sizes
    assert describe(tiny_dataset)["dataset_id"] in text
    write_png(tiny_dataset, tmp_path / "sheet.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), contact_sheet(tiny_dataset))


def test_names_of_classes_and_folders_cannot_add_markup(convert: Convert, tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x> & co"
    (folder / "<b>").mkdir(parents=True)
    (folder / "<b>/1.JPEG").write_bytes(file_of(np.zeros((9, 9, 3), np.uint8)))
    convert(folder, tmp_path / "<i src=y>", side=16)
    write_html(str(tmp_path / "<i src=y>"), tmp_path / "page.html")
    page = _Page()
    page.feed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not page.tags & {"i", "b"}
    assert all(link.startswith("data:") for link in page.links)
