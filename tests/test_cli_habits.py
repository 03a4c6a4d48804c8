"""Habits of a good command-line tool: it is there at once, completes what is typed, and leaves out colour if asked."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click
import pytest

from profl.bench.cli import main
from profl.bench.cli.names import NAMES

PROFL = [sys.executable, "-c", "from profl.bench.cli import main; main(prog_name='profl')"]
HEAVY = {
    *("torch", "torchvision", "numpy", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib"),
    *("pydantic", "rich", "PIL"),
}
"""What takes longer to import than a person waits for a list of names."""

LOOK = """
import sys
from profl.bench.cli import main
main(sys.argv[1:], standalone_mode=False)
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def commands(group: click.Group) -> list[list[str]]:
    """Return the words of every command below a group, those of groups too."""
    found = []
    for name, command in group.commands.items():
        found.append([name])
        if isinstance(command, click.Group):
            found += [[name, *words] for words in commands(command)]
    return found


INSTANT = [
    ["--version"],
    ["--help"],
    *([*words, "--help"] for words in commands(main)),
    ["list"],
    *(["list", kind] for kind in NAMES if kind != "methods"),  # which shows what the classes say
]


@pytest.mark.parametrize("words", [[], *commands(main)], ids=" ".join)
def test_a_line_of_usage_breaks_between_words(words: list[str]) -> None:
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    narrow, wide = (
        command.get_usage(click.Context(command, info_name=" ".join(words), terminal_width=width))
        for width in (80, 999)
    )
    assert narrow.split() == wide.split()


@pytest.mark.parametrize("arguments", INSTANT, ids=" ".join)
def test_help_and_lists_import_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout
    assert "click" in done.stderr.split()
    assert HEAVY.isdisjoint(done.stderr.split())


@pytest.mark.parametrize("arguments", [["swep"], ["sweep", "--prest", "smoke"], ["survey", "recorder"]], ids=" ".join)
def test_a_misspelt_command_or_option_suggests_the_nearest(arguments: list[str]) -> None:
    done = subprocess.run([*PROFL, *arguments], capture_output=True, text=True)
    meant = {"swep": "sweep", "sweep": "--preset", "survey": "recorders"}[arguments[0]]
    assert done.returncode == 2
    assert re.search(rf"Did you mean.* '{meant}'", done.stderr.splitlines()[-1])


def completed(*words: str) -> list[str]:
    """Return what bash would offer for the last word."""
    line = {"COMP_WORDS": " ".join(["profl", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        PROFL, env={**os.environ, "_PROFL_COMPLETE": "bash_complete", **line}, capture_output=True, text=True
    )
    assert done.stderr == ""
    return [offer.removeprefix("plain,") for offer in done.stdout.split()]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["swe"], ["sweep"]),
        (["list", "me"], ["methods"]),
        (["measure", "--method", "he"], ["heterofl"]),
        (["sweep", "--method", "fedavg", "--method", "depth"], ["depthfl"]),
        (["fit", "--model", "resnet3"], ["resnet34"]),
        (["measure", "--dataset", "cifar"], ["cifar10", "cifar100"]),
        (["sweep", "--preset", "sm"], ["smoke"]),
        (["check", "--preset", "paper-s"], ["paper-shards"]),
        (["survey", "models", "--gpu", "virtual:t"], ["virtual:t4"]),
        (["measure", "--gpu", "abacus"], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_the_shell_completes_commands_and_names(words: list[str], offered: list[str]) -> None:
    assert completed(*words) == offered


@pytest.mark.parametrize("flag", ["method", "model", "dataset", "gpu", "preset"])
def test_every_option_that_takes_a_listed_name_completes_it(flag: str) -> None:
    """Not a report's methods, which are its run's, nor the survey's models: torchvision takes seconds to import."""
    others = [(["survey", "models"], "model"), (["report"], "method")]
    found = 0
    for words in commands(main):
        command: click.Command = main
        for word in words:
            assert isinstance(command, click.Group)
            command = command.commands[word]
        for option in command.params:
            if f"--{flag}" in option.opts and (words, flag) not in others:
                offers = [item.value for item in option.shell_complete(click.Context(command), "")]
                assert offers == list(NAMES[f"{flag}s"]())
                found += 1
    assert found >= 2


def test_what_help_says_of_completion_is_what_bash_needs() -> None:
    done = subprocess.run([*PROFL, "--help"], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if "eval" in line)
    variable, value = re.findall(r"\$\((\w+)=(\w+) profl\)", line)[0]
    script = subprocess.run(PROFL, env={**os.environ, variable: value}, capture_output=True, text=True, check=True)
    assert f"{variable}=bash_complete" in script.stdout
    subprocess.run(["bash", "-n"], input=script.stdout, text=True, check=True)


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:[349][0-7]|10[0-7]|[34]8;[\d;]+)(?:;\d+)*m")
"""An escape that sets a colour. Bold is none, and a bar on a terminal moves the cursor."""


def on_terminal(arguments: list[str], folder: Path, **environment: str) -> str:
    """Return everything that a command writes to a terminal of its own."""
    ours, its = pty.openpty()
    shown = bytearray()
    with subprocess.Popen(
        [*PROFL, *arguments], stdin=its, stdout=its, stderr=its, cwd=folder, env=_terminal(environment)
    ) as process:
        os.close(its)
        with suppress(OSError):  # how Linux says that nobody holds the other end any more
            while block := os.read(ours, 1 << 16):
                shown += block
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def _terminal(environment: Mapping[str, str]) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    return {**plain, "TERM": "xterm-256color", "COLUMNS": "100", **environment}


TINY = """
gpu = "virtual:sm_90"
[grid]
method = ["fedavg"]
model = ["resnet18"]
width = [2]
dataset = ["digits"]
tier = ["100%"]
seed = [0]
[recipe]
rounds = 1
devices = 10
participants = 1
local_epochs = 1
"""


MEASURE = ["measure", "--method", "fedavg", "--width", "2", "--batch-size", "4", "--gpu", "virtual:sm_90"]
SWEEP = ["sweep", "--config", "tiny.toml", "--workers", "1", "--output", "run"]


@pytest.mark.parametrize(
    ("arguments", "bar", "setting"),
    [(MEASURE, "measuring", "1"), (MEASURE, "measuring", ""), (SWEEP, "rounds", "1")],
    ids=["measure", "measure in colour", "sweep"],
)
def test_no_color_is_respected_by_bars_and_tables(arguments: list[str], bar: str, setting: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    shown = on_terminal(arguments, tmp_path, NO_COLOR=setting)
    assert bar in shown
    assert "\x1b[" in shown
    assert bool(COLOUR.search(shown)) == (not setting)


def test_the_pattern_finds_colours_alone() -> None:
    for coloured in ("\x1b[31m", "\x1b[1;32m", "\x1b[38;5;237m", "\x1b[97m", "\x1b[38;2;1;2;3m", "\x1b[0;44m"):
        assert COLOUR.search(coloured), repr(coloured)
    for plain in ("\x1b[1m", "\x1b[0m", "\x1b[2K", "\x1b[1A", "\x1b[?25l", "\x1b[1;3m", "\x1b[39m"):
        assert not COLOUR.search(plain), repr(plain)
