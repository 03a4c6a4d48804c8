"""Checksums within a cell's files: damage that can still be read is found, and what is another cell's.

Whatever was written without one, as by an earlier version, is taken as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from profl.bench.results.json_files import as_json

FIELD = "checksum"
"""The last field of every object that has one: 16 hexadecimal digits."""


def sealed(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return an object for a JSON file with its checksum; ``place`` says where it belongs, and only there it fits."""
    return {**values, FIELD: _checksum(as_json(values), place)}


def unsealed(values: Any, place: str) -> Any:
    """Return what was `sealed`, without its checksum; anything else as it is.

    Raises
    ------
    ValueError
        If it is not what was sealed, or was for another place.
    """
    if not isinstance(values, dict) or FIELD not in values:
        if isinstance(values, dict) and values and _nearly(next(reversed(values))):
            raise ValueError("the name of its checksum is damaged")
        return values
    content = {name: value for name, value in values.items() if name != FIELD}
    if values[FIELD] != _checksum(json.dumps(content), place):
        raise ValueError("it does not agree with its checksum")
    return content


def _nearly(name: str) -> bool:
    """Say whether a last field was the checksum's before a letter or two changed."""
    return (
        len(name) == len(FIELD) and sum(one == other for one, other in zip(name, FIELD, strict=True)) > len(FIELD) - 3
    )


def _checksum(text: str, place: str) -> str:
    return sha256(f"{place}\n{text}".encode()).hexdigest()[:16]
