"""The sheet shows samples as stored beside what the loader makes of them, with nothing left but crop, flip and colour."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from augment import sheet
from augment.settings import LoaderSettings
from augment.sheet_layout import Column, Group, Tile, drawn, fitted, outlined, scaled, text_width, wrapped
from ingest.dataset import Dataset
from ingest.errors import RefusedError, UsageError
from ingest.progress import RunWriter
from ingest.recentre import recentre
from ingest.settings import RecentreSettings
from ingest.storage import Place
from tests.augment.stored import SIDE, Stored

CROP = 224
GREY = 128
Pixels = npt.NDArray[np.uint8]
Number = TypeVar("Number", np.uint8, np.float64)


def plain_crop(picture: Pixels, view: Pixels) -> tuple[int, int, bool] | None:
    """Where a view was cut out of a picture, (y, x, mirrored), found by trying all places; None if nowhere."""
    for y in range(SIDE - CROP + 1):
        for x in range(SIDE - CROP + 1):
            cut = picture[y : y + CROP, x : x + CROP]
            for mirrored, pixels in ((False, cut), (True, cut[:, ::-1])):
                if np.array_equal(pixels[0], view[0]) and np.array_equal(pixels, view):
                    return y, x, mirrored
    return None


def cut_out(image: npt.NDArray[Number], place: tuple[int, int, bool]) -> npt.NDArray[Number]:
    y, x, mirrored = place
    cut = image[y : y + CROP, x : x + CROP]
    return cut[:, ::-1] if mirrored else cut


def subtracted(mean: npt.NDArray[np.float64], kind: str, place: tuple[int, int, bool]) -> npt.NDArray[np.float64]:
    """What choices.md says is subtracted, in float64."""
    means: dict[str, npt.NDArray[np.float64]] = {
        "aligned": cut_out(mean, place),
        "centre": mean[16:240, 16:240],
        "channel": mean.mean(axis=(0, 1)),
        "none": np.zeros(3),
    }
    return means[kind]


def found_in(picture: Pixels, whole: Pixels) -> list[tuple[int, int]]:
    """(top, left) of every place where a picture stands in a larger one, pixel for pixel."""
    height, width = picture.shape[:2]
    corners = np.argwhere((whole[: -height + 1, : -width + 1] == picture[0, 0]).all(axis=2)).tolist()
    return [(y, x) for y, x in corners if np.array_equal(whole[y : y + height, x : x + width], picture)]


def views_of(dataset: str, samples: int, epochs: int = 1, **settings: Any) -> list[sheet.Views]:
    return sheet.first_views(Dataset.open(dataset).split("train"), LoaderSettings(**settings), samples, epochs)


@pytest.fixture(scope="module")
def centred_dataset(tiny_raw_dataset: str, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pictures of `tiny_raw_dataset`, stored with the mean image subtracted."""
    folder = tmp_path_factory.mktemp("centred")
    writer = RunWriter.begin(Place(folder / "run"), "recentre", {})
    recentre(tiny_raw_dataset, f"{folder}/dataset", RecentreSettings(num_actors=2), writer)
    return f"{folder}/dataset"


@pytest.mark.parametrize("mean", ["aligned", "centre", "channel", "none"])
@pytest.mark.parametrize("stored_as", ["tiny_dataset", "tiny_raw_dataset"])
def test_without_colour_an_undone_view_is_a_plain_crop_under_every_mean(
    stored_as: str, mean: str, request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(stored_as)
    pictures = Stored(Path(dataset)).pictures
    seen = set()
    for views in views_of(dataset, 6, 2, mean=mean, colour="none", divide=1.1):
        assert views.rows.tolist() == list(range(6))
        for i, view in enumerate(views.undone):
            place = plain_crop(pictures[i], view)
            assert place == (views.choices.y[i], views.choices.x[i], views.choices.mirror[i])
            seen.add(place)
    assert len(seen) == 12
    assert {mirrored for _, _, mirrored in filter(None, seen)} == {False, True}


def test_centred_payloads_are_undone_to_the_same_plain_crops(tiny_raw_dataset: str, centred_dataset: str) -> None:
    pictures = Stored(Path(tiny_raw_dataset)).pictures
    (views,) = views_of(centred_dataset, 4, colour="none", divide=1.1)
    for i, view in enumerate(views.undone):
        assert plain_crop(pictures[i], view) == (views.choices.y[i], views.choices.x[i], views.choices.mirror[i])
    picture = sheet.convention_sheet(centred_dataset, LoaderSettings(divide=1.1), samples=1, tile=SIDE)
    assert len(found_in(views.undone[0], picture)) == 1


def test_a_border_of_zeros_is_not_taken_for_picture(tiny_dataset: str) -> None:
    (plain,), (bordered,) = (views_of(tiny_dataset, 2, border=border, divide=1.1) for border in (0, 3))
    assert bordered.undone.shape == (2, CROP, CROP, 3)
    assert np.array_equal(plain.undone, bordered.undone)


@pytest.mark.parametrize("mean", ["aligned", "centre", "channel", "none"])
def test_colour_adds_one_triple_to_a_view_with_the_same_draws_under_both_conventions(
    tiny_dataset: str, mean: str
) -> None:
    stored = Stored(Path(tiny_dataset))
    axes = np.array(stored.pca["eigenvectors_columns"])
    eigenvalues = np.array(stored.pca["eigenvalues"])
    scales = {"museum": 0.1 * np.sqrt(eigenvalues), "paper": 0.1 * eigenvalues / 255}
    plain = views_of(tiny_dataset, 3, 2, colour="none", mean="none")
    draws: dict[str, list[npt.NDArray[np.float64]]] = {"museum": [], "paper": []}
    for colour, found in draws.items():
        coloured = views_of(tiny_dataset, 3, 2, colour=colour, mean=mean, divide=1.1)
        for epoch, views in enumerate(coloured):
            for i in range(3):
                place = plain_crop(stored.pictures[i], plain[epoch].undone[i])
                assert place is not None
                crop = cut_out(stored.pictures[i], place).astype(np.float64)
                shifts = views.delivered[i] * 1.1 + subtracted(stored.mean, mean, place) - crop
                shift = shifts.mean(axis=(0, 1))
                assert np.abs(shifts - shift).max() < 1e-3
                assert np.abs(views.undone[i] - (crop + shift).clip(0, 255)).max() < 0.501
                found.append(axes.T @ shift / scales[colour])
    np.testing.assert_allclose(draws["museum"], draws["paper"], atol=0.02)
    assert len({tuple(z.round(1)) for z in draws["museum"]}) == 6
    assert 0.1 < np.abs(draws["museum"]).max() < 5


def test_colour_ends_with_the_epoch_that_the_settings_name(tiny_dataset: str) -> None:
    views = views_of(tiny_dataset, 2, 3, colour="museum", colour_until_epoch=1, divide=1.1)
    pictures = Stored(Path(tiny_dataset)).pictures
    plain = [[plain_crop(pictures[i], v.undone[i]) is not None for i in range(2)] for v in views]
    assert plain == [[False, False], [True, True], [True, True]]


def test_the_division_ends_with_the_colour_as_in_the_2012_source(tiny_dataset: str) -> None:
    pictures, mean = Stored(Path(tiny_dataset)).pictures, Dataset.open(tiny_dataset).mean
    views = views_of(tiny_dataset, 2, 3, colour="museum", colour_until_epoch=1, divide=1.1)
    for epoch, divisor in ((0, 1.1), (1, 1.0), (2, 1.0)):
        for i in range(2):
            chosen = views[epoch].choices
            place = (int(chosen.y[i]), int(chosen.x[i]), bool(chosen.mirror[i]))
            centred = cut_out(pictures[i], place) - subtracted(mean, "aligned", place)
            shift = chosen.offset[i] if epoch == 0 else np.zeros(3)
            assert np.abs(views[epoch].delivered[i] - (centred + shift) / divisor).max() < 1e-4


def test_a_sheet_over_the_end_of_the_noise_names_both_divisors(
    tiny_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    monkeypatch.setattr(sheet, "drawn", lambda caption, *_, **__: captions.append(caption[1]))
    sheet.training_sheet(tiny_dataset, LoaderSettings(divide=1.1, colour_until_epoch=1), samples=1, epochs=3, tile=64)
    assert "divided by 1.1 or 1. Views: what the loader delivers, times 1.1 or 1, plus the mean" in captions[0]


def test_delivered_values_lie_symmetrically_about_mid_grey() -> None:
    values = np.array([0, 231.8, -231.8, 50, -50], np.float32)
    black_to_white = sheet.on_grey(values, 1.1).tolist()
    assert black_to_white[:3] == [GREY, 255, 0]
    assert black_to_white[3] - 127.5 == pytest.approx(27.5, abs=0.6)
    assert black_to_white[3] + black_to_white[4] == 255


def test_the_training_sheet_holds_stored_pictures_and_views_in_even_rows_and_columns(tiny_dataset: str) -> None:
    settings = LoaderSettings(divide=1.1, seed=5)
    picture = sheet.training_sheet(tiny_dataset, settings, samples=3, epochs=2)
    views = views_of(tiny_dataset, 3, 2, divide=1.1, seed=5)
    corners = np.array([[found_in(v.undone[i], picture) for v in views] for i in range(3)])[:, :, 0]  # (row, epoch, 2)
    assert np.array_equal(corners[:, 0, 0], corners[:, 1, 0])
    assert len(set(np.diff(corners[:, 0, 0]).tolist())) == 1
    assert set((corners[:, 1, 1] - corners[:, 0, 1]).tolist()) == {CROP + 8}
    inner = slice(33, 223)  # between all the rectangles
    for i, stored in enumerate(Stored(Path(tiny_dataset)).pictures[:3]):
        ((top, left),) = found_in(stored[inner, inner], picture)
        assert (top - 33, left - 33) == (corners[i, 0, 0], 16)
    assert (picture[:, -16:] == 255).all(axis=2).sum() >= picture.shape[0] * 15
    assert (picture[-15:] == 255).all()


def test_the_same_settings_give_the_same_sheet_and_another_seed_another_one(tiny_dataset: str) -> None:
    first, again, other = (
        sheet.training_sheet(tiny_dataset, LoaderSettings(seed=seed), samples=2, epochs=2, tile=64)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert first.shape == other.shape
    assert not np.array_equal(first, other)


def test_the_convention_sheet_has_a_column_for_every_mean_and_colour(tiny_dataset: str) -> None:
    picture = sheet.convention_sheet(tiny_dataset, LoaderSettings(divide=1.1), samples=1, tile=SIDE)
    lefts = {}
    for colour in ("none", "museum", "paper"):
        (plain,) = views_of(tiny_dataset, 1, colour=colour, divide=1.1)
        lefts[colour] = [left for _, left in found_in(plain.undone[0], picture)]
    assert [len(found) for found in lefts.values()] == [4, 4, 4]
    everywhere = [left for found in lefts.values() for left in found]
    assert everywhere == sorted(everywhere)
    (plain,) = views_of(tiny_dataset, 1, colour="none", divide=1.1)
    below = found_in(plain.undone[0], picture)[0][0] + SIDE + 16 + 4  # a line of text and a small gap
    for mean, left in zip(("aligned", "centre", "channel", "none"), lefts["none"], strict=True):
        (views,) = views_of(tiny_dataset, 1, colour="none", mean=mean, divide=1.1)
        expected = (127.5 + views.delivered[0].astype(np.float64) * 1.1 / 2).clip(0, 255)
        assert np.abs(picture[below : below + CROP, left : left + CROP] - expected).max() < 0.501, mean
    no_difference = np.full((CROP, CROP, 3), GREY, np.uint8)
    assert [left for _, left in found_in(no_difference, picture)] == [lefts[c][0] for c in lefts]


def test_a_split_with_fewer_samples_is_shown_whole(tiny_dataset: str) -> None:
    views = sheet.first_views(Dataset.open(tiny_dataset).split("val"), LoaderSettings(), 64)
    assert views[0].rows.tolist() == list(range(30))


@pytest.mark.parametrize(("name", "number"), [("samples", 0), ("samples", 65), ("epochs", 0), ("tile", 8)])
def test_a_number_out_of_range_is_refused_with_the_range(tiny_dataset: str, name: str, number: int) -> None:
    with pytest.raises(UsageError, match=rf"--{name} {number}: expected a whole number from \d+ to \d+"):
        sheet.training_sheet(tiny_dataset, LoaderSettings(), **{name: number})  # type: ignore[arg-type]


def test_an_unknown_split_is_refused_with_those_there_are(tiny_dataset: str) -> None:
    with pytest.raises(RefusedError, match="'spare'; it has train, val"):
        sheet.convention_sheet(tiny_dataset, LoaderSettings(), split="spare")


def test_a_png_is_written_over_an_earlier_one(tmp_path: Path) -> None:
    pixels = np.arange(24 * 24 * 3, dtype=np.uint32).reshape(24, 24, 3).astype(np.uint8)
    (tmp_path / "sheet.png").write_bytes(b"old")
    sheet.write_png(pixels, tmp_path / "sheet.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), pixels)


def test_text_is_wrapped_and_cut_to_its_width() -> None:
    words = "mean aligned, colour museum, divided by 1.1, and a mean that was subtracted"
    lines = wrapped(words, 120)
    assert len(lines) > 2
    assert " ".join(lines) == words
    assert all(text_width(line) <= 120 for line in lines)
    assert fitted("tench", 120) == "tench"
    assert text_width(fitted(words, 120)) <= 120
    assert fitted(words, 120).endswith("..")


def test_a_long_title_stays_over_its_column() -> None:
    black = Tile(np.zeros((64, 64, 3), np.uint8), ("a note that is much longer than its picture is wide",))
    columns = [
        Column("a title that is much longer than its column is wide", (black,), colour) for colour in ((9, 9, 9), None)
    ]
    picture = drawn(["caption"], [Group("a heading that goes on and on and on", tuple(columns))])
    assert picture.shape[1] == 16 + 64 + 8 + 64 + 16
    below_heading = 16 + 16 + 16 + 16 + 2  # margin, caption, gap, heading and its rule
    for between in (picture[:, :15], picture[below_heading:, 16 + 65 : 16 + 64 + 7], picture[:, -15:]):
        assert between.size
        assert (between == 255).all()


def test_pictures_grow_in_squares_and_shrink_to_averages() -> None:
    pixels = np.array([[[0, 40, 80], [100, 60, 20]], [[0, 40, 80], [100, 60, 20]]], np.uint8)
    assert np.array_equal(scaled(pixels, 1), pixels)
    assert np.array_equal(scaled(pixels, 3), pixels.repeat(3, 0).repeat(3, 1))
    assert scaled(pixels, 0.5).tolist() == [[[50, 50, 50]]]


def test_a_rectangle_is_drawn_just_inside_its_edges_on_a_copy() -> None:
    pixels = np.zeros((12, 12, 3), np.uint8)
    red = outlined(pixels, [(2, 3, 10, 9)], [(255, 0, 0)])[..., 0] > 0
    expected = np.zeros((12, 12), bool)
    expected[3:9, 2:10] = True
    expected[4:8, 3:9] = False
    assert np.array_equal(red, expected)
    assert not pixels.any()
