"""What a run leaves on disk, and how it is read back. The schema is stated here and nowhere else.

A run is a folder with one folder per cell::

    RUN/cells/CELL/cell.json         what was run: method, model, dataset, tier, seed, recipe
                   environment.json  where: versions, machine, torch threads
                   footprints.json   measured memory of every task of the method
                   timelines.json    live bytes of every task over time, as `profl.bench.memory.timeline` packs them
                   rounds.jsonl      one row per finished round, appended and flushed
                   checkpoint.pt     state after the last finished round, replaced atomically
                   summary.json      final figures; present exactly when the cell is done
                   error.txt         traceback of the last failure, if it failed
                   running           empty; present while a worker is at the cell, and after it was killed
                   cell.lock         empty, and stays; whoever works on the cell holds a lock on it
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError, create_model

from profl.bench.cell import Cell
from profl.bench.errors import InputError
from profl.bench.files import replacing
from profl.bench.held import HELD
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.timeline import unpack
from profl.bench.memory.usage import PEAK_STATISTICS
from profl.bench.validation import describe

ROUND_COLUMNS = {
    "round": "number of the round, from 1",
    "phase": "where the method's schedule stands",
    "train_loss": "mean local training loss; NaN if nobody trained or training diverged",
    "test_loss": "cross-entropy of the global model on the test set; NaN if not evaluated in this round",
    "test_accuracy": "share of the test set classified correctly, 0 to 1; NaN if not evaluated in this round",
    "participants": "devices that trained",
    "eligible_devices": "devices for which an offered task fits",
    "devices_out_share": "share of devices for which nothing offered fits",
    "data_out_share": "share of training examples on those devices",
    "classes_out_share": "share of classes of which no eligible device holds an example",
    "uploaded_bytes": "bytes sent by all participants together",
    "downloaded_bytes": "bytes received by all participants together",
    "seconds": "wall-clock seconds of the round, evaluation included",
    "peak_requested_bytes": "most GPU memory that any participant's training asked for; NaN if on a CPU, as below",
    "peak_allocated_bytes": "the same rounded up to blocks",
    "peak_reserved_bytes": "most GPU memory that was reserved for any participant's training",
    "peak_fragmented_bytes": "most that lay unused in the rest of divided blocks",
    "held_bytes": "GPU memory still allocated after the last participant: what grows from round to round is a leak",
    "attempt": "which start of the cell ran the round, from 1: above 1 after an interruption, with memory begun anew",
}
"""Columns of the rounds frame, beside ``cell`` and one count ``tasks`` (participants by task; in the report's tables as
JSON text).

A row on disk also has ``usages``, the memory of every participant that trained on a GPU: ``device``, ``task`` and the
the five columns of memory. An earlier version's rows may lack these.
"""

CELL_COLUMNS = {
    "cell": "folder name",
    "status": "done, failed, running (a process is at it now), stopped (begun, but none is) or waiting",
    "method": "name of the federated method",
    "model": "name of the network",
    "width": "channels of its first stage",
    "dataset": "name of the data",
    "tier": "how the fleet got its memory",
    "seed": "seed of every random draw",
    "gpu": "where memory was measured",
    "memory_only": "whether all training ran on the virtual GPU, for its memory alone",
    "rounds": "rounds finished",
    "final_accuracy": "test accuracy after the last round",
    "best_accuracy": "best test accuracy of any evaluated round",
    "best_round": "round of the best test accuracy",
    "participation_share": "mean over the rounds of the share of devices that an offered task fits",
    "data_out_share": "mean over the rounds of the share of training examples out of reach",
    "classes_out_share": "mean over the rounds of the share of classes out of reach",
    "uploaded_bytes": "bytes uploaded in the whole run",
    "downloaded_bytes": "bytes downloaded in the whole run",
    "seconds": "wall-clock seconds of all rounds",
    "peak_reserved_bytes": "most GPU memory that was reserved in any round; NaN if training ran on a CPU",
    "most_held_bytes": "most GPU memory that was still allocated after any round; NaN likewise",
    "held_bytes_per_round": "slope of held_bytes over the rounds of an attempt, least squares; NaN likewise",
    "held_growth_share": "share of rounds after which more was held than after the one before; NaN likewise",
    "full_model_least_budget_bytes": "least memory in which the full model trains",
    "dearest_trained_budget_bytes": "least budget of the dearest task that any device trained; NaN if nobody trained",
    "mean_device_budget_bytes": "mean memory of the fleet's devices",
}
"""Columns of the cells frame."""


_IDENTITY = ("cell", "status", "method", "model", "width", "dataset", "tier", "seed", "gpu", "memory_only", "rounds")
_MEMORY_OF_TRAINING = (*PEAK_STATISTICS, "held_bytes", "attempt", *HELD)


def _field(column: str) -> Any:
    default = None if column in _MEMORY_OF_TRAINING else ...
    if column.endswith(("_share", "_accuracy")):
        return Annotated[float, Field(ge=0, le=1)] | None, default
    signed = column.endswith(("_loss", "_per_round"))
    return (float if signed else Annotated[float, Field(ge=0)]) | None, default


_ROUND: Any = {name: _field(name) for name in ROUND_COLUMNS} | {
    "round": (Annotated[int, Field(ge=1)], ...),
    "phase": (str, ...),
    "tasks": (dict[str, int], ...),
    "usages": (list[dict[str, Any]], []),
    "attempt": (Annotated[int, Field(ge=1)] | None, None),
}
_SUMMARY: Any = {name: _field(name) for name in CELL_COLUMNS if name not in _IDENTITY}
_OBJECT = TypeAdapter(dict[str, Any])
_OBJECTS = TypeAdapter(list[dict[str, Any]])
_ROUND_ROW = TypeAdapter(create_model("Round", **_ROUND))
_FOOTPRINT = TypeAdapter(Footprint)
_SUMMARY_FILE = TypeAdapter(create_model("Summary", **_SUMMARY))

FOOTPRINT_KEY = ["method", "model", "width", "dataset", "task", "batch_size", "gpu"]
"""Columns that tell the rows of the footprints frame apart."""


_GLANCE_SECONDS = 1
"""More than long enough for whoever only looks whether a cell's lock is held."""


@dataclass(frozen=True)
class Run:
    """A run read back: three frames, joined by ``cell`` (rounds, footprints) and described above.

    Parameters
    ----------
    cells
        One row per cell, columns ``CELL_COLUMNS``; figures of an unfinished cell are NaN.
    rounds
        One row per cell and round: ``cell``, ``method``, ``tier``, ``tasks`` and ``ROUND_COLUMNS``.
    footprints
        One row per method and task: ``FOOTPRINT_KEY``, the flat fields of ``profl.bench.memory.footprint.Footprint``
        and one column per category at the peak, named by `peak_column`. The same task of several cells appears once.
    records
        What the cells' folders hold, in the order of ``cells``.
    """

    path: Path
    cells: pd.DataFrame
    rounds: pd.DataFrame
    footprints: pd.DataFrame
    records: Sequence[Record]


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
    environment, footprints, timelines, rounds
        As the files of these names hold them; empty if there is no such file.
    summary
        The final figures; empty unless the cell is done.
    error
        The last line of its last failure; empty unless it failed.
    """

    name: str
    status: str
    cell: Cell
    environment: Mapping[str, Any]
    footprints: list[dict[str, Any]]
    timelines: Mapping[str, Any]
    rounds: list[dict[str, Any]]
    summary: Mapping[str, Any]
    error: str


class CellFolder:
    """One cell's folder. Every file is replaced atomically or appended by whole lines.

    A ``kill -9`` loses at most the round in flight: a row without its checkpoint is dropped when the cell resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def _remedy(self) -> str:
        return f"delete {self.path} to run it again"

    @property
    def status(self) -> str:
        """``done``, ``failed`` (last attempt raised), ``running`` (now), ``stopped`` or ``waiting`` (not begun)."""
        if (self.path / "summary.json").exists():
            return "done"
        if (self.path / "error.txt").exists():
            return "failed"
        if self._locked:
            return "running"
        return "stopped" if self.attempted or (self.path / "rounds.jsonl").exists() else "waiting"

    @property
    def _locked(self) -> bool:
        """Whether a process holds the cell's lock."""
        try:
            with open(self.path / "cell.lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back as the file is closed
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    def lock(self) -> FileLock:
        """Return the lock that whoever works on the cell must hold; raises `filelock.Timeout` if another does."""
        return FileLock(self.path / "cell.lock", timeout=_GLANCE_SECONDS)

    @property
    def attempted(self) -> bool:
        """Whether a worker began the cell and has neither finished it nor failed."""
        return (self.path / "running").exists()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Mark the cell as being run; the mark outlives a kill."""
        (self.path / "running").touch()
        try:
            yield
        finally:
            (self.path / "running").unlink(missing_ok=True)

    def check(self) -> Record | None:
        """Read what the folder holds, so that damage is found before any work is done; None if the cell is not begun.

        Raises
        ------
        InputError
            If a file of the cell is damaged or is not this cell's.
        """
        if not (self.path / "cell.json").exists():
            if self.path.exists() and any(self.path.glob("*.json*")):
                raise InputError(f"{self.path}/cell.json is missing: {self._remedy}")
            return None
        cell, status = self.cell(), self.status
        if cell.folder_name != self.path.name:
            raise InputError(f"{self.path}/cell.json is that of {cell.folder_name}: move it back, or {self._remedy}")
        environment = self._read("environment.json", _OBJECT) or {}
        timelines, footprints, rows = self.timelines(), self.footprints(), self.rounds()
        for entry in footprints:
            if not entry["key"].startswith(f"{cell.method}/{entry['task']}"):
                raise InputError(f"{self.path}/footprints.json is not that of this cell: {self._remedy}")
        unmeasured = {task for row in rows for task in row["tasks"]} - {entry["task"] for entry in footprints}
        if unmeasured:
            raise InputError(f"{self.path} holds no footprint of {', '.join(sorted(unmeasured))}: {self._remedy}")
        if [row["round"] for row in rows] != list(range(1, len(rows) + 1)):
            raise InputError(f"{self.path}/rounds.jsonl repeats or lacks rounds: {self._remedy}")
        summary: dict[str, Any] = {}
        if status == "done":
            summary = self.summary()
            self._check_summary(summary, rows, cell.recipe.rounds)
        elif len(rows) > 1 and not (self.path / "checkpoint.pt").exists():
            raise InputError(f"{self.path} holds rounds, but neither summary.json nor checkpoint.pt: {self._remedy}")
        failure = (self.path / "error.txt").read_text(errors="replace").strip() if status == "failed" else ""
        error = failure.splitlines()[-1] if failure else ""
        return Record(self.path.name, status, cell, environment, footprints, timelines, rows, summary, error)

    def _check_summary(self, summary: Mapping[str, Any], rows: list[dict[str, Any]], rounds: int) -> None:
        if len(rows) != rounds:
            raise InputError(
                f"{self.path}/rounds.jsonl holds {len(rows)} rounds of {rounds}, though summary.json says that all are "
                f"done: {self._remedy}"
            )
        tested = [row["test_accuracy"] for row in rows if row["test_accuracy"] is not None]
        from_rows = {
            "final_accuracy": tested[-1] if tested else None,
            **{name: sum(row[name] for row in rows) for name in ("uploaded_bytes", "downloaded_bytes")},
        }
        for name, value in from_rows.items():
            if summary[name] != value:
                raise InputError(
                    f"{self.path}/summary.json has {name} {summary[name]}, its rounds {value}: {self._remedy}"
                )

    def cell(self) -> Cell:
        """Return what is run here."""
        path = self.path / "cell.json"
        return Cell.from_dict(read_json(path), str(path))

    def summary(self) -> dict[str, Any]:
        """Return the final figures of a cell that is done."""
        return self._read("summary.json", _SUMMARY_FILE)

    def _read(self, name: str, form: TypeAdapter[Any]) -> Any:
        """Return a file's content as it stands, or nothing if there is no such file yet."""
        path = self.path / name
        if not path.exists():
            return None
        content = read_json(path)
        _check_form(content, form, str(path), self.path)
        return content

    def begin(self, cell: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write what is to be run, and where; forget an earlier failure.

        Raises
        ------
        InputError
            If the folder already belongs to another cell.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        known = self.path / "cell.json"
        if known.exists() and read_json(known) != json.loads(as_json(cell)):
            raise InputError(f"{self.path} holds another cell: move it away, or choose another --output folder")
        for stale in ("error.txt", "running"):
            (self.path / stale).unlink(missing_ok=True)
        write_json(known, cell)
        write_json(self.path / "environment.json", environment)

    def write_footprints(self, entries: list[dict[str, Any]]) -> None:
        """Write the measured memory of every task of the method."""
        write_json(self.path / "footprints.json", entries)

    def write_timelines(self, packed: Mapping[str, Any]) -> None:
        """Write what `profl.bench.memory.timeline.pack` made of every task's timeline, by task."""
        _replace(self.path / "timelines.json", as_json(packed) + "\n")

    def timelines(self) -> dict[str, Any]:
        """Return what `write_timelines` wrote; nothing if there is no such file."""
        packed = self._read("timelines.json", _OBJECT) or {}
        for task in packed:
            try:
                unpack(packed[task])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(f"{self.path}/timelines.json holds no timelines ({error}): {self._remedy}") from None
        return packed

    def footprints(self) -> list[dict[str, Any]]:
        """Return what was measured; nothing if measuring has not got that far."""
        entries = self._read("footprints.json", _OBJECTS) or []
        for entry in entries:
            shape = {name: entry[name] for name in ("task", "batch_size", "gpu") if name in entry}
            rest = {name: value for name, value in entry.items() if name not in shape}
            try:
                _FOOTPRINT.validate_python(rest)
            except ValidationError as error:
                raise InputError(f"{describe(error, f'{self.path}/footprints.json')}; {self._remedy}") from None
            if len(shape) < 3:
                raise InputError(f"{self.path}/footprints.json lacks a task, batch size or GPU: {self._remedy}")
        return entries

    def append_round(self, row: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
        """Add one finished round and replace the checkpoint."""
        with open(self.path / "rounds.jsonl", "a") as rows:
            rows.write(as_json(row) + "\n")
            rows.flush()
            os.fsync(rows.fileno())
        with replacing(self.path / "checkpoint.pt") as partial:
            torch.save(dict(checkpoint), partial)

    def resume(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None, and drop rows of rounds after it.

        Raises
        ------
        InputError
            If the checkpoint cannot be read.
        """
        path = self.path / "checkpoint.pt"
        checkpoint = None
        if path.exists():
            try:
                checkpoint = torch.load(path, weights_only=True)
            except Exception as error:
                message = f"{path} is damaged ({type(error).__name__}): {self._remedy}"
                raise InputError(message) from error
        finished = checkpoint["round"] if checkpoint else 0
        kept = [as_json(row) + "\n" for row in self.rounds() if row["round"] <= finished]
        if len(kept) != finished:
            raise InputError(f"{self.path}/rounds.jsonl lacks rows: {self._remedy}")
        _replace(self.path / "rounds.jsonl", "".join(kept))
        return checkpoint

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the final figures; the checkpoint is no longer needed and goes."""
        write_json(self.path / "summary.json", summary)
        (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def fail(self, traceback: str) -> None:
        """Record a failure; what was finished stays."""
        _replace(self.path / "error.txt", traceback)

    def rounds(self) -> list[dict[str, Any]]:
        """Return the rows of the finished rounds; a last line cut short by a kill is left out.

        Raises
        ------
        InputError
            If another line cannot be read.
        """
        path = self.path / "rounds.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(errors="replace").split("\n")
        rows, unknown = [], {name: None for name in ROUND_COLUMNS if name in _MEMORY_OF_TRAINING}
        for number, line in enumerate(lines[:-1], start=1):
            try:
                row = json.loads(line)
            except ValueError:
                raise InputError(f"{path}, line {number} is not JSON: {self._remedy}") from None
            _check_form(row, _ROUND_ROW, f"{path}, line {number}", self.path)
            rows.append({**unknown, **row})
        return rows


def _check_form(content: Any, form: TypeAdapter[Any], source: str, folder: Path) -> None:
    try:
        form.validate_python(content, strict=True)
    except ValidationError as error:
        raise InputError(f"{describe(error, source)}; delete {folder} to run it again") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing: is this the folder of a run?") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): delete the folder to run it again") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    _replace(path, as_json(value, indent=1) + "\n")


def as_json(value: Any, indent: int | None = None) -> str:
    """Return JSON in which NaN and infinity are null, as the standard has neither."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text)


def cell_folders(run: Path) -> list[CellFolder]:
    """Return the folders of a run's cells, by name."""
    return [CellFolder(folder) for folder in sorted((run / "cells").glob("*")) if folder.is_dir()]


def read_run(path: Path) -> Run:
    """Read a run's folder into frames.

    Raises
    ------
    InputError
        If the folder is missing, holds no cells, mixes recipes, or one of its files is damaged.
    """
    records = [record for folder in cell_folders(path) if (record := folder.check())]
    if not records:
        raise InputError(f"{path} holds no results: expected {path}/cells/*, as 'profl sweep --output' writes")
    check_one_recipe(path, [record.cell for record in records])
    cells: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    footprints: list[dict[str, Any]] = []
    for record in records:
        identity = {name: value for name, value in asdict(record.cell).items() if name in CELL_COLUMNS}
        name, rows = record.name, record.rounds
        cells.append({"cell": name, "status": record.status, **identity, "rounds": len(rows), **record.summary})
        rounds.extend({"cell": name, "method": identity["method"], "tier": identity["tier"], **row} for row in rows)
        shape = {name: identity[name] for name in ("method", "model", "width", "dataset")}
        footprints.extend({**shape, **_flat(entry)} for entry in record.footprints)
    return Run(
        path,
        _unknown_as_nan(pd.DataFrame(cells).reindex(columns=list(CELL_COLUMNS))),
        _unknown_as_nan(pd.DataFrame(rounds).reindex(columns=["cell", "method", "tier", "tasks", *ROUND_COLUMNS])),
        pd.DataFrame(footprints, columns=None if footprints else FOOTPRINT_KEY).drop_duplicates(FOOTPRINT_KEY),
        records,
    )


def _unknown_as_nan(frame: pd.DataFrame) -> pd.DataFrame:
    """Give columns in which nothing is known the dtype of numbers; None would make them columns of objects."""
    return frame.astype({name: float for name in frame if frame[name].isna().all()})


def check_one_recipe(run: Path, cells: Iterable[Cell]) -> None:
    """Make sure that the cells of a run may stand side by side: they differ in axes of the grid alone.

    Raises
    ------
    InputError
        Naming what two of them do not share.
    """
    shared: dict[str, Any] = {}
    for cell in cells:
        values = cell.to_dict()
        facts = {
            **values["recipe"],
            "gpu": cell.gpu,
            "memory_only": cell.memory_only,
            f"data of {cell.dataset}": cell.data,
        }
        facts[f"options of {cell.method}"] = cell.options
        facts[f"budgets of tier {cell.tier}"] = cell.listed_budgets
        for name, value in facts.items():
            if shared.setdefault(name, value) != value:
                raise InputError(
                    f"{run} would mix cells with {name} = {shared[name]!r} and {value!r}: give each its own --output"
                )


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        if name == "categories_at_peak":
            flat.update({peak_column(category): size for category, size in value.items()})
        elif not isinstance(value, (dict, list)):
            flat[name] = math.nan if value is None else value
    return flat


def category_columns(categories: Mapping[str, int]) -> dict[str, int]:
    """Return ``{'optimizer state': 5}`` as ``{'optimizer_state_bytes': 5}``."""
    return {f"{name.replace(' ', '_')}_bytes": value for name, value in categories.items()}


def peak_column(category: str) -> str:
    """Return the column of a category's bytes at the peak: ``at_peak_parameters_bytes`` is not ``parameter_bytes``."""
    return f"at_peak_{category.replace(' ', '_')}_bytes"
