"""The terminal, for texts of whatever names methods, tiers and files have."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from profl.bench.validation import is_printable, printable

_PIPED_WIDTH = 160
"""Characters."""


class Terminal(Console):
    """A console of rich that takes every text as it stands: no markup, no emoji, nothing that steers the terminal.

    Where it is none, but a file or a pipe, it is wide enough for every table, unless ``COLUMNS`` says how wide.
    """

    def __init__(self, stderr: bool = False, **more: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, **more)
        if not self.is_terminal and "COLUMNS" not in os.environ and "width" not in more:
            self.width = _PIPED_WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, with every character replaced that would steer the terminal."""
        for segment in super().render(renderable, options):
            if segment.control or is_printable(segment.text):
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
