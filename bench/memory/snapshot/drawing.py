"""The timeline of a snapshot: live bytes at every event, by when and in which phase the blocks began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path

from matplotlib.figure import Figure

from profl.bench.memory.plot import timeline_figure, write_timeline
from profl.bench.memory.snapshot.history import GROUPS, TracedHistory
from profl.bench.memory.snapshot.snapshot import Snapshot
from profl.bench.memory.timeline import Timeline

# Okabe and Ito's, in the order of the stack: from what is always there to what comes and goes.
_COLOURS = dict(
    zip(
        ("before the trace", "workspace", "optimizer", "other", "forward", "backward", "unknown"),
        ("#0072B2", "#D55E00", "#E69F00", "#F0E442", "#56B4E9", "#CC79A7", "#000000"),
        strict=True,
    )
)
assert set(_COLOURS) == set(GROUPS)


def write_timelines(snapshot: Snapshot, histories: Sequence[TracedHistory], path: Path) -> list[Path]:
    """Write a figure of each GPU, and return where; of several, the GPU's index comes before the suffix."""
    written = []
    for history in histories:
        alone = len(histories) == 1
        file = path if alone else path.with_name(f"{path.stem}-{history.device.index}{path.suffix}")
        write_timeline(*_drawn(snapshot, history), file, colours=_COLOURS)
        written.append(file)
    return written


def timeline_png(snapshot: Snapshot, history: TracedHistory) -> bytes:
    """Return the figure of one GPU as PNG."""
    figure: Figure = timeline_figure(*_drawn(snapshot, history), colours=_COLOURS)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=144)
    return file.getvalue()


def _drawn(snapshot: Snapshot, history: TracedHistory) -> tuple[Timeline, dict[str, int], str]:
    moments = len(history.live_bytes)
    added = {name: [0] * moments for name in _COLOURS}
    for block in history.blocks:
        added[block.group][block.birth] += block.bytes
        if block.death is not None:
            added[block.group][block.death] -= block.bytes
    at_peak: Counter[str] = Counter(dict.fromkeys(_COLOURS, 0))
    for block in history.at_peak:
        at_peak[block.group] += block.bytes
    timeline = Timeline({name: list(accumulate(sizes)) for name, sizes in added.items()}, ())
    title = f"{snapshot.name}, GPU {history.device.index}".replace("$", r"\$")  # which begins a formula
    return timeline, dict(at_peak), title
