"""Broken and odd pictures: each is accepted or refused as its manifest expects, with a fixed reason."""

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ingest.pixels import PictureError, rescale
from ingest.settings import PlannedSettings
from tests.ingest.archives import unpacked
from tests.ingest.pictures import Pixels, reference

SETTINGS = PlannedSettings()
REFUSED = {
    "all_nul.JPEG": "not a picture",
    "bmp.JPEG": "format not allowed",
    "bomb_30000x30000.png": "too large",
    "bomb_as_jpeg_15000x15000.JPEG": "too large",
    "gif_animated.JPEG": "format not allowed",
    "gif_single.JPEG": "format not allowed",
    "html_error_page.JPEG": "not a picture",
    "jpeg_header_bomb_65500.JPEG": "too large",
    "jpeg_zero_size.JPEG": "corrupt",
    "leading_newline.JPEG": "not a picture",
    "missing_eoi.JPEG": "truncated",
    "near_limit_12000x10000.png": "too large",
    "one_by_5000.JPEG": "too large",
    "png_bad_crc.png": "corrupt",
    "png_truncated.png": "truncated",
    "progressive_truncated.JPEG": "truncated",
    "tiff_rgb.JPEG": "format not allowed",
    "truncated_5_percent_missing.JPEG": "truncated",
    "truncated_half.JPEG": "truncated",
    "truncated_header.JPEG": "corrupt",
    "webp_lossy.JPEG": "format not allowed",
    "wide_5000_by_1.png": "too large",
    "zero_bytes.JPEG": "empty",
}
DECIDED = {"bmp.JPEG", "webp_lossy.JPEG"}
"""Sound pictures that the manifest would accept; Tench decodes nothing but JPEG and PNG."""


@cache
def _broken(shared_data: Path) -> dict[str, bytes]:
    files = unpacked((shared_data / "broken-pictures.tar").read_bytes())
    return {name.removeprefix("broken/"): data for name, data in files.items()}


@pytest.fixture
def broken(shared_data: Path) -> dict[str, bytes]:
    """The files by name."""
    return _broken(shared_data)


@pytest.fixture
def expected(broken: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """What the manifest says of each picture."""
    files: dict[str, dict[str, Any]] = json.loads(broken["manifest.json"])["files"]
    return {name: facts for name, facts in files.items() if facts.get("kind") != "archive"}


def _code(data: bytes) -> str | None:
    """The code of the refusal, None for a picture that is accepted."""
    try:
        assert rescale(data, SETTINGS).pixels.shape == (256, 256, 3)
    except PictureError as error:
        return error.code
    return None


def test_each_is_accepted_or_refused_with_its_reason(
    broken: dict[str, bytes], expected: dict[str, dict[str, Any]]
) -> None:
    found = {name: _code(broken[name]) for name in expected}
    assert {name: code for name, code in found.items() if code} == REFUSED
    for name, facts in expected.items():
        outcome = "quarantine" if found[name] else "accept"
        assert outcome in {facts["expect"], *facts["also_ok"]} or name in DECIDED, (name, facts["reason"])


def test_accepted_ones_have_the_width_and_height_of_their_header(
    broken: dict[str, bytes], expected: dict[str, dict[str, Any]]
) -> None:
    for name, facts in expected.items():
        if name not in REFUSED:
            picture = rescale(broken[name], SETTINGS)
            assert [picture.width, picture.height] == facts["header"][2:], name


def test_what_differs_only_in_its_coding_has_the_same_pixels(broken: dict[str, bytes]) -> None:
    baseline = rescale(broken["ok_baseline.JPEG"], SETTINGS).pixels
    for name in ("progressive.JPEG", "arithmetic.JPEG"):
        np.testing.assert_array_equal(rescale(broken[name], SETTINGS).pixels, baseline)


def test_what_follows_the_end_of_a_picture_does_not_matter(broken: dict[str, bytes], shared_data: Path) -> None:
    samples = unpacked((shared_data / "ilsvrc-samples-300.tar").read_bytes())
    whole = next(data for name, data in samples.items() if name.endswith("hourglass.JPEG"))
    for name in ("garbage_after_eoi.JPEG", "second_jpeg_appended.JPEG"):
        np.testing.assert_array_equal(rescale(broken[name], SETTINGS).pixels, reference(whole, 256))


def test_cmyk_and_ycck_are_no_negatives(broken: dict[str, bytes]) -> None:
    wanted = reference(broken["small_reference.png"], 256).astype(int)
    for name in ("cmyk_adobe_inverted.JPEG", "ycck_adobe.JPEG"):
        found = rescale(broken[name], SETTINGS).pixels.astype(int)
        assert np.abs(found - wanted).mean() < 12, name
        assert np.abs(255 - found - wanted).mean() > 40, name


def test_sixteen_bit_grey_is_not_clipped_to_white(broken: dict[str, bytes]) -> None:
    wide = np.asarray(Image.open(io.BytesIO(broken["png_gray16.png"]))).astype(np.uint16)
    pixels: Pixels = rescale(broken["png_gray16.png"], PlannedSettings(side=72)).pixels
    np.testing.assert_array_equal(pixels[..., 0], (wide >> 8)[:, 12:84])
