"""The one error that users are expected to see, and how it names what they may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import dropwhile
from typing import NoReturn

LIKENESS = 0.7
"""How alike two names must be, by difflib's ratio, for the one to be taken for the other misspelt."""


class InputError(ValueError):
    """A value the user gave cannot be used; the message names it and the remedy."""


_TRACEBACK = "Traceback (most recent call last):"


def in_one_line(error: Exception) -> str:
    """Return an error's message in one line: the first of several, and of a traceback in it the error that ended it.

    What follows an error's first line are details. A line that ends with a colon says little without the next, unless
    that begins a list, as of the ways in which a function of PyTorch may be called.
    """
    rest = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    told = [rest.pop(0)] if rest and rest[0] != _TRACEBACK else []
    if _TRACEBACK in rest:
        behind = rest[len(rest) - rest[::-1].index(_TRACEBACK) :]
        rest = list(dropwhile(lambda line: line[0].isspace(), behind))
        told.extend(rest[:1])
        rest = rest[1:]
    while rest and told[-1].endswith(":"):
        following = rest.pop(0)
        told.append("..." if following.lstrip().startswith("*") else following)
    return " ".join(" ".join(told).split()) or "no message"


def why_unreadable(error: Exception) -> str:
    """Return in plain words why a file cannot be read; its name is told beside."""
    match error:
        case FileNotFoundError():
            return "there is none of this name"
        case IsADirectoryError():
            return "it is a folder"
        case OSError(strerror=str(words)):
            return words
        case UnicodeDecodeError():
            return f"it is no text in UTF-8, by the byte at {error.start}"
    return in_one_line(error)


def unknown(kind: str, name: str, known: Iterable[str]) -> NoReturn:
    """Raise the error for a name that is not known, with the one it nearly is and all that are."""
    names = sorted(known)
    raise InputError(f"unknown {kind} '{name}': {choose(nearest(name, names), ', '.join(names))}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is spelt most like ``name``, in upper or lower case; None if no one is alike."""
    spelt = {entry.casefold(): entry for entry in known}
    written = name.casefold()
    close = get_close_matches(written, spelt, 1, LIKENESS) or [other for other in spelt if _one_other(written, other)]
    return next((spelt[match] for match in close), None)


def _one_other(name: str, known: str) -> bool:
    """Return whether one character is another: of ``t5`` and ``t4``, which are too short to be alike by their ratio."""
    return len(name) == len(known) > 1 and sum(mine != other for mine, other in zip(name, known, strict=True)) == 1


def choose(meant: str | None, known: str) -> str:
    """Return the remedy for a name that is not known: what may be ``meant``, then what there is to choose from."""
    return remedy(meant, f"choose one of {known}")


def remedy(meant: str | None, otherwise: str) -> str:
    """Return what to do about a word that is not known: ask for what may be ``meant``, then say ``otherwise``."""
    return f"did you mean '{meant}'? {otherwise[0].upper()}{otherwise[1:]}" if meant else otherwise
