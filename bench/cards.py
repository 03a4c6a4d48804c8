"""Method cards: what a method says of itself, as a page of Markdown (docs/methods.md) and as rows of a table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from inspect import getdoc, getmodule
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from profl.bench.errors import InputError
from profl.bench.method import KINDS, Method
from profl.bench.registry import method_class

HEADING = """# Methods

Every method of the bench by what it does about memory. What of it is not as published stands at the end of its card;
what holds for all is told in [fairness](fairness.md). Choices are marked by where they come from: [paper] the paper's
text, [code] published code, [inferred] our reading of either, [default] our own choice where both are silent, [ours]
what is no part of the method. An option `NAME` of a method is set by `--option METHOD.NAME=VALUE`, or in a sweep's
`[options.METHOD]`.

This page is printed by `profl list cards`; a method of your own has its card there too.
"""


def page(names: Iterable[str]) -> str:
    """Return the cards of these methods under a heading for each kind, as Markdown.

    Raises
    ------
    InputError
        As `method_class`.
    """
    methods = _ordered((name, method_class(name)) for name in names)
    parts = [HEADING, _contents(methods)]
    for kind, group in groupby(methods, lambda one: one[1].kind):
        parts.append(f"## {(kind or 'other').capitalize()}\n")
        parts += [card(name, method) for name, method in group]
    return "\n".join(parts)


def _contents(methods: Iterable[tuple[str, type[Method]]]) -> str:
    """Return a row per method, which leads to its card, as Markdown."""
    rows = [f"| [{name}](#{name}) | {method.kind or '-'} | {method.shrinks or '-'} |" for name, method in methods]
    return "\n".join(["| method | kind | shrinks |", "|---|---|---|", *rows]) + "\n"


def card(name: str, method: type[Method]) -> str:
    """Return what a method says of itself, as Markdown."""
    idea, said = getdoc(getmodule(method)), getdoc(method) if "__doc__" in vars(method) else None
    parts = [f"### {name}", _prose(idea).partition("\n\n")[0] if idea else "", _prose(said)]
    parts.append("\n".join(f"- {line}" for line in _facts(method)))
    if options := list(_options(method.Options)):
        parts += ["Options:", "\n".join(options)]
    if method.deviations:
        parts += ["Differs from what is published:", "\n".join(f"- {said}" for said in method.deviations)]
    return "\n\n".join(filter(None, parts)) + "\n"


def method_table(names: Iterable[str]) -> Table:
    """Return a row per method: name, kind, what shrinks, source; of one that cannot be imported, why."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("shrinks", ratio=2)
    table.add_column("source", ratio=3, overflow="fold")
    found, broken = {}, {}
    for name in names:
        try:
            found[name] = method_class(name)
        except InputError as error:
            broken[name] = str(error)
    for name, method in _ordered(found.items()):
        table.add_row(name, *(Text(said or "-") for said in (method.kind, method.shrinks, method.source)))
    for name, reason in broken.items():
        table.add_row(name, "?", "?", Text(reason))
    return table


def _ordered(methods: Iterable[tuple[str, type[Method]]]) -> list[tuple[str, type[Method]]]:
    """Sort methods by kind, known ones first, and then by name."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(methods, key=lambda one: (order.get(one[1].kind, len(order)), one[1].kind, one[0]))


def _facts(method: type[Method]) -> Iterator[str]:
    if method.shrinks:
        yield f"Shrinks: {method.shrinks}."
    if method.source:
        yield f"Source: {method.source}."


def _prose(docstring: str | None) -> str:
    """Return a docstring up to its first section, in Markdown."""
    text = re.split(r"\n\n[^\n]+\n-{3,}\n", docstring or "")[0]
    return text.replace("``", "`")


def _options(options: type) -> Iterator[str]:
    """Yield a line for each entry of an options dataclass's Parameters: names, default values, what they mean."""
    defaults = vars(options())
    section = re.search(r"Parameters\n-{3,}\n(.*?)(?=\n\n\w+\n-{3,}\n|\Z)", getdoc(options) or "", flags=re.DOTALL)
    for entry in re.split(r"\n(?=\S)", section[1]) if section else []:
        heading, _, meaning = entry.partition("\n")
        names = heading.partition(" :")[0].split(", ")
        values = ", ".join(f"`{name}` = `{_written(defaults[name])}`" for name in names if name in defaults)
        yield f"- {values or heading}: {' '.join(_prose(meaning).split())}"


def _written(value: Any) -> str:
    """Return a default value as a sweep's TOML has it; none, which TOML lacks, as Python does."""
    return "None" if value is None else json.dumps(value)
