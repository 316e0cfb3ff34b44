"""What `tench inspect` shows: facts that can be counted again, tiles of the right class, a page that stands alone."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ingest.dataset import Dataset
from ingest.errors import RefusedError
from ingest.look import contact_sheet, describe, inspected, pca_swatches, summary_lines, write_png
from ingest.look_gallery import gallery, thumbnail
from ingest.look_page import write_html
from tests.conftest import TinySource
from tests.ingest.archives import unpacked
from tests.ingest.conftest import Convert
from tests.ingest.pictures import Pixels, file_of, noise
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
    assert (sheet.shape, sheet.dtype.name) == ((4 * (TILE + GAP) + GAP, 3 * (TILE + GAP) + GAP, 3), "uint8")
    for k in range(3):
        shown = [tuple(_tile(sheet, row, k)[TILE // 2, TILE // 2].tolist()) for row in range(k + 2)]
        wanted = [tuple(100 + 30 * at if c == k else 0 for c in range(3)) for at in range(k + 2)]
        assert sorted(shown) == sorted(wanted)
        assert all((_tile(sheet, row, k) == 255).all() for row in range(k + 2, 4))
    assert (sheet[:GAP] == 255).all()


def test_the_sheet_is_as_high_as_its_fullest_column(coloured: str) -> None:
    full, low = (contact_sheet(coloured, columns=3, rows=rows, tile=TILE) for rows in (100, 3))
    assert full.shape == (4 * (TILE + GAP) + GAP, 3 * (TILE + GAP) + GAP, 3)
    assert low.shape[0] == 3 * (TILE + GAP) + GAP
    np.testing.assert_array_equal(_tile(full, 2, 2), _tile(low, 2, 2))


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


def test_sizes_are_those_of_the_source_and_of_the_payloads(tiny_dataset: str, tiny_source: TinySource) -> None:
    found = inspected(tiny_dataset)["splits"]["train"]
    sizes = [Image.open(p).size for p in (tiny_source.folders / "train").rglob("*.JPEG")]
    for name, values in (("source_width", [w for w, _ in sizes]), ("source_height", [h for _, h in sizes])):
        assert found[name] == {"min": min(values), "median": int(np.median(values)), "max": max(values)}
    assert found["num_enlarged"] == sum(min(size) < 256 for size in sizes)
    lengths = [len(s.payload) for s in samples(tiny_dataset, "train")]
    assert found["payload_bytes"] == {"min": min(lengths), "median": int(np.median(lengths)), "max": max(lengths)}


def test_one_split_is_looked_at_alone(tiny_dataset: str, tmp_path: Path) -> None:
    assert list(inspected(tiny_dataset, "val")["splits"]) == ["val"]
    write_html(tiny_dataset, tmp_path / "page.html", "val")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Pictures of val" in text
    assert "Pictures of train" not in text
    write_png(tiny_dataset, tmp_path / "sheet.png", "val")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), contact_sheet(tiny_dataset, "val"))
    with pytest.raises(RefusedError, match=r"no split 'test'; it has train, val"):
        inspected(tiny_dataset, "test")


def test_the_terminal_lists_few_classes_all_and_of_many_the_smallest_and_largest(tiny_dataset: str) -> None:
    facts = inspected(tiny_dataset)
    lines = summary_lines(facts)
    assert lines[0].split() == ["Dataset", "id", facts["dataset_id"]]
    assert [line.split()[0] for line in lines[-10:]] == [c["wnid"] for c in facts["classes"]]
    assert all(line.split()[-2:] == ["6", "3"] for line in lines[-10:])
    counts = [100 + (7 * k) % 50 for k in range(50)]  # each of 100..149 once
    many = {**facts, "classes": [{"wnid": f"n{c}", "words": ""} for c in counts], "num_classes": 50}
    many["splits"] = {"train": {**facts["splits"]["train"], "class_counts": counts}}
    wanted = ["n100 100", "n101 101", "n102 102", "... 44 more", "n147 147", "n148 148", "n149 149"]
    assert [" ".join(line.split()) for line in summary_lines(many)[-7:]] == wanted
    assert any(" ".join(line.split()) == "Samples a class 124 (100 to 149)" for line in summary_lines(many))


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
    assert len(page.links) == 10 * (6 + 3) + 4  # the samples, the mean, the three axes
    assert all(link.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for link in page.links)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert not any(words in text for words in ("http:", "https:", "url(", "@import"))
    sizes = [Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).size for link in page.links]
    assert sizes.count((256, 256)) == 1
    assert sizes.count((128, 128)) == 90
    assert "prefers-color-scheme:dark" in text
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


WHOLE = noise(80, 60)
BROKEN = {
    "half": (file_of(WHOLE, "JPEG", quality=95), "truncated"),
    "sheet": (file_of(WHOLE, "PNG"), "truncated"),
    "page": (b"<script>alert(1)</script>", "not a picture"),
    "moving": (file_of(WHOLE, "GIF"), "format not allowed"),
    "empty": (b"", "empty"),
}


@pytest.fixture(scope="module")
def with_bad(convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One good picture and one of each kind of broken one; the two pictures among them lack their second half."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "source/n1").mkdir(parents=True)
    (folder / "source/n1/good.JPEG").write_bytes(file_of(WHOLE))
    for name, (data, code) in BROKEN.items():
        (folder / f"source/n1/{name}.JPEG").write_bytes(data[: len(data) // 2] if code == "truncated" else data)
    convert(folder / "source", folder / "dataset", max_bad="5", side=16)
    return str(folder / "dataset")


def test_the_gallery_shows_what_can_be_decoded_of_each_bad_picture(with_bad: str) -> None:
    shown, more = gallery(Dataset.open(with_bad), ["train"])
    assert {s.verdict.key: s.verdict.code for s in shown} == {f"n1/{name}": code for name, (_, code) in BROKEN.items()}
    assert more == 0
    for s in shown:
        if s.verdict.code != "truncated":
            assert s.thumbnail is None, s.verdict.key
            continue
        assert s.thumbnail is not None
        assert s.thumbnail.shape == (60, 80, 3)
        difference = np.abs(s.thumbnail[:15].astype(int) - WHOLE[:15])
        assert difference.mean() < 12, s.verdict.key
        assert np.abs(s.thumbnail[45:].astype(int) - WHOLE[45:]).mean() > 40, s.verdict.key


def test_the_page_names_every_bad_picture_with_its_reason(with_bad: str, tmp_path: Path) -> None:
    write_html(with_bad, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert "script" not in page.tags
    assert sum(link.startswith("data:image/jpeg") for link in page.links) == 1 + 2
    for name, (_, code) in BROKEN.items():
        assert f"n1/<wbr>{name}" in text
        assert code in text
    assert "the file is empty" in text


def test_of_many_bad_pictures_the_first_are_shown_and_the_rest_is_counted(
    with_bad: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ingest.look_gallery.MAX_SHOWN", 2)
    shown, more = gallery(Dataset.open(with_bad), ["train"])
    assert (len(shown), more) == (2, 3)
    write_html(with_bad, tmp_path / "page.html")
    assert "And 3 more" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_truncated_picture_is_refused_everywhere_but_in_the_gallery(with_bad: str) -> None:
    half = BROKEN["half"][0][:-200]
    assert thumbnail(half) is not None
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(half)).load()


def test_pictures_with_too_many_pixels_are_not_decoded_for_a_thumbnail() -> None:
    assert thumbnail(file_of(Image.new("1", (5000, 4000)))) is not None
    assert thumbnail(file_of(Image.new("1", (5000, 4001)))) is None
    assert thumbnail(file_of(Image.new("1", (30000, 30000)))) is None


def test_the_broken_pictures_that_people_send_break_no_page(shared_data: Path) -> None:
    files = unpacked((shared_data / "broken-pictures.tar").read_bytes())
    shown = {name.split("/")[-1] for name, data in files.items() if thumbnail(data) is not None}
    assert {"truncated_half.JPEG", "missing_eoi.JPEG", "png_truncated.png"} <= shown
    assert not shown & {"html_error_page.JPEG", "bmp.JPEG", "bomb_30000x30000.png", "jpeg_header_bomb_65500.JPEG"}
