"""Tools are told what there is to tell, and their troubles stay theirs."""

from __future__ import annotations

import io
import math
import posixpath
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profl.bench.cli.running import carry_out
from profl.bench.engine import InProcess, Outcome
from profl.bench.experiment import Experiment
from profl.bench.memory.process.probe import Prober
from profl.bench.results.folder import folder_of
from profl.bench.terminal import Terminal
from profl.bench.tracking import Tracking
from profl.bench.tracking.values import flat, numbers, plain_name
from tests.conftest import SMALL_RECIPE, small_cell
from tests.sweeps import Silent
from tests.tracking.test_tools import CELL, begun, row


class Noting:
    """A tool that notes what it is told, and may fail at one thing."""

    def __init__(self, name: str, fails_at: str = "", error: BaseException | None = None) -> None:
        self.name, self.told = name, []
        self._fails_at, self._error = fails_at, error

    def __getattr__(self, what: str) -> Callable[..., None]:
        def note(*told: Any) -> None:
            print("a library that prints")
            self.told.append((what, *told))
            if what == self._fails_at:
                raise self._error

        return note


@pytest.mark.parametrize("error", [RuntimeError("no \x1b[31mspace\nleft"), SystemExit(3), OSError(28, "full")])
def test_a_tool_that_fails_is_told_once_and_leaves_the_sweep_and_other_tools_alone(
    tmp_path: Path, error: BaseException, capsys: pytest.CaptureFixture[str]
):
    said, shown = io.StringIO(), Silent()
    bad, good = Noting("bad", "round", error), Noting("good")
    begun(tmp_path)
    with Tracking(shown, [bad, good], tmp_path, Terminal(file=said, width=500)) as told:
        told.measured(CELL)
        for number in (1, 2):
            told.round(CELL, row(number))
        told.finished(CELL, Outcome({"last_five_accuracy": 0.5, "final_accuracy": 0.5}))
    (line,) = said.getvalue().splitlines()
    assert line.startswith("note: nothing more goes to bad, the sweep goes on (")
    assert "\x1b" not in line
    assert [what for what, *_ in bad.told] == ["begin", "round"]
    assert [what for what, *_ in good.told] == ["begin", "round", "round", "end", "close"]
    assert shown.rounds == [(CELL.folder_name, 1), (CELL.folder_name, 2)]
    assert shown.errors == {CELL.folder_name: None}
    assert capsys.readouterr().out == ""  # which may be another program's
    assert [place.partition(":")[0] for place in told.places()] == ["good"]


def test_a_cell_begins_with_the_rounds_on_disk_and_ends_at_its_last(tmp_path: Path):
    folder, tool = begun(tmp_path), Noting("tool")
    for number in (1, 2, 3):
        folder.append_round(row(number), {"round": number})
    with Tracking(Silent(), [tool], tmp_path, Terminal(file=io.StringIO())) as told:
        told.round(CELL, row(3))  # a worker may be ahead of what is told of it
        told.finished(CELL, Outcome({"last_five_accuracy": 0.5, "final_accuracy": 0.5}))
    (_, name, description, earlier), (_, _, third), (_, _, summary, error), _ = tool.told
    assert (name, description) == (CELL.folder_name, CELL.to_dict())
    assert [point.step for point in (*earlier, third, summary)] == [1, 2, 3, 3]
    assert (summary.values["summary/last_five_accuracy"], error) == (0.5, None)


def test_rounds_that_cannot_be_read_end_the_tools_and_not_the_sweep(tmp_path: Path):
    folder, said, shown = begun(tmp_path), io.StringIO(), Silent()
    (folder.path / "rounds.jsonl").write_text("{damaged}\n{damaged}\n")
    with Tracking(shown, [Noting("one"), Noting("other")], tmp_path, Terminal(file=said, width=500)) as told:
        told.round(CELL, row(3))
        told.finished(CELL, Outcome({"last_five_accuracy": 0.5, "final_accuracy": 0.5}))
    assert [line.split(",")[0] for line in said.getvalue().splitlines()] == [
        "note: nothing more goes to one",
        "note: nothing more goes to other",
    ]
    assert shown.errors == {CELL.folder_name: None}


def test_a_cell_that_another_sweep_is_at_is_left_to_it(tmp_path: Path):
    shown, tool = Silent(), Noting("tool")
    with Tracking(shown, [tool], tmp_path, Terminal(file=io.StringIO())) as told:
        told.finished(CELL, Outcome(taken=True))
    assert told.places() == []
    assert tool.told == [("close",)]
    assert shown.taken == [CELL.folder_name]


def test_only_known_numbers_are_told():
    values = {"a": 1, "b": math.nan, "c": None, "d": "text", "e": [1], "tasks": {"width 1/2": 3}, "f": math.inf}
    assert numbers(values) == {"a": 1.0, "tasks/width 1/2": 3.0}
    assert dict(flat({"tier": "80%", "recipe": {"rounds": 3}, "listed": [1, 2]})) == {
        "tier": "80%",
        "recipe.rounds": "3",
        "listed": "[1, 2]",
    }


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_names_are_plain_and_stay_apart(names: list[str]):
    plain = [plain_name(f"tasks/{name}") for name in names]
    assert len(set(plain)) == len(names)
    for name in plain:
        assert re.fullmatch(r"[A-Za-z0-9_./ :-]+", name)
        assert posixpath.normpath(name) == name
        assert len(name) <= 250


def test_a_sweep_can_be_watched_with_tensorboard(tmp_path: Path, prober: Prober, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("tensorboard", reason="pip install 'profl[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cell = small_cell("exclusive", "100%", recipe=replace(SMALL_RECIPE, rounds=2))
    for _ in range(2):  # what is done is not told again
        progress = carry_out([Experiment.of(cell)], tmp_path, InProcess(), prober, log_to=["tensorboard"] * 2)
        assert progress.failures == []
    folder = f"{tmp_path}/tensorboard"
    assert capsys.readouterr().err.count(f"tensorboard: in {folder}, shown by: tensorboard --logdir {folder}\n") == 1
    found = EventAccumulator(str(tmp_path / "tensorboard" / cell.folder_name))
    found.Reload()
    rows = folder_of(cell, tmp_path).rounds()
    assert [(it.step, it.value) for it in found.Scalars("uploaded_bytes")] == [
        (row["round"], row["uploaded_bytes"]) for row in rows
    ]
    summary = folder_of(cell, tmp_path).summary()
    assert found.Scalars("summary/last_five_accuracy")[0].value == pytest.approx(summary["last_five_accuracy"])
