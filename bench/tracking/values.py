"""What of a row, a summary and a cell's description the tools can take: numbers under plain names."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_NAME = 200
"""Characters; MLflow takes 250."""


def numbers(values: Mapping[str, Any], under: str = "") -> dict[str, float]:
    """Return the numbers that are known, those of tables within under ``table/name``; texts and lists are left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{under}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[plain_name(f"{under}{name}")] = float(value)
    return found


def plain_name(name: str) -> str:
    """Return a name that every tool takes: letters, digits, blanks and ``_ . / : -``; what was changed stays unique."""
    plain = re.sub(r"[^A-Za-z0-9_./ :-]", "_", name)
    if posixpath.normpath(plain) != plain or plain.startswith(("/", "..")):
        plain = plain.replace("/", "_")
    plain = plain[:LONGEST_NAME]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def flat(description: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """Yield a cell's description as pairs of texts: ``recipe.rounds`` and ``120``."""
    for name, value in description.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{under}{name}.")
        else:
            yield plain_name(f"{under}{name}"), value if isinstance(value, str) else json.dumps(value)
