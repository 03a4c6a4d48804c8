"""A snapshot of PyTorch's allocator as one side of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from profl.bench.errors import InputError
from profl.bench.memory.comparison.side import BlockEvent, Sizes
from profl.bench.memory.footprint import PEAKS
from profl.bench.memory.snapshot.history import TracedBlock, TracedHistory
from profl.bench.memory.snapshot.reading import read_snapshot
from profl.bench.memory.snapshot.snapshot import SETTINGS_VARIABLES, Snapshot

_SUFFIXES = (".pickle", ".pkl", ".pickle.gz", ".pkl.gz")


@dataclass(frozen=True)
class SnapshotSide:
    """One GPU of a snapshot, a `profl.bench.memory.comparison.side.Side`; what was run and where is unknown."""

    snapshot: Snapshot
    history: TracedHistory

    workload = steps = environment = categories = parts = nvml_used_bytes = context_bytes = None

    @property
    def name(self) -> str:
        """File and GPU."""
        return f"{self.snapshot.name}, GPU {self.history.device.index}"

    @property
    def begins_empty(self) -> bool:
        """Whether nothing was allocated before the first event."""
        return not self.history.live_bytes[0]

    @property
    def software(self) -> Mapping[str, str]:
        """The allocator's settings, where they are told; as text under the name that footprints have for it."""
        if not self.snapshot.settings:
            return {}
        variable = self.snapshot.settings_variable
        settings = {name: told for name, told in self.snapshot.settings.items() if name not in SETTINGS_VARIABLES}
        settings["allocator_settings"] = f"{SETTINGS_VARIABLES[0]}={variable}" if variable else "default"
        return settings

    @property
    def peaks(self) -> Mapping[str, int | None]:
        """Requested and reserved; a trace does not tell what blocks are rounded up to."""
        known = {"peak requested": self.history.peak_requested_bytes, "peak reserved": self.history.peak_reserved_bytes}
        return {name: known.get(name) for name in PEAKS}

    @cached_property
    def sizes_at_peak(self) -> Sizes:
        """What lives at the peak."""
        alive = self.history.at_peak
        return Sizes(
            Counter(block.bytes for block in alive if not block.is_blas_workspace),
            Counter(block.bytes for block in alive if block.is_blas_workspace),
        )

    @property
    def caveats(self) -> Sequence[str]:
        """What does not fit together or is not told."""
        return [*self.snapshot.caveats, *self.history.caveats()]

    @cached_property
    def events(self) -> Sequence[BlockEvent]:
        """Every event that allocates or releases and fits to the rest."""
        history = self.history
        return [
            _event(history.blocks[place], place, moment, released_in=history.phase_at(moment))
            for moment, place in history.changes
        ]


def _event(block: TracedBlock, place: int, moment: int, released_in: str) -> BlockEvent:
    allocates = block.birth == moment
    return BlockEvent(
        "alloc" if allocates else "free",
        block.bytes,
        place,
        None,
        block.phase if allocates else released_in,
        block.module or block.stack.place,
        block.operator,
    )


def is_snapshot(path: Path) -> bool:
    """Return whether a file is a snapshot by its name."""
    return path.name.lower().endswith(_SUFFIXES)


def snapshot_side(path: Path, device: int | None = None) -> SnapshotSide:
    """Return one GPU of the snapshot at ``path``: the one of index ``device``, or else with the highest peak.

    Raises
    ------
    InputError
        As `read_snapshot` does, and if nothing is told of that GPU, or of any.
    """
    snapshot = read_snapshot(path)
    if (device is not None and device not in snapshot.devices) or not snapshot.devices:
        known = ", ".join(map(str, snapshot.devices)) or "none"
        raise InputError(f"{path} tells nothing of GPU {device or 0}: choose one of {known}")
    chosen = list(snapshot.devices.values()) if device is None else [snapshot.devices[device]]
    return SnapshotSide(snapshot, max(map(TracedHistory, chosen), key=lambda history: history.peak_requested_bytes))
