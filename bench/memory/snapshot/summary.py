"""What a snapshot tells of one GPU, in the few numbers and names that are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from profl.bench.memory.snapshot.history import GROUPS, TracedBlock, TracedHistory
from profl.bench.memory.snapshot.replaying import Replayed, replayed
from profl.bench.memory.snapshot.snapshot import Snapshot

UNKNOWN = "?"
_PLACES, _BLOCKS = 15, 10


@dataclass(frozen=True)
class Share:
    """A part of what lives at the peak."""

    name: str
    bytes: int
    blocks: int


@dataclass(frozen=True)
class ShownBlock:
    """A block that lives at the peak; ``?`` is unknown."""

    bytes: int
    group: str
    place: str
    operator: str


@dataclass(frozen=True)
class DeviceSummary:
    """One GPU.

    Parameters
    ----------
    peak_event
        After how many of the events the requested peak was first reached; 0: before the first.
    peak_seconds
        When that was, after the first event. None: not told.
    groups
        What lives at the peak by `profl.bench.memory.snapshot.history.GROUPS`; the bytes sum to the requested peak.
    places
        The same by line of the program or module, the largest first; also sums to the peak.
    operators
        The same by operator.
    workspaces
        What cuBLAS keeps and scratch memory, by kind.
    largest_blocks
        At the peak, the largest first.
    """

    index: int
    events: int
    actions: dict[str, int]
    streams: int
    segments: int
    peak_requested_bytes: int
    peak_reserved_bytes: int | None
    peak_event: int
    peak_seconds: float | None
    end_requested_bytes: int
    end_reserved_bytes: int
    groups: tuple[Share, ...]
    places: tuple[Share, ...]
    operators: tuple[Share, ...]
    workspaces: tuple[Share, ...]
    largest_blocks: tuple[ShownBlock, ...]
    caveats: tuple[str, ...]
    replayed: Replayed | None = None

    @property
    def when(self) -> str:
        """The moment of the peak, in words."""
        at = "before the first event" if not self.peak_event else f"event {self.peak_event:,} of {self.events:,}"
        return at if self.peak_seconds is None else f"{at}, {self.peak_seconds:.3f} s after the first"


def summary(snapshot: Snapshot, history: TracedHistory, *, replay: bool = False) -> DeviceSummary:
    """Return what to show of one GPU; with ``replay`` also what the allocator's model does with its trace."""
    device, alive = history.device, history.at_peak
    groups = {share.name: share for share in _shares(alive, lambda block: block.group)}
    return DeviceSummary(
        index=device.index,
        events=len(device.events),
        actions=dict(Counter(event.action for event in device.events).most_common()),
        streams=len(device.streams),
        segments=device.segments,
        peak_requested_bytes=history.peak_requested_bytes,
        peak_reserved_bytes=history.peak_reserved_bytes,
        peak_event=history.peak_moment,
        peak_seconds=history.seconds(history.peak_moment),
        end_requested_bytes=history.live_bytes[-1],
        end_reserved_bytes=device.reserved_bytes,
        groups=tuple(groups[name] for name in GROUPS if name in groups),
        places=_shares(alive, _place),
        operators=_shares(alive, lambda block: block.operator or UNKNOWN),
        workspaces=_shares([block for block in alive if block.workspace], lambda block: block.workspace or UNKNOWN),
        largest_blocks=tuple(
            ShownBlock(block.bytes, block.group, _place(block), block.operator or UNKNOWN) for block in alive[:_BLOCKS]
        ),
        caveats=(*snapshot.caveats, *history.caveats()),
        replayed=replayed(snapshot, history) if replay else None,
    )


def to_dict(snapshot: Snapshot, summaries: Iterable[DeviceSummary]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    devices = [asdict(device) for device in summaries]
    return {"snapshot": snapshot.name, "allocator_settings": dict(snapshot.settings), "devices": devices}


def _place(block: TracedBlock) -> str:
    return block.module or block.stack.place or UNKNOWN


def _shares(blocks: Iterable[TracedBlock], name: Callable[[TracedBlock], str]) -> tuple[Share, ...]:
    """Return the parts by name, the largest first; of many, the last one is the rest."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for block in blocks:
        sizes[name(block)] += block.bytes
        counts[name(block)] += 1
    ordered = [Share(part, size, counts[part]) for part, size in sizes.most_common()]
    if len(ordered) <= _PLACES:
        return tuple(ordered)
    rest = ordered[_PLACES - 1 :]
    more = Share(f"({len(rest)} more)", sum(share.bytes for share in rest), sum(share.blocks for share in rest))
    return (*ordered[: _PLACES - 1], more)
