"""JSON as a run's files hold it: unknown numbers are null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profl.bench.errors import InputError
from profl.bench.files import write_whole
from profl.bench.validation import check_texts


def read_json(path: Path, remedy: str = "delete the folder to run it again") -> Any:
    """Read a JSON file; ``remedy`` is what to do where it is damaged.

    Raises
    ------
    InputError
        If it is missing or damaged, or holds texts that cannot be shown.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: is this the folder of a run?") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): {remedy}") from None
    if may_hold_unprintable(text):
        check_texts(content, str(path))
    return content


def may_hold_unprintable(text: str) -> bool:
    """Say whether the texts in JSON need a look: all that this package writes is ASCII, and hardly ever escaped."""
    return not text.isascii() or "\\u" in text


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file atomically."""
    write_whole(path, as_json(value, indent) + "\n")


def as_json(value: Any, indent: int | None = None) -> str:
    """Return JSON in which NaN and infinity are null, as the standard has neither."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
