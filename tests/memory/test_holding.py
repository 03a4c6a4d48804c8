"""What a step holds on to, in logs made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from profl.bench.memory.recording.event_log import STEP, Claim, History, LogEntry, Phase, read_log
from profl.bench.memory.recording.holding import growth, what_stays
from tests.memory.test_event_log import TENSOR


def steps(*sizes: Sequence[int]) -> History:
    """Return a history of 100 bytes of parameters, and steps that each leave blocks of these sizes, one or several."""
    events: list[LogEntry] = [{"action": "alloc", "addr": 1, "size": 100, "frames": TENSOR}]
    phases = [Phase(0, "prepare", "temporaries"), Phase(1, "between", "inputs")]
    for left in sizes:
        phases.append(Phase(len(events), "forward", "activations"))
        passing = 1000 + len(events)
        events.append({"action": "alloc", "addr": passing, "size": 7, "frames": TENSOR})
        events.append({"action": "free_completed", "addr": passing, "size": 7})
        for size in left:
            stamp = {"user_metadata": "body"} if size % 2 else {"user_metadata": STEP}
            events.append({"action": "alloc", "addr": 1 + len(events), "size": size, "frames": TENSOR, **stamp})
        phases.append(Phase(len(events), "between", "inputs"))
    return read_log(events, phases, [Claim(1, "parameters", {1: "head"})], len(events))


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [[5]],
        [[5], [5]],  # the second may be what comes late and stays
        [[5], [], []],
        [[5], [5], []],
        [[], [], [5]],
    ],
    ids=repr,
)
def test_what_comes_and_stays_is_no_growth(sizes: list[list[int]]) -> None:
    assert list(growth(steps(*sizes))) == []


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([[], [5], [5]], "by 5 bytes a step: 5 of activations of body"),
        ([[900], [5], [5], [5]], "by 5 bytes a step: 5 of activations of body"),
        ([[1], [5], [20, 5]], "by 15 bytes a step: 20 of activations of (step), 5 of activations of body"),
    ],
    ids=repr,
)
def test_growth_has_a_slope_and_an_owner(sizes: list[list[int]], said: str) -> None:
    assert list(growth(steps(*sizes))) == [f"grows from step to step, {said}"]


def test_what_stays_is_only_what_still_lives() -> None:
    history = steps([5], [5], [5])
    places = [life.address for life in history.lives if life.bytes in (5, 100)]
    assert what_stays(history, {places[0]}) == (
        "leaves 100 bytes on the GPU when all that was built is given up, no more with every step: "
        "100 of parameters of head"
    )
    assert what_stays(history, set(places)) == (
        "leaves 115 bytes on the GPU when all that was built is given up, 5 more with every step: "
        "100 of parameters of head, 15 of activations of body"
    )


def test_one_step_cannot_tell_whether_more_stays() -> None:
    history = steps([5])
    said = what_stays(history, {life.address for life in history.lives})
    assert said.startswith("leaves 105 bytes on the GPU when all that was built is given up: ")
