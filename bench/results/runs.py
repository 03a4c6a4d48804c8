"""Runs as folders: found, told of in a line, held while a sweep is at them, and removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from profl.bench.cell import Cell
from profl.bench.errors import InputError
from profl.bench.results.folder import CellFolder, cell_folders, named_as_cells
from profl.bench.results.run import check_one_recipe

_GLANCE_SECONDS = 1
"""More than long enough for whoever only looks whether a run is held."""


@dataclass(frozen=True)
class Overview:
    """What there is of a run.

    Parameters
    ----------
    state
        ``running`` (a sweep is at it now), ``failed`` (the last attempt of a cell raised), ``stopped``, ``done`` (all
        cells are) or ``damaged``.
    cells, done
        How many there are of every grid that was run there, and are done. None: unknown, as the run is damaged.
    rounds, of_rounds
        Finished rounds of all of them, and how many there are to be.
    hours
        What the finished rounds took, one after another.
    disk_bytes
        What all that lies in the folder takes on the disk.
    changed
        When a cell's file was last written, in seconds since the epoch. None: there is none.
    damage
        What is damaged, and the remedy; empty if nothing is.
    """

    path: Path
    state: str
    cells: int | None
    done: int | None
    rounds: int | None
    of_rounds: int | None
    hours: float | None
    disk_bytes: int
    changed: float | None
    damage: str = ""


def find_runs(folder: Path) -> list[Path]:
    """Return the runs in a folder and below, itself if it is one, by name; links are not followed.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    if not folder.is_dir():
        is_no = f"{folder} is no folder" if folder.exists() else f"there is no folder {folder}"
        raise InputError(f"{is_no}: name one with runs in it")
    found = []
    for place, below, _ in os.walk(folder):
        if is_run(Path(place)):
            found.append(Path(place))
            below[:] = [name for name in below if name not in ("cells", "report")]
        below[:] = sorted(name for name in below if not name.startswith("."))
    return found


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run: cells, be it that none is begun."""
    return bool(named_as_cells(folder))


def newest_first(overviews: Iterable[Overview]) -> list[Overview]:
    """Return runs by when they were last changed; those in which nothing was ever written come last."""
    return sorted(overviews, key=lambda one: one.changed or 0.0, reverse=True)


def overview(run: Path) -> Overview:
    """Look at a run; what is damaged in it is told and not raised."""
    files = [status for path in _files(run) if (status := _status(path))]
    disk_bytes = sum(status.st_blocks * 512 for status in files)
    written = [status.st_mtime for path in _files(run / "cells") if (status := _status(path))]
    changed = max(written, default=None)
    cells = cell_folders(run)
    states = [cell.status for cell in cells]
    try:
        rounds = [_rounds(cell) for cell in cells]
        of_rounds = sum(cell.cell().recipe.rounds for cell in cells)
    except InputError as error:
        return Overview(run, "damaged", None, None, None, None, None, disk_bytes, changed, str(error))
    return Overview(
        run,
        "running" if _is_held(run) else _state(states),
        len(cells),
        states.count("done"),
        sum(number for number, _ in rounds),
        of_rounds,
        sum(seconds for _, seconds in rounds) / 3600,
        disk_bytes,
        changed,
    )


def _state(states: Sequence[str]) -> str:
    if states and set(states) == {"done"}:
        return "done"
    return next((state for state in ("running", "failed") if state in states), "stopped")


def _rounds(cell: CellFolder) -> tuple[int, float]:
    """Return how many rounds of a cell are finished, and the seconds that they took."""
    if summary := cell.summary():
        return cell.cell().recipe.rounds, summary["seconds"] or 0.0
    rows = cell.rounds()
    return len(rows), sum(row["seconds"] or 0.0 for row in rows)


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _status(path: Path) -> os.stat_result | None:
    """Return what the file system says of a file; None if it has gone since somebody looked."""
    with suppress(OSError):
        return path.lstat()
    return None


# --- held while a sweep is at it ---


@contextmanager
def at_work(run: Path) -> Iterator[None]:
    """Hold a run, which is made if need be, together with other sweeps: it is then not removed.

    Raises
    ------
    InputError
        If it is being removed.
    """
    run.mkdir(parents=True, exist_ok=True)
    with _hold(run, fcntl.LOCK_SH) as held:
        if not held:
            raise InputError(f"{run} is being removed just now: wait, or choose another --output")
        try:
            yield
        finally:
            with suppress(OSError):  # it has something in it, which is the usual case
                run.rmdir()


@contextmanager
def _hold(run: Path, how: int) -> Iterator[bool]:
    """Hold the folder itself, so that no file is left; yield whether it could be had.

    A file system that does not lock folders, such as NFS where one is to be held alone, says nothing against it: cells
    have locks of their own.
    """
    folder = os.open(run, os.O_RDONLY)
    try:
        yield _locked(folder, how)
    finally:
        os.close(folder)


def _locked(folder: int, how: int) -> bool:
    until = time.monotonic() + _GLANCE_SECONDS
    while True:
        try:
            fcntl.flock(folder, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        except OSError:
            return True
        else:
            return True


def _is_held(run: Path) -> bool:
    folder = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(folder)
    return False


# --- removed ---


def check_removable(run: Path) -> None:
    """Make sure that a folder is a run which nobody would miss in a way that they do not expect.

    Raises
    ------
    InputError
        If it is no run, is a link, is being run, or holds files that git knows.
    """
    if not run.is_dir():
        raise InputError(f"there is no folder {run}: 'profl runs' lists the runs")
    if run.is_symlink() or (run / "cells").is_symlink():
        raise InputError(f"{run} is, or holds, a link: name the folder that it leads to, {run.resolve()}")
    if not is_run(run):
        inside = find_runs(run)
        which = f"but holds {len(inside)}: name one of them, such as {inside[0]}" if inside else "nothing is removed"
        raise InputError(f"{run} is no run, {which}")
    if _is_held(run) or any(cell.status == "running" for cell in map(CellFolder, named_as_cells(run))):
        raise InputError(f"a sweep is at {run} just now: end it first")
    if _known_to_git(run):
        raise InputError(f"{run} holds files that are committed: 'git rm -r {run}' removes them, and can be undone")


def _known_to_git(run: Path) -> bool:
    """Return whether git has files of a folder; not where there is no git, or no repository."""
    with suppress(OSError):
        done = subprocess.run(["git", "-C", run, "ls-files", "."], capture_output=True)
        return bool(done.stdout.strip())
    return False


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Hold a run that may be removed, while nobody else can be at it."""
    check_removable(run)
    with _hold(run, fcntl.LOCK_EX) as held:
        if not held:
            raise InputError(f"a sweep is at {run} just now: end it first")
        yield


def remove(run: Path) -> list[Path]:
    """Remove a run's cells and report, and the folder if nothing else is in it; return what else there is.

    Raises
    ------
    InputError
        As of `check_removable`, asked again while nobody else can be at it.
    """
    with _alone(run):
        for cell in named_as_cells(run):
            with CellFolder(cell).lock():
                shutil.rmtree(cell)
        if not (run / "report").is_symlink():
            shutil.rmtree(run / "report", ignore_errors=True)
        for folder in (run / "cells", run):
            with suppress(OSError):  # something else is in it
                folder.rmdir()
    return sorted(_files(run))


def remove_waiting(run: Path) -> list[str]:
    """Remove a run's cells that were never begun, and return their names.

    Raises
    ------
    InputError
        As of `remove`.
    """
    with _alone(run):
        waiting = [cell for cell in cell_folders(run) if cell.status == "waiting"]
        for cell in waiting:
            with cell.lock():
                shutil.rmtree(cell.path)
    return [cell.path.name for cell in waiting]


def make_way(run: Path, todo: Sequence[Cell]) -> list[str]:
    """Remove cells that have no finished round and could not stand beside those to do; return their names.

    They were begun by a sweep with another recipe, which was interrupted or failed before it had any result. One that
    is being run stays.

    Raises
    ------
    InputError
        If the other cells of the run could not stand beside those to do; nothing is then removed.
    """
    begun = cell_folders(run)
    wanted = {cell.folder_name for cell in todo}
    idle = [one for one in begun if one.path.name not in wanted and not one.rounds() and one.status != "done"]
    kept = [*(one.cell() for one in begun if one not in idle), *todo]
    check_one_recipe(run, kept)
    removed = []
    for one in idle:
        cell = one.cell()
        try:
            check_one_recipe(run, [*kept, cell])
        except InputError:
            with suppress(Timeout), one.lock():
                if not one.rounds():
                    shutil.rmtree(one.path)
                    removed.append(one.path.name)
    return removed
