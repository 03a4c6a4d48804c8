"""What a comparison asks of each of its sides: a step that was measured here, or a trace that somebody recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from profl.bench.memory.comparison.measured_run import BlockEvent, Description
    from profl.bench.memory.footprint import Environment


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
