"""Snapshots compared: with each other, and with steps that were measured here."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from profl.bench.cli import main
from profl.bench.errors import InputError
from profl.bench.memory.comparison.against import Comparison, Only
from profl.bench.memory.comparison.alignment import LEAST_ALIKE, alignment
from profl.bench.memory.comparison.measured_run import MeasuredRun, recorded_run
from profl.bench.memory.comparison.pairing import pairs, read_sides
from profl.bench.memory.comparison.run_file import write_runs
from profl.bench.memory.comparison.snapshot_side import snapshot_side
from profl.bench.memory.process.probe import Prober
from tests.memory.snapshot.made import FORWARD, MIB, event, segment, snapshot, written
from tests.planted import Planted

WORKLOAD = {"method": "planted", "task": "whole"}


def profl(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, prober: Prober) -> tuple[MeasuredRun, Path]:
    """A step measured here, and the snapshot of the very same steps."""
    path = tmp_path_factory.mktemp("recorded") / "snapshot.pickle"
    footprint = prober.measure(Planted(""), "virtual:h100", timeline=True, snapshot=path)
    return recorded_run(footprint, path, WORKLOAD), path


def of_step(run: MeasuredRun, path: Path, step: int, target: Path) -> Path:
    """Write what would have been recorded if the recording had begun with this step."""
    whole = pickle.loads(path.read_bytes())
    log = whole["device_traces"][0]
    wanted = sum(event.step < step for event in run.events)
    moves = 0
    for index, line in enumerate(log):
        if moves == wanted:
            return written(target, {**whole, "device_traces": [log[index:]]})
        moves += line["action"] in ("alloc", "free_completed")
    raise AssertionError(f"no step {step}")


# --- with a step that was measured ---------------------------------------------------------------------------------


def test_a_run_and_its_own_snapshot_are_the_same(recorded: tuple[MeasuredRun, Path]) -> None:
    run, path = recorded
    comparison = Comparison(run, snapshot_side(path))
    assert comparison.peaks["peak requested"].difference == 0
    assert comparison.peaks["peak reserved"].difference == 0
    assert comparison.peaks["least budget"].difference is None
    assert not comparison.only
    assert all(count.run == count.other for count in comparison.workspaces.values())
    assert comparison.workspaces  # named apart
    # What follows the run's last step, as cuBLAS's workspaces given back, is in the snapshot alone.
    assert comparison.divergence == len(run.events)


@pytest.mark.parametrize("step", [2, 3])
def test_a_trace_from_the_middle_is_compared_where_it_belongs(
    recorded: tuple[MeasuredRun, Path], step: int, tmp_path: Path
) -> None:
    run, path = recorded
    side = snapshot_side(of_step(run, path, step, tmp_path / "step.pickle"))
    begin = sum(event.step < step for event in run.events)
    for comparison, starts in ((Comparison(run, side), (begin, 0)), (Comparison(side, run), (0, begin))):
        assert comparison.is_partial
        assert comparison.starts == starts
        assert comparison.divergence is None
        assert comparison.unmatched_events == (0, 0)
        assert "events are compared, from event" in next(comparison.cautions())
        assert comparison.verdict().startswith(f"the same {len(run.events) - begin} allocations and releases")


def test_one_other_allocation_in_the_middle_is_found(recorded: tuple[MeasuredRun, Path], tmp_path: Path) -> None:
    run, path = recorded
    value = pickle.loads(of_step(run, path, 2, tmp_path / "step.pickle").read_bytes())
    log = value["device_traces"][0]
    allocations = [index for index, line in enumerate(log) if line["action"] == "alloc"]
    at = allocations[3 * len(allocations) // 4]
    before = sum(line["action"] in ("alloc", "free_completed") for line in log[:at])
    log.insert(at, event("alloc", 1 << 50, 12345, frames=FORWARD))
    log.append(event("free_completed", 1 << 50, 12345))
    comparison = Comparison(run, snapshot_side(written(tmp_path / "other.pickle", value)))
    assert comparison.divergence == before
    assert "against allocates 12,345 B (forward, study/network.py:12 forward, conv2d)" in comparison.verdict()


def test_what_only_one_peak_holds_by_size(recorded: tuple[MeasuredRun, Path], prober: Prober, tmp_path: Path) -> None:
    run, _ = recorded
    other = tmp_path / "other.pickle"
    prober.measure(Planted("history buffer"), "virtual:h100", timeline=True, snapshot=other)
    comparison = Comparison(run, snapshot_side(other))
    assert comparison.only == {512 * 512 * 4: Only(0, 1)}
    assert comparison.peaks["peak requested"].difference == -512 * 512 * 4
    shared = sum(size * count for size, count in comparison.shared.items())
    workspaces = sum(size * count for size, count in comparison.run.sizes_at_peak.workspaces.items())
    assert shared + workspaces == run.footprint.peak_requested_bytes


def test_sizes_of_a_measured_run_sum_to_its_peak(recorded: tuple[MeasuredRun, Path]) -> None:
    sizes = recorded[0].sizes_at_peak
    total = sum(size * count for size, count in (sizes.blocks + sizes.workspaces).items())
    assert total == recorded[0].footprint.peak_requested_bytes


# --- where logs run alike ------------------------------------------------------------------------------------------

LETTERS = st.lists(st.integers(0, 2), max_size=60)


def alike(run: list[Any], other: list[Any]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(run, other, strict=False)))


@given(LETTERS, LETTERS)
def test_no_other_place_is_alike_for_longer(run: list[int], other: list[int]) -> None:
    first, second = alignment(run, other)
    assert 0 in (first, second)
    best = max(
        [alike(run[place:], other) for place in range(len(run))]
        + [alike(run, other[place:]) for place in range(len(other))],
        default=0,
    )
    if best >= min(LEAST_ALIKE, len(run), len(other)):
        assert alike(run[first:], other[second:]) == best
    else:
        assert (first, second) == (0, 0)


@given(st.lists(st.integers(0, 5), min_size=LEAST_ALIKE, max_size=200), st.data())
def test_a_part_is_found(log: list[int], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(log) - 1))
    first, second = alignment(log, log[begin:])
    assert second == 0
    assert log[first:] == log[begin:][: len(log) - first]


# --- two snapshots, and the command line ---------------------------------------------------------------------------


def made(path: Path, sizes: list[int], **more: Any) -> Path:
    """Write a snapshot in which blocks of these sizes are allocated one after the other."""
    places = [(4096 + 8192 * number, -(-size // 512) * 512, size) for number, size in enumerate(sizes)]
    log = [event("alloc", address, size, frames=FORWARD) for address, _, size in places]
    return written(path, snapshot([segment(4096, 2 * MIB, places)], log, **more))


def test_two_snapshots(tmp_path: Path) -> None:
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1}
    run = made(tmp_path / "run.pickle", [512, 100, 7], allocator_settings=settings)
    changed = {**settings, "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64", "max_split_size": 64 * MIB, "later": 1}
    other = made(tmp_path / "other.pickle", [512, 200, 200], allocator_settings=changed)
    comparison = Comparison(snapshot_side(run), snapshot_side(other))
    assert comparison.peaks["peak requested"].difference == 619 - 912
    assert comparison.only == {200: Only(0, 2), 100: Only(1, 0), 7: Only(1, 0)}
    assert comparison.shared == Counter({512: 1})
    assert comparison.divergence == 1
    cautions = list(comparison.cautions())
    assert "allocator_settings is default, against PYTORCH_ALLOC_CONF=max_split_size_mb:64" in cautions
    assert "max_split_size is -1, against 67108864" in cautions
    assert "only other.pickle, GPU 0 tells later" in cautions


def test_compare_prints_tables_or_json(tmp_path: Path) -> None:
    run, other = made(tmp_path / "run.pickle", [512, 100]), made(tmp_path / "other.pickle", [512, 200])
    result = profl("compare", run, other)
    assert result.exit_code == 0
    assert "peak requested" in result.output
    assert "event 1 is the first that differs: allocates 100 B" in result.output
    assert "peak allocated" not in result.output
    (found,) = json.loads(profl("compare", run, other, "--json").output)["comparisons"]
    assert found["peaks"]["peak_requested_bytes"] == {"run": 612, "other": 712, "difference": -100}
    assert found["sizes_at_peak"]["differing"] == [
        {"bytes": 200, "run": 0, "other": 1},
        {"bytes": 100, "run": 1, "other": 0},
    ]
    assert json.loads(profl("compare", run, run, "--json").output)["comparisons"][0]["is_identical"]


def test_compare_takes_files_of_measured_runs(recorded: tuple[MeasuredRun, Path], tmp_path: Path) -> None:
    run, path = recorded
    kept, two = tmp_path / "one.json.gz", tmp_path / "two.json"
    write_runs(kept, [run])
    write_runs(two, [run, MeasuredRun({**WORKLOAD, "task": "half"}, run.footprint, run.events)])
    same = profl("compare", kept, two)
    assert same.exit_code == 0
    assert same.output.count("the same bytes") == 1
    assert "planted, whole" in same.output
    mixed = profl("compare", kept, path)
    assert mixed.exit_code == 0
    assert "peak reserved" in mixed.output
    refused = profl("compare", two, path)
    assert refused.exit_code == 1
    assert "choose one with --task, of whole, half" in refused.output
    assert profl("compare", two, path, "--task", "half").exit_code == 0
    assert "choose one of whole, half" in profl("compare", two, path, "--task", "third").output


def test_nothing_in_common_is_refused(recorded: tuple[MeasuredRun, Path]) -> None:
    run, _ = recorded
    others = [MeasuredRun({"task": name}, run.footprint, run.events) for name in ("a", "b")]
    with pytest.raises(InputError, match="no workload is in both"):
        list(pairs([run], others))


def test_a_gpu_is_chosen(tmp_path: Path) -> None:
    path = written(tmp_path / "two.pickle", snapshot([], [event("alloc", 512, 5)], [event("alloc", 512, 9)]))
    assert [side.name for side in read_sides(path)] == ["two.pickle, GPU 1"]
    assert [side.name for side in read_sides(path, device=0)] == ["two.pickle, GPU 0"]
    with pytest.raises(InputError, match="tells nothing of GPU 3: choose one of 0, 1"):
        read_sides(path, device=3)


def test_measure_against_a_snapshot(tmp_path: Path) -> None:
    chosen = ("--method", "fedavg", "--width", 2, "--batch-size", 4, "--gpu", "virtual:sm_75")
    assert profl("measure", *chosen, "--snapshot", tmp_path).exit_code == 0
    (path,) = tmp_path.glob("*.pickle")
    result = profl("measure", *chosen, "--against", path)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert [row[-1] for row in rows if row[:2] in (["peak", "requested"], ["peak", "reserved"])] == ["0", "0"]
    missing = profl("measure", *chosen, "--against", tmp_path / "missing.pickle")
    assert missing.exit_code == 1
    assert "missing.pickle is missing" in missing.output
