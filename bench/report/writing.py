"""A run's report: figures and tables, from its result files alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from profl.bench.report.contenders import only
from profl.bench.report.figures import figures_of
from profl.bench.report.latex import write_latex
from profl.bench.report.markdown import write_markdown
from profl.bench.report.page import write_page
from profl.bench.report.study import studies
from profl.bench.report.style import house_style, save
from profl.bench.report.tables import write_tables
from profl.bench.report.view import USUAL, View
from profl.bench.results import Run

Around = Callable[[str], AbstractContextManager[object]]


def write_report(
    run: Run, output: Path | None = None, view: View = USUAL, around: Around = lambda name: nullcontext()
) -> list[Path]:
    """Write all figures, tables (CSV, Parquet, Markdown, LaTeX) and the page of a run and return their paths.

    The page holds the figures as SVG: there is none where they are not written so. Nothing is run again; the same
    results give the same bytes. If the run holds several models, datasets or GPUs, each has its own figures, with its
    name behind the figure's.

    Parameters
    ----------
    run
        What was run.
    output
        Where to write; ``report`` in the run's folder by default.
    view
        How it is to be shown.
    around
        Entered around the drawing of each figure, by its name, and of what else takes long: a clock, say.

    Raises
    ------
    InputError
        As `profl.bench.report.study.studies`.
    """
    parts = list(studies(run, view))
    folder = output or run.path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with house_style(view.sheet):
        for study in parts:
            suffix = f"-{study.name}" if len(parts) > 1 else ""
            for figure in figures_of(study):
                with around(figure.name + suffix):
                    written += save(figure.draw(study), folder, figure.name + suffix, view.sheet)
    written += [*write_tables(only(run, view.methods), parts, folder)]
    written += [write_markdown(parts, folder), *write_latex(parts, folder)]
    if "svg" in view.sheet.formats:
        with around("the page"):
            written.append(write_page(run, folder, view))
    return written
