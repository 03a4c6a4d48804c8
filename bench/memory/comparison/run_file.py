"""Measured runs as a file to send: what somebody's card needed, for others to compare with theirs or a virtual GPU's.

The file is one JSON object, UTF-8, gzipped if its name ends in ``.gz``::

    {"format": "profl measured runs", "version": 1,
     "runs": [{"workload": {"method": "fedavg", "task": "full model", "model": "resnet18", "batch_size": 64, ...},
               "footprint": {...},
               "events": {"action": ["alloc", "alloc", "free", ...],
                          "bytes": [6912, 256, 6912, ...],
                          "block": [0, 1, 0, ...],
                          "step": [0, 0, 1, ...],
                          "phase": ["prepare", "prepare", "forward", ...],
                          "module": ["(step)", null, "conv1", ...],
                          "operator": ["empty_strided", null, "conv2d", ...]}}]}

``workload`` is a `profl.bench.memory.comparison.side.Description`, ``footprint`` holds the fields of
`profl.bench.memory.footprint.Footprint` without its timeline, and ``events`` those of
`profl.bench.memory.comparison.side.BlockEvent` as columns of equal length. Blocks are numbered from 0 in the
order of their allocation, a release has the bytes, module and operator of the allocation, and the most bytes alive are
the footprint's ``peak_requested_bytes``. All sizes are bytes, whole numbers are from 0 to 2^63 - 1, null is unknown,
and texts hold printable characters.

Senders need not be trusted: nothing in a file is executed, and one that breaks these rules is refused. Fields
that are not known here are ignored; ``version`` grows when a reader of the old form would misread the new one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal

from pydantic import Field

from profl.bench.errors import InputError, why_unreadable
from profl.bench.files import largest_unpacked, replacing
from profl.bench.memory.comparison.measured_run import MeasuredRun
from profl.bench.memory.comparison.side import BlockEvent, Description
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.workload import CATEGORIES
from profl.bench.validation import checked, is_printable

FORMAT = "profl measured runs"
VERSION = 1
SUFFIXES = (".json", ".gz")
"""By which a file is told from the name of a GPU."""

LARGEST_FILE_BYTES = 1 << 28
"""Unpacked; a run of 10,000 events takes about one MiB."""

_MOST_CONTAINERS = 2_000_000
"""Events are a few long lists; many short ones would take far more memory than the file."""

_Count = Annotated[int, Field(ge=0)]
_PhaseName = Literal["prepare", "between", "forward", "backward", "optimizer"]


@dataclass(frozen=True)
class _Columns:
    action: list[Literal["alloc", "free"]]
    bytes: list[_Count]
    block: list[_Count]
    step: list[_Count]
    phase: list[_PhaseName]
    module: list[str | None]
    operator: list[str | None]

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in vars(self).items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(f"the columns of events differ in length: {told}")

    def rows(self) -> tuple[BlockEvent, ...]:
        return tuple(BlockEvent(*row) for row in zip(*vars(self).values(), strict=True))


@dataclass(frozen=True)
class _Run:
    workload: dict[str, str | int | float | bool | None]
    footprint: Footprint
    events: _Columns

    def __post_init__(self) -> None:
        footprint = self.footprint
        if set(footprint.categories_at_peak) != set(CATEGORIES):
            raise InputError(f"the footprint's categories are not {', '.join(CATEGORIES)}")
        peaks = [footprint.peak_requested_bytes, footprint.peak_allocated_bytes, footprint.peak_reserved_bytes]
        if peaks != sorted(peaks):
            told = ", ".join(
                f"{name} {peak}" for name, peak in zip(("requested", "allocated", "reserved"), peaks, strict=True)
            )
            raise InputError(f"each peak holds the one before it, but the footprint's are {told}")
        if footprint.steps < 1 or max(self.events.step, default=0) > footprint.steps + 1:
            raise InputError(f"the events do not belong to {footprint.steps} steps")
        peak_bytes = _peak_bytes(self.events.rows())
        if peak_bytes != footprint.peak_requested_bytes:
            raise InputError(f"the events reach {peak_bytes} bytes, the footprint {footprint.peak_requested_bytes}")


@dataclass(frozen=True)
class _File:
    format: Literal["profl measured runs"]
    version: Literal[1]
    runs: Annotated[list[_Run], Field(min_length=1)]


def _peak_bytes(events: Sequence[BlockEvent]) -> int:
    """Return the most bytes alive; raises InputError if the events cannot have happened."""
    alive: dict[int, BlockEvent] = {}
    blocks = live_bytes = peak_bytes = 0
    for position, event in enumerate(events):
        if event.action == "alloc":
            if event.block != blocks:
                raise InputError(f"event {position} allocates block {event.block}, but block {blocks} comes next")
            alive[event.block] = event
            blocks += 1
            live_bytes += event.bytes
            peak_bytes = max(peak_bytes, live_bytes)
        else:
            allocated = alive.pop(event.block, None)
            if allocated is None or allocated.bytes != event.bytes:
                raise InputError(f"event {position} frees {event.bytes} bytes of block {event.block}, not allocated so")
            if (allocated.module, allocated.operator) != (event.module, event.operator):
                raise InputError(f"event {position} names another module or operator than the allocation of its block")
            live_bytes -= event.bytes
    return peak_bytes


def check_writable(path: Path) -> None:
    """Make sure before any work that runs can be written to ``path``, and read back from it.

    Raises
    ------
    InputError
        If the file's name has another ending than those that are read.
    OSError
        If the folder does not let a file be written.
    """
    if path.suffix not in SUFFIXES or path.is_dir():
        raise InputError(f"'{path}' cannot be saved to: choose a file that ends in .json or .json.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=path.parent).close()


def write_runs(path: Path, runs: Sequence[MeasuredRun]) -> None:
    """Write ``runs`` to ``path``, gzipped if it ends in ``.gz``; the same runs give the same bytes."""
    written = [
        {
            "workload": dict(run.workload),
            "footprint": run.footprint.to_dict(attribution=True),
            "events": {name: [getattr(event, name) for event in run.events] for name in BlockEvent._fields},
        }
        for run in runs
    ]
    content = json.dumps({"format": FORMAT, "version": VERSION, "runs": written}, separators=(",", ":")).encode()
    with replacing(path) as partial:
        partial.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_runs(path: Path) -> list[MeasuredRun]:
    """Return the runs in the file at ``path``.

    Raises
    ------
    InputError
        If there is no such file, it holds something else, is damaged, or was written by a newer version.
    """
    values = _content(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path} holds no measured runs: write such a file with 'profl measure --save FILE'")
    version = values.get("version")
    if isinstance(version, bool):  # which equals 1
        raise InputError(f"{path}: version cannot be {version}")
    if isinstance(version, int) and version > VERSION:
        raise InputError(f"{path} has version {version}, newer than {VERSION} which is read here: update profl")
    for value in _leaves(values):
        if isinstance(value, str) and not is_printable(value):
            raise InputError(f"{path} holds control characters: have it written anew")
        if isinstance(value, int) and not 0 <= value < 2**63:
            raise InputError(f"{path} holds a number that is no size or count: {_shortened(str(value))}")
    read = checked(_File, values, str(path)).runs
    return [MeasuredRun(run.workload, run.footprint, run.events.rows()) for run in read]


def find_run(runs: Sequence[MeasuredRun], workload: Description, source: str) -> MeasuredRun:
    """Return the run of the workload with this description.

    Raises
    ------
    InputError
        If there is none; the message names ``source`` and tells what the most similar run has otherwise.
    """
    wanted = dict(workload)
    for run in runs:
        if run.workload == wanted:
            return run

    def other_values(run: MeasuredRun) -> list[str]:
        names = [name for name in {**wanted, **run.workload} if run.workload.get(name) != wanted.get(name)]
        return [f"{name} {run.workload.get(name)} instead of {wanted.get(name)}" for name in names]

    nearest = min(map(other_values, runs), key=len)
    raise InputError(f"{source} holds no run of this workload, at best one with {', '.join(nearest)}: choose the same")


def _content(path: Path) -> Any:
    """Return what the JSON says."""
    most = LARGEST_FILE_BYTES
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is no plain file: name one that 'profl measure --save FILE' wrote")
        if path.suffix == ".gz":
            most = largest_unpacked(path.stat().st_size, LARGEST_FILE_BYTES)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: name a file that 'profl measure --save FILE' wrote") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({why_unreadable(error)}): have it sent again") from None
    if len(content) > most:
        raise InputError(f"{path} holds more than {most} bytes: save fewer tasks at a time")
    if content.count(b"[") + content.count(b"{") > _MOST_CONTAINERS:
        raise InputError(f"{path} holds more than {_MOST_CONTAINERS} lists and tables: save fewer tasks at a time")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}): have it sent again") from None


def _leaves(value: Any) -> Iterator[Any]:
    """Yield every number and text, which is printed some day; also the keys."""
    if isinstance(value, list):
        for entry in value:
            yield from _leaves(entry)
    elif isinstance(value, dict):
        yield from value
        for entry in value.values():
            yield from _leaves(entry)
    else:
        yield value


def _shortened(text: str) -> str:
    return text if len(text) < 25 else f"{text[:25]}..."
