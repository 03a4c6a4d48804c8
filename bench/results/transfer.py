"""A cell that is run on another machine: what of its folder goes there, and what comes back of every round."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from profl.bench.files import naming, replacing
from profl.bench.results.folder import CellFolder

_ROWS = "rounds.jsonl"
# In the order in which a kill between any two leaves a folder that resumes: rows come before all of them.
_WHOLE = ("environment.json", "checkpoint.pt", "summary.json", "error.txt")


@dataclass(frozen=True)
class Changes:
    """What was written to a cell's folder since one last looked.

    Parameters
    ----------
    rows
        The lines that were added to ``rounds.jsonl``.
    files
        The other files that changed, by name; None: it is gone.
    """

    rows: bytes
    files: Mapping[str, bytes | None]


def pack(folder: CellFolder) -> dict[str, bytes]:
    """Return what another machine needs to go on after the last finished round: files by name.

    Raises
    ------
    InputError
        If the checkpoint or the rows are damaged.
    """
    folder.resume()  # rows without their checkpoint are dropped: both sides then hold the same
    paths = [folder.path / name for name in (_ROWS, "environment.json", "checkpoint.pt")]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


class Copy:
    """A cell's folder on another machine.

    Parameters
    ----------
    path
        Where it is made.
    files
        What `pack` returned.
    """

    def __init__(self, path: Path, files: Mapping[str, bytes]) -> None:
        self.path = path
        path.mkdir(parents=True)
        for name, content in files.items():
            (path / name).write_bytes(content)
        self._row_bytes = len(files.get(_ROWS, b""))
        self._states = {name: self._state(name) for name in _WHOLE}

    def changes(self) -> Changes:
        """Return what was written since the last call."""
        with open(self.path / _ROWS, "ab+") as rows:
            rows.seek(self._row_bytes)
            added = rows.read()
        self._row_bytes += len(added)
        before, self._states = self._states, {name: self._state(name) for name in _WHOLE}
        return Changes(added, {name: self._content(name) for name in _WHOLE if self._states[name] != before[name]})

    def _state(self, name: str) -> tuple[int, int] | None:
        """Return what tells one content of a file from the next; every file is replaced whole."""
        try:
            stat = os.stat(self.path / name)
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _content(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.exists() else None


def bring_back(changes: Changes, folder: CellFolder) -> None:
    """Write to a cell's folder what was written to its `Copy`; a kill meanwhile loses that round at most."""
    path = folder.path / _ROWS
    with naming(path), open(path, "ab") as rows:
        rows.write(changes.rows)
        rows.flush()
        os.fsync(rows.fileno())
    for name, content in changes.files.items():
        if content is not None:
            with replacing(folder.path / name) as partial:
                partial.write_bytes(content)
    for name, content in changes.files.items():
        if content is None:
            (folder.path / name).unlink(missing_ok=True)
