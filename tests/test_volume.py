"""``-q`` and ``-v``: what is told beside results and errors."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from profl.bench.cli import main
from profl.bench.engine import Outcome
from profl.bench.progress import SweepProgress
from profl.bench.results.folder import folder_of
from tests.conftest import small_cell

pytestmark = pytest.mark.usefixtures("commands_are_warm")

MEASURE = ("measure", "--method", "fedavg", "--width", "2", "--batch-size", "4", "--gpu", "t4", "--json")
CONFIG = """
gpu = "virtual:t4"
grid = {method = ["fedavg"], model = ["resnet18"], width = [2], dataset = ["digits"], tier = ["100%"], seed = [0]}
"""


def profl(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


def test_measure_says_of_each_task_how_long_it_took_if_asked():
    verbose = profl(*MEASURE, "-v")
    assert re.fullmatch(r"fedavg/full model of resnet18 width 2, .*: \d+\.\d s\n", verbose.stderr)
    assert profl(*MEASURE).stderr == ""
    assert profl(*MEASURE, "--quiet").stdout == verbose.stdout


@pytest.mark.parametrize("command", ["sweep", "tune", "measure"])
def test_both_at_once_are_refused(command: str):
    refused = profl(command, "-q", "-v")
    assert refused.exit_code == 2
    assert "give either --quiet or --verbose" in refused.stderr


LONG = ["sweep", "tune", "measure", "survey models", "survey methods", "survey recorders"]


@pytest.mark.parametrize("command", LONG)
def test_whatever_takes_long_can_be_quiet(command: str):
    assert "-q, --quiet" in profl(*command.split(), "--help").stdout


def test_a_quiet_sweep_tells_errors_alone(tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(CONFIG)
    words = ["sweep", "--config", tmp_path / "tiny.toml", "--cells", "2/2", "--workers", 1]
    words += ["--output", tmp_path / "run"]
    assert "0 cells in" in profl(*words).stderr
    assert "cells in" not in profl(*words, "-q").stderr
    folder = folder_of(small_cell(), tmp_path / "run")
    folder.begin(small_cell().to_dict())
    (folder.path / "cell.json").write_text("{")
    broken = profl(*words, "-q")
    assert broken.exit_code == 1
    assert broken.stderr.startswith("Error: ")


def test_a_verbose_sweep_has_a_line_for_every_round_also_where_bars_are_drawn():
    lines: dict[bool, str] = {}
    for verbose in (False, True):
        console = Console(file=io.StringIO(), force_terminal=True, width=200)
        with SweepProgress([small_cell()], 0, console, verbose) as progress:
            progress.measured(small_cell())
            for number in (1, 2):
                progress.round(small_cell(), {"round": number})  # type: ignore[typeddict-item]
            progress.finished(small_cell(), Outcome(error="no"))
        lines[verbose] = console.file.getvalue()  # type: ignore[attr-defined]
    for told in ("measured fedavg on digits", "round 1 of 10 of fedavg", "round 2 of 10 of fedavg"):
        assert told in lines[True]
        assert told not in lines[False]
