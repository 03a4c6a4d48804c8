"""A training step measured on one GPU, with every allocation and release in order, to compare with another GPU's."""

from __future__ import annotations

import pickle
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, NamedTuple

from profl.bench.memory.footprint import Footprint
from profl.bench.memory.recording.event_log import Phase, changes, read_log

if TYPE_CHECKING:
    from profl.bench.memory.process.probe import Prober
    from profl.bench.memory.workload import Workload

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
        Number of the step that runs or comes next, the first is 1; 0 while preparing.
    phase
        Of the step: ``prepare``, ``between`` (two steps), ``forward``, ``backward``, ``optimizer``.
    module, operator
        That allocated the block, as in `profl.bench.memory.footprint.PeakPosition`. None: unknown.
    """

    action: Literal["alloc", "free"]
    bytes: int
    block: int
    step: int
    phase: str
    module: str | None
    operator: str | None

    def __str__(self) -> str:
        verb = "allocates" if self.action == "alloc" else "releases"
        return f"{verb} {self.bytes:,} B (step {self.step}, {self.phase}, {self.module or '?'}, {self.operator or '?'})"


@dataclass(frozen=True)
class MeasuredRun:
    """What a training step needed on one GPU, and every event of the steps that were run, oldest first."""

    workload: Description
    footprint: Footprint
    events: tuple[BlockEvent, ...]


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
    log = changes(pickle.loads(snapshot.read_bytes())["device_traces"][0])[:end]
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
