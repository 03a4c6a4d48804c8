"""What installed packages plug in, found by entry points: methods and models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from profl.bench.errors import InputError, in_one_line, unknown


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Return what is plugged in by name, without importing it; ``group`` is ``profl.methods`` or ``profl.models``."""
    return {point.name: point for point in entry_points(group=group)}


def load(kind: str, name: str, points: Mapping[str, EntryPoint]) -> Any:
    """Import what one of the entry points names; ``kind`` says in errors what it is.

    Raises
    ------
    InputError
        If no installed package offers it, or if its module cannot be imported.
    """
    if name not in points:
        unknown(kind, name, points)
    try:
        return points[name].load()
    except (Exception, SystemExit) as error:  # a plug-in's module may raise anything
        where = f"{kind} '{name}' ({points[name].value})"
        raise InputError(f"{where} cannot be imported: {_said(error)}") from error


def _said(error: Exception | SystemExit) -> str:
    return f"it exits with {error.code!r}" if isinstance(error, SystemExit) else in_one_line(error)
