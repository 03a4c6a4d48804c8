"""Steps that read numbers from a virtual GPU, which has none: told, or refused in one line, never silently wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from profl.bench.memory import BuiltStep, Footprint, MeasurementFailed, Prober
from profl.bench.memory.gpu.unmodelled import MOST_READS
from tests.memory.reading_steps import GIVES_UP, SIZED, TOLD, UNTOLD, build
from tests.memory.steps_as_written import STEPS

pytestmark = pytest.mark.covers_children

GPU = "virtual:t4"
READS = "reads numbers from the GPU, which are all zero on a virtual one (at reading_steps.py:"


def measured(prober: Prober, name: str, steps: int = 2) -> Footprint:
    return prober.measure(BuiltStep(partial(build, name=name)), GPU, least_budget=False, steps=steps)


def refusal(prober: Prober, name: str) -> str:
    """Return the one line that refuses a step."""
    with pytest.raises(MeasurementFailed) as refused:
        measured(prober, name)
    (line,) = str(refused.value).splitlines()
    assert " cannot be measured on a virtual GPU: it " in line
    assert "(at reading_steps.py:" in line
    return line


@pytest.mark.parametrize("name", TOLD)
def test_a_read_is_told_with_its_place_and_how_often(prober: Prober, name: str) -> None:
    _, times = TOLD[name]
    first, *others = measured(prober, name).caveats
    assert first.startswith(READS)
    if times:
        assert first.endswith(f"), {2 * times} times")
        assert all("(in a backward pass)" in caveat for caveat in others)


@pytest.mark.parametrize("name", UNTOLD)
def test_nothing_is_told_of_what_only_looks_like_a_read(prober: Prober, name: str) -> None:
    assert measured(prober, name).caveats == ()


@pytest.mark.parametrize("name", SIZED)
def test_a_size_that_numbers_decide_is_refused_by_the_operator(prober: Prober, name: str) -> None:
    _, operator = SIZED[name]
    line = refusal(prober, name)
    assert f"it asks {operator} for a result as large as numbers on the GPU say" in line
    assert "give the size" in line


@pytest.mark.parametrize("name", GIVES_UP)
def test_a_step_that_will_not_have_zeros_is_refused(prober: Prober, name: str) -> None:
    _, said = GIVES_UP[name]
    line = refusal(prober, name)
    assert f"it {READS}" in line
    assert f", and gives up there ({said}" in line
    assert "leave the check out (as by validate_args=False)" in line


def test_a_loop_that_waits_for_a_number_ends(prober: Prober) -> None:
    assert f"reads numbers from the GPU {MOST_READS} times in one place" in refusal(prober, "waiting")


def test_what_was_read_before_an_error_elsewhere_is_told_with_it(prober: Prober) -> None:
    with pytest.raises(MeasurementFailed, match="split_with_sizes expects") as failed:
        measured(prober, "failing_later")
    *trace, last = str(failed.value).splitlines()
    assert any("in failing_later" in line for line in trace)
    assert last.startswith(f"before that it {READS}")
    assert "sizes = training.targets.tolist()" in last


@pytest.mark.parametrize("step", [partial(build, name="merged"), STEPS["sparse rows, SparseAdam"]])
def test_rows_that_are_merged_are_named(prober: Prober, step: Any) -> None:
    (caveat,) = prober.measure(BuiltStep(step), GPU, least_budget=False).caveats
    assert caveat.startswith("merges the rows of a sparse tensor, and finds none on a virtual GPU: ")


def test_a_refusal_is_forgotten_by_the_next_measurement(prober: Prober) -> None:
    refusal(prober, "nonzero")
    assert measured(prober, "three-way where", steps=3).caveats == ()
