"""Rescaling against plain Pillow, modes and containers of every kind, payloads, and the pixel fingerprint."""

import gzip
import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ingest.errors import RefusedError
from ingest.pixels import CODES, PictureError, decode_payload, encode, pixel_fingerprint, rescale
from ingest.progress import RunWriter
from ingest.settings import PlannedSettings
from ingest.storage import Place
from tests.ingest.pictures import file_of, noise, reference

FULL = PlannedSettings()
DRAFT = PlannedSettings(draft=True)
SMALL = PlannedSettings(side=24)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.sampled_from(["bilinear", "bicubic", "lanczos"]))
def test_any_size_is_rescaled_as_plain_pillow_does_it(width: int, height: int, side: int, name: str) -> None:
    data = file_of(noise(width, height))
    picture = rescale(data, PlannedSettings.model_validate({"side": side, "filter": name}))
    assert (picture.width, picture.height) == (width, height)
    np.testing.assert_array_equal(picture.pixels, reference(data, side, name))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (256, 255), (75, 56), (97, 96), (1000, 260)])
def test_jpegs_of_common_and_small_sizes_fill_the_square(width: int, height: int) -> None:
    data = file_of(noise(width, height), "JPEG", quality=88)
    pixels = rescale(data, FULL).pixels
    assert pixels.shape == (256, 256, 3)
    np.testing.assert_array_equal(pixels, reference(data, 256))


def test_a_picture_whose_shorter_side_fits_is_cut_and_not_scaled() -> None:
    for width, height in ((256, 256), (301, 256), (256, 999)):
        pixels = noise(width, height)
        left, top = (width - 256) // 2, (height - 256) // 2
        np.testing.assert_array_equal(rescale(file_of(pixels), FULL).pixels, pixels[top : top + 256, left : left + 256])


def test_grey_becomes_three_equal_channels() -> None:
    grey = noise(256, 256, channels=1)[..., 0]
    np.testing.assert_array_equal(rescale(file_of(grey), FULL).pixels, np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    wide = (np.arange(256 * 256, dtype=np.uint16)).reshape(256, 256)
    pixels = rescale(file_of(Image.fromarray(wide)), FULL).pixels
    np.testing.assert_array_equal(pixels, np.repeat((wide // 256)[..., None], 3, axis=2))


def test_cmyk_is_light_where_there_is_no_ink() -> None:
    ink = np.zeros((256, 256, 4), np.uint8)
    ink[:, 64:128, 0] = ink[:, 128:192, 3] = ink[:, 192:, 1] = 255
    pixels = rescale(file_of(Image.fromarray(ink, "CMYK"), "JPEG", quality=100), FULL).pixels
    for column, colour in ((32, (255, 255, 255)), (96, (0, 255, 255)), (160, (0, 0, 0)), (224, (255, 0, 255))):
        np.testing.assert_allclose(pixels[128, column].astype(int), colour, atol=3)


def test_palettes_and_alpha_keep_the_colours_that_are_stored() -> None:
    image = Image.fromarray(noise(256, 256)).convert("P")
    wanted = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(rescale(file_of(image), FULL).pixels, wanted)
    np.testing.assert_array_equal(rescale(file_of(image, transparency=bytes(8)), FULL).pixels, wanted)
    colours = noise(256, 256, channels=4)
    np.testing.assert_array_equal(rescale(file_of(colours), FULL).pixels, colours[..., :3])


def test_exif_orientation_is_not_applied() -> None:
    image = Image.fromarray(noise(300, 256))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = file_of(image, "JPEG", exif=exif), file_of(image, "JPEG")
    assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 6
    np.testing.assert_array_equal(rescale(turned, FULL).pixels, rescale(plain, FULL).pixels)


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_obeyed_when_told(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    data = file_of(Image.fromarray(noise(300, 280)), "JPEG", exif=exif)
    upright = file_of(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    obeyed = rescale(data, PlannedSettings(orientation="obey"))
    np.testing.assert_array_equal(obeyed.pixels, rescale(upright, FULL).pixels)
    assert (obeyed.width, obeyed.height) == Image.open(io.BytesIO(upright)).size


def test_a_jpeg_below_twice_the_side_is_the_same_with_draft() -> None:
    data = file_of(noise(511, 700), "JPEG")
    np.testing.assert_array_equal(rescale(data, DRAFT).pixels, rescale(data, FULL).pixels)


def test_a_larger_jpeg_is_nearly_the_same_with_draft() -> None:
    rows, columns = np.mgrid[0:1100, 0:1300]
    smooth = np.stack([rows // 5, columns // 6, (rows + columns) // 10], axis=-1).astype(np.uint8)
    data = file_of(smooth, "JPEG", quality=95)
    drafted, whole = rescale(data, DRAFT), rescale(data, FULL)
    assert (drafted.width, drafted.height) == (1300, 1100)
    difference = np.abs(drafted.pixels.astype(int) - whole.pixels)
    assert 0 < difference.mean() < 1


def test_a_gzipped_jpeg_is_the_jpeg() -> None:
    data = file_of(noise(300, 280), "JPEG")
    np.testing.assert_array_equal(rescale(gzip.compress(data), FULL).pixels, rescale(data, FULL).pixels)


def test_gzip_that_grows_without_end_is_refused_before_it_does() -> None:
    with pytest.raises(PictureError) as refused:
        rescale(gzip.compress(bytes(120_000_000), 1), FULL)
    assert refused.value.code == "too large"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((30_000, 30_000), "900,000,000 pixels; at most 100,000,000 are decoded"),
        ((12_000, 10_000), "12000 x 10000 pixels; at most 100,000,000 are decoded"),
    ],
)
def test_a_picture_that_is_too_large_is_refused_in_our_words(size: tuple[int, int], said: str) -> None:
    with pytest.raises(PictureError) as refused:
        rescale(file_of(Image.new("1", size)), FULL)
    assert (refused.value.code, refused.value.message) == ("too large", said)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "MPO", "gzip"]), st.data())
def test_whatever_the_bytes_there_is_a_picture_or_a_reason(kind: str, data: st.DataObject) -> None:
    plain = file_of(noise(40, 30), "JPEG" if kind == "gzip" else kind, **({"save_all": True} if kind == "MPO" else {}))
    spoilt = bytearray(gzip.compress(plain) if kind == "gzip" else plain)
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(spoilt)), st.integers(0, len(spoilt))))
    try:
        assert rescale(bytes(spoilt[:cut]), SMALL).pixels.shape == (24, 24, 3)
    except PictureError as error:
        assert error.code in CODES  # noqa: PT017


@pytest.mark.parametrize(("subsampling", "factors"), [("4:2:0", 0x22), ("4:4:4", 0x11)])
def test_a_jpeg_payload_has_the_stated_quality_and_subsampling(subsampling: str, factors: int) -> None:
    pixels = noise(256, 256)
    chosen = PlannedSettings.model_validate({"quality": 85, "subsampling": subsampling})
    payload = encode(Image.fromarray(pixels), chosen)
    frame = payload.index(b"\xff\xc0")
    assert payload[frame + 11] == factors  # horizontal and vertical factor of the first component
    wanted = Image.open(io.BytesIO(file_of(pixels, "JPEG", quality=85)))
    found = Image.open(io.BytesIO(payload))
    assert found.quantization == wanted.quantization  # type: ignore[attr-defined]
    np.testing.assert_array_equal(decode_payload(payload, "jpeg", 256), np.asarray(found))


def test_a_raw_payload_is_the_pixels_row_by_row() -> None:
    pixels = noise(24, 24)
    payload = encode(Image.fromarray(pixels), PlannedSettings(payload="raw", side=24))
    assert list(payload[:6]) == [*pixels[0, 0], *pixels[0, 1]]
    np.testing.assert_array_equal(np.frombuffer(payload, np.uint8).reshape(24, 24, 3), pixels)
    np.testing.assert_array_equal(decode_payload(payload, "raw", 24), pixels)


def test_the_pixel_fingerprint_is_the_same_in_another_process() -> None:
    command = [sys.executable, "-c", "from ingest.pixels import pixel_fingerprint; print(pixel_fingerprint())"]
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert again == pixel_fingerprint()
    assert len(bytes.fromhex(again)) == 32


def test_an_actor_whose_pixels_are_others_is_refused_by_node(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from ingest.convert import Conversion, ShardTask
    from ingest.pool import Pool
    from ingest.sources.read import read_ranges

    place = Place(tmp_path_factory.mktemp("other"))
    run = RunWriter.begin(place, "ingest", {})
    task = ShardTask(Conversion(place, FULL, (), place, read_ranges), "train", 0, 0, 0, b"")
    with (
        Pool(1, "f" * 64, run) as pool,
        pytest.raises(RefusedError, match=r"node .*gives other pixels than the plan's"),
    ):
        pool.convert_all([task], print)
