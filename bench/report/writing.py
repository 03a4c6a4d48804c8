"""A run's report: figures and tables, from its result files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from profl.bench.report.accuracy import accuracy_by_budget, accuracy_by_tier, learning_curves
from profl.bench.report.growth import memory_by_round
from profl.bench.report.memory import participation, peak_memory
from profl.bench.report.page import write_page
from profl.bench.report.study import Study, studies
from profl.bench.report.style import house_style, save
from profl.bench.report.tables import write_tables
from profl.bench.results import Run

FIGURES: dict[str, Callable[[Study], Figure]] = {
    "accuracy_by_tier": accuracy_by_tier,
    "accuracy_by_budget": accuracy_by_budget,
    "peak_memory": peak_memory,
    "participation": participation,
    "learning_curves": learning_curves,
    "memory_by_round": memory_by_round,
}
"""Every figure by its file name."""


def write_report(run: Run, output: Path | None = None) -> list[Path]:
    """Write all figures (PNG, SVG), tables (CSV, Parquet) and the page of a run and return their paths.

    Nothing is run again; the same results give the same bytes. If the run holds several models, datasets or
    GPUs, each has its own figures, with its name behind the figure's.

    Parameters
    ----------
    run
        What was run.
    output
        Where to write; ``report`` in the run's folder by default.
    """
    folder = output or run.path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    parts = list(studies(run))
    with house_style():
        for study in parts:
            suffix = f"-{study.name}" if len(parts) > 1 else ""
            for name in study.figure_names:
                written += save(FIGURES[name](study), folder, name + suffix)
    return [*written, *write_tables(run, folder), write_page(run, folder)]
