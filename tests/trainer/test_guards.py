"""When a run counts as stuck, which samples of a diverged one are named, and what both say."""

import math

import pytest

from trainer.guards import Divergence, RecentLosses, stuck_words, suspects

NAN, INF = math.nan, math.inf
GUESS = 6.907755  # ln 1000


def losses(*values: float) -> RecentLosses:
    recent = RecentLosses()
    for value in values:
        recent.add(value)
    return recent


@pytest.mark.parametrize(
    ("mean", "is_stuck"), [(GUESS + 0.2, True), (GUESS, True), (GUESS - 0.0099, True), (GUESS - 0.0101, False), (4.0, False)]
)  # fmt: skip
def test_a_mean_loss_within_a_hundredth_of_a_guess_is_stuck(mean: float, is_stuck: bool) -> None:
    found = losses(*[mean] * 500).stuck(5000, 5000, 1000)
    assert found == (pytest.approx(mean) if is_stuck else None)


def test_only_the_newest_500_steps_count() -> None:
    learnt_late = losses(*[7.0] * 4500, *[6.0] * 500)
    assert learnt_late.stuck(5000, 5000, 1000) is None
    assert len(learnt_late.to_json()) == 500
    forgot_late = losses(*[1.0] * 4500, *[7.0] * 500)
    assert forgot_late.stuck(5000, 5000, 1000) == pytest.approx(7.0)
    # One good step among 500 of ln 1000 + 0.001 is not enough: 6.9076 + 0.001 - 0.0138 < ln 1000 - 0.01 would be.
    assert losses(*[GUESS + 0.001] * 499, 0.0).stuck(5000, 5000, 1000) is None
    assert losses(*[GUESS + 0.005] * 499, 0.0).stuck(5000, 5000, 1000) is not None


def test_a_short_deadline_is_judged_over_all_its_steps() -> None:
    assert losses(9.0, 9.0, 2.31, 2.31).stuck(4, 2, 10) == pytest.approx(2.31)
    assert losses(2.2).stuck(1, 1, 10) is None
    assert losses(2.31).stuck(1, 2, 10) is None


def test_a_run_is_never_judged_before_the_deadline_nor_with_the_guard_switched_off() -> None:
    recent = losses(*[8.0] * 500)
    assert recent.stuck(4999, 5000, 1000) is None
    assert recent.stuck(10**6, 0, 1000) is None


def test_a_run_resumed_from_a_checkpoint_without_losses_is_judged_once_enough_are_known() -> None:
    recent = losses(*[8.0] * 499)
    assert recent.stuck(9499, 5000, 1000) is None
    recent.add(8.0)
    assert recent.stuck(9500, 5000, 1000) == 8.0


def test_losses_that_a_checkpoint_carried_judge_as_those_that_were_counted() -> None:
    counted = losses(*[7.0 + step / 1000 for step in range(600)])
    assert RecentLosses(counted.to_json()).stuck(600, 600, 1000) == counted.stuck(600, 600, 1000)


def test_samples_whose_loss_is_not_finite_are_suspected_else_the_first() -> None:
    assert suspects([1.0, NAN, 2.0, INF], [40, 30, 20, 10]) == [30, 10]
    assert suspects([1.0] * 12, list(range(100, 112))) == list(range(100, 110))
    assert suspects([NAN] * 12, list(range(12))) == list(range(10))
    assert suspects([], []) == []


def test_a_stuck_run_says_by_how_much_and_what_to_do() -> None:
    words = stuck_words(5000, 6.9089, 1000, 5000, 0.01)
    for part in ("step 5,000", "last 500 steps is 6.9089", "1,000 classes has 6.9078", "museum145", "network.bias_one=0.1",
                 "network.init=he", "it is 0.01", "--learning-rate", "label order", "--stuck-after 0"):  # fmt: skip
        assert part in words
    assert "last 20 steps" in stuck_words(20, 2.4, 10, 20, 0.01)


@pytest.mark.parametrize(
    ("num_wrong", "keys", "checkpoint", "says"),
    [
        (2, ("n1/a", "n1/b"), "that of step 4", "Of the step's 40 samples 2 have a loss that is not finite: n1/a, n1/b. "
         "The last good checkpoint is that of step 4;"),
        (40, ("n1/a", "n1/b"), None, "40 have a loss that is not finite: n1/a, n1/b, .... There is no earlier checkpoint;"),
        (0, ("n1/a",), None, "The step's 40 samples, each with a finite loss of its own: n1/a, ...."),
        (None, (), None, "The step's 40 samples: none, ...."),
    ],
)  # fmt: skip
def test_a_diverged_run_names_samples_and_checkpoint(
    num_wrong: int | None, keys: tuple[str, ...], checkpoint: str | None, says: str
) -> None:
    words = Divergence(7, "the loss is nan", num_wrong, 40, keys, checkpoint).words
    assert words.startswith("step 7: the loss is nan; the run diverged. ")
    assert says in words
    assert "a lower --learning-rate" in words
