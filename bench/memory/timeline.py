"""Live bytes over time, and how a cell keeps them: ``timelines.json``, by task, only the changes.

An event changes one category or two, so the changes are a tenth of the live bytes of all categories at every moment::

    {"grow 1": {"moments": 702,
                "phases": [[0, "prepare"], [61, "forward"], ...],
                "changes": {"parameters": [[0, 0], [1, 1728], ...], ...}}}

A change is a pair: moments since the category's last one, bytes added. Categories that were never alive may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from profl.bench.memory.workload import CATEGORIES


@dataclass(frozen=True)
class Timeline:
    """Live bytes at every moment: at the start, and after every allocation and every release.

    Parameters
    ----------
    live_bytes
        By category, one value a moment.
    phases
        Moment and name of every phase's beginning: ``prepare``, then each step's ``forward``, ``backward``
        and ``optimizer`` and the ``between`` that follows.
    """

    live_bytes: Mapping[str, list[int]]
    phases: tuple[tuple[int, str], ...]


def pack(timeline: Timeline) -> dict[str, Any]:
    """Return a timeline as JSON can hold it; nothing is lost."""
    moments = len(next(iter(timeline.live_bytes.values())))
    changes = {name: _changes(live) for name, live in timeline.live_bytes.items()}
    return {"moments": moments, "phases": [list(phase) for phase in timeline.phases], "changes": changes}


def _changes(live_bytes: list[int]) -> list[list[int]]:
    """Return pairs of moments since the last change and bytes added."""
    steps = [
        (moment, after - before) for moment, (before, after) in enumerate(pairwise([0, *live_bytes])) if after != before
    ]
    gaps = (moment - last for last, moment in pairwise([0, *(moment for moment, _ in steps)]))
    return [[gap, added] for gap, (_, added) in zip(gaps, steps, strict=True)]


def unpack(packed: Mapping[str, Any]) -> Timeline:
    """Return what `pack` was given, also after a round through JSON.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is something else.
    """
    moments = int(packed["moments"])
    live_bytes = {name: _live_bytes(packed["changes"].get(name, []), moments) for name in CATEGORIES}
    return Timeline(live_bytes, tuple((int(at), str(name)) for at, name in packed["phases"]))


def _live_bytes(changes: list[list[int]], moments: int) -> list[int]:
    added = [0] * moments
    at = 0
    for gap, size in changes:
        at += gap
        if not 0 <= at < moments:
            raise ValueError(f"a change at moment {at} of {moments}")
        added[at] += size
    return list(accumulate(added))
