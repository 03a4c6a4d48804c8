"""The command line: one command a file.

A command's module imports click alone, and its function what the command needs: help is there at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from textwrap import indent
from types import FrameType
from typing import Any

import click

from profl.bench.cli.check import check
from profl.bench.cli.compare import compare
from profl.bench.cli.doctor import doctor
from profl.bench.cli.exit_codes import Ended, ExitCode, code_of, table
from profl.bench.cli.fit import fit
from profl.bench.cli.list import list_names
from profl.bench.cli.measure import measure_command
from profl.bench.cli.report import report
from profl.bench.cli.runs import runs
from profl.bench.cli.show import show
from profl.bench.cli.survey import survey
from profl.bench.cli.sweep import sweep
from profl.bench.cli.tune import tune
from profl.bench.errors import InputError, in_one_line

PATIENCE_SECONDS = 1.0
"""How long a command that is stopped may take before it says that it heard."""


class Friendly(click.Group):
    """A group whose commands end Ctrl-C, bad input, and files that cannot be read or written, with one line."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _ended_in_one_line():  # here --help is printed
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _ended_in_one_line():
            _print_any_text()
            with _stoppable():
                return super().invoke(ctx)


@contextmanager
def _ended_in_one_line() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        click.echo("; ".join(["stopped", *map(str, stop.args)]), err=True)
        raise SystemExit(ExitCode.INTERRUPTED) from None
    except click.BadParameter as error:  # a value; one that is missing, or too many of them, are usage
        if not isinstance(error, click.MissingParameter):
            error.exit_code = ExitCode.BAD_INPUT  # type: ignore[misc]
        raise
    except (click.ClickException, click.exceptions.Exit, click.Abort):  # --help among them
        raise
    except BrokenPipeError:  # of `| head`, which click ends without a word
        raise
    except Exception as error:
        line = _in_one_line(error)
        if line is None:
            raise
        raise Ended(line, code_of(error)) from error


def _in_one_line(error: Exception) -> str | None:
    """Return what a user is told of an error; None if it is none of theirs to see without its traceback."""
    from pydantic import ValidationError

    from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed
    from profl.bench.validation import describe, printable

    match error:
        case ValidationError():
            return printable(describe(error))
        case InputError() | GpuUnavailable() | MeasurementFailed():
            return printable(in_one_line(error))
        case FileExistsError() | NotADirectoryError():
            return printable(f"{_place(error)}: it is a file or lies in one, where a folder is needed: name another")
        case OSError():
            return printable(f"{_place(error)}: {error.strerror or error}")
    return None


def _place(error: OSError) -> str:
    """Return the file that could not be read or written: also standard output, which may be one."""
    if error.filename is not None:
        return os.fsdecode(error.filename)
    *_, (raised, _) = traceback.walk_tb(error.__traceback__)
    if raised.f_globals["__name__"].partition(".")[0] not in ("click", "rich"):  # who print
        return "a file"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try once more at its end, and complain
    return "standard output"


def _print_any_text() -> None:
    """Let the name of a file be printed whose bytes are no text."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM end the workers and keep what is finished, as Ctrl-C does; say so where that takes a while."""
    notices: list[threading.Timer] = []

    def later(seconds: float, do: Callable[..., object], *arguments: Any, **more: Any) -> threading.Timer:
        timer = threading.Timer(seconds, do, arguments, more)
        timer.daemon = True
        timer.start()
        return timer

    def stop(number: int, frame: FrameType | None) -> None:
        if _forgives(frame):  # the request would be lost
            later(0.02, os.kill, os.getpid(), number)
            return
        notices.append(later(PATIENCE_SECONDS, click.echo, "stopping ...", err=True))
        raise KeyboardInterrupt

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as of a job in the background
    requests = [signal.SIGTERM] if ignored else [signal.SIGINT, signal.SIGTERM]
    try:
        before = {request: signal.signal(request, stop) for request in requests}
    except ValueError:  # not in the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        for request, handler in before.items():
            signal.signal(request, handler)
        for notice in notices:
            notice.cancel()


def _forgives(frame: FrameType | None) -> bool:
    """Return whether Python ignores what is raised here, as in what it calls when what is weakly referred to dies."""
    while frame is not None:
        if os.path.basename(frame.f_code.co_filename) in ("_weakrefset.py", "weakref.py"):
            return True
        frame = frame.f_back
    return False


EPILOG = f"""\b
How commands end, for scripts:
{indent(table(), "  ")}

\b
To complete commands, options and names with the tab key, put into ~/.bashrc:
  eval "$(_PROFL_COMPLETE=bash_source profl)"
  COMP_WORDBREAKS=${{COMP_WORDBREAKS//:}}  # virtual:h100 is one word
Other shells: zsh_source and fish_source, and no second line."""


@click.group(cls=Friendly, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="profl")
def main() -> None:
    """Measured training memory of ProFL and its rivals in memory-constrained federated learning.

    \b
    Examples:
      profl sweep --preset smoke
      profl measure --method profl --model resnet18 --batch-size 64 --gpu virtual:h100
      profl fit --budget 256MiB --gpu virtual:jetson-orin
      profl report results/default
      profl check
    """


for command in (sweep, tune, runs, measure_command, show, compare, fit, survey, report, check, list_names, doctor):
    main.add_command(command)
