"""Values from files and command lines, checked against the types that a dataclass states."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from profl.bench.errors import InputError, choose, nearest

T = TypeVar("T")

_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co")
"""Unicode's categories of characters that steer a terminal, turn text around or are none."""


def checked(kind: type[T], values: Any, source: str) -> T:
    """Return ``values``, plain ones as TOML and JSON hold, as an instance of the dataclass ``kind``.

    No value is converted to fit: 1.0, true and "1" are no whole numbers.

    Raises
    ------
    InputError
        Naming ``source``, the first value that cannot be used, and why.
    """
    try:
        check_texts(values, source)
        # As JSON, since only there may a list stand for a tuple and a table for a dataclass while types are strict.
        text = json.dumps(values, default=str)
    except RecursionError:
        raise InputError(f"{source}: values lie too deep within each other: take them apart") from None
    except InputError:
        raise
    except ValueError as error:  # a number of more digits than Python writes
        raise InputError(f"{source}: {error}") from None
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise InputError(describe(error, source, kind)) from None


def describe(error: ValidationError, source: str = "", kind: type | None = None) -> str:
    """Return in one line what is wrong with the first value that was refused."""
    # A key that is missing may be there, but misspelt: name that one.
    first = min(error.errors(), key=lambda found: found["type"] != "unexpected_keyword_argument")
    own = first.get("ctx", {}).get("error")
    place = [str(part) for part in first["loc"]]
    name = ".".join(place)
    if isinstance(own, ValueError):  # raised by a dataclass's own check
        problem = str(own)
    elif first["type"] == "unexpected_keyword_argument":
        problem = f"unknown key '{name}'" + _known(kind, place)
    elif first["type"] == "missing":
        missing = [".".join(map(str, found["loc"])) for found in error.errors() if found["type"] == "missing"]
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        problem = f"{', '.join(missing[:5])}{more} {'is' if len(missing) == 1 else 'are'} missing"
    else:
        problem = f"{name} cannot be {_shortened(repr(first['input']))}: {first['msg'].lower()}".lstrip()
        choices = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        if meant := nearest(str(first["input"]), choices):
            problem += f"; did you mean '{meant}'?"
    return f"{source}: {problem}" if source else problem


def _shortened(text: str) -> str:
    return text if len(text) < 200 else f"{text[:200]}..."


def _known(kind: Any, place: Sequence[str]) -> str:
    """Return what may be written in place of the key that ``place`` ends with, if its table is a dataclass's."""
    for part in place[:-1]:
        hint = get_type_hints(kind).get(part) if is_dataclass(kind) else None
        kind = next(filter(is_dataclass, (hint, *get_args(hint))), None)  # also of a table that may be left out
    if not is_dataclass(kind):
        return ""
    names = [field.name for field in fields(kind)]
    return f": {choose(nearest(place[-1], names), ', '.join(names))}"


def check_texts(values: Any, source: str) -> None:
    """Make sure that every text in plain values, the keys among them, can be shown wherever results are.

    Raises
    ------
    InputError
        Naming ``source`` and the text, with what cannot be shown in it written out.
    """
    if isinstance(values, str):
        if not is_printable(values):
            raise InputError(f"{source}: {values[:60]!r} holds characters that cannot be shown: choose another name")
    elif isinstance(values, Mapping):
        for name, value in values.items():
            check_texts(name, source)
            check_texts(value, source)
    elif isinstance(values, (list, tuple)):
        for value in values:
            check_texts(value, source)


def is_printable(text: str) -> bool:
    """Return whether a text can be shown as it is: no character steers a terminal or turns text around."""
    return all(_is_printable(character) for character in text)


def printable(text: str) -> str:
    """Return the text with every character replaced that steers a terminal, turns text around or ends the line."""
    return "".join(c if _is_printable(c) and c not in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _is_printable(character: str) -> bool:
    return character in "\t\n" or unicodedata.category(character) not in _UNPRINTABLE
