"""Put a page together: figures and tables as they lie in the report's folder, into one file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from profl.bench.errors import InputError
from profl.bench.files import replacing
from profl.bench.memory.plot import CATEGORY_COLOURS
from profl.bench.report.budgets import budgets_grid
from profl.bench.report.contenders import only
from profl.bench.report.costs import costs_grid
from profl.bench.report.deviations import deviations
from profl.bench.report.differences import differences_grid
from profl.bench.report.figures import figures_of
from profl.bench.report.page.dark import dark_rules, in_the_dark
from profl.bench.report.page.grids import largest_blocks, matrix, settings, summary
from profl.bench.report.page.headline import WORDS, memory_needed, what_came_out, what_was_run
from profl.bench.report.page.records import environments, fleets, recipes
from profl.bench.report.page.reproduce import commands, configurations
from profl.bench.report.study import Study, bytes_of, studies
from profl.bench.report.view import USUAL, View
from profl.bench.results import Record, Run
from profl.bench.validation import printable

TABLES = {
    "cells": "one row per cell: method, tier, accuracy, participation, memory",
    "rounds": "one row per cell and round: loss, accuracy, participants (by task as JSON text), traffic",
    "footprints": "one row per method and task: peaks, bytes at the peak by category (at_peak_*), least budget",
    "differences": "one row per tier and method: difference in score from one method, seed by seed, with interval",
    "budgets": "one row per tier, budget and method: score at equal rounds, operations and bytes, and its difference",
    "accuracy": "the score of every method by tier, for a paper",
    "costs": "operations and bytes of every method by tier, for a paper",
    "results": "the tables of results as they can be put into a document",
}
"""The tables to download, without their format, and what they hold."""

KINDS = {
    "csv": "text/csv;charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "md": "text/markdown;charset=utf-8",
    "tex": "application/x-tex;charset=utf-8",
    "pdf": "application/pdf",
}
"""The formats that a page holds as files, in the order in which it offers them; SVG and PNG its script makes itself."""


def write_page(run: Run, folder: Path, view: View = USUAL) -> Path:
    """Write ``folder/index.html``, one file that needs no other and no network, and return its path.

    The same results give the same bytes.

    Parameters
    ----------
    run
        What to show.
    folder
        Where the run's figures (at least SVG) and tables were written: the page holds them as they are.
    view
        As they were written with.

    Raises
    ------
    InputError
        If a figure or ``cells.csv`` is missing, or as `profl.bench.report.study.studies`.
    """
    parts = list(studies(run, view))
    run = only(run, view.methods)
    records = run.records
    studies_toml = configurations(records)
    _text(folder / "cells.csv")  # else nothing was written here
    shown = [_part(study, records, folder, alone=len(parts) == 1) for study in parts]
    text = render(
        "run.html",
        title=printable(run.path.resolve().name),
        run=run,
        parts=shown,
        dark_rules=Markup(dark_rules(str(svg) for part in shown for _, _, _, svg, *_ in part["figures"])),
        failures=[record for record in records if record.error],
        environment=settings("Where it ran, and where memory was measured", environments(records)),
        recipe=settings("How every method trained", recipes(records)),
        configurations=[
            (name, toml, data_uri(toml.encode(), "application/toml;charset=utf-8"))
            for name, toml in studies_toml.items()
        ],
        commands=commands(run.path, list(studies_toml)),
        words=WORDS,
        downloads=[(file, what, link) for name, what in TABLES.items() for file, link in _formats(folder, name)],
    )
    path = folder / "index.html"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _part(study: Study, records: Sequence[Record], folder: Path, alone: bool) -> dict[str, Any]:
    """Return what the page shows of one study."""
    here = [record for record in records if record.name in set(study.cells["cell"])]
    suffix = "" if alone else f"-{study.name}"
    figures = []
    for figure in figures_of(study):
        name, sentence = figure.name + suffix, figure.sentence(study)
        svg = inline(_text(folder / f"{name}.svg"), name, f"{figure.title}. {sentence}")
        figures.append((name, figure.title, sentence, svg, figure.grid(study), _formats(folder, name)))
    return {
        "study": study,
        "id": "study" + suffix,
        "ran": [what_was_run(study), memory_needed(study)],
        "came_out": what_came_out(study),
        "certainty": "" if study.memory_only else study.certainty,
        "summary": summary(study),
        "deviations": {study.called(name): said for name, said in deviations(study.bare_methods).items()},
        "comparisons": [] if study.memory_only else [differences_grid(study), budgets_grid(study), costs_grid(study)],
        "figures": figures,
        "matrix": matrix(study, fleets(records, study.cells)),
        "timelines": _timelines(study, here),
        "blocks": largest_blocks(
            _once((study.called(r.cell.contender), entry) for r in here for entry in r.footprints)
        ),
    }


def _once(footprints: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Leave out tasks that an earlier cell measured alike."""
    seen = set()
    for method, entry in footprints:
        if (method, entry["task"]) not in seen:
            seen.add((method, entry["task"]))
            yield method, entry


def _timelines(study: Study, records: Sequence[Record]) -> dict[str, Any]:
    """Return the timelines as the page's script reads them; no tasks if no cell kept any."""
    packed: dict[tuple[str, str], Any] = {}
    for record in records:
        for task, timeline in record.timelines.items():
            packed.setdefault((record.cell.contender, task), timeline)
    tasks = []
    for method, entries in study.tasks:
        for name, entry in entries:
            if timeline := packed.get((method, entry["task"])):
                least = bytes_of(entry, "least_budget_bytes")
                least_bytes = int(least) if least == least else None  # NaN: not searched for
                tasks.append(
                    {"method": study.called(method), "task": name, "least_budget_bytes": least_bytes, **timeline}
                )
    dark = {name: in_the_dark(colour) for name, colour in CATEGORY_COLOURS.items()}
    return {"colours": CATEGORY_COLOURS, "dark": dark, "tasks": tasks}


# what the templates need


def render(template: str, **content: Any) -> str:
    """Return a page from its template; every text is escaped."""
    return _templates().get_template(template).render(**content)


@cache
def _templates() -> Environment:
    loader = PackageLoader("profl.bench.report.page")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # keys stay in the order of the stack
    templates.filters["joined"] = joined
    templates.globals["in_the_dark"] = in_the_dark
    folder = files("profl.bench.report.page") / "templates"
    for name in ("page.css", "page.js"):
        templates.globals[name.replace(".", "_")] = Markup((folder / name).read_text(encoding="utf-8"))
    return templates


def joined(text: str) -> str:
    """Return a text in which no line ends before a number or ``%``, which would part it from what it is of."""
    return re.sub(r" (?=[0-9%])", "\u00a0", text)


def data_uri(content: bytes, kind: str) -> str:
    """Return a file as a link that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _formats(folder: Path, name: str) -> list[tuple[str, str]]:
    """Return the files of a table or figure, in all formats in which it was written, and links that hold them."""
    paths = [(folder / f"{name}.{suffix}", kind) for suffix, kind in KINDS.items()]
    return [(path.name, data_uri(path.read_bytes(), kind)) for path, kind in paths if path.exists()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: write the figures and tables first, as 'profl report' does") from None


_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_UNWANTED = (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")


def inline(svg: str, name: str, label: str) -> Markup:
    """Return an SVG file to stand within a page: its size left to the page, its ids its own.

    Parameters
    ----------
    svg
        As matplotlib writes it.
    name
        Put before every id, as two figures may have the same ones.
    label
        The text alternative.
    """
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)  # comments are left out
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _UNWANTED]:
            parent.remove(child)
        for key, value in list(parent.attrib.items()):
            if key == "id":
                parent.set(key, f"{name}-{value}")
            elif key == _LINK:
                del parent.attrib[key]
                parent.set("href", value.replace("#", f"#{name}-"))
            elif "url(#" in value:
                parent.set(key, value.replace("url(#", f"url(#{name}-"))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))
