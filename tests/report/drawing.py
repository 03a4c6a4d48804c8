"""Figures by name, drawn as the report draws them."""

from matplotlib.figure import Figure

from profl.bench.report.figures import FIGURES
from profl.bench.report.study import Study
from profl.bench.report.style import house_style

NAMED = {figure.name: figure for figure in FIGURES}


def draw(name: str, study: Study) -> Figure:
    with house_style():
        figure = NAMED[name].draw(study)
        figure.draw_without_rendering()
    return figure
