"""How commands end: as ``docs/guarding.md`` says, and in one line that names the file where a disk is full."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from profl.bench.cli import main
from profl.bench.cli.exit_codes import ExitCode, code_of
from profl.bench.errors import InputError
from profl.bench.files import naming, write_whole
from profl.bench.memory.errors import GpuUnavailable, OutOfMemory
from profl.bench.memory.gpu.profile import resolve
from profl.bench.results.folder import CellFolder

pytestmark = pytest.mark.covers_children

PROFL = [sys.executable, "-c", "from profl.bench.cli import main; main(prog_name='profl')"]
FULL = Path("/dev/full")
"""A file that is always full."""


def test_the_document_and_help_tell_of_every_code():
    text = (Path(__file__).parents[1] / "docs" / "guarding.md").read_text()
    told = {int(number): about for number, about in re.findall(r"^\| (\d+) \| (.+) \|$", text, flags=re.MULTILINE)}
    assert told == {code.value: code.about for code in ExitCode}
    printed = CliRunner().invoke(main, ["--help"]).output
    assert all(f"{code.value:>3}  {code.about}" in printed for code in ExitCode)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 1),
        (FileNotFoundError(errno.ENOENT, "no such file", "x"), 1),
        (PermissionError(errno.EACCES, "no", "x"), 1),
        (OSError(errno.ENOSPC, "full", "x"), 4),
        (GpuUnavailable("no driver"), 4),
        (OutOfMemory("x"), 4),
    ],
)
def test_every_error_has_its_code(error: Exception, code: int):
    assert code_of(error) == code


def test_a_gpu_that_does_not_exist_is_bad_input():
    for name in ("virtual:abacus", "h10", "virtual:gtx1080"):
        with pytest.raises(GpuUnavailable) as told:
            resolve(name)
        assert code_of(told.value) == ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["list", "gpu"], 1, "unknown 'gpu': did you mean 'gpus'? Choose one of methods, "),
        (["sweep", "--engine", "locl"], 1, "unknown 'locl': did you mean 'local'? Choose one of local, ray"),
        (["sweep", "--option", "profl.pace=equl"], 1, "pace cannot be 'equl': .*; did you mean 'equal'?"),
        (["sweep", "--partition", "dirichlt:1"], 1, "unknown partition 'dirichlt:1': did you mean 'dirichlet'? Write"),
        (["sweep", "--partition", "dirichlet:-1"], 1, "unknown partition 'dirichlet:-1': write iid"),
        (["measure", "--what-if", "expandable_segment:True"], 1, "did you mean 'expandable_segments'? Use "),
        (["report", "results/default", "--highlight", "prolf"], 1, "did you mean 'profl'? Choose one of "),
        (["fit", "--budget", "256"], 1, "'256' has no unit: use one of .*, as in 256MiB$"),
        (["sweep", "--tier", "256"], 1, "'256' has no unit: .*, as in 256MiB, or 256% for a share"),
        (["compare", "none.pickle", "none.pickle"], 1, "none.pickle"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_misspelt_is_told_with_the_nearest_and_its_code(arguments: list[str], code: int, line: str):
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == code
    assert re.search(line.replace("?", r"\?"), done.output.splitlines()[-1]), done.output


VALUES = {
    "sweep": ["--width x", "--seed x", "--rounds x", "--workers 0", "--workers x", "--cells half", "--engine no"],
    "sweep --preset smoke": ["--log-to no", "--instructions no", "--method no", "--gpu t5", "--technique no"],
    "tune": ["--learning-rate x", "--held-out-share x", "--workers 0", "--method no", "--tier 256"],
    "measure": ["--width x", "--gpu no", "no", "none.py:build"],
    "measure --method fedavg": ["--batch-size 0", "--task no", "--technique no"],
    "fit --budget 1MiB": ["--rounds x", "--batch-size 0", "--budget no", "--gpu t5", "no", "none.py:build"],
    "survey models": ["--model no", "--gpu no", "--image-size x", "--workers 0"],
    "survey methods": ["--method no", "--workers 0"],
    "survey recorders": ["--subject no"],
    "report results/ablations/warm-up": [
        "--axis no",
        "--format no",
        "--width no",
        "--label no",
        "--method no",
        "--style no",
    ],
    "report": ["nowhere"],
    "check": ["--reference nowhere", "--update --preset no", "--update --config no"],
    "list": ["no"],
    "show": ["nowhere"],
    "compare": ["nowhere nowhere"],
    "runs": ["nowhere"],
    "runs rm": ["nowhere"],
}
"""What each command takes, given wrongly."""
USAGE = ["no", "sweep --no", "sweep --width", "sweep no", "report", "fit", "check --update --preset smoke --config x"]
USAGE += ["measure --argument a=1", "sweep -q -v", "sweep --address x", "report a b --bare", "runs rm", "tune --preset"]


@pytest.mark.parametrize("words", [f"{command} {value}" for command, values in VALUES.items() for value in values])
def test_a_value_that_cannot_be_used_is_bad_input(words: str):
    done = CliRunner().invoke(main, words.split(), catch_exceptions=False)
    assert done.exit_code == ExitCode.BAD_INPUT, done.output
    assert done.output.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("words", USAGE)
def test_a_line_that_no_command_understands_is_usage(words: str):
    done = CliRunner().invoke(main, words.split(), catch_exceptions=False)
    assert done.exit_code == ExitCode.USAGE, done.output


def test_every_command_is_given_wrong_values():
    context = click.Context(main)
    leaves = [
        f"{name} {below}".strip()
        for name, command in main.commands.items()
        for below in (command.list_commands(context) if isinstance(command, click.Group) else [""])
    ]
    valueless = {"doctor", "runs list"}  # 'runs' lists
    assert {leaf for leaf in leaves if not any(words.startswith(leaf) for words in VALUES)} == valueless


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("words", [["list"], ["--help"], ["runs", "."]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_that_is_full_is_named(words: list[str], unbuffered: str, tmp_path: Path):
    CellFolder(tmp_path / "cells" / "x-01234567").path.mkdir(parents=True)
    with FULL.open("w") as full:
        done = subprocess.run(
            [*PROFL, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={"PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
    assert (done.returncode, done.stderr) == (4, "Error: standard output: No space left on device\n")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_a_file_on_a_full_disk_is_named(tmp_path: Path):
    folder = CellFolder(tmp_path)
    (tmp_path / "rounds.jsonl").symlink_to(FULL)
    with pytest.raises(OSError, match=r"No space left on device: '.*/rounds.jsonl'"):
        folder.append_round({"round": 1}, {"round": 1})
    with pytest.raises(OSError, match=f"'{tmp_path}/table.csv'"), naming(tmp_path / "table.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="'other'"), naming(tmp_path / "table.csv"):
        raise OSError(errno.EIO, "broken", "other")
    write_whole(tmp_path / "table.csv", "whole")
