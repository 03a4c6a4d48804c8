"""Write a timeline in the format of Chrome's tracing, which Perfetto and ``chrome://tracing`` show.

Its clock is the allocator's: a microsecond there stands for one allocation or release. Time on a virtual GPU says
nothing, and the numbers stay the same from run to run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from profl.bench.files import naming
from profl.bench.memory.timeline import Timeline

_PROCESS = 1
_STEPS, _PHASES = 1, 2


def trace_events(timeline: Timeline, name: str) -> list[dict[str, Any]]:
    """Return the trace's events: steps and phases as slices on two tracks, live bytes by category as one counter."""
    return [
        _name("process_name", name),
        _name("thread_name", "steps", _STEPS),
        _name("thread_name", "phases", _PHASES),
        *_slices(timeline),
        *_counters(timeline),
    ]


def write_trace(timeline: Timeline, name: str, path: Path) -> None:
    """Write the trace as JSON to ``path``; ``name`` is what it shows as the process."""
    trace = {
        "traceEvents": trace_events(timeline, name),
        "otherData": {"unit of time": "one allocation or release of the allocator"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        path.write_text(json.dumps(trace))


def _name(kind: str, name: str, thread: int = 0) -> dict[str, Any]:
    return {"ph": "M", "pid": _PROCESS, "tid": thread, "name": kind, "args": {"name": name}}


def _slices(timeline: Timeline) -> Iterator[dict[str, Any]]:
    end = len(next(iter(timeline.live_bytes.values()))) - 1
    step_begins = step = 0
    ends = [moment for moment, _ in timeline.phases[1:]] + [end]
    for (begins, name), ends_at in zip(timeline.phases, ends, strict=True):
        yield _slice(name, begins, ends_at, _PHASES)
        if name == "between":
            if step:
                yield _slice(f"step {step}", step_begins, begins, _STEPS)
            step, step_begins = step + 1, begins


def _slice(name: str, begins: int, ends: int, thread: int) -> dict[str, Any]:
    return {"ph": "X", "pid": _PROCESS, "tid": thread, "name": name, "ts": begins, "dur": ends - begins}


def _counters(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for moment, sizes in enumerate(zip(*timeline.live_bytes.values(), strict=True)):
        live = dict(zip(timeline.live_bytes, sizes, strict=True))
        yield {"ph": "C", "pid": _PROCESS, "tid": 0, "name": "live bytes", "ts": moment, "args": live}
