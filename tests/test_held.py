"""What is held from round to round is told from the bytes: nothing, something kept once, or a leak."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profl.bench.held import HELD, describe_held, held_over_rounds

MIB = 1 << 20


def rows(*held: int | None, attempt: int | None = 1, first: int = 1) -> list[dict]:
    return [{"round": first + index, "held_bytes": size, "attempt": attempt} for index, size in enumerate(held)]


def figures(*parts: list[dict]) -> tuple[float, ...]:
    found = held_over_rounds([row for part in parts for row in part])
    return tuple(found[name] for name in HELD)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ([0, 0, 0], "nothing held"),
        ([64 * MIB, 64 * MIB, 64 * MIB], "up to 64 MiB held, not growing"),
        ([64 * MIB, 32 * MIB, 0], "up to 64 MiB held, not growing"),
        ([MIB, 2 * MIB, 3 * MIB], "up to 3 MiB held, growing in 100% of rounds, +1,048,576 B a round"),
        ([0, 0, MIB, MIB, MIB], "up to 1 MiB held, growing in 25% of rounds, +314,573 B a round"),
        ([0, None, 0], "nothing held"),
        ([None, MIB], "up to 1 MiB held, growth: ?"),
        ([None, None], "held: ?"),
        ([], "held: ?"),
    ],
)
def test_what_was_held_in_words(held: list[int | None], told: str):
    assert describe_held(*figures(rows(*held))) == told


@given(leaked=st.integers(1, 10**9), cuts=st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_a_leak_is_as_fast_however_often_it_begins_anew(leaked: int, cuts: list[int]):
    parts, first = [], 1
    for attempt, rounds in enumerate(cuts, start=1):
        parts.append(rows(*(leaked * number for number in range(1, rounds + 1)), attempt=attempt, first=first))
        first += rounds
    most_bytes, bytes_per_round, growth_share = figures(*parts)
    assert most_bytes == leaked * max(cuts)
    assert bytes_per_round == pytest.approx(leaked)
    assert growth_share == 1


def test_the_growth_from_one_attempt_to_the_next_is_no_growth():
    most_bytes, bytes_per_round, growth_share = figures(rows(MIB), rows(5 * MIB, attempt=2, first=2))
    assert most_bytes == 5 * MIB
    assert math.isnan(bytes_per_round)
    assert math.isnan(growth_share)


def test_the_slope_is_that_of_least_squares():
    _, slope, _ = figures(rows(3, 0, 0, 5))
    assert slope == pytest.approx((-1.5 * 3 + 1.5 * 5) / 5)
