"""How a sweep shows itself: what is running, done and failed, and the highest score so far."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from profl.bench.cell import Cell
from profl.bench.engine import Outcome
from profl.bench.held import HELD
from profl.bench.progress import SweepEvents, SweepProgress
from tests.conftest import small_cell

WIDE, NARROW, IDEAL = small_cell("heterofl", "80%"), small_cell("allsmall", "60%"), small_cell("fedavg")


def shown(terminal: bool, *events: tuple[str, Cell, object]) -> str:
    """Return what a sweep of these events writes, on a terminal of 80 columns or into a file."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=80, color_system=None, legacy_windows=False)
    with SweepProgress([WIDE, NARROW, IDEAL], 0, console) as progress:
        for event, cell, value in events:
            getattr(progress, event)(*([cell] if event == "measured" else [cell, value]))
    return written.getvalue()


def accuracy(share: float) -> Outcome:
    return Outcome({"last_five_accuracy": share, "participation_share": 1.0})


def test_a_cell_in_which_nobody_could_train_says_so():
    untrained = Outcome({"last_five_accuracy": 0.1, "participation_share": 0.0})
    told = " ".join(shown(False, ("finished", WIDE, untrained)).split())
    assert "score 10.0% of the untrained network: no task fits any device ('--dry-run' tells what each needs)" in told


def test_a_terminal_shows_what_is_running_done_and_failed_and_the_best_that_obeys_memory():
    events = [
        ("measured", WIDE, None),
        ("finished", IDEAL, accuracy(0.9)),
        ("finished", WIDE, accuracy(0.5)),
        ("round", NARROW, {"round": 1}),
    ]
    last = shown(True, *events)
    assert "1 running, 2 done, 0 failed; highest score of these heterofl at 80%, 50.0%" in last
    assert "highest score of these fedavg" not in last
    assert "1 running, 1 done, 1 failed" in shown(True, *events[2:], ("finished", IDEAL, Outcome(error="it broke")))


def test_a_file_gets_a_line_for_a_cell_that_is_over_and_now_and_then_one_for_a_round(monkeypatch: pytest.MonkeyPatch):
    events = [("round", WIDE, {"round": 3}), ("finished", WIDE, Outcome(error="it broke"))]
    (line,) = shown(False, *events).splitlines()
    assert line == "failed (1 of 3) heterofl on digits, resnet18 width 2, tier 80%, seed 0: it broke"
    monkeypatch.setattr("profl.bench.progress.SILENCE_SECONDS", -1)
    told, _ = shown(False, *events).splitlines()
    assert told.startswith("round 3 of 10 of heterofl on digits")
    assert told.endswith("(1 running, 0 done, 0 failed)")


@pytest.mark.parametrize(
    ("peak_bytes", "held", "told"),
    [
        (30 << 20, (0, 0.0, 0.0), "peak reserved 30 MiB, nothing held"),
        (30 << 20, (1 << 20, 0.0, 0.0), "peak reserved 30 MiB, up to 1 MiB held, not growing"),
        (30 << 20, (None, None, None), "peak reserved 30 MiB, held: ?"),
        (None, (None, None, None), "nobody could train"),
    ],
)
def test_a_run_for_memory_alone_ends_with_its_memory(peak_bytes: int | None, held: tuple[float | None, ...], told: str):
    cell = small_cell("heterofl", memory_only=True)
    summary = {"last_five_accuracy": None, "peak_reserved_bytes": peak_bytes, **dict(zip(HELD, held, strict=True))}
    for failed, also in ((None, ""), (0, ""), (3, ", trainings that ran out of memory: 3")):
        outcome = Outcome(summary | {"out_of_memory_trainings": failed})
        (line,) = shown(False, ("finished", cell, outcome)).splitlines()
        assert line.endswith(f": {told}{also if peak_bytes else ''}")


def test_a_cell_of_another_sweep_is_neither_done_nor_failed(capsys: pytest.CaptureFixture[str]):
    (line,) = shown(False, ("finished", WIDE, Outcome(taken=True))).splitlines()
    assert line.startswith("skipped (1 of 3) heterofl")
    assert line.endswith(": another sweep is at it")
    with SweepEvents() as events:
        events.finished(WIDE, Outcome(taken=True))
    assert json.loads(capsys.readouterr().out) == {"event": "skipped", "cell": WIDE.folder_name}
    assert (events.taken, events.failures) == ([WIDE], [])


def test_events_are_json_lines_in_which_unknown_is_null(capsys: pytest.CaptureFixture[str]):
    with SweepEvents() as events:
        events.round(WIDE, {"round": 1, "train_loss": math.nan})
        events.finished(WIDE, accuracy(0.5))
        events.finished(NARROW, Outcome(error="it broke"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"event": "round", "cell": WIDE.folder_name, "round": 1, "train_loss": None},
        {"event": "finished", "cell": WIDE.folder_name, "last_five_accuracy": 0.5, "participation_share": 1.0},
        {"event": "failed", "cell": NARROW.folder_name, "error": "it broke"},
    ]
    assert events.failures == [(NARROW, "it broke")]


def test_other_arithmetic_is_told_in_one_line_or_one_event_a_cell(capsys: pytest.CaptureFixture[str]):
    differences = {"a-1": "instructions native and avx2", "b-2": "instructions native and avx2"}
    written = io.StringIO()
    SweepProgress([], 0, Console(file=written, width=80)).trained_otherwise(differences)
    (line,) = written.getvalue().splitlines()
    assert line.startswith("2 cells were trained by other arithmetic (instructions native and avx2): ")
    with SweepEvents() as events:
        events.trained_otherwise(differences)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "trained_otherwise", "cell": name, "difference": told} for name, told in differences.items()
    ]
