"""A run's report: figures and tables, from its result files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from bench.report.accuracy import accuracy_by_budget, accuracy_by_tier, learning_curves
from bench.report.memory import participation, peak_memory
from bench.report.page import write_page
from bench.report.study import Study, studies
from bench.report.style import house_style, save
from bench.report.tables import write_tables
from bench.results import read_run

FIGURES: dict[str, Callable[[Study], Figure]] = {
    "accuracy_by_tier": accuracy_by_tier,
    "accuracy_by_budget": accuracy_by_budget,
    "peak_memory": peak_memory,
    "participation": participation,
    "learning_curves": learning_curves,
}
"""Every figure by its file name."""


def write_report(run_path: Path, output: Path | None = None) -> list[Path]:
    """Write all figures (PNG, SVG), tables (CSV, Parquet) and the page of a run and return their paths.

    Nothing is run again; the same results give the same bytes. If the run holds several models, datasets or
    GPUs, each has its own figures, with its name behind the figure's.

    Parameters
    ----------
    run_path
        Folder of the run.
    output
        Where to write; ``run_path/report`` by default.

    Raises
    ------
    InputError
        If the folder holds no run or a damaged one.
    """
    run = read_run(run_path)
    folder = output or run_path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    parts = list(studies(run))
    with house_style():
        for study in parts:
            suffix = f"-{study.name}" if len(parts) > 1 else ""
            for name, draw in FIGURES.items():
                written += save(draw(study), folder, name + suffix)
    return [*written, *write_tables(run, folder), write_page(run, folder)]
