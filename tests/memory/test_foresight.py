"""The least budget from few trials: of processes made here, and of real steps, against the search that runs all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from profl.bench.cell import Recipe
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.recording import measurement
from profl.bench.memory.recording.budget import budgets_to_try, least_budget_bytes
from profl.bench.memory.recording.foresight import Trial, foreseen_least_budget_bytes
from profl.bench.memory.recording.measurement import fits, measure_workload
from profl.bench.memory.replay.allocator import Allocator, AllocatorSettings, Block
from profl.bench.memory.workload import Workload
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.training import TrainingWorkload

MIB = 1 << 20
TOTAL_BYTES = 400 * MIB
SETTINGS = AllocatorSettings()


# --- processes made here ---


@dataclass(frozen=True)
class Pass:
    """A convolution: blocks asked for in turn until one is granted, which is freed at once.

    Parameters
    ----------
    sizes
        In bytes; 0 needs no block.
    """

    sizes: tuple[int, ...]


Act = int | Pass  # bytes to keep (negative: free the oldest block that is that many from the newest), or a convolution


class Dead(Exception):
    """Memory ran out."""


class Process:
    """Does what it is told on an allocator under a limit, and keeps a log as PyTorch does."""

    def __init__(self, limit_bytes: int) -> None:
        self.allocator = Allocator(SETTINGS, limit_bytes)
        self.log: list[dict[str, object]] = []
        self.blocks: list[Block] = []
        self.told = 0

    def ask(self, size: int) -> Block | None:
        block = self.allocator.allocate(size, 0)
        self.note()
        if block is None:
            self.log.append({"action": "oom", "size": SETTINGS.block_bytes(size), "stream": 0})
        return block

    def free(self, block: Block) -> None:
        self.allocator.free(block)
        self.note()

    def note(self) -> None:
        """Log what the allocator has done since."""
        for event in self.allocator.events[self.told :]:
            told = {"action": event.action, "addr": event.address, "size": event.bytes, "stream": event.stream}
            self.log.append(told)
        self.told = len(self.allocator.events)

    def do(self, act: Act) -> None:
        if isinstance(act, Pass):
            for size in act.sizes:
                if not size:
                    return
                if block := self.ask(size):
                    self.free(block)
                    return
            raise Dead
        if act < 0:
            if len(self.blocks) >= -act:
                self.free(self.blocks.pop(act))
        elif block := self.ask(act):
            self.blocks.append(block)
        else:
            raise Dead

    def run(self, acts: Iterator[Act] | list[Act]) -> Trial:
        try:
            for act in acts:
                self.do(act)
        except Dead:
            fitted = False
        else:
            fitted = True
        while self.blocks:
            self.free(self.blocks.pop())
        return Trial(fitted, self.log)


def compare(acts_under: Callable[[int], list[Act]], *, peak_bytes: int | None = None) -> tuple[int, int]:
    """Return how many trials both searches take, having asserted that they find the same."""
    ran: list[int] = []

    def run(budget_bytes: int) -> Trial:
        ran.append(budget_bytes)
        return Process(budget_bytes).run(acts_under(budget_bytes))

    if peak_bytes is None:
        unlimited = Process(TOTAL_BYTES)
        unlimited.run(acts_under(TOTAL_BYTES))
        peak_bytes = unlimited.allocator.reserved.peak
    expected = least_budget_bytes(lambda budget: run(budget).fits, peak_bytes, TOTAL_BYTES)
    all_of_them = len(ran)
    ran.clear()
    found = foreseen_least_budget_bytes(run, peak_bytes, TOTAL_BYTES, SETTINGS)
    assert found == expected
    budgets, _ = budgets_to_try(peak_bytes, TOTAL_BYTES)
    if found is not None:
        assert found in ran
        assert found == budgets[0] or budgets[budgets.index(found) - 1] in ran
    assert len(set(ran)) == len(ran)
    return all_of_them, len(ran)


SIZES = st.sampled_from([512, 300_000, 900_000, 3 * MIB // 2, 5 * MIB, 9 * MIB, 11 * MIB, 20 * MIB])
CONVOLUTIONS = st.lists(SIZES, min_size=1, max_size=4).map(lambda sizes: Pass((*sizes, 0)))
STEPS = st.lists(st.one_of(SIZES, st.integers(-6, -1), CONVOLUTIONS), max_size=12)


@given(begin=st.lists(SIZES, min_size=1, max_size=4), step=STEPS, repeated=st.integers(1, 4))
def test_both_searches_find_the_same(begin: list[Act], step: list[Act], repeated: int) -> None:
    every, few = compare(lambda _: begin + step * repeated)
    assert few <= every + 1


@given(acts=STEPS.filter(bool), peak=st.integers(1, 30))
def test_wherever_they_begin(acts: list[Act], peak: int) -> None:
    """Also below what the steps take: ten of them may take more than the three that were measured."""
    compare(lambda _: acts, peak_bytes=peak * MIB)


@given(acts=STEPS, other=STEPS, changed=st.integers(2, 60))
def test_a_process_that_does_something_else_when_there_is_less(acts: list[Act], other: list[Act], changed: int) -> None:
    """It looks at its limit, which no script knows of, but where nothing can be seen of it."""
    compare(lambda budget: [20 * MIB, *acts, *(other if budget < changed * MIB else acts)])


def test_far_fewer_are_run() -> None:
    """Convolutions that differ begin to fall back one after the other, as memory gets short."""
    convolutions = [Pass((size * MIB, 11 * MIB, 3 * MIB, 0)) for size in (70, 60, 50, 40, 30)]
    step = [act for convolution in convolutions for act in (12 * MIB, convolution)]
    every, few = compare(lambda _: [*step, *[-1] * 5] * 4)
    assert every > 30
    assert few <= 6


def test_without_refusals_that_are_survived_three_trials_do() -> None:
    """As where cuDNN has no workspaces: what it kept in cache is all that a process can give up."""
    every, few = compare(lambda _: [act for size in (30, 40, 50, 60) for act in (size * MIB, 512, -2)] * 2)
    assert every > 50
    assert few == 3


def test_a_failure_far_below_is_no_failure() -> None:
    """The search that runs all would not come there."""

    def run(budget_bytes: int) -> Trial:
        if budget_bytes < 60 * MIB:
            raise RuntimeError("no engine")
        acts = [20 * MIB, Pass((60 * MIB, 41 * MIB)), 512]
        return Process(budget_bytes).run(acts)

    assert foreseen_least_budget_bytes(run, 80 * MIB, TOTAL_BYTES, SETTINGS) == 62 * MIB


def test_pools_of_its_own_are_run_everywhere() -> None:
    ran = []

    def run(budget_bytes: int) -> Trial:
        ran.append(budget_bytes)
        fitted, log = Process(budget_bytes).run([20 * MIB, 512])
        return Trial(fitted, [{**entry, "pool_id": (0, 1)} for entry in log])

    assert foreseen_least_budget_bytes(run, 40 * MIB, TOTAL_BYTES, SETTINGS) == 22 * MIB
    assert ran == [budget * MIB for budget in range(40, 18, -2)]


# --- real steps ---


@dataclass(frozen=True)
class Searched:
    """Both searches of a workload, run where the virtual GPU is."""

    workload: Workload
    key: str = "both searches"

    def run(self, device: torch.device, report: Callable[[object], None]) -> tuple[int | None, int | None, int, int]:
        footprint = measure_workload(
            self.workload, "virtual", device, steps=3, least_budget=False, timeline=False, snapshot=None
        )
        bounds = footprint.peak_reserved_bytes, footprint.environment.total_bytes
        with patch.object(measurement, "fits", side_effect=fits) as counted:
            found = measurement._least_budget_bytes(self.workload, device, footprint)
            few = counted.call_count
            all_of_them = least_budget_bytes(
                lambda budget: measurement._trial(self.workload, device, budget).fits, *bounds
            )
        return found, all_of_them, few, counted.call_count - few


def resnet18(batch_size: int) -> TrainingWorkload:
    network = ModelSpec("resnet18", 8, 10)
    return TrainingWorkload("test", network, FullModel(network), Recipe(batch_size=batch_size))


@pytest.mark.parametrize(
    ("workload", "most"),
    [
        pytest.param(resnet18(64), 4, id="batches of 64"),
        pytest.param(resnet18(32), 4, id="batches of 32"),
    ],
)
def test_real_steps_have_the_same_least_budget(prober: Prober, workload: Workload, most: int) -> None:
    found, expected, few, every = prober.run(Searched(workload), "virtual:h100", lambda _: None)
    assert found == expected is not None
    assert few <= most < every
