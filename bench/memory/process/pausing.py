"""Work that pauses while it waits, so that whoever has asked for it can do something else meanwhile."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

Result = TypeVar("Result")

Pausing = Generator[None, None, Result]
"""Yields at every pause, and in the end returns the result. Whoever leaves it before closes it."""


def finished(work: Pausing[Result]) -> Result:
    """Return what work comes to, with nothing else meanwhile."""
    with closing(work):
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: Result = end.value
                return result
