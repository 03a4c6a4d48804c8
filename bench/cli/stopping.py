"""Ctrl-C in the middle of a command: what is kept, and what to type to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def if_stopped(told: str) -> Iterator[None]:
    """Let the one line with which Ctrl-C ends a command say more while the block runs."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(told) from None
