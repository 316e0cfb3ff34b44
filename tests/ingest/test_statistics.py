"""Mean image and RGB PCA, against brute force over the pixels of the stored raw shards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ingest.pixel_stats import PixelSums, mean_image, rgb_pca
from tests.ingest.shards import samples

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def pictures(tiny_raw_dataset: str) -> Floats:
    """Every stored training picture, float64 (n, 256, 256, 3)."""
    stored = [np.frombuffer(s.payload, np.uint8).reshape(256, 256, 3) for s in samples(tiny_raw_dataset, "train")]
    return np.stack(stored).astype(np.float64)


def _statistics(dataset: str) -> tuple[Floats, dict[str, Any]]:
    pca: dict[str, Any] = json.loads(Path(dataset, "statistics/pca.json").read_text())
    return np.load(Path(dataset, "statistics/mean.npy")), pca


def test_the_mean_image_is_the_mean_of_the_stored_training_pictures(tiny_raw_dataset: str, pictures: Floats) -> None:
    mean, _ = _statistics(tiny_raw_dataset)
    assert (mean.dtype.name, mean.shape) == ("float64", (256, 256, 3))
    np.testing.assert_allclose(mean, pictures.mean(axis=0), rtol=1e-9, atol=0)
    shown = np.asarray(Image.open(Path(tiny_raw_dataset, "statistics/mean.png")))
    assert np.abs(shown - mean).max() <= 0.5


def test_the_pca_is_that_of_every_pixel_about_its_channel_mean(tiny_raw_dataset: str, pictures: Floats) -> None:
    _, pca = _statistics(tiny_raw_dataset)
    pixels = pictures.reshape(-1, 3)
    centred = pixels - pixels.mean(axis=0)
    covariance = np.array([[np.mean(centred[:, i] * centred[:, j]) for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(pca["channel_mean"], pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(pca["covariance"], covariance, rtol=1e-9)
    vectors, values = np.array(pca["eigenvectors_columns"]), np.array(pca["eigenvalues"])
    assert pca["num_samples"] == len(pictures) == 60
    assert list(values) == sorted(values, reverse=True)
    np.testing.assert_allclose(covariance @ vectors, vectors * values, rtol=1e-9, atol=1e-9 * values[0])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    assert all(column[np.abs(column).argmax()] > 0 for column in vectors.T)
    np.testing.assert_allclose(pca["stdevs_unit_range"], np.sqrt(values) / 255, rtol=1e-12)
    np.testing.assert_allclose(pca["eigenvalues_unit_range"], values / 255**2, rtol=1e-12)


def test_statistics_do_not_depend_on_payload_or_format(
    tiny_dataset: str, tiny_raw_dataset: str, tiny_tfrecord_dataset: str, manifest_of: Any
) -> None:
    mean, pca = _statistics(tiny_raw_dataset)
    for other in (tiny_dataset, tiny_tfrecord_dataset):
        np.testing.assert_array_equal(_statistics(other)[0], mean)
        assert _statistics(other)[1] == pca
        assert manifest_of(other)["sums_sha256"] == manifest_of(tiny_raw_dataset)["sums_sha256"]


def test_the_stored_sums_are_whole_numbers_that_add_up(tiny_raw_dataset: str, pictures: Floats) -> None:
    with np.load(Path(tiny_raw_dataset, "statistics/sums.npz"), allow_pickle=False) as sums:
        whole = pictures.astype(np.int64)
        np.testing.assert_array_equal(sums["pixels"], whole.sum(axis=0))
        flat = whole.reshape(-1, 3)
        np.testing.assert_array_equal(sums["moments"], flat.T @ flat)
        assert sums["count"] == 60


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 6), st.just(4), st.just(4), st.just(3))), st.integers(0, 6))
def test_sums_are_exact_however_they_are_split_and_stored(stack: npt.NDArray[np.uint8], cut: int) -> None:
    parts = []
    for pictures in (stack[:cut], stack[cut:]):
        sums = PixelSums(4)
        for picture in pictures:
            sums.add(picture)
        parts.append(PixelSums.from_bytes(sums.to_bytes()))
    parts[1].merge(parts[0])
    flat = stack.reshape(-1, 3).astype(np.int64)
    np.testing.assert_array_equal(parts[1].pixels, stack.astype(np.int64).sum(axis=0))
    np.testing.assert_array_equal(parts[1].moments, flat.T @ flat)
    assert parts[1].count == len(stack)
    np.testing.assert_allclose(mean_image(parts[1]), stack.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(rgb_pca(parts[1]).covariance, np.cov(flat.T, bias=True), atol=1e-9)


@pytest.mark.parametrize("side", [8, 16, 23])
@pytest.mark.parametrize("value", [254, 255])
def test_sums_of_many_bright_pictures_are_exact(side: int, value: int) -> None:
    sums = PixelSums(side)
    for count in range(1, 800):
        sums.add(np.full((side, side, 3), value, np.uint8))
        if count in (1, 256, 257, 258, 514, 515, 799):
            assert (sums.count, set(sums.pixels.ravel().tolist())) == (count, {value * count})
            assert set(sums.moments.ravel().tolist()) == {value * value * side * side * count}


def test_sums_of_tens_of_millions_of_pictures_are_exact() -> None:
    sums = PixelSums(256)
    sums.add(np.full((256, 256, 3), 255, np.uint8))
    doubled = 1
    while doubled < 2**25:
        sums.merge(PixelSums.from_bytes(sums.to_bytes()))
        doubled *= 2
    again = PixelSums.from_bytes(sums.to_bytes())
    assert {int(v) for v in again.pixels.flat} == {255 * 2**25}
    assert {int(v) for v in again.moments.flat} == {255 * 255 * 256 * 256 * 2**25}
    np.testing.assert_array_equal(mean_image(again), np.full((256, 256, 3), 255.0))
    np.testing.assert_array_equal(rgb_pca(again).covariance, np.zeros((3, 3)))
