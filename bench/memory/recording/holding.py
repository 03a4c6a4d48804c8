"""Say what a training step holds on to: more with every step, when all that was built has been given up, or nothing."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise

from profl.bench.memory.recording.event_log import History, Life

_NAMED = 3  # of the parts that something consists of


def growth(history: History) -> Iterator[str]:
    """Yield a sentence if after every step, from the second on, more lives than after the one before.

    Two such steps are needed to tell growth from what comes with the first step and stays: at least three in all.
    """
    ends = _step_ends(history)
    held = [int(history.live_bytes[moment].sum()) for moment in ends]
    added = [after - before for before, after in pairwise(held)]
    if len(added) > 1 and min(added) > 0:
        before, after = (_parts(life for life in history.lives if life.spans(moment)) for moment in ends[-2:])
        size = added[-1] if len(set(added)) == 1 else round(sum(added) / len(added))
        yield f"grows from step to step, by {size} bytes a step: {_named(after - before)}"


def idleness(history: History) -> Iterator[str]:
    """Yield a sentence if something was built, and no step asked for any memory."""
    pauses = _pauses(history)
    if pauses and history.lives and all(life.birth <= pauses[0] for life in history.lives):
        yield "no step asked the GPU for memory: does it train, and there?"


def what_stays(history: History, addresses: Collection[int]) -> str:
    """Return a sentence about what still lives at ``addresses`` when all that was built has been given up."""
    kept = [life for life in history.lives if life.death is None and life.address in addresses]
    ends = _step_ends(history)
    by_step = Counter[int]()  # the first, with what was there before, is 0
    for life in kept:
        by_step[bisect_right(ends, life.birth - 1)] += life.bytes
    added = [by_step[step] for step in range(1, len(ends))]
    size = sum(life.bytes for life in kept)
    growing = ""
    if added:
        growing = f", {min(added)} more with every step" if min(added) else ", no more with every step"
    return f"leaves {size} bytes on the GPU when all that was built is given up{growing}: {_named(_parts(kept))}"


def _step_ends(history: History) -> list[int]:
    """Return the moment after each step."""
    return _pauses(history)[1:]


def _pauses(history: History) -> list[int]:
    """Return the moment when all was built, and that after each step."""
    return [phase.moment for phase in history.phases if phase.name == "between"]


def _parts(lives: Iterable[Life]) -> Counter[str]:
    sizes = Counter[str]()
    for life in lives:
        sizes[f"{life.category} of {life.module or '?'}"] += life.bytes
    return sizes


def _named(parts: Counter[str]) -> str:
    """Return the largest parts in words."""
    named = [f"{size} of {part}" for part, size in parts.most_common(_NAMED)]
    more = len(parts) - len(named)
    return ", ".join([*named, *([f"and {more} more"] if more > 0 else [])])
