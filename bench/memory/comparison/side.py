"""What a comparison asks of each of its sides: a step that was measured here, or a trace that somebody recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from profl.bench.memory.footprint import Environment


Description = Mapping[str, str | int | float | bool | None]
"""What was measured, in the words of whoever did: enough to build the same step elsewhere."""


class BlockEvent(NamedTuple):
    """An allocation or a release.

    Parameters
    ----------
    action
        ``alloc``; or ``free``, when the block can be handed out again.
    bytes
        Of the block, as requested.
    block
        Number of the block: 0 for the first that was allocated, and so on.
    step
        Number of the step that runs or comes next, the first is 1; 0 while preparing. None: unknown.
    phase
        Of the step: ``prepare``, ``between`` (two steps), ``forward``, ``backward``, ``optimizer``; of a snapshot, one
        of `profl.bench.memory.snapshot.stack.PHASES`.
    module, operator
        That allocated the block, as in `profl.bench.memory.footprint.PeakPosition`; of a snapshot, the line of the
        program where no module is known. None: unknown.
    """

    action: Literal["alloc", "free"]
    bytes: int
    block: int
    step: int | None
    phase: str
    module: str | None
    operator: str | None

    def __str__(self) -> str:
        verb = "allocates" if self.action == "alloc" else "releases"
        step = "" if self.step is None else f"step {self.step}, "
        return f"{verb} {self.bytes:,} B ({step}{self.phase}, {self.module or '?'}, {self.operator or '?'})"


@dataclass(frozen=True)
class Sizes:
    """The blocks that live at the peak: how many there are of each size in bytes, as requested.

    Parameters
    ----------
    workspaces
        Those that cuBLAS keeps, by their stack or else by their size and because they are never released.
    """

    blocks: Counter[int] = field(default_factory=Counter)
    workspaces: Counter[int] = field(default_factory=Counter)


class Side(Protocol):
    """One side of a comparison. None: unknown."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def begins_empty(self) -> bool:
        """Whether nothing was allocated before the first event; else where a log begins and ends says nothing."""

    @property
    def workload(self) -> Description | None:
        """What was run."""

    @property
    def steps(self) -> int | None:
        """How many steps were run."""

    @property
    def environment(self) -> Environment | None:
        """Where it was measured."""

    @property
    def software(self) -> Mapping[str, str]:
        """Versions and settings, as far as they are told."""

    @property
    def peaks(self) -> Mapping[str, int | None]:
        """By the names of `profl.bench.memory.footprint.PEAKS`."""

    @property
    def categories(self) -> Mapping[str, int] | None:
        """What the requested peak consists of, by category."""

    @property
    def parts(self) -> Counter[str] | None:
        """What the requested peak consists of, by category and module."""

    @property
    def sizes_at_peak(self) -> Sizes:
        """What the requested peak consists of, by size."""

    @property
    def nvml_used_bytes(self) -> int | None:
        """What the driver said the process held."""

    @property
    def context_bytes(self) -> int | None:
        """What of that PyTorch's allocator had not reserved: the CUDA context."""

    @property
    def caveats(self) -> Sequence[str]:
        """What to doubt."""

    @property
    def events(self) -> Sequence[BlockEvent]:
        """Every allocation and release, oldest first."""
