"""What a cell's folder holds, read at once: its files must agree with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profl.bench.cell import Cell
from profl.bench.errors import InputError
from profl.bench.results.folder import CellFolder
from profl.bench.results.score import mean_of_last_tests


@dataclass(frozen=True)
class Record:
    """A cell's files, read once and checked.

    Parameters
    ----------
    name
        Of the cell's folder.
    status
        As of `CellFolder`.
    cell
        What was run.
    environments
        Where its rounds were run, one after another: more than one if it was resumed elsewhere; none before the first.
    footprints, timelines, rounds
        As the files of these names hold them; empty if there is no such file.
    summary
        The final figures; empty unless the cell is done.
    error
        The last line of its last failure; empty unless it failed.
    """

    name: str
    status: str
    cell: Cell
    environments: Sequence[Mapping[str, Any]]
    footprints: list[dict[str, Any]]
    timelines: Mapping[str, Any]
    rounds: list[dict[str, Any]]
    summary: Mapping[str, Any]
    error: str


def read_record(folder: CellFolder) -> Record | None:
    """Read what a cell's folder holds, so that damage is found before any work is done; None if it is not begun.

    Raises
    ------
    InputError
        If a file of the cell is damaged or is not this cell's.
    """
    if not folder.begun:
        return None
    cell = folder.cell()
    if cell.folder_name != folder.path.name:
        raise InputError(f"{folder.path}/cell.json is that of {cell.folder_name}: move it back, or {folder.remedy}")
    # What is written last is read first, so that all that an earlier file tells of is there: the cell may be run now.
    summary = folder.summary()
    rounds = folder.rounds()
    resumable = (folder.path / "checkpoint.pt").exists()
    status = folder.status
    if status == "done" and summary is None:  # finished while it was read
        return read_record(folder)
    record = Record(
        folder.path.name,
        status,
        cell,
        folder.environments(),
        folder.footprints(),
        folder.timelines(),
        rounds,
        summary or {},
        folder.failure() if status == "failed" else "",
    )
    _check_footprints(record, folder)
    _check_rounds(record, folder, resumable)
    return record


def _check_footprints(record: Record, folder: CellFolder) -> None:
    for entry in record.footprints:
        if not entry["key"].startswith(f"{record.cell.method}/{entry['task']}"):
            raise InputError(f"{folder.path}/footprints.json is not that of this cell: {folder.remedy}")
    trained = {task for row in record.rounds for task in row["tasks"]}
    unmeasured = trained - {entry["task"] for entry in record.footprints}
    if unmeasured:
        raise InputError(f"{folder.path} holds no footprint of {', '.join(sorted(unmeasured))}: {folder.remedy}")


def _check_rounds(record: Record, folder: CellFolder, resumable: bool) -> None:
    rows = record.rounds
    if [row["round"] for row in rows] != list(range(1, len(rows) + 1)):
        raise InputError(f"{folder.path}/rounds.jsonl repeats or lacks rounds: {folder.remedy}")
    if record.status == "done":
        _check_summary(record, folder)
    elif len(rows) > 1 and not resumable:
        raise InputError(f"{folder.path} holds rounds, but neither summary.json nor checkpoint.pt: {folder.remedy}")


def _check_summary(record: Record, folder: CellFolder) -> None:
    rows, rounds = record.rounds, record.cell.recipe.rounds
    if len(rows) != rounds:
        raise InputError(
            f"{folder.path}/rounds.jsonl holds {len(rows)} rounds of {rounds}, though summary.json says that all are "
            f"done: {folder.remedy}"
        )
    tested = [row["test_accuracy"] for row in rows if row["test_accuracy"] is not None]
    from_rows = {
        "final_accuracy": tested[-1] if tested else None,
        **{name: sum(row[name] for row in rows) for name in ("uploaded_bytes", "downloaded_bytes")},
    }
    if "last_five_accuracy" in record.summary:  # not in that of an earlier version
        from_rows["last_five_accuracy"] = mean_of_last_tests(tested) if tested else None
    for name, value in from_rows.items():
        if record.summary[name] != value:
            raise InputError(
                f"{folder.path}/summary.json has {name} {record.summary[name]}, its rounds {value}: {folder.remedy}"
            )
