"""A snapshot as values: what lives on each GPU, and what its allocator did before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from profl.bench.memory.snapshot.stack import NO_STACK, Stack

SEGMENT_CHANGES = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
"""Actions that change how much of the GPU's memory is reserved, and the sign of their bytes."""

MOVING_ACTIONS = ("alloc", "free_completed", *SEGMENT_CHANGES)
"""Actions that change what is live or reserved, of which address and size must be told."""

SILENT_ACTIONS = ("free_requested", "snapshot", "annotate")
"""Actions that change neither."""

SETTINGS_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Which of the settings is the text that the program gave: now, and in earlier versions."""


class Event(NamedTuple):
    """One line of the allocator's log, in PyTorch's words.

    Parameters
    ----------
    action
        ``alloc``, ``free_requested``, ``free_completed``, ``segment_alloc``, ``segment_free``, ``segment_map``,
        ``segment_unmap``, ``oom``, ``snapshot``, or one that is not known here.
    address
        None: not told, as of ``oom``.
    bytes
        As requested of blocks, of the GPU's memory for segments.
    stream
        Its handle; 0 is the default one.
    microseconds
        When; only differences mean anything. None: not told.
    stack
        Who asked for it.
    pooled
        Whether it belongs to a memory pool of its own, as CUDA graphs have.
    """

    action: str
    address: int | None
    bytes: int
    stream: int
    microseconds: int | None
    stack: Stack
    pooled: bool = False


@dataclass(frozen=True, slots=True)
class LiveBlock:
    """A block that lives when the snapshot is taken.

    Parameters
    ----------
    bytes
        As requested.
    """

    address: int
    bytes: int
    stream: int
    stack: Stack = NO_STACK


class Annotation(NamedTuple):
    """A range of time that the program named, such as ``Optimizer.step#AdamW.step``. None: not told."""

    name: str
    begins: int | None
    ends: int | None


@dataclass(frozen=True)
class DeviceMemory:
    """One GPU.

    Parameters
    ----------
    events
        Oldest first; older ones may be lost, or not have been recorded.
    live
        By address, when the snapshot was taken.
    reserved_bytes, segments
        Then, of all segments, and how many of them there are.
    expandable
        Whether any of the segments can grow.
    pooled_bytes
        What of the reserved bytes belongs to memory pools of their own, as CUDA graphs have.
    """

    index: int
    events: Sequence[Event]
    live: Mapping[int, LiveBlock]
    reserved_bytes: int
    segments: int
    expandable: bool
    pooled_bytes: int = 0
    annotations: Sequence[Annotation] = ()

    @property
    def streams(self) -> Sequence[int]:
        """Handles of the streams that appear, in ascending order."""
        return sorted({event.stream for event in self.events} | {block.stream for block in self.live.values()})


@dataclass(frozen=True)
class Snapshot:
    """What one process's allocator told.

    Parameters
    ----------
    name
        Of the file.
    devices
        Those on which something lived or happened, by index.
    settings
        The allocator's, by name, as text: newer versions tell them. Empty: not told.
    caveats
        What is not told, or had to be read otherwise than it stands there, a line each.
    """

    name: str
    devices: Mapping[int, DeviceMemory]
    settings: Mapping[str, str] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    @property
    def settings_variable(self) -> str | None:
        """The text that the program gave the allocator as its settings; None: not told."""
        return next((self.settings[name] for name in SETTINGS_VARIABLES if name in self.settings), None)
