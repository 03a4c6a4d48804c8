"""A training step measured on one GPU, with every allocation and release in order, to compare with another GPU's."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from profl.bench.memory.comparison.side import BlockEvent, Description, Sizes
from profl.bench.memory.footprint import PEAKS, Environment, Footprint
from profl.bench.memory.recording.event_log import Phase, changes, read_log
from profl.bench.memory.snapshot.history import LASTING_WORKSPACE_BYTES
from profl.bench.memory.snapshot.unpickling import read_plain

if TYPE_CHECKING:
    from profl.bench.memory.process.probe import Prober
    from profl.bench.memory.workload import Workload

_SOFTWARE = ("torch", "cuda", "cudnn", "allocator_settings")


@dataclass(frozen=True)
class MeasuredRun:
    """What a training step needed on one GPU, and every event of the steps that were run, oldest first.

    It is a `profl.bench.memory.comparison.side.Side` of a comparison.
    """

    workload: Description
    footprint: Footprint
    events: tuple[BlockEvent, ...]

    begins_empty = True

    @property
    def name(self) -> str:
        """The GPU's."""
        return self.footprint.environment.device_name

    @property
    def environment(self) -> Environment:
        """Where it was measured."""
        return self.footprint.environment

    @property
    def software(self) -> Mapping[str, str]:
        """Versions and settings."""
        return {name: getattr(self.environment, name) for name in _SOFTWARE}

    @property
    def steps(self) -> int:
        """How many steps were run."""
        return self.footprint.steps

    @property
    def peaks(self) -> Mapping[str, int | None]:
        """By the names of `PEAKS`."""
        return {name: getattr(self.footprint, attribute) for name, attribute in PEAKS.items()}

    @property
    def categories(self) -> Mapping[str, int]:
        """What the requested peak consists of, by category."""
        return self.footprint.categories_at_peak

    @property
    def parts(self) -> Counter[str] | None:
        """What the requested peak consists of, by category and module; None: unknown."""
        sizes: Counter[str] = Counter()
        for portion in self.footprint.attribution:
            sizes[f"{portion.category} of {portion.module or '?'}"] += portion.bytes
        return sizes or None

    @property
    def sizes_at_peak(self) -> Sizes:
        """What lives at the peak, as the events tell; a workspace of cuBLAS is known by its size."""
        moments = accumulate(
            (event.bytes if event.action == "alloc" else -event.bytes for event in self.events), initial=0
        )
        live_bytes = list(moments)
        alive = {}
        for event in self.events[: live_bytes.index(max(live_bytes))]:
            if event.action == "alloc":
                alive[event.block] = event.bytes
            else:
                del alive[event.block]
        released = {event.block for event in self.events if event.action == "free"}
        lasting = {block for block in alive.keys() - released if alive[block] in LASTING_WORKSPACE_BYTES}
        return Sizes(
            Counter(size for block, size in alive.items() if block not in lasting),
            Counter(alive[block] for block in lasting),
        )

    @property
    def nvml_used_bytes(self) -> int | None:
        """What the driver said the process held. None: unknown."""
        return self.footprint.nvml_used_bytes

    @property
    def context_bytes(self) -> int | None:
        """What of that PyTorch's allocator had not reserved. None: unknown."""
        used_bytes = self.nvml_used_bytes
        if used_bytes is None or used_bytes < self.footprint.peak_reserved_bytes:
            return None
        return used_bytes - self.footprint.peak_reserved_bytes

    @property
    def caveats(self) -> Sequence[str]:
        """What a virtual GPU could not play."""
        return self.footprint.caveats


def measure_run(
    prober: Prober, workload: Workload, gpu: str, description: Description, *, least_budget: bool = True
) -> MeasuredRun:
    """Measure ``workload``, which ``description`` describes, on ``gpu``; raises as `Prober.measure` does."""
    with TemporaryDirectory() as folder:
        snapshot = Path(folder) / "snapshot.pickle"
        footprint = prober.measure(workload, gpu, least_budget=least_budget, timeline=True, snapshot=snapshot)
        return recorded_run(footprint, snapshot, description)


def recorded_run(footprint: Footprint, snapshot: Path, description: Description) -> MeasuredRun:
    """Return the run of a footprint that was measured with its timeline and this snapshot of the allocator.

    Raises
    ------
    ValueError
        If the footprint was measured without its timeline.
    """
    timeline = footprint.kept_timeline
    end = len(next(iter(timeline.live_bytes.values()))) - 1
    # The log goes on to the end of the recording, where cuBLAS gives its workspaces back: that is no part of the steps.
    log = changes(read_plain(snapshot).value["device_traces"][0])[:end]
    return MeasuredRun(dict(description), footprint, _events(log, timeline.phases))


def _events(log: Sequence[Mapping[str, object]], phases: Sequence[tuple[int, str]]) -> tuple[BlockEvent, ...]:
    """Return the events of a log that begins with nothing allocated."""
    history = read_log(log, [Phase(moment, name, "temporaries") for moment, name in phases], [], len(log))
    begins = [moment for moment, _ in phases]
    steps_begun = [sum(name == "between" for _, name in phases[: index + 1]) for index in range(len(phases))]
    told: dict[int, BlockEvent] = {}
    for block, life in enumerate(history.lives):
        for action, moment in (("alloc", life.birth), ("free", life.death)):
            if moment is not None:
                phase = bisect_left(begins, moment) - 1
                told[moment] = BlockEvent(
                    action,  # type: ignore[arg-type]
                    life.bytes,
                    block,
                    steps_begun[phase],
                    phases[phase][1],
                    life.origin,
                    life.operator,
                )
    return tuple(told[moment] for moment in sorted(told))
