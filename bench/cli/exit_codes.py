"""How commands end: one number for each way, so that a script can tell them apart."""

from __future__ import annotations

from enum import IntEnum

import click


class ExitCode(IntEnum):
    """What a command ends with; ``docs/guarding.md`` tells users of it."""

    DONE = 0
    BAD_INPUT = 1
    USAGE = 2
    DIFFERENT = 3
    FAILED = 4
    INTERRUPTED = 130

    @property
    def about(self) -> str:
        """When it is given, for people."""
        return {
            ExitCode.DONE: "done",
            ExitCode.BAD_INPUT: "a value cannot be used: a name, a number, a file (or an error of profl itself)",
            ExitCode.USAGE: "no such command or option, a value is missing, or options that exclude each other",
            ExitCode.DIFFERENT: "'check' found memory that differs from its references",
            ExitCode.FAILED: "it was tried and failed: no such GPU here, a step or a cell with an error, a full disk",
            ExitCode.INTERRUPTED: "interrupted, by Ctrl-C or SIGTERM; what is finished is kept",
        }[self]


class Ended(click.ClickException):
    """The end of a command that is no success, with what to print and how it ends."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]


def code_of(error: Exception) -> ExitCode:
    """Return how a command ends that an error ends, one that users are meant to see."""
    from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed, UnknownGpu, UnusableStep

    match error:
        case UnknownGpu() | UnusableStep():
            return ExitCode.BAD_INPUT
        case GpuUnavailable() | MeasurementFailed():
            return ExitCode.FAILED
        case FileNotFoundError() | FileExistsError() | NotADirectoryError() | IsADirectoryError() | PermissionError():
            return ExitCode.BAD_INPUT
        case OSError():
            return ExitCode.FAILED
    return ExitCode.BAD_INPUT


def table() -> str:
    """Return the codes and when each is given, a line for each."""
    return "\n".join(f"{code:>3}  {code.about}" for code in ExitCode)
