"""Say what the blocks of a history belong to: phases, modules, stages, and where the peak is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from profl.bench.memory.footprint import Block, PeakPosition, Portion, Stage, stage_of
from profl.bench.memory.recording.event_log import History, Life, live_bytes_of


def portions(history: History) -> tuple[Portion, ...]:
    """Return what lives at the peak, largest portion first; the bytes sum to the peak."""
    sums: Counter[tuple[str, str, str | None, bool | None]] = Counter()
    for life in _alive(history):
        saved = _is_saved(life, history) if life.category == "activations" else None
        sums[history.phases[life.phase].name, life.category, life.module, saved] += life.bytes
    return tuple(Portion(*parts, size) for parts, size in sums.most_common())


def largest_blocks(history: History, count: int = 5) -> tuple[Block, ...]:
    """Return the largest blocks alive at the peak, largest first."""
    alive = sorted(_alive(history), key=lambda life: -life.bytes)
    return tuple(Block(life.bytes, life.category, life.module, life.operator) for life in alive[:count])


def peak_position(history: History) -> PeakPosition | None:
    """Return which allocation reached the peak; None if nothing was ever allocated."""
    last = next((life for life in history.lives if life.birth == history.peak_moment), None)
    if last is None:
        return None
    steps_begun = sum(phase.name == "between" for phase in history.phases[: last.phase + 1])
    return PeakPosition(steps_begun, history.phases[last.phase].name, last.origin, last.operator)


def stages(history: History, parameter_bytes: Mapping[str, int]) -> tuple[Stage, ...]:
    """Return the stages named in ``parameter_bytes``, with the most that their activations ever held."""
    end = len(history.live_bytes) - 1
    names = tuple(parameter_bytes)
    activations: dict[str | None, list[Life]] = {}
    for life in history.lives:
        if life.category == "activations":
            activations.setdefault(stage_of(life.module, names), []).append(life)
    return tuple(
        Stage(name, size, int(live_bytes_of(activations.get(name, []), end).max()))
        for name, size in parameter_bytes.items()
    )


def _alive(history: History) -> list[Life]:
    return [life for life in history.lives if life.spans(history.peak_moment)]


def _is_saved(life: Life, history: History) -> bool:
    """Whether a graph kept it, as far as is known, or it outlives the phase of its birth, as what the log ends with."""
    over = life.phase + 1 < len(history.phases)
    return life.in_graph or life.death is None or (over and life.death > history.phases[life.phase + 1].moment)
