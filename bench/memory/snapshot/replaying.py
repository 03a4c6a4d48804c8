"""A trace's requests through the model of PyTorch's allocator: does it reserve what was reserved then?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from profl.bench.errors import InputError
from profl.bench.memory.replay.allocator import Alloc, Free, Replay, replay
from profl.bench.memory.replay.settings import AllocatorSettings
from profl.bench.memory.snapshot.history import TracedHistory
from profl.bench.memory.snapshot.snapshot import SEGMENT_CHANGES, Snapshot


@dataclass(frozen=True)
class Replayed:
    """What the model did with a trace.

    Parameters
    ----------
    peak_requested_bytes, peak_allocated_bytes, peak_reserved_bytes
        Of the model; None: it could not be played.
    recorded_reserved_bytes
        The peak in the trace. None: unknown.
    is_comparable
        Whether the model should reserve the same: it began where the trace did.
    remarks
        Why not, or what differs, a line each; none: every segment came and went as in the trace.
    """

    peak_requested_bytes: int | None
    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None
    recorded_reserved_bytes: int | None
    is_comparable: bool
    remarks: tuple[str, ...]


def replayed(snapshot: Snapshot, history: TracedHistory) -> Replayed:
    """Play what the trace of one GPU asked for, under its settings; what lived before it comes first."""
    reasons = _reasons(snapshot, history)
    recorded = history.peak_reserved_bytes
    try:
        settings = AllocatorSettings.parse(snapshot.settings_variable or "")
        played = replay(_requests(history), settings)
    except InputError as error:
        return Replayed(None, None, None, recorded, False, (*reasons, str(error)))
    remarks = reasons or _differences(history, played)
    return Replayed(
        played.peak_requested_bytes,
        played.peak_allocated_bytes,
        played.peak_reserved_bytes,
        recorded,
        not reasons,
        tuple(remarks),
    )


def _reasons(snapshot: Snapshot, history: TracedHistory) -> list[str]:
    """Say why what the model reserves need not be what the trace did."""
    device = history.device
    reasons = []
    if not device.events:
        reasons.append("there are no events to replay")
    elif not history.begins_empty:
        reserved = history.reserved_bytes
        held = "an unknown amount" if reserved is None else f"{reserved[0]:,} B"
        reasons.append(f"the trace begins with {held} reserved, and how that was divided is not told")
    if history.misfits:
        reasons.append("some events do not fit together")
    if device.pooled_bytes or any(event.pooled for event in device.events):
        reasons.append("memory pools of their own are not modelled")
    if any(event.action == "oom" for event in device.events):
        reasons.append("the trace ran out of memory, and how much there was is not told")
    if any(event.action in ("segment_map", "segment_unmap") for event in device.events) != device.expandable:
        reasons.append("segments can grow, of which the trace does not tell all")
    if reasons and snapshot.settings_variable is None:
        reasons.append("the allocator's settings are not told: the defaults were taken")
    return reasons


def _requests(history: TracedHistory) -> list[Alloc | Free]:
    older = [Alloc(place, block.bytes, block.stream) for place, block in enumerate(history.blocks) if not block.birth]
    changes: list[Alloc | Free] = [
        Alloc(place, history.blocks[place].bytes, history.blocks[place].stream)
        if history.blocks[place].birth == moment
        else Free(place)
        for moment, place in history.changes
    ]
    return [*older, *changes]


def _differences(history: TracedHistory, played: Replay) -> Sequence[str]:
    """Say where the segments of the model first differ from the trace's."""
    recorded = [(event.action, event.bytes) for event in history.device.events if event.action in SEGMENT_CHANGES]
    model = [(event.action, event.bytes) for event in played.events if event.action in SEGMENT_CHANGES]
    for number, (its, mine) in enumerate(zip_longest(recorded, model)):
        if its != mine:
            told = ["nothing" if change is None else f"{change[0]} of {change[1]:,} B" for change in (its, mine)]
            return [f"change {number} of segments is {told[0]} in the trace, {told[1]} in the model"]
    return []
