"""``-q`` and ``-v``: what is told beside results and errors."""

from __future__ import annotations

import io
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from profl.bench.cli import main
from profl.bench.doctor import Check, Finding
from profl.bench.engine import Outcome
from profl.bench.progress import SweepProgress
from profl.bench.results.folder import folder_of
from tests.conftest import small_cell
from tests.test_cli_habits import commands

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


LONG = ["sweep", "tune", "measure", "fit", "check", "report x", "doctor", "survey models", "survey methods"]
LONG += ["survey recorders"]


@pytest.mark.parametrize("command", LONG)
def test_both_at_once_are_refused(command: str):
    refused = profl(*command.split(), "-q", "-v")
    assert refused.exit_code == 2
    assert "give either --quiet or --verbose" in refused.stderr


def test_a_command_that_can_be_quiet_can_be_verbose_and_the_others_show_no_progress():
    found = {}
    for words in commands(main):
        command: click.Command = main
        for word in words:
            assert isinstance(command, click.Group)
            command = command.commands[word]
        found[" ".join(words)] = [option for one in command.params for option in one.opts if option in ("-q", "-v")]
    assert {name for name, options in found.items() if options} == {line.removesuffix(" x") for line in LONG}
    assert all(options in (["-q", "-v"], []) for options in found.values())


def test_fit_tells_of_every_batch_and_report_and_doctor_of_every_part_if_asked(tmp_path: Path, monkeypatch):
    tried = profl("fit", "--budget", "9GiB", *MEASURE[1:], "-v").stderr
    assert re.search(r"^fedavg/full model of .* batch 4.* runs in 9 GiB$", tried, flags=re.MULTILINE)
    monkeypatch.setattr("profl.bench.doctor.examine", lambda: [Check("a part", lambda: Finding("a part", "so"))])
    assert re.fullmatch(r"a part: 0\.\d s\n", profl("doctor", "-v").stderr)
    assert profl("doctor", "-q").stderr == ""
    run = Path(__file__).parents[1] / "results" / "ablations" / "warm-up"
    words = ["report", run, "--output", tmp_path, "--format", "png"]
    drawn = [line.partition(":")[0] for line in profl(*words, "-v").stderr.splitlines()]
    assert "learning_curves" in drawn
    assert set(drawn) == {path.stem for path in tmp_path.glob("*.png")}


@pytest.mark.usefixtures("one_figure")
def test_a_quiet_report_is_its_table_alone(tmp_path: Path):
    run = Path(__file__).parents[1] / "results" / "ablations" / "warm-up"
    words = ["report", run, "--output", tmp_path, "--format", "png"]
    usual, quiet = profl(*words), profl(*words, "-q")
    files, table = usual.stdout.splitlines(), quiet.stdout.splitlines()
    assert table == files[-len(table) :]
    assert {Path(line) for line in files[: -len(table)]} == set(tmp_path.iterdir())
    assert any(line.startswith("profl") for line in table)
    assert profl("report", run, run.with_name("no-shrinking"), "--output", tmp_path, "-q").output == ""


def test_a_quiet_sweep_tells_errors_alone(tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(CONFIG)
    words = ["sweep", "--config", tmp_path / "tiny.toml", "--cells", "2/2", "--workers", 1]
    words += ["--output", tmp_path / "run"]
    assert "0 of the grid's 1 cell in" in profl(*words).stderr
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
