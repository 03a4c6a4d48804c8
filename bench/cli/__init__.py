"""The command line: one command a file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from profl.bench.cli.check import check
from profl.bench.cli.compare import compare
from profl.bench.cli.doctor import doctor
from profl.bench.cli.fit import fit
from profl.bench.cli.list import list_names
from profl.bench.cli.measure import measure
from profl.bench.cli.report import report
from profl.bench.cli.show import show
from profl.bench.cli.survey import survey
from profl.bench.cli.sweep import sweep
from profl.bench.errors import InputError, in_one_line


class Friendly(click.Group):
    """A group whose commands end Ctrl-C, bad input, and files that cannot be read or written, with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        from pydantic import ValidationError

        from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed
        from profl.bench.validation import describe

        try:
            with _terminated_like_ctrl_c():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise SystemExit(130) from None
        except ValidationError as error:
            raise click.ClickException(describe(error)) from error
        except (InputError, GpuUnavailable, MeasurementFailed) as error:
            raise click.ClickException(in_one_line(error)) from error
        except BrokenPipeError:  # of `| head`, which click ends without a word
            raise
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end the workers and keep what is finished, as Ctrl-C does."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(cls=Friendly, context_settings={"help_option_names": ["-h", "--help"]})
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


for command in (sweep, measure, show, compare, fit, survey, report, check, list_names, doctor):
    main.add_command(command)
