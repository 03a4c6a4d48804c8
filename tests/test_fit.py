"""What trains in a given memory: the search against invented memory, and against the virtual GPU."""

import io
from collections.abc import Container
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.fit import (
    BEGIN_BATCH,
    LARGEST_BATCH,
    LOOKAHEAD,
    Fit,
    fit_table,
    fit_task,
    guarantee,
    largest_batch,
    read_budgets,
)
from profl.bench.measuring import workloads
from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober
from profl.bench.training import TrainingWorkload

from .conftest import SMALL_RECIPE, small_cell

GPU = "virtual:jetson-orin"
MIB = 2**20


class Memory:
    """Invented memory in which only batches of the given sizes fit; keeps what it was asked."""

    def __init__(self, fitting: Container[int]) -> None:
        self.fitting = fitting
        self.asked: list[int] = []

    def fits(self, batch: int) -> bool:
        self.asked.append(batch)
        return batch in self.fitting


@given(most=st.integers(1, 300), data=st.data())
def test_the_answer_fits_and_all_that_was_tried_above_failed_however_wild_memory_is(most: int, data: st.DataObject):
    memory = Memory(data.draw(st.sets(st.integers(1, most))))
    answer = largest_batch(memory.fits, most)
    assert answer is None or answer in memory.fitting
    assert max((batch for batch in memory.asked if batch in memory.fitting), default=None) == answer
    above = {batch for batch in range(1, most + 1) if batch > (answer or 0)}
    promised = {1 << exponent for exponent in range(10)} | {most} | {(answer or 0) + n for n in range(1, LOOKAHEAD + 1)}
    assert promised & above <= set(memory.asked)
    assert len(memory.asked) == len(set(memory.asked))
    assert set(memory.asked) <= set(range(1, most + 1))


@given(steps=st.lists(st.integers(1, LOOKAHEAD)), beyond=st.integers(0, 100))
def test_gaps_narrower_than_the_lookahead_hide_nothing(steps: list[int], beyond: int):
    fitting = {sum(steps[: n + 1]) for n in range(len(steps))}
    largest = max(fitting, default=None)
    assert largest_batch(Memory(fitting).fits, (largest or 1) + beyond) == largest


def test_a_wider_gap_can_hide_a_larger_batch():
    assert largest_batch(Memory({10, 10 + LOOKAHEAD + 1}).fits, 100) is None
    assert largest_batch(Memory({8, 8 + LOOKAHEAD + 1}).fits, 100) == 8


@given(largest=st.integers(0, 1024), most=st.integers(1, 1024))
def test_monotone_memory_takes_few_runs(largest: int, most: int):
    memory = Memory(set(range(1, largest + 1)))
    assert largest_batch(memory.fits, most) == (min(largest, most) or None)
    assert len(memory.asked) <= 1 + most.bit_length() + LOOKAHEAD


@given(largest=st.integers(0, 2 * LARGEST_BATCH))
def test_without_a_cap_batches_double_until_one_fails_and_end_somewhere(largest: int):
    memory = Memory(range(1, largest + 1))
    assert largest_batch(memory.fits, None) == (min(largest, LARGEST_BATCH) or None)
    assert max(memory.asked) <= min(max(BEGIN_BATCH, 2 * largest), LARGEST_BATCH)
    assert len(memory.asked) == len(set(memory.asked)) <= 2 * LARGEST_BATCH.bit_length() + LOOKAHEAD


@pytest.mark.parametrize(("most", "told"), [(256, ["256+", "300"]), (None, ["256", f"{LARGEST_BATCH}+"])])
def test_the_mark_of_a_cap_is_that_of_the_cap_there_was(most: int | None, told: list[str]):
    fits = [Fit("mine", "build", {MIB: 256, 2 * MIB: LARGEST_BATCH if most is None else 300}, MIB, None)]
    table = fit_table(fits, {MIB: "1MiB", 2 * MIB: "2MiB"}, most)
    assert [next(iter(column.cells)) for column in table.columns[2:4]] == told


def workload(method: str, task: str, most: int) -> TrainingWorkload:
    return workloads(Experiment.of(small_cell(method, recipe=replace(SMALL_RECIPE, batch_size=most))))[task]


def test_the_virtual_gpu_agrees_with_trying_every_batch(prober: Prober):
    task, budget = workload("fedavg", "full model", 12), 22 * MIB
    found = fit_task(task, 12, GPU, [budget], prober).largest_batches[budget]
    ran = [
        batch
        for batch in range(1, 13)
        if prober.fits(replace(task, recipe=replace(task.recipe, batch_size=batch)), GPU, budget)
    ]
    assert found == max(ran)
    assert 1 < max(ran) < 12


def test_less_than_the_least_budget_of_one_picture_fits_nothing(prober: Prober):
    task = workload("heterofl", "subnetwork 1", 2)
    least = fit_task(task, 2, GPU, [], prober).least_budget_bytes
    assert least is not None
    found = fit_task(task, 2, GPU, [least - 2 * MIB, least, 1], prober)
    assert found.largest_batches[least - 2 * MIB] is None
    assert found.largest_batches[least] in (1, 2)
    assert found.largest_batches[1] is None


def test_a_task_for_which_the_whole_gpu_is_too_small_is_an_answer(monkeypatch: pytest.MonkeyPatch):
    def too_small(*_: object) -> Footprint:
        raise OutOfMemory("too small")

    monkeypatch.setattr(Prober, "measure", too_small)
    monkeypatch.setattr(Prober, "fits", lambda *_: False)
    found = fit_task(workload("fedavg", "full model", 4), None, GPU, [MIB], Prober())
    assert found == Fit("fedavg", "full model", {MIB: None}, None, found.operations_per_example)
    assert found.operations_per_example > 0
    assert found.to_dict()["fits"] == [{"budget_bytes": MIB, "largest_batch": None}]


def test_a_batch_that_fails_for_another_reason_than_memory_is_named(monkeypatch: pytest.MonkeyPatch):
    def odd(prober: Prober, step: TrainingWorkload, gpu: str, budget_bytes: int) -> bool:
        if step.recipe.batch_size > 100:
            raise MeasurementFailed("the step could not be measured")
        return True

    def too_small(*_: object) -> Footprint:
        raise OutOfMemory("too small")

    monkeypatch.setattr(Prober, "measure", too_small)
    monkeypatch.setattr(Prober, "fits", odd)
    with pytest.raises(MeasurementFailed, match=r"^with a batch of 256 \(--batch-size caps .*\), the step could not"):
        fit_task(workload("fedavg", "full model", 4), None, GPU, [MIB], Prober())
    assert fit_task(workload("fedavg", "full model", 4), 64, GPU, [MIB], Prober()).largest_batches == {MIB: 64}


def test_budgets_keep_their_order_and_spelling_and_come_once():
    assert read_budgets(["1GiB", " 64 MiB ", "1024MiB"], GPU) == {2**30: "1GiB", 64 * MIB: "64 MiB"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0MiB", "'0MiB' is not above zero"),
        ("-4MiB", "'-4MiB' is not above zero"),
        ("64", "'64' has no unit"),
        ("64 parsecs", "unknown unit 'parsecs'"),
        ("50%", "'50%' is a share, but an amount is asked for"),
        ("a lot", "'a lot' is not an amount of memory"),
        ("1TiB", "budget '1TiB' is more than virtual:jetson-orin has: give at most"),
    ],
)
def test_budgets_that_cannot_be_used_are_named(text: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        read_budgets(["64MiB", text], GPU)
    assert "\n" not in str(caught.value)


def test_unknown_gpus_are_refused_and_a_physical_one_is_not_asked():
    with pytest.raises(GpuUnavailable, match="unknown GPU 'virtual:abacus'"):
        read_budgets(["64MiB"], "virtual:abacus")
    assert read_budgets(["1TiB"], "cuda") == {2**40: "1TiB"}


def test_the_table_groups_tasks_and_marks_what_is_missing():
    fits = [
        Fit("heterofl", "wide", {64 * MIB: None, 256 * MIB: 12}, 70 * MIB, 1_234_500_000),
        Fit("heterofl", "narrow", {64 * MIB: 32, 256 * MIB: 256}, 20 * MIB, 10**6),
        Fit("profl", "grow 1", {64 * MIB: None, 256 * MIB: None}, None, 10**6),
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(fit_table(fits, {64 * MIB: "64MiB", 256 * MIB: "256MiB"}, most=256))
    rows = [line.split() for line in console.export_text().splitlines() if line.strip(" ─")]
    assert rows == [
        ["M", "operations"],
        ["method", "task", "64MiB", "256MiB", "batch", "1", "needs", "an", "example"],
        ["heterofl", "wide", "-", "12", "70", "MiB", "1,234.5"],
        ["narrow", "32", "256+", "20", "MiB", "1.0"],
        ["profl", "grow", "1", "-", "-", "?", "1.0"],
    ]


def test_the_guarantee_names_the_limits_of_the_search_and_explains_the_marks_that_stand():
    def told(*batches, most=None, needs=100):
        return guarantee([Fit("m", "t", dict(enumerate(batches)), needs, 1)], most)

    assert f"the next {LOOKAHEAD}, every power of two, and 96. A batch smaller" in told(95, most=96)
    capped = "96+ ran, and none above was tried, as --batch-size 96 is the cap: give a larger"
    assert f"and 96. {capped}" in told(5, 96, most=96)
    assert told(96, 96, most=96).startswith(f"The largest batch that ran ten training steps in that memory. {capped}")
    assert f"{LARGEST_BATCH}+ ran, and none above was tried: give --batch-size for" in told(1, LARGEST_BATCH)
    assert "+ ran" not in told(96, None)
    assert [mark in told(96, None) for mark in ("- means", "? is")] == [True, False]
    assert [mark in told(96, needs=None) for mark in ("- means", "? is")] == [False, True]
