"""Tables as CSV, also for who opens them in a spreadsheet."""

from __future__ import annotations

from typing import Any

import pandas as pd

_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV; a text that a spreadsheet would take for a formula gets an apostrophe before it."""
    texts = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    inert = frame.assign(**{name: frame[name].map(_inert) for name in texts}).rename(columns=_inert)
    return inert.to_csv(index=False, lineterminator="\n")


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_BEGINS_A_FORMULA) else value
