"""A short form of ``make faults``: harm is done to sweeps, and nothing is lost or wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from profl.bench.engine import InProcess
from tests.faults import harm
from tests.faults.victim import FINE, MadeUp
from tests.sweeps import Silent, sweep


class Whole(NamedTuple):
    """A sweep that nobody harmed: where it lies, and its results."""

    folder: Path
    bits: harm.Bits


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    sweep(list(FINE), folder, InProcess(), MadeUp(), Silent())  # type: ignore[arg-type]
    return Whole(folder, harm.bits(folder))


@pytest.fixture(scope="module")
def server() -> Iterator[harm.Victims]:
    with harm.victims() as server:
        yield server


def holds(tally: harm.Tally) -> None:
    print(f"\n{harm.HEADING}\n{tally}")
    assert (tally.lost, tally.wrong) == (0, 0)
    assert tally.identical + tally.told == tally.tried > 0


def test_damage_to_a_finished_sweep_is_told_or_changes_nothing(whole: Whole, tmp_path: Path):
    holds(harm.damaged(whole.folder, 200, tmp_path))
    holds(harm.mixed_up(whole.folder, tmp_path))


def test_a_killed_sweep_goes_on_to_the_same_results(whole: Whole, server: harm.Victims, tmp_path: Path):
    holds(harm.killed(server, "here", 2, tmp_path, whole.bits, seconds=3))


def test_a_disk_without_room_costs_nothing(whole: Whole, server: harm.Victims, tmp_path: Path):
    holds(harm.too_full(server, [20_000], tmp_path, whole.bits))


def test_a_damaged_checkpoint_is_told_or_changes_nothing(whole: Whole, server: harm.Victims, tmp_path: Path):
    holds(harm.damaged_checkpoint(server, harm.begun(server, tmp_path, 10), 1, tmp_path, whole.bits))
