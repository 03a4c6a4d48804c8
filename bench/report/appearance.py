"""How methods are to be called, coloured and ordered: settings that can be kept beside a paper."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path

from pydantic.dataclasses import dataclass as validated

from profl.bench.cell import EXACT
from profl.bench.errors import InputError, why_unreadable
from profl.bench.files import read_bounded
from profl.bench.plugins import installed
from profl.bench.report.contenders import chosen, is_installed
from profl.bench.validation import check_texts, checked

LARGEST_BYTES = 2**20
"""Of a file of settings: what is larger is none."""


@validated(frozen=True, config=EXACT)
class Appearance:
    """Settings by method; a method without any looks as usual.

    Parameters
    ----------
    order
        Methods that come first, in this order.
    labels
        What a method is called.
    colours
        Its colour, such as ``#0072B2``.
    """

    order: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for method, label in self.labels.items():
            if not label or label != " ".join(label.split()):
                raise ValueError(f"labels.{method} cannot be {label!r}: give a text in one line")
        for method, colour in self.colours.items():
            if not re.fullmatch("#[0-9A-Fa-f]{6}", colour):
                raise ValueError(f"colours.{method} cannot be {colour!r}: write it as #RRGGBB, such as #0072B2")


PLAIN = Appearance()
"""As usual."""


def read_appearance(path: Path, names: Mapping[str, str]) -> Appearance:
    """Read a TOML file: the fields of `Appearance`.

    Parameters
    ----------
    path
        The file. It may be used with several runs, and so name methods that are installed, but not in this one.
    names
        The methods of the run by every name they go by: see `profl.bench.report.contenders.contenders`.

    Raises
    ------
    InputError
        If the file is missing or malformed, or holds a key or a method that is not known, or a value that cannot be
        used.
    """
    try:
        text = read_bounded(path, LARGEST_BYTES).decode()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({why_unreadable(error)}): give a TOML file, as docs/papers.md shows one"
        ) from None
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    found = checked(Appearance, values, str(path))

    def method(name: str) -> str:
        known = {**{other: other for other in installed("profl.methods")}, **names}
        return name if is_installed(name) and name not in names else chosen(known, name, f"named in {path}")

    return Appearance(
        tuple(map(method, found.order)),
        {method(name): label for name, label in found.labels.items()},
        {method(name): colour for name, colour in found.colours.items()},
    )


def read_labels(texts: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return labels by method from texts such as ``heterofl=HeteroFL``.

    Parameters
    ----------
    texts
        Assignments: the longest name before an ``=`` counts, as names may have one in them.
    names
        The methods of the run by every name they go by.

    Raises
    ------
    InputError
        If a text is no assignment, names no method, or one that another has named.
    """
    labels: dict[str, str] = {}
    check_texts(list(texts), "--label")
    for text in texts:
        meant = max((name for name in names if text.startswith(f"{name}=")), key=len, default=text.partition("=")[0])
        label = text[len(meant) + 1 :]
        if "=" not in text or not label.strip():
            raise InputError(f"label '{text}' is no assignment: write METHOD=LABEL, as in heterofl=HeteroFL")
        method = chosen(names, meant, "labelled")
        if method in labels:
            raise InputError(f"method '{meant}' gets two labels: give one")
        labels[method] = " ".join(label.split())
    return labels
