"""Credits of labels among scores, against every order that the scores allow."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import scores as ours
from trainer.settings import Ties

# Few values, so that many are equal.
SCORES = st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0]), min_size=2, max_size=6)
TIES: tuple[Ties, ...] = ("fractional", "better", "order")


def credit(values: list[float], label: int, k: int, ties: Ties) -> float:
    where = ours.standing(torch.tensor([values], dtype=torch.float64), torch.tensor([label]))
    return float(ours.credit(where, k, ties)[0])


def among_first(values: list[float], label: int, k: int) -> list[bool]:
    """For each order of the classes by falling score: whether the label is among the first k."""
    orders = itertools.permutations(range(len(values)))
    allowed = (o for o in orders if all(values[a] >= values[b] for a, b in itertools.pairwise(o)))
    return [label in order[:k] for order in allowed]


@given(values=SCORES, data=st.data(), k=st.sampled_from([1, 5]))
@settings(max_examples=150, deadline=None)
def test_each_rule_for_ties_is_its_count_over_all_orders(values: list[float], data: st.DataObject, k: int) -> None:
    label = data.draw(st.integers(0, len(values) - 1))
    found = among_first(values, label, k)
    # Shared credit is what a random order of the equals gives on average.
    assert credit(values, label, k, "fractional") == pytest.approx(float(Fraction(sum(found), len(found))))
    assert credit(values, label, k, "better") == all(found)
    ranked = sorted(range(len(values)), key=lambda c: (-values[c], c))
    assert credit(values, label, k, "order") == (label in ranked[:k])


@given(values=st.lists(st.floats(-50, 50), min_size=6, max_size=12, unique=True), data=st.data())
@settings(max_examples=50, deadline=None)
def test_without_ties_the_rules_agree_with_a_plain_rank(values: list[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(values) - 1))
    rank = sum(value > values[label] for value in values)
    for ties in TIES:
        assert [credit(values, label, k, ties) for k in (1, 5)] == [rank < 1, rank < 5]


def test_two_equal_maxima_are_worth_half_and_three_for_two_places_two_thirds() -> None:
    assert credit([3, 3, 1, 0, 0, 0, 0], 0, 1, "fractional") == 0.5
    assert credit([9, 8, 7, 5, 5, 5, 0], 4, 5, "fractional") == pytest.approx(2 / 3)
    assert credit([9, 8, 7, 5, 5, 5, 0], 6, 5, "fractional") == 0


@pytest.mark.parametrize("ties", TIES)
def test_what_is_no_number_counts_as_better_than_the_label(ties: Ties) -> None:
    nan = math.nan
    assert credit([nan] * 8, 0, 1, ties) == credit([nan] * 8, 0, 5, ties) == 0
    assert credit([nan, 1, 0], 1, 1, ties) == 0


@given(values=st.lists(SCORES.filter(lambda v: len(v) == 6), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_the_best_classes_are_sorted_by_score_then_by_label(values: list[list[float]]) -> None:
    expected = [sorted(range(6), key=lambda c: (-row[c], c))[:5] for row in values]
    assert ours.best(torch.tensor(values)).tolist() == expected


def test_views_are_averaged_as_probabilities() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (3, 10, 7)).astype(np.float32)
    shares = np.exp(logits.astype(np.float64))
    expected = np.log((shares / shares.sum(axis=2, keepdims=True)).mean(axis=1))
    found = ours.mean_over_views(torch.from_numpy(logits.reshape(30, 7)), 10).numpy()
    assert np.allclose(found, expected, rtol=1e-12, atol=0)


def test_probabilities_too_small_for_a_number_keep_their_order() -> None:
    logits = torch.tensor([[0.0, -2000.0, -3000.0]]).repeat(10, 1)
    for views in (1, 10):
        found = ours.mean_over_views(logits, views)[0]
        assert found.exp().tolist() == [1, 0, 0]
        assert found[0] > found[1] > found[2] > -math.inf
