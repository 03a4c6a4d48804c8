"""Where two logs of events run alike, if one begins somewhere in the middle of the other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

LEAST_ALIKE = 32
"""Fewer events in a row may be alike by chance."""


def alignment(run: Sequence[Hashable], other: Sequence[Hashable]) -> tuple[int, int]:
    """Return where to begin in each, so that they are alike for as long as possible from there on.

    One of the two is 0: the other log's beginning is looked for in the longer story of this one. Of places that are
    alike equally long, one where nothing differs before a log ends is better, and of those the last, as a trace of one
    step shows one in which everything has settled. Where no `LEAST_ALIKE` events are alike, both are 0.
    """
    in_run, in_other = _best_place(other, run), _best_place(run, other)
    if max(in_run, in_other)[0] < min(LEAST_ALIKE, len(run), len(other)):
        return 0, 0
    return (in_run[1], 0) if in_run[0] >= in_other[0] else (0, in_other[1])


def _best_place(beginning: Sequence[Hashable], log: Sequence[Hashable]) -> tuple[int, int]:
    """Return how many of the first entries of ``beginning`` stand in ``log`` in a row, at best, and where."""
    end = object()  # equal to no entry
    lengths = _common_with_beginning([*beginning, end, *log])[len(beginning) + 1 :]

    def merit(place: int) -> tuple[int, bool, int]:
        return lengths[place], lengths[place] == min(len(log) - place, len(beginning)), place

    place = max(range(len(lengths)), key=merit, default=0)
    return (lengths[place], place) if lengths and lengths[place] else (0, 0)


def _common_with_beginning(entries: Sequence[Hashable]) -> list[int]:
    """Return for each place how many entries from there on are those from the start on (the Z function).

    In linear time: what lies inside a stretch that is known to repeat the start is read off from there (Gusfield,
    *Algorithms on Strings, Trees and Sequences*, 1.4).
    """
    lengths = [0] * len(entries)
    left = right = 0  # the stretch found so far that ends last
    for place in range(1, len(entries)):
        length = min(right - place, lengths[place - left]) if place < right else 0
        while place + length < len(entries) and entries[length] == entries[place + length]:
            length += 1
        if place + length > right:
            left, right = place, place + length
        lengths[place] = length
    return lengths
