"""A cell's folder: every file that a run leaves there, written and read."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from profl.bench.cell import Cell
from profl.bench.errors import InputError
from profl.bench.files import naming, write_whole
from profl.bench.memory.timeline import unpack
from profl.bench.results.checkpoint import read_checkpoint, write_checkpoint
from profl.bench.results.checksum import sealed, unsealed
from profl.bench.results.json_files import as_json, may_hold_unprintable, read_json, write_json
from profl.bench.results.schema import (
    ADDED_LATER,
    ENVIRONMENT_FORM,
    FOOTPRINT_CONTEXT,
    FOOTPRINT_FORM,
    OBJECT_FORM,
    OBJECTS_FORM,
    ROUND_COLUMNS,
    ROUND_FORM,
    SUMMARY_FORM,
)
from profl.bench.validation import check_texts, describe

_GLANCE_SECONDS = 1
"""More than long enough for whoever only looks whether a cell's lock is held."""


class CellFolder:
    """One cell's folder. Every file is replaced atomically or appended by whole lines.

    A ``kill -9`` loses at most the round in flight: a row without its checkpoint is dropped when the cell resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def remedy(self) -> str:
        """What to do where a file of the cell is damaged."""
        return f"delete {self.path} to run it again"

    @property
    def begun(self) -> bool:
        """Whether it says what is run here, or is to be: not after a kill before the first file of the folder."""
        return (self.path / "cell.json").exists()

    @property
    def status(self) -> str:
        """``done``, ``failed`` (last attempt raised), ``running`` (now), ``stopped`` or ``waiting`` (not begun)."""
        if self.begun and (self.path / "summary.json").exists():
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

    def cell(self) -> Cell:
        """Return what is run here."""
        path = self.path / "cell.json"
        return Cell.from_dict(read_json(path), str(path))

    def environments(self) -> list[dict[str, Any]]:
        """Return where the cell's rounds were run, one entry after another; none before the first."""
        last = self._read("environment.json", ENVIRONMENT_FORM)
        if last is None:
            return []
        return [*(entry["environment"] for entry in last.pop("earlier", [])), last]

    def summary(self) -> dict[str, Any] | None:
        """Return the final figures of a cell that is done, None of another."""
        summary: dict[str, Any] | None = self._read("summary.json", SUMMARY_FORM)
        return summary

    def _read(self, name: str, form: TypeAdapter[Any]) -> Any:
        """Return a file's content as it stands, or nothing if there is no such file yet."""
        path = self.path / name
        if not path.exists():
            return None
        content = self._unsealed(read_json(path), str(path))
        _check_form(content, form, str(path), self.path)
        return content

    def _write(self, name: str, values: Mapping[str, Any], indent: int | None = 1) -> None:
        """Write an object with its checksum."""
        write_json(self.path / name, sealed(values, self.path.name), indent)

    def _unsealed(self, content: Any, source: str, among: str = "") -> Any:
        """Return an object, or a list of objects, without its checksum; refuse what does not agree with it."""
        if isinstance(content, list):
            return [
                self._unsealed(entry, source, f" {place} of {len(content)}") for place, entry in enumerate(content, 1)
            ]
        try:
            return unsealed(content, self.path.name + among)
        except ValueError as error:
            raise InputError(f"{source} is damaged ({error}): {self.remedy}") from None

    def begin(self, cell: Mapping[str, Any]) -> None:
        """Write what is to be run; forget an earlier failure, and what a kill left half written.

        Raises
        ------
        InputError
            If the folder already belongs to another cell.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        known = self.path / "cell.json"
        if known.exists() and read_json(known) != json.loads(as_json(cell)):
            raise InputError(f"{self.path} holds another cell: move it away, or choose another --output folder")
        for stale in (*self.path.glob("*.partial"), self.path / "error.txt", self.path / "running"):
            stale.unlink(missing_ok=True)
        write_json(known, cell)

    def announce(self, cell: Mapping[str, Any]) -> None:
        """Write what is to be run some time, here or elsewhere, unless the folder says so or somebody is at it."""
        if not self.begun:
            self.path.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout), self.lock():
                if not self.begun:
                    write_json(self.path / "cell.json", cell)

    def enter(self, environment: Mapping[str, Any], finished: int) -> None:
        """Write where the coming rounds are run; where the ``finished`` ones were is kept beside, if elsewhere."""
        last = self._read("environment.json", ENVIRONMENT_FORM) or {}
        earlier = last.pop("earlier", [])
        if last and last != environment and finished > (earlier[-1]["last_round"] if earlier else 0):
            earlier.append({"last_round": finished, "environment": last})
        self._write("environment.json", {**environment, **({"earlier": earlier} if earlier else {})})

    def write_footprints(self, entries: list[dict[str, Any]]) -> None:
        """Write the measured memory of every task of the method."""
        rows = [sealed(entry, f"{self.path.name} {place} of {len(entries)}") for place, entry in enumerate(entries, 1)]
        write_json(self.path / "footprints.json", rows)

    def write_timelines(self, packed: Mapping[str, Any]) -> None:
        """Write what `profl.bench.memory.timeline.pack` made of every task's timeline, by task."""
        self._write("timelines.json", packed, indent=None)

    def timelines(self) -> dict[str, Any]:
        """Return what `write_timelines` wrote; nothing if there is no such file."""
        packed = self._read("timelines.json", OBJECT_FORM) or {}
        for task in packed:
            try:
                unpack(packed[task])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(f"{self.path}/timelines.json holds no timelines ({error}): {self.remedy}") from None
        return packed

    def footprints(self) -> list[dict[str, Any]]:
        """Return what was measured; nothing if measuring has not got that far."""
        entries = self._read("footprints.json", OBJECTS_FORM) or []
        for entry in entries:
            shape = {name: entry[name] for name in ("task", "batch_size", "gpu") if name in entry}
            rest = {name: value for name, value in entry.items() if name not in {*shape, *FOOTPRINT_CONTEXT}}
            try:
                FOOTPRINT_FORM.validate_python(rest)
            except ValidationError as error:
                raise InputError(f"{describe(error, f'{self.path}/footprints.json')}; {self.remedy}") from None
            if len(shape) < 3:
                raise InputError(f"{self.path}/footprints.json lacks a task, batch size or GPU: {self.remedy}")
        return entries

    def append_round(self, row: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
        """Add one finished round and replace the checkpoint.

        Raises
        ------
        InputError
            If the checkpoint holds what could not be read back.
        """
        path = self.path / "rounds.jsonl"
        with naming(path), open(path, "a") as rows:
            rows.write(self._line(row))
            rows.flush()
            os.fsync(rows.fileno())
        write_checkpoint(self.path / "checkpoint.pt", self.path.name, checkpoint)

    def _line(self, row: Mapping[str, Any]) -> str:
        return as_json(sealed(row, self.path.name)) + "\n"

    def resume(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None, and drop rows of rounds after it.

        Raises
        ------
        InputError
            If the checkpoint cannot be read or is another cell's.
        """
        path = self.path / "checkpoint.pt"
        checkpoint = None
        if path.exists():
            try:
                checkpoint = read_checkpoint(path, self.path.name)
            except ValueError as error:
                raise InputError(f"{path} {error}: {self.remedy}") from error
        finished = checkpoint["round"] if checkpoint else 0
        kept = [self._line(row) for row in self.rounds() if row["round"] <= finished]
        if len(kept) != finished:
            raise InputError(f"{self.path}/rounds.jsonl lacks rows: {self.remedy}")
        write_whole(self.path / "rounds.jsonl", "".join(kept))
        return checkpoint

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the final figures; the checkpoint is no longer needed and goes."""
        self._write("summary.json", summary)
        (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def fail(self, traceback: str) -> None:
        """Record a failure; what was finished stays."""
        write_whole(self.path / "error.txt", traceback.encode(errors="backslashreplace").decode())

    def failure(self) -> str:
        """Return the last line of the last failure; empty if it did not fail."""
        try:
            lines = (self.path / "error.txt").read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:  # begun anew, perhaps since somebody looked
            return ""
        return lines[-1] if lines else ""

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
        unknown: dict[str, Any] = {name: None for name in ROUND_COLUMNS if name in ADDED_LATER}
        unknown["diagnostics"] = {}
        rows = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                row = json.loads(line)
            except ValueError:
                raise InputError(f"{path}, line {number} is not JSON: {self.remedy}") from None
            row = self._unsealed(row, f"{path}, line {number}")
            if may_hold_unprintable(line):
                check_texts(row, f"{path}, line {number}")
            _check_form(row, ROUND_FORM, f"{path}, line {number}", self.path)
            rows.append({**unknown, **row})
        return rows


def _check_form(content: Any, form: TypeAdapter[Any], source: str, folder: Path) -> None:
    try:
        form.validate_python(content, strict=True)
    except ValidationError as error:
        raise InputError(f"{describe(error, source)}; delete {folder} to run it again") from None


_NAME = re.compile(r".+-[0-9a-f]{8}")
"""What `Cell.folder_name` returns."""


def cell_folders(run: Path) -> list[CellFolder]:
    """Return the folders of a run's cells that say what they are, begun or waiting, by name."""
    return [folder for folder in _folders(run) if _NAME.fullmatch(folder.path.name) and folder.begun]


def named_as_cells(run: Path) -> list[Path]:
    """Return the folders in a run that have the name of a cell, begun or not."""
    return [folder.path for folder in _folders(run) if _NAME.fullmatch(folder.path.name)]


def strays(run: Path, cells: Collection[Cell] = ()) -> list[str]:
    """Return the names of folders beside a run's cells that are none of its cells, nor of those that are given.

    Copies, say, or a cell whose files were deleted, or that was killed before the first was written.
    """
    known = {folder.path.name for folder in cell_folders(run)} | {cell.folder_name for cell in cells}
    return [folder.path.name for folder in _folders(run) if folder.path.name not in known]


def _folders(run: Path) -> list[CellFolder]:
    return [CellFolder(folder) for folder in sorted((run / "cells").glob("*")) if folder.is_dir()]


def folder_of(cell: Cell, output: Path) -> CellFolder:
    """Return the cell's folder in a run."""
    return CellFolder(output / "cells" / cell.folder_name)
