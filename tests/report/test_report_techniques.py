"""A method with a technique is shown as a method of its own, whose name fits."""

from dataclasses import replace

import pytest

from profl.bench.report.figures.participation import _folded
from profl.bench.report.page.reproduce import configurations
from profl.bench.report.rounds import LEGEND_COLUMNS, legend_columns
from profl.bench.report.study import studies
from profl.bench.results import Run


@pytest.fixture
def saving(run: Run) -> Run:
    """The run, with checkpoints in every cell of one method."""
    cell = run.records[0].cell
    records = [
        replace(record, cell=replace(record.cell, technique="checkpoint"))
        if record.cell.method == cell.method
        else record
        for record in run.records
    ]
    chosen = run.cells["method"] == cell.method
    cells = run.cells.assign(technique=run.cells["technique"].mask(chosen, "checkpoint"))
    chosen = run.footprints["method"] == cell.method
    footprints = run.footprints.assign(technique=run.footprints["technique"].mask(chosen, "checkpoint"))
    return replace(run, records=records, cells=cells, footprints=footprints)


def test_a_method_with_a_technique_is_a_method_of_its_own(run: Run, saving: Run):
    (plain,), (study,) = studies(run), studies(saving)
    name = run.records[0].cell.method
    assert {*study.methods} - {*plain.methods} == {f"{name} with checkpoint"}
    assert {*study.bare_methods} == {*plain.methods}
    assert plain.bare_methods == plain.methods
    assert f"{name} with checkpoint" in {method for method, _ in study.tasks}
    assert any("technique = [" in text for text in configurations(saving.records).values())
    assert not any("technique" in text for text in configurations(run.records).values())


def test_a_legend_has_as_many_columns_as_fit(run: Run, saving: Run):
    (plain,), (study,) = studies(run), studies(saving)
    assert legend_columns(plain) == LEGEND_COLUMNS
    assert 1 <= legend_columns(study) < LEGEND_COLUMNS


def test_a_long_name_is_folded_between_words_and_ways():
    name = "exclusive with checkpoint+micro-batch:4"
    assert _folded(name, 26) == "exclusive with checkpoint+\nmicro-batch:4"
    assert _folded(name, 16) == "exclusive with\ncheckpoint+\nmicro-batch:4"
    assert _folded("fedavg (ideal)", 16) == "fedavg (ideal)"
