"""Code that is plugged in: what it prints, how it ends and what it changes does not reach past its own cell."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import torch
from pydantic import ValidationError

from profl.bench.errors import InputError, in_one_line


@contextmanager
def contained(who: str) -> Iterator[None]:
    """Run code of a method or a model; what it prints goes to stderr, as stdout may be another program's.

    Parameters
    ----------
    who
        Whose code it is, for the error: ``method 'profl'``.

    Raises
    ------
    InputError
        If the code ends the process, or leaves PyTorch otherwise set than it was; it is set back in any case.
    """
    before = _settings()
    error: BaseException | None = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    except SystemExit as exit_:
        error = exit_
        raise InputError(f"{who} ends the process, with {exit_.code!r}: let it raise an error that says why") from exit_
    except Exception as raised:
        error = raised
        raise
    finally:
        after = _settings()
        _set(before, after)
        if changed := [f"{name} from {old} to {after[name]}" for name, old in before.items() if old != after[name]]:
            what = " and ".join(changed)
            raise InputError(f"{who} changes PyTorch's {what} for all: let it do so for itself alone") from error


@contextmanager
def refused(who: str, fails: str) -> Iterator[None]:
    """Run code as `contained` does, and refuse what it raises in one line.

    Parameters
    ----------
    fails
        When it does, for the error: ``fails before any work``.

    Raises
    ------
    InputError
        If the code raises anything but a refusal of its own, or what `contained` refuses.
    """
    try:
        with contained(who):
            yield
    except (InputError, ValidationError):
        raise
    except Exception as error:  # code that is plugged in may raise anything
        raise InputError(f"{who} {fails}: {type(error).__name__}: {in_one_line(error)}") from error


@contextmanager
def usual_torch() -> Iterator[None]:
    """Let torch compute as it does by itself, with one thread, as every cell is run; then as before.

    Whatever was imported may have set it otherwise. Global generators are put back afterwards too: what a cell draws
    from them changes nothing for the next.
    """
    before = _settings()
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - a plug-in may use it
    _set({"default dtype": torch.float32, "number of threads": 1, "gradients": True, "default device": _CPU}, before)
    try:
        yield
    finally:
        _set(before, _settings())
        torch.set_rng_state(drawn[0])
        random.setstate(drawn[1])
        np.random.set_state(drawn[2])  # noqa: NPY002


_CPU = torch.device("cpu")


def _settings() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "default device": torch.get_default_device(),
    }


def _set(wanted: dict[str, object], now: dict[str, object]) -> None:
    """Set what is to be otherwise than it is."""
    how = {
        "default dtype": torch.set_default_dtype,
        "number of threads": torch.set_num_threads,
        "gradients": torch.set_grad_enabled,
        "default device": lambda device: torch.set_default_device(None if device == _CPU else device),
    }
    for name, value in wanted.items():
        if value != now[name]:
            how[name](value)  # type: ignore[operator]
