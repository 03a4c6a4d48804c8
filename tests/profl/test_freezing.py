import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from profl.freezing import FreezingRule, MovementLog, effective_movement, slope
from tests.oracles import progressive

RULE = FreezingRule(window=20, evaluations=15, threshold=0.2)

numbers = st.floats(-1e3, 1e3, width=32)
histories = st.integers(1, 4).flatmap(
    lambda scalars: st.lists(st.lists(numbers, min_size=scalars, max_size=scalars), min_size=2, max_size=8)
)
shares = st.floats(0, 1)


def rounds_until_freeze(rule, values):
    return next((seen for seen in range(len(values) + 1) if rule.holds(values[:seen])), None)


@pytest.mark.parametrize(("rounds", "expected"), [(6, 0.408), (20, 0.224)])
def test_movement_of_independent_noise(rounds, expected):
    steps = torch.randn(rounds + 1, 10_000)
    assert effective_movement(list(steps.cumsum(0))) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("rounds", [2, 6, 20])
def test_movement_of_a_straight_line_is_1(rounds):
    start, direction = torch.randn(2, 100)
    assert effective_movement([start + k * direction for k in range(rounds + 1)]) == pytest.approx(1, abs=1e-6)


def test_movement_of_an_oscillation_is_0():
    place, swing = torch.randn(2, 100)
    assert effective_movement([place + (-1) ** k * swing for k in range(7)]) == 0
    assert effective_movement([place + (-1) ** k * swing for k in range(6)]) == pytest.approx(1 / 5)


def test_without_any_movement_it_is_0():
    assert effective_movement([torch.ones(5)] * 7) == 0


@settings(deadline=None)
@given(histories)
def test_movement_matches_the_formula_written_out(history):
    weights = [torch.tensor(row, dtype=torch.float64) for row in history]
    moved = effective_movement(weights)
    assert 0 <= moved <= 1
    assert moved == pytest.approx(progressive.movement(history), rel=1e-9)


def test_slope_is_the_change_over_the_window():
    assert slope([0.2, 0.4, 0.6]) == pytest.approx(0.4)
    assert slope([0.9, 0.5]) == pytest.approx(-0.4)
    assert slope([0.7] * 20) == pytest.approx(0)


@settings(deadline=None)
@given(st.lists(shares, min_size=2, max_size=30))
def test_slope_is_the_least_squares_slope(values):
    expected = np.polyfit(np.linspace(0, 1, len(values)), values, 1)[0]
    assert slope(values) == pytest.approx(expected, abs=1e-9)


def test_the_earliest_freeze():
    assert rounds_until_freeze(RULE, [0.4] * 60) == 20 + 15 - 1
    assert rounds_until_freeze(FreezingRule(2, 1, 0.2), [0.4] * 5) == 2


def test_no_freeze_while_movement_falls():
    falling = [1 - 0.02 * k for k in range(40)]  # slope -0.38 over 20 values
    assert rounds_until_freeze(RULE, falling) is None
    assert rounds_until_freeze(RULE, falling + [0.2] * 60) > len(falling) + 15 - 1


def test_one_jump_starts_the_count_again():
    rule = FreezingRule(window=2, evaluations=5, threshold=0.2)
    assert rounds_until_freeze(rule, [0.4] * 5 + [0.9] + [0.9] * 20) == 5 + 1 + 5


@settings(deadline=None)
@given(st.lists(shares, max_size=25), st.integers(2, 6), st.integers(1, 5), st.floats(0.05, 1.5))
def test_rule_matches_a_counter_of_calm_rounds(values, window, evaluations, threshold):
    slopes = [slope(values[start : start + window]) for start in range(len(values) - window + 1)]
    assume(all(abs(abs(fitted) - threshold) > 1e-9 for fitted in slopes))  # a tie is a matter of rounding
    rule = FreezingRule(window, evaluations, threshold)
    assert rounds_until_freeze(rule, values) == progressive.first_freeze(values, window, evaluations, threshold)


@pytest.mark.parametrize("diverged", [math.nan, math.inf])
def test_diverged_weights_never_freeze(diverged):
    values = [effective_movement([torch.tensor([diverged, 1.0]), torch.zeros(2)])] * 60
    assert math.isnan(values[0])
    assert not RULE.holds(values)


@pytest.fixture
def state():
    """A global model that drifts: call it with a round to get its tensors."""
    start = {"a": torch.randn(30, 10), "b": torch.randn(200), "other": torch.randn(7)}
    drift = {name: torch.randn_like(value) for name, value in start.items()}

    def at(number):
        noise = torch.Generator().manual_seed(number)
        return {
            name: value + number * 0.1 * drift[name] + 0.1 * torch.randn(value.shape, generator=noise)
            for name, value in start.items()
        }

    return at


def log(scalars=500, seed=1, name="step", rounds=3):
    return MovementLog({"a": 300, "b": 200}, rounds, scalars, seed, name)


def watch(log, state, rounds):
    for number in rounds:
        log.observe(state(number))
    return log.values


def test_first_value_after_h_rounds(state):
    watched = log(rounds=3)
    assert [len(watch(watched, state, [number])) for number in range(6)] == [0, 0, 0, 1, 2, 3]


def test_a_small_block_is_followed_in_full(state):
    values = watch(log(scalars=500), state, range(6))
    rows = [torch.cat([state(number)["a"].flatten(), state(number)["b"]]).tolist() for number in range(6)]
    assert values == pytest.approx([progressive.movement(rows[end - 3 : end + 1]) for end in (3, 4, 5)])


def test_a_large_block_is_followed_in_a_subset(state):
    def kept(watched):
        watch(watched, state, [0])
        (weights,) = watched.state_dict()["weights"]
        return weights

    everything = set(torch.cat([state(0)["a"].flatten(), state(0)["b"]]).tolist())
    subset = kept(log(scalars=40))
    assert subset.shape == (40,)
    assert len(set(subset.tolist())) == 40
    assert set(subset.tolist()) < everything
    assert torch.equal(subset, kept(log(scalars=40)))
    assert not torch.equal(subset, kept(log(scalars=40, seed=2)))
    assert not torch.equal(subset, kept(log(scalars=40, name="next step")))


def test_a_log_keeps_values_not_the_live_tensors(state):
    live = state(0)
    watched = log()
    watched.observe(live)
    for number in range(1, 6):
        for name, value in state(number).items():
            live[name].copy_(value)
        watched.observe(live)
    assert watched.values == watch(log(), state, range(6))


@pytest.mark.parametrize("cut", range(7))
def test_a_restored_log_goes_on_to_the_bit(state, cut):
    straight = watch(log(scalars=40), state, range(8))
    first = log(scalars=40)
    watch(first, state, range(cut))
    second = log(scalars=40)
    second.load_state_dict(first.state_dict())
    assert watch(second, state, range(cut, 8)) == straight
