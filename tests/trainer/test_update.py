"""The update rule of 2012 and its schedules, against plain float64 replays."""

import itertools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainer.presets import PRESETS
from trainer.schedules import Rates, ScheduleState, after_evaluation, rates
from trainer.switches import RuleSettings
from trainer.update import Rule

GRADIENTS = (0.1, -0.2, 0.3, 0.4, -0.5, 0.6)
# A weight of 0.5 and a bias of 0.2, three updates at rate 0.01, then three at 0.001: by hand in float64.
WEIGHTS = (0.4989975, 0.5000927550125, 0.49807598405997, 0.49586064116471, 0.49436658462865, 0.49242168656291)
BIASES = (0.198, 0.2002, 0.19618, 0.191762, 0.1887858, 0.18490722)
SGD_AFTER_THE_CHANGE = (0.49749422623626, 0.49747039430780, 0.49684869737698)


def layer(num_inputs: int = 1, num_outputs: int = 1) -> nn.Linear:
    network = nn.Linear(num_inputs, num_outputs)
    with torch.no_grad():
        network.weight.fill_(0.5)
        network.bias.fill_(0.2)
    return network


def set_gradients(network: nn.Linear, weight: Any, bias: Any) -> None:
    network.weight.grad = torch.as_tensor(weight, dtype=torch.float32).expand_as(network.weight).clone()
    network.bias.grad = torch.as_tensor(bias, dtype=torch.float32).expand_as(network.bias).clone()


def test_velocity_keeps_the_rate_it_was_made_with() -> None:
    network = layer()
    rule = Rule(network, RuleSettings())
    found = []
    for step, gradient in enumerate(GRADIENTS):
        set_gradients(network, gradient, gradient)
        rate = 0.01 if step < 3 else 0.001
        rule.step(Rates(rate, 2 * rate))
        found.append((network.weight.item(), network.bias.item()))
    weights, biases = zip(*found, strict=True)
    assert weights == pytest.approx(WEIGHTS, rel=3e-7)
    assert biases == pytest.approx(BIASES, rel=3e-7)


def test_the_rule_is_that_of_torch_until_the_rate_changes() -> None:
    network = layer()
    optimizer = torch.optim.SGD([network.weight], lr=0.01, momentum=0.9, weight_decay=5e-4)
    found = []
    for step, gradient in enumerate(GRADIENTS):
        optimizer.param_groups[0]["lr"] = 0.01 if step < 3 else 0.001
        set_gradients(network, gradient, gradient)
        optimizer.step()
        found.append(network.weight.item())
    assert found == pytest.approx((*WEIGHTS[:3], *SGD_AFTER_THE_CHANGE), rel=3e-7)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(1e-5, 0.1), min_size=1, max_size=8), st.floats(0, 0.99), st.floats(0, 0.01), st.floats(0, 3),
    st.booleans(), st.integers(0, 1000),
)  # fmt: skip
def test_any_run_of_updates_equals_its_float64_replay(
    run: list[float], momentum: float, decay: float, factor: float, decay_biases: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    network = layer(4, 3)
    rule = Rule(network, RuleSettings(momentum=momentum, decay=decay, decay_biases=decay_biases))
    w, b = np.full((3, 4), 0.5), np.full(3, 0.2)
    v, u = np.zeros((3, 4)), np.zeros(3)
    for rate in run:
        g, h = random.normal(size=(3, 4)), random.normal(size=3)
        set_gradients(network, g, h)
        rule.step(Rates(rate, factor * rate))
        v = momentum * v - decay * rate * w - rate * g
        u = momentum * u - (decay if decay_biases else 0) * factor * rate * b - factor * rate * h
        w, b = w + v, b + u
    np.testing.assert_allclose(network.weight.detach().numpy(), w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.bias.detach().numpy(), b, rtol=1e-5, atol=1e-6)


def test_a_rule_with_saved_velocities_goes_on_bit_for_bit() -> None:
    network, copy = layer(4, 3), layer(4, 3)
    rule, other = Rule(network, RuleSettings()), Rule(copy, RuleSettings())
    gradients: list[npt.NDArray[np.float64]] = [np.random.default_rng(i).normal(size=(3, 4)) for i in range(4)]
    for step, gradient in enumerate(gradients):
        set_gradients(network, gradient, 1.0)
        rule.step(Rates(0.01, 0.02))
        if step == 1:
            copy.load_state_dict(network.state_dict())
            other.load_state_dict({name: velocity.clone() for name, velocity in rule.state_dict().items()})
        elif step > 1:
            set_gradients(copy, gradient, 1.0)
            other.step(Rates(0.01, 0.02))
    assert torch.equal(network.weight, copy.weight)
    assert torch.equal(network.bias, copy.bias)
    with pytest.raises(KeyError):
        other.load_state_dict({"weight": torch.zeros(3, 4)})


def preset_rates(preset: str, epochs: list[int]) -> list[tuple[Any, Any]]:
    rule = RuleSettings(**PRESETS[preset]["rule"])
    found = [rates(rule, ScheduleState(), epoch, 90) for epoch in epochs]
    return [(pytest.approx(each.weights), pytest.approx(each.biases)) for each in found]


def test_the_museum_divides_the_weights_rate_and_never_the_biases() -> None:
    expected = [(0.01, 0.02), (0.01, 0.02), (1e-3, 0.02), (1e-3, 0.02), (1e-4, 0.02), (1e-5, 0.02), (1e-5, 0.02)]
    assert preset_rates("museum145", [0, 24, 25, 50, 51, 79, 90]) == expected


def test_caffe_keeps_the_biases_rate_at_twice_the_weights() -> None:
    expected = [(0.01, 0.02), (0.01, 0.02), (1e-3, 2e-3), (1e-4, 2e-4), (1e-5, 2e-5), (1e-6, 2e-6)]
    assert preset_rates("caffe", [0, 19, 20, 40, 60, 89]) == expected


def test_a_constant_rate_stays() -> None:
    rule = RuleSettings(schedule="constant", learning_rate=0.003, divide_at=(1,), bias_rate_factor=1.0)
    assert all(rates(rule, ScheduleState(divisions=2), epoch, 50) == Rates(0.003, 0.003) for epoch in range(50))


def weight_rates(rule: RuleSettings, epochs: int, moments: list[float]) -> list[float]:
    return [rates(rule, ScheduleState(), epoch, epochs).weights for epoch in moments]


@pytest.mark.parametrize(
    ("factor", "levels"),
    [
        (250, (0.01, 0.00158740105, 0.00025198421, 0.00004)),
        (500, (0.01, 0.00125992105, 0.00015874011, 0.00002)),
        (1000, (0.01, 0.001, 0.0001, 0.00001)),
    ],
)
def test_dexp_falls_by_equal_factors_at_equal_shares_of_the_run(factor: float, levels: tuple[float, ...]) -> None:
    rule = RuleSettings(schedule="dexp", dexp=(factor, 4))
    # A level holds up to and including its share: the first batch after it is lower.
    ends = [22.5, 45.0, 67.5, 90.0]
    for moments in ([0.0, 22.6, 45.1, 67.6], ends):
        assert weight_rates(rule, 90, moments) == pytest.approx(levels, rel=1e-7)
    biases = [rates(rule, ScheduleState(), epoch, 90).biases for epoch in (0.0, 45.0, 45.1, 89.0)]
    assert biases == pytest.approx([0.02, 0.02, 0.002, 0.002])


def test_a_warm_up_leads_from_nothing_into_half_a_cosine() -> None:
    rule = RuleSettings(schedule="cosine", learning_rate=0.4, warmup_epochs=5)
    expected = [0, 0.2, 0.4, 0.4 * (1 + 2**-0.5) / 2, 0.2, 0]
    assert weight_rates(rule, 25, [0, 2.5, 5, 10, 15, 25]) == pytest.approx(expected, abs=1e-12)


def test_the_first_layer_of_the_museum_is_slowed_at_67_and_frozen_at_72() -> None:
    rule = RuleSettings(**PRESETS["museum145"]["rule"])
    found = [rates(rule, ScheduleState(), epoch, 91) for epoch in (66, 67, 71, 72, 90)]
    assert [each.of("conv1.weight") for each in found] == pytest.approx([1e-4, 1e-5, 1e-5, 0, 0])
    assert [each.of("conv1.bias") for each in found] == [0.02, 0.02, 0.02, 0, 0]
    assert [each.of("conv2.weight") for each in found] == pytest.approx([1e-4] * 4 + [1e-5])


def test_a_frozen_layer_is_not_touched_and_neither_is_its_velocity() -> None:
    network = nn.Sequential()
    network.add_module("conv1", layer(4, 3))
    network.add_module("fc2", layer(3, 2))
    rule = Rule(network, RuleSettings())
    for moment, rate in ((0, Rates(0.01, 0.02)), (1, Rates(0.01, 0.02, {"conv1": 0.0}))):
        for part in network:
            assert isinstance(part, nn.Linear)
            set_gradients(part, 1.0, 1.0)
        before = {
            n: t.clone()
            for n, t in (*network.named_parameters(), *((f"v {n}", v) for n, v in rule.state_dict().items()))
        }
        rule.step(rate)
        after = dict((*network.named_parameters(), *((f"v {n}", v) for n, v in rule.state_dict().items())))
        same = {name for name in before if torch.equal(before[name], after[name])}
        frozen = {"conv1.weight", "conv1.bias", "v conv1.weight", "v conv1.bias"}
        assert same == (frozen if moment else set())


def test_a_velocity_without_the_rate_is_that_of_torch_through_changes() -> None:
    network = layer()
    rule = Rule(network, RuleSettings(velocity="without_rate"))
    found = []
    for step, gradient in enumerate(GRADIENTS):
        set_gradients(network, gradient, gradient)
        rate = 0.01 if step < 3 else 0.001
        rule.step(Rates(rate, rate))
        found.append(network.weight.item())
    assert found == pytest.approx((*WEIGHTS[:3], *SGD_AFTER_THE_CHANGE), rel=3e-7)


def test_lars_gives_each_weight_a_rate_in_proportion_to_its_length() -> None:
    random = np.random.default_rng(1)
    network = layer(4, 3)
    rule = Rule(network, RuleSettings(trust=0.01, decay=0.1))
    w, v, b, u = np.full((3, 4), 0.5), np.zeros((3, 4)), np.full(3, 0.2), np.zeros(3)
    for rate in (0.5, 0.5, 0.05):
        g, h = random.normal(size=(3, 4)), random.normal(size=3)
        set_gradients(network, g, h)
        rule.step(Rates(rate, rate))
        local = 0.01 * np.linalg.norm(w) / (np.linalg.norm(g) + 0.1 * np.linalg.norm(w))
        v = 0.9 * v - rate * local * (g + 0.1 * w)
        u = 0.9 * u - rate * h
        w, b = w + v, b + u
    np.testing.assert_allclose(network.weight.detach().numpy(), w, rtol=1e-5)
    np.testing.assert_allclose(network.bias.detach().numpy(), b, rtol=1e-5)


def plateau(rule: RuleSettings, errors: list[float]) -> list[ScheduleState]:
    """The state after each evaluation, by way of JSON as a checkpoint takes it."""
    states = [ScheduleState()]
    for error in errors:
        told = json.loads(json.dumps(states[-1].to_json()))
        states.append(after_evaluation(rule, ScheduleState(**told), error))
    return states[1:]


def test_the_rate_is_divided_as_validation_error_stalls_three_times_at_most() -> None:
    rule = RuleSettings(**{**PRESETS["paper"]["rule"], "patience": 2})
    errors = [0.9, 0.8, 0.8, 0.81, 0.7, 0.7, 0.69, 0.9, 0.9, 0.69, 0.69, 0.7, 0.7, 0.7, 0.7]
    made = [state.divisions for state in plateau(rule, errors)]
    assert made == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    found = [rates(rule, ScheduleState(divisions=d), 7, 90) for d in range(4)]
    assert [each.weights for each in found] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])
    assert [each.biases for each in found] == [each.weights for each in found]


def test_an_error_that_falls_by_less_than_the_threshold_is_no_better() -> None:
    rule = RuleSettings(schedule="plateau", patience=2, threshold=0.01)
    made = [state.divisions for state in plateau(rule, [0.9, 0.895, 0.891, 0.889, 0.8])]
    assert made == [0, 0, 1, 1, 1]


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4), st.integers(0, 4))
def test_a_division_follows_exactly_patience_evaluations_without_a_better_one(
    errors: list[int], patience: int, most: int
) -> None:
    rule = RuleSettings(schedule="plateau", patience=patience, divisions=most)
    made = [0, *(state.divisions for state in plateau(rule, [float(e) for e in errors]))]
    since = 0
    for i, (before, after) in enumerate(itertools.pairwise(made)):
        better = i == 0 or errors[i] < min(errors[:i])
        since = 0 if better else since + 1
        divided = since >= patience and before < most
        assert after == before + divided
        since = 0 if divided else since
