"""Harm done to sweeps at random, and what came of it: the same results, one clear line, or a loss."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profl.bench.errors import InputError
from profl.bench.results import read_run
from profl.bench.results.folder import cell_folders, strays

CLOCK = ("seconds", "attempt")
Bits = dict[str, Any]


@dataclass
class Tally:
    """What came of one kind of harm: how often the results were the same, were refused in one line, lost or wrong."""

    fault: str
    tried: int = 0
    identical: int = 0
    told: int = 0
    lost: int = 0
    wrong: int = 0

    def __str__(self) -> str:
        return f"{self.fault:46}{self.tried:7}{self.identical:11}{self.told:16}{self.lost:6}{self.wrong:7}"


HEADING = f"{'fault':46}{'tried':>7}{'identical':>11}{'one clear line':>16}{'lost':>6}{'wrong':>7}"


class Victims:
    """A process that runs sweeps one after another, each in a child that may be killed."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.victim"]
        root = Path(__file__).parents[2]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)

    def start(self, folder: Path, engine: str, largest_file_bytes: int = 0) -> int:
        """Begin a sweep and return its process."""
        assert self._server.stdin is not None
        self._server.stdin.write(f"{folder}\t{engine}\t{largest_file_bytes}\t\n")
        self._server.stdin.flush()
        return int(self._line())

    def end(self) -> int:
        """Wait for the sweep that was begun; return its exit code."""
        return int(self._line())

    def run(self, folder: Path, engine: str, largest_file_bytes: int = 0) -> int:
        """Run a sweep until it is over."""
        self.start(folder, engine, largest_file_bytes)
        return self.end()

    def finish(self, folder: Path, engine: str) -> None:
        """Run a sweep until all of it is done; workers of one that was killed may hold a cell a moment longer."""
        for _ in range(20):
            if self.run(folder, engine) == 0:
                return
            time.sleep(0.5)
        raise AssertionError(Path(f"{folder}.log").read_text()[-3000:])

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)


@contextmanager
def victims() -> Iterator[Victims]:
    """Give such a process, and end it."""
    server = Victims()
    try:
        yield server
    finally:
        server.close()


def bits(folder: Path) -> Bits:
    """Return all results of a sweep but the clock's."""
    return {
        record.name: (
            record.status,
            record.footprints,
            record.timelines,
            record.environments,
            [{name: value for name, value in row.items() if name not in CLOCK} for row in record.rounds],
            {name: value for name, value in record.summary.items() if name not in CLOCK},
        )
        for record in read_run(folder).records
    }


def killed(server: Victims, engine: str, times: int, folder: Path, whole: Bits, seconds: float) -> Tally:
    """Kill a sweep at random moments, look at what is there, and go on, until it is whole; begin another, and again."""
    tally, draw, last = Tally(f"SIGKILL, engine '{engine}'"), random.Random(engine), 0
    sweep = folder / f"killed-{engine}-0"
    while tally.tried < times:
        pid = server.start(sweep, engine)
        time.sleep(draw.random() * seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        server.end()
        tally.tried += 1
        now = _finished_rounds(sweep, tally)
        if now < last:
            tally.lost += 1
        last = now
        if now == _finished_rounds_of(whole) or tally.tried == times:
            server.finish(sweep, engine)
            same = bits(sweep) == whole
            tally.identical += tally.tried - tally.identical - tally.wrong if same else 0
            tally.wrong += 0 if same else 1
            sweep, last = folder / f"killed-{engine}-{tally.tried}", 0
    return tally


def _finished_rounds(sweep: Path, tally: Tally) -> int:
    """Count the rounds on disk whose state is there too; a cell that cannot be read is lost."""
    rounds = 0
    for cell in cell_folders(sweep):
        try:
            rows = len(cell.rounds())
            rounds += rows if cell.status == "done" else max(0, rows - 1)  # the last may lack its checkpoint
        except InputError:
            tally.lost += 1
    return rounds


def _finished_rounds_of(whole: Bits) -> int:
    return sum(len(cell[4]) for cell in whole.values())


def too_full(server: Victims, sizes: list[int], folder: Path, whole: Bits) -> Tally:
    """Let no file become larger than so many bytes, as on a full disk; then go on without the limit."""
    tally = Tally("no room for a file")
    for size in sizes:
        sweep = folder / f"full-{size}"
        server.run(sweep, "here", size)
        tally.tried += 1
        server.finish(sweep, "here")
        same = bits(sweep) == whole
        tally.identical += same
        tally.wrong += not same
    return tally


def full_disk(server: Victims, kilobytes: list[int], folder: Path, whole: Bits) -> Tally | None:
    """Run a sweep on a disk of so many kB, then go on elsewhere with what is there; None if none can be mounted."""
    tally = Tally("full disk")
    for size in kilobytes:
        disk = folder / f"disk-{size}"
        disk.mkdir()
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
        try:
            subprocess.run(mounted, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        try:
            server.run(disk / "sweep", "here")
            shutil.copytree(disk / "sweep", folder / f"moved-{size}", dirs_exist_ok=True)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        tally.tried += 1
        server.finish(folder / f"moved-{size}", "here")
        same = bits(folder / f"moved-{size}") == whole
        tally.identical += same
        tally.wrong += not same
    return tally


def damaged(sweep: Path, times: int, folder: Path) -> Tally:
    """Damage a file of a finished sweep, and read it: as it was, or refused in one line that names the cell."""
    tally, draw, whole = Tally("damaged file of a finished cell"), random.Random(0), bits(sweep)
    copy = shutil.copytree(sweep, folder / "damaged")
    files = sorted(path for path in copy.glob("cells/*/*.json*"))
    for _ in range(times):
        path = draw.choice(files)
        content = path.read_bytes()
        path.write_bytes(harmed(content, draw))
        _judge(tally, lambda: bits(copy), whole, copy)
        path.write_bytes(content)
    return tally


def harmed(content: bytes, draw: random.Random) -> bytes:
    """Return a file's content with a byte flipped, cut off, overwritten with zeros, repeated or lost."""
    at, length = draw.randrange(len(content)), draw.randint(1, 64)
    cut = content[at : at + length]
    return draw.choice(
        [
            content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :],
            content[:at] + bytes([draw.choice(b"0123456789")]) + content[at + 1 :],
            content[:at],
            content[:at] + bytes(len(cut)) + content[at + len(cut) :],
            content[: at + length] + cut + content[at + length :],
            content[:at] + content[at + length :],
        ]
    )


def mixed_up(sweep: Path, folder: Path) -> Tally:
    """Put a file of one cell in the place of another's, or take it away."""
    tally, whole = Tally("file of another cell, or none"), bits(sweep)
    one, other = sorted((sweep / "cells").iterdir())
    for name in ("cell.json", "rounds.jsonl", "summary.json", "footprints.json", "environment.json", "timelines.json"):
        for take in (True, False):
            if take and name in ("environment.json", "timelines.json"):
                continue  # a run of an earlier version has none, and nothing else tells of them
            copy = shutil.copytree(sweep, folder / f"mixed-{name}-{take}")
            path = copy / "cells" / one.name / name
            if take:
                path.unlink()
            else:
                shutil.copy(other / name, path)
            _judge(tally, lambda copy=copy: bits(copy), whole, copy)  # type: ignore[misc]
    return tally


def _judge(tally: Tally, read: Callable[[], Bits], whole: Bits, folder: Path) -> None:
    tally.tried += 1
    try:
        found = read()
    except InputError as error:
        clear = "\n" not in str(error) and str(folder) in str(error)
        tally.told += clear
        tally.wrong += not clear
        return
    except Exception as error:  # a traceback is what should not be
        print(f"{type(error).__name__}: {error}")
        tally.wrong += 1
        return
    if found == whole:
        tally.identical += 1
    elif strays(folder) and all(whole[name] == cell for name, cell in found.items()):
        tally.told += 1  # `profl report` says in a line that a folder is left out
    else:
        tally.wrong += 1


def begun(server: Victims, folder: Path, seconds: float) -> Path:
    """Return a sweep that was killed with a checkpoint in it."""
    for number in range(50):
        sweep = folder / f"begun-{number}"
        pid = server.start(sweep, "here")
        deadline = time.monotonic() + 20 * seconds
        while not list(sweep.glob("cells/*/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.005)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        server.end()
        if list(sweep.glob("cells/*/checkpoint.pt")):
            return sweep
    raise AssertionError("no checkpoint was seen")


def damaged_checkpoint(server: Victims, begun: Path, times: int, folder: Path, whole: Bits) -> Tally:
    """Damage the checkpoint of a cell that was begun, and go on: to the same results, or refused in one line."""
    tally, draw = Tally("damaged checkpoint"), random.Random(0)
    for number in range(times):
        sweep = shutil.copytree(begun, folder / f"checkpoint-{number}")
        path = next(sweep.glob("cells/*/checkpoint.pt"))
        path.write_bytes(harmed(path.read_bytes(), draw))
        code = server.run(sweep, "here")
        said = Path(f"{sweep}.log").read_text() if Path(f"{sweep}.log").exists() else ""
        tally.tried += 1
        if code == 0:
            same = bits(sweep) == whole
            tally.identical += same
            tally.wrong += not same
        else:
            clear = "Traceback" not in said and "checkpoint.pt" in said
            tally.told += clear
            tally.wrong += not clear
    return tally


def diverging(server: Victims, times: int, folder: Path, seconds: float) -> Tally:
    """Kill a sweep whose training has diverged: weights and losses that are NaN go on, too."""
    server.finish(folder / "diverging-whole", "here")
    whole = bits(folder / "diverging-whole")
    (cell,) = whole.values()
    assert cell[4][-1]["train_loss"] is None
    tally, draw = Tally("losses that are not finite, and SIGKILL"), random.Random(1)
    for number in range(times):
        sweep = folder / f"diverging-{number}"
        pid = server.start(sweep, "here")
        time.sleep(draw.random() * seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        server.end()
        server.finish(sweep, "here")
        tally.tried += 1
        same = bits(sweep) == whole
        tally.identical += same
        tally.wrong += not same
    return tally


def broken_worker(server: Victims, times: int, folder: Path, whole: Bits, seconds: float) -> Tally:
    """Kill a worker of the engine with two: the cells that it ran fail with a line, and running again goes on."""
    tally, draw = Tally("killed worker"), random.Random(2)
    for number in range(times):
        sweep = folder / f"worker-{number}"
        pid = server.start(sweep, "two")
        time.sleep(draw.random() * seconds)
        children = Path(f"/proc/{pid}/task/{pid}/children")
        with suppress(FileNotFoundError, ProcessLookupError, IndexError):
            os.kill(int(draw.choice(children.read_text().split())), signal.SIGKILL)
        server.end()
        tally.tried += 1
        server.finish(sweep, "two")
        same = bits(sweep) == whole
        tally.identical += same
        tally.wrong += not same
    return tally


def at_once(one: Victims, other: Victims, times: int, folder: Path, whole: Bits, seconds: float) -> Tally:
    """Run two sweeps into one folder, and read it all the while as a report does."""
    tally, draw = Tally("two sweeps and a reader at once"), random.Random(3)
    for number in range(times):
        sweep, over = folder / f"both-{number}", threading.Event()
        wrong: list[str] = []

        def read(sweep: Path = sweep, over: threading.Event = over, wrong: list[str] = wrong) -> None:
            while not over.is_set():
                try:
                    read_run(sweep)
                except InputError as error:
                    if "holds no results" not in str(error):
                        wrong.append(str(error))
                time.sleep(0.01)

        reader = threading.Thread(target=read)
        reader.start()
        one.start(sweep, "here")
        time.sleep(draw.random() * seconds)
        other.start(sweep, "here")
        codes = one.end(), other.end()
        over.set()
        reader.join()
        tally.tried += 1
        if 0 not in codes:  # each left the other a cell
            one.finish(sweep, "here")
        same = bits(sweep) == whole and not wrong and 2 not in codes
        tally.identical += same
        tally.wrong += not same
        print(*wrong, sep="\n", end="\n" if wrong else "")
    return tally
