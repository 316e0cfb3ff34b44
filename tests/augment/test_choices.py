"""Choices equal their specification: golden values, and a second implementation in plain Python."""

import hashlib
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.choices import choose, quantiles, view_choices
from augment.random_words import philox4x32, words
from augment.settings import LoaderSettings
from augment.views import evaluation_views
from ingest.pixel_stats import Pca

ONES = 0xFFFFFFFF
GOLDEN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
PCA = Pca(
    np.array([9000.0, 500.0, 100.0]),
    np.array([[0.6, 0.7, 0.4], [0.58, 0.01, -0.8], [0.55, -0.7, 0.42]]),
    np.zeros(3),
    np.zeros((3, 3)),
)


def plain_philox(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 word by word, after the paper of Salmon et al. (2011)."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & ONES, p0 >> 32 ^ c[3] ^ k1, p0 & ONES]
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return c


def plain_offset(seed: int, epoch: int, sample: int, scale: list[float]) -> list[np.float32]:
    drawn = plain_philox((sample & ONES, sample >> 32, epoch, 1), (seed & ONES, seed >> 32))
    inverse = statistics.NormalDist().inv_cdf
    z = [round(inverse(((w >> 16) + 0.5) / 65536) * 2**20) / 2**20 for w in drawn[:3]]
    vectors = PCA.eigenvectors.tolist()
    return [np.float32(sum(vectors[c][k] * (0.1 * z[k] * scale[k]) for k in range(3))) for c in range(3)]


@pytest.mark.parametrize(("counter", "key", "expected"), GOLDEN)
def test_philox_gives_the_published_words(counter: tuple[int, ...], key: tuple[int, int], expected: str) -> None:
    assert " ".join(f"{int(word):08x}" for word in philox4x32(counter, key)) == expected


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, ONES), st.integers(0, 7))
def test_words_follow_the_specification_for_any_counter(seed: int, index: int, epoch: int, stream: int) -> None:
    expected = plain_philox((index & ONES, index >> 32, epoch, stream), (seed & ONES, seed >> 32))
    assert [int(word) for word in words(seed, index, epoch, stream)] == expected


def test_the_quantile_table_is_the_specified_one() -> None:
    upper = quantiles()[32768:].astype("<i4").tobytes()
    assert hashlib.sha256(upper).hexdigest() == "37f9656a37dad9ab61645405bad207e2fe7a0dabf033c8d4f77f4782ec998a19"
    assert (quantiles()[:32768] == -quantiles()[32768:][::-1]).all()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**63 - 1), st.integers(0, 1000), st.integers(0, 20_000_000), st.sampled_from([224, 227, 256, 31])
)
def test_crop_flip_and_colour_follow_the_specification(seed: int, epoch: int, sample: int, crop: int) -> None:
    chosen = choose(LoaderSettings(seed=seed, crop=crop), 256, PCA, epoch, np.array([sample]), np.array([5]))
    w = plain_philox((sample, 0, epoch, 0), (seed & ONES, seed >> 32))
    places = 256 - crop + 1
    assert (chosen.y[0], chosen.x[0], chosen.mirror[0]) == (w[0] * places >> 32, w[1] * places >> 32, w[2] >> 31)
    stdevs = [value**0.5 for value in PCA.eigenvalues.tolist()]
    assert chosen.offset[0].tolist() == plain_offset(seed, epoch, sample, stdevs)


def test_the_papers_crops_leave_out_the_last_place_of_each_side() -> None:
    samples = np.arange(5_000)
    chosen = choose(LoaderSettings(crop_positions="paper"), 256, PCA, 0, samples, samples)
    drawn = [plain_philox((sample, 0, 0, 0), (0, 0)) for sample in samples.tolist()]
    assert chosen.y.tolist() == [w[0] * 32 >> 32 for w in drawn]
    assert chosen.x.tolist() == [w[1] * 32 >> 32 for w in drawn]
    whole = choose(LoaderSettings(crop=256, crop_positions="paper"), 256, PCA, 0, samples[:9], samples[:9])
    assert not whole.y.any()
    assert not whole.x.any()


def test_the_papers_colour_scales_by_eigenvalues_of_values_on_the_unit_interval() -> None:
    chosen = choose(LoaderSettings(seed=3, colour="paper"), 256, PCA, 2, np.array([11]), np.array([0]))
    scale = [value / 255.0**2 * 255.0 for value in PCA.eigenvalues.tolist()]
    assert chosen.offset[0].tolist() == plain_offset(3, 2, 11, scale)


def test_samples_of_a_chunk_share_crop_and_flip_but_not_colour() -> None:
    samples, positions = np.arange(100, 164), np.arange(64)
    chosen = choose(LoaderSettings(crop_chunk=32), 256, PCA, 0, samples, positions)
    geometry = np.stack([chosen.y, chosen.x, chosen.mirror], axis=1)
    assert len(np.unique(geometry[:32], axis=0)) == len(np.unique(geometry[32:], axis=0)) == 1
    assert len(np.unique(chosen.offset, axis=0)) == 64


def test_noise_and_flips_can_be_switched_off() -> None:
    samples = np.arange(200)
    assert not choose(LoaderSettings(flip=False), 256, PCA, 0, samples, samples).mirror.any()
    assert not choose(LoaderSettings(colour="none"), 256, PCA, 0, samples, samples).offset.any()
    ending = LoaderSettings(colour_until_epoch=3)
    assert choose(ending, 256, PCA, 2, samples, samples).offset.any(axis=1).all()
    assert not choose(ending, 256, PCA, 3, samples, samples).offset.any()


def test_the_divisor_is_that_of_evaluation_once_the_noise_is_over() -> None:
    samples = np.arange(3)
    ending = LoaderSettings(colour_until_epoch=3, divide=1.5, divide_test=60.0)
    assert choose(ending, 256, PCA, 2, samples, samples).divide.tolist() == [1.5] * 3
    assert choose(ending, 256, PCA, 3, samples, samples).divide.tolist() == [60.0] * 3
    assert view_choices(ending, 256, 10, 3).divide.tolist() == [60.0] * 30
    assert choose(LoaderSettings(divide=1.5), 256, PCA, 90, samples, samples).divide.tolist() == [1.5] * 3


def test_choices_are_spread_evenly_and_change_with_the_epoch() -> None:
    samples = np.arange(33_000)
    first, second = (choose(LoaderSettings(), 256, PCA, epoch, samples, samples) for epoch in (0, 1))
    for places in (first.y, first.x):
        counts = np.bincount(places, minlength=33)
        assert len(counts) == 33
        assert abs(counts - 1000).max() < 160  # five standard deviations
    assert abs(first.mirror.mean() - 0.5) < 0.014
    assert (first.y != second.y).mean() > 0.95
    variances = 0.01 * PCA.eigenvectors**2 @ PCA.eigenvalues
    assert np.allclose(first.offset.astype(np.float64).var(axis=0), variances, rtol=0.05)


def test_ten_views_are_the_papers() -> None:
    assert evaluation_views(256, 224, 1) == ((16, 16, False),)
    views = evaluation_views(256, 224, 10)
    assert [view[:2] for view in views[:5]] == [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    assert [(*view[:2], True) for view in views[:5]] == [tuple(view) for view in views[5:]]
    assert not any(view.mirror for view in views[:5])
