"""What lived on a GPU when, as far as a snapshot tells: from before its first event to the end.

A snapshot holds the end, and the events before it. Whatever lives at the end and was not allocated in between, and
whatever was released without having been, lived before the first event. Then the events are played forward.
Moments are counted in events: 0 is before the first, moment ``n`` comes after ``n`` events.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import inf

from profl.bench.memory.recording.event_log import Phase, read_log
from profl.bench.memory.snapshot.snapshot import (
    SEGMENT_CHANGES,
    SILENT_ACTIONS,
    Annotation,
    DeviceMemory,
    LiveBlock,
)
from profl.bench.memory.snapshot.stack import NO_STACK, PHASES, Stack

LASTING_WORKSPACE_BYTES = (8_519_680, 33_554_432)
"""What cuBLAS keeps for each thread and stream: below compute capability 9.0, and from there on."""

_BY_STACK, _BY_SIZE, _SCRATCH = "cuBLAS", "cuBLAS, by size", "scratch"
_BEFORE, _WORKSPACE = "before the trace", "workspace"

GROUPS = (_BEFORE, *PHASES, _WORKSPACE)
"""Every block is counted among one of these: what it is a workspace of apart, by when and in which phase it began."""

_OPTIMIZER_STEP = "Optimizer.step#"
_KNOWN_ACTIONS = frozenset(("alloc", "free_completed", "oom", *SEGMENT_CHANGES, *SILENT_ACTIONS))
_SHOWN = 5  # of what may come any number of times


@dataclass(slots=True)
class TracedBlock:
    """A block of memory, from its allocation to its release.

    Parameters
    ----------
    bytes
        As requested.
    birth, death
        First moment at which it lives, and first at which it no longer does. A birth of 0: before the first event.
        None: it outlives the trace.
    stack
        Of its allocation, as far as it is told.
    phase
        One of `profl.bench.memory.snapshot.stack.PHASES`.
    module, operator
        As in `profl.bench.memory.footprint.Block`, as far as the stack tells.
    workspace
        ``cuBLAS``: the stack says that it is cuBLAS's; ``cuBLAS, by size``: there is no stack, but its size, and that
        it is never released, speak for it; ``scratch``: no tensor owns it. None: a tensor's, or unknown.
    """

    bytes: int
    stream: int
    birth: int
    death: int | None
    stack: Stack
    phase: str = "unknown"
    module: str | None = None
    operator: str | None = None
    workspace: str | None = None

    @property
    def group(self) -> str:
        """One of `GROUPS`: what tables and plots count it among."""
        if self.workspace:
            return _WORKSPACE
        return self.phase if self.birth else _BEFORE

    @property
    def is_blas_workspace(self) -> bool:
        """Whether it is one that cuBLAS keeps."""
        return self.workspace in (_BY_STACK, _BY_SIZE)

    def spans(self, moment: int) -> bool:
        """Whether it lives at ``moment``."""
        return self.birth <= moment and (self.death is None or moment < self.death)


class TracedHistory:
    """What a snapshot tells of one GPU.

    Attributes
    ----------
    device
        Whose history it is.
    blocks
        Every block, those from before the first event first, the others in order of allocation.
    changes
        What each event that fits allocates or releases, in order: moment after it, index in ``blocks``.
    misfits
        What does not fit to the rest, and how often.
    """

    def __init__(self, device: DeviceMemory) -> None:
        self.device = device
        self.misfits: Counter[str] = Counter()
        self.blocks: list[TracedBlock] = []
        self.changes: list[tuple[int, int]] = []
        self._play()
        self._name()

    @cached_property
    def live_bytes(self) -> Sequence[int]:
        """Requested bytes at each moment."""
        added = [0] * (len(self.device.events) + 1)
        for block in self.blocks:
            added[block.birth] += block.bytes
            if block.death is not None:
                added[block.death] -= block.bytes
        return list(accumulate(added))

    @cached_property
    def reserved_bytes(self) -> Sequence[int] | None:
        """Reserved bytes at each moment; None: what is told of segments does not fit together."""
        added = [SEGMENT_CHANGES.get(event.action, 0) * event.bytes for event in self.device.events]
        reserved = list(accumulate(added, initial=self.device.reserved_bytes - sum(added)))
        return reserved if min(reserved) >= 0 else None

    @property
    def peak_requested_bytes(self) -> int:
        """The most that lived."""
        return self.live_bytes[self.peak_moment]

    @property
    def peak_reserved_bytes(self) -> int | None:
        """The most that was reserved. None: unknown."""
        return max(self.reserved_bytes) if self.reserved_bytes else None

    @cached_property
    def peak_moment(self) -> int:
        """The first moment with the most live bytes."""
        return max(range(len(self.live_bytes)), key=self.live_bytes.__getitem__)

    def seconds(self, moment: int) -> float | None:
        """Return the time of the moment, from the first event on. None: not told."""
        events = self.device.events
        if not events or not moment:
            return None
        first, now = events[0].microseconds, events[moment - 1].microseconds
        return None if first is None or now is None else (now - first) / 1e6

    def phase_at(self, moment: int) -> str:
        """Return the phase of the last allocation up to then, ``unknown`` before the first."""
        return self._phases[moment]

    @cached_property
    def at_peak(self) -> Sequence[TracedBlock]:
        """What lives at the peak, the largest first."""
        return sorted((block for block in self.blocks if block.spans(self.peak_moment)), key=lambda b: -b.bytes)

    @property
    def begins_empty(self) -> bool:
        """Whether nothing lived nor was reserved before the first event."""
        reserved = self.reserved_bytes
        return reserved is not None and not reserved[0] and not self.live_bytes[0]

    def caveats(self) -> Iterator[str]:
        """Yield what to know before trusting the numbers, a line each."""
        device, older = self.device, sum(not block.birth for block in self.blocks)
        if not device.events:
            yield "no events are told, only what lives at the end: the peak may have been higher"
        elif older:
            yield f"{older} blocks of {self.live_bytes[0]:,} B lived before the first event, of which little is known"
        if self.reserved_bytes is None:
            yield "reserved memory is unknown: the events give more of it back than there was"
        if len(device.streams) > 1:
            yield f"{len(device.streams)} streams: a block that waits for another one counts until it is free"
        pooled = sum(event.pooled for event in device.events)
        if pooled or device.pooled_bytes:
            held = f"{pooled} events and {device.pooled_bytes:,} B"
            yield f"{held} belong to memory pools of their own, as CUDA graphs have"
        if any(block.workspace == _BY_SIZE for block in self.blocks):
            yield "workspaces of cuBLAS without a stack are known by their size alone"
        failed = [(moment, event) for moment, event in enumerate(device.events, start=1) if event.action == "oom"]
        for moment, event in failed[:_SHOWN]:
            yield f"out of memory at event {moment}, where {event.bytes:,} B were asked for"
        if len(failed) > _SHOWN:
            yield f"out of memory {len(failed) - _SHOWN} more times"
        unknown = dict.fromkeys(event.action for event in device.events if event.action not in _KNOWN_ACTIONS)
        if unknown:
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            yield f"not known here, and left out, is what {', '.join(list(unknown)[:_SHOWN])}{more} means"
        for misfit, count in self.misfits.items():
            yield f"{count} x {misfit}"
        counted = _counted_back(device)
        if counted != self.peak_requested_bytes:
            yield f"counted back from the end, without a look at addresses, the peak would be {counted:,} B"

    @cached_property
    def _phases(self) -> Sequence[str]:
        phases = ["unknown"] * (len(self.device.events) + 1)
        for block in self.blocks:
            if block.birth:
                phases[block.birth] = block.phase
        for moment in range(1, len(phases)):
            if phases[moment] == "unknown":
                phases[moment] = phases[moment - 1]
        return phases

    def _play(self) -> None:
        """Find every block and when it lived."""
        living: dict[int, TracedBlock] = {}
        known: set[int] = set()  # addresses that the events speak of
        older: list[TracedBlock] = []
        younger: list[TracedBlock] = []
        ordered: list[tuple[int, TracedBlock]] = []
        for moment, event in enumerate(self.device.events, start=1):
            if event.action not in ("alloc", "free_completed"):
                continue
            address = event.address
            assert address is not None  # as every reader of events makes sure
            block = living.pop(address, None)
            if event.action == "alloc":
                if block is not None:
                    self.misfits["an allocation where a block lives, which counts as released"] += 1
                    block.death = moment
                block = TracedBlock(event.bytes, event.stream, moment, None, event.stack)
                living[address] = block
                younger.append(block)
            elif block is not None:
                if block.bytes != event.bytes:
                    self.misfits["a release of other bytes than were allocated, which hold"] += 1
                block.death = moment
            elif address in known:
                self.misfits["a release of what does not live, left out"] += 1
                continue
            else:
                block = TracedBlock(event.bytes, event.stream, 0, moment, NO_STACK)
                older.append(block)
            known.add(address)
            ordered.append((moment, block))
        self._end(living, known, older)
        self.blocks = [*older, *younger]
        places = {id(block): place for place, block in enumerate(self.blocks)}
        self.changes = [(moment, places[id(block)]) for moment, block in ordered]

    def _end(self, living: Mapping[int, TracedBlock], known: set[int], older: list[TracedBlock]) -> None:
        """Compare what the events leave with what lives at the end, and add what they do not speak of."""
        live = self.device.live
        for address, block in living.items():
            if address not in live:
                self.misfits["a block that no event releases, but that does not live at the end"] += 1
            elif live[address].bytes != block.bytes:
                self.misfits["a block that has other bytes at the end"] += 1
        for address in sorted(live.keys() - living.keys()):
            if address in known:
                self.misfits["a block that lives at the end though an event released it, left out"] += 1
            else:
                older.append(_before(live[address]))

    def _name(self) -> None:
        """Say of every block what its stack tells."""
        log = [
            {
                "action": "alloc",
                "addr": place,
                "size": block.bytes,
                "frames": block.stack.frames,
                "user_metadata": block.stack.metadata,
                "forward_frames": block.stack.forward_frames,
            }
            for place, block in enumerate(self.blocks)
        ]
        named = read_log(log, [Phase(0, "unknown", "temporaries")], [], len(log)).lives
        steps = _Times(note for note in self.device.annotations if note.name.startswith(_OPTIMIZER_STEP))
        for block, life in zip(self.blocks, named, strict=True):
            block.module, block.operator = life.origin, life.operator
            block.phase = block.stack.phase
            event = self.device.events[block.birth - 1] if block.birth else None
            if event and block.phase in ("other", "unknown") and event.microseconds in steps:
                block.phase = "optimizer"
            if block.stack.is_blas_workspace:
                block.workspace = _BY_STACK
            elif life.category == "workspace":
                block.workspace = _SCRATCH
            elif not block.stack.frames and not block.birth and block.death is None:
                block.workspace = _BY_SIZE if block.bytes in LASTING_WORKSPACE_BYTES else None


def _before(block: LiveBlock) -> TracedBlock:
    """Return a block that lives throughout."""
    return TracedBlock(block.bytes, block.stream, 0, None, block.stack)


def _range(note: Annotation) -> tuple[float, float]:
    return -inf if note.begins is None else note.begins, inf if note.ends is None else note.ends


class _Times:
    """The times that annotations name, as ranges that do not overlap."""

    def __init__(self, notes: Iterable[Annotation]) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        for begins, ends in sorted(map(_range, notes)):
            if self._ends and begins <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], ends)
            else:
                self._begins.append(begins)
                self._ends.append(ends)

    def __contains__(self, time: int | None) -> bool:
        if time is None:
            return False
        place = bisect_right(self._begins, time) - 1
        return place >= 0 and time <= self._ends[place]


def _counted_back(device: DeviceMemory) -> int:
    """Return the peak as the sum of what lives at the end tells it, with what the events add and take."""
    signs = {"alloc": 1, "free_completed": -1}
    added = [signs.get(event.action, 0) * event.bytes for event in device.events]
    end = sum(block.bytes for block in device.live.values())
    return max(accumulate(added, initial=end - sum(added)))
