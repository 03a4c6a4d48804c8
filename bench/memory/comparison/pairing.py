"""Which of the runs in two files to compare with which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from profl.bench.errors import InputError, choose, nearest
from profl.bench.memory.comparison.run_file import SUFFIXES, read_runs
from profl.bench.memory.comparison.side import Side
from profl.bench.memory.comparison.snapshot_side import is_snapshot, snapshot_side


def read_sides(path: Path, device: int | None = None, task: str | None = None) -> Sequence[Side]:
    """Return what the file at ``path`` holds: the runs that ``profl measure --save`` wrote, or a GPU of a snapshot.

    Parameters
    ----------
    device
        Index of the GPU. None: the one with the highest peak. Of a snapshot alone.
    task
        Only the runs of this task. None: all. Of measured runs alone.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no such GPU or task.
    """
    if path.suffix not in SUFFIXES or is_snapshot(path):
        return [snapshot_side(path, device)]
    runs = read_runs(path)
    chosen = [run for run in runs if task is None or run.workload.get("task") == task]
    if not chosen:
        known = dict.fromkeys(str(run.workload.get("task")) for run in runs)
        raise InputError(
            f"{path} holds no run of the task '{task}': {choose(nearest(str(task), known), ', '.join(known))}"
        )
    return chosen


def pairs(runs: Sequence[Side], others: Sequence[Side]) -> Iterator[tuple[str, Side, Side]]:
    """Yield what to compare, with a title: those of one workload, or the only ones there are.

    Raises
    ------
    InputError
        If it is not clear what to compare, or nothing is the same in both.
    """
    if len(runs) == len(others) == 1:
        yield _title(runs[0], others[0]), runs[0], others[0]
        return
    for several, side in ((runs, others), (others, runs)):
        if any(one.workload is None for one in side):
            tasks = ", ".join(str(run.workload and run.workload.get("task")) for run in several)
            raise InputError(f"{len(several)} runs against one snapshot: choose one with --task, of {tasks}")
    both = [(run, other) for run in runs for other in others if run.workload == other.workload]
    if not both:
        raise InputError("no workload is in both files: choose one of each with --task")
    for run, other in both:
        yield _title(run, other), run, other


def _title(run: Side, other: Side) -> str:
    workload = run.workload or other.workload
    if workload is None or (other.workload is not None and other.workload != workload):
        return f"{run.name} against {other.name}"
    return ", ".join(str(workload[name]) for name in ("method", "task") if name in workload) or run.name
