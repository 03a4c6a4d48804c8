"""The one error that users are expected to see."""

from collections.abc import Iterable
from typing import NoReturn


class InputError(ValueError):
    """A value the user gave cannot be used; the message names it and the remedy."""


def in_one_line(error: Exception) -> str:
    """Return an error's message in one line; of several lines, as a traceback has, the first and the last."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return " ".join([*lines[:1], *lines[1:][-1:]]) or "no message"


def unknown(kind: str, name: str, known: Iterable[str]) -> NoReturn:
    """Raise the error for a name that is not known, listing those that are."""
    raise InputError(f"unknown {kind} '{name}': choose one of {', '.join(sorted(known))}")
