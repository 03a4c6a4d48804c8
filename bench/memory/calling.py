"""Calling what builds a training step with the device, and saying what is wrong with it if that cannot be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from profl.bench.errors import in_one_line
from profl.bench.memory.errors import UnusableStep

if TYPE_CHECKING:
    import torch

_FORM = "write it as def build(device, batch_size=64)"
_NUMBERS = (int, float)


def called(function: Callable[..., Any], name: str, device: torch.device, given: Mapping[str, Any]) -> Any:
    """Return what ``function`` builds on the device, which is its first argument.

    Raises
    ------
    UnusableStep
        If it is a class, takes something else first, does not take what is ``given``, or fails where a text is given
        for a number.
    """
    if inspect.isclass(function):
        raise UnusableStep(
            f"{name} is a class: name a function that takes the device and returns (module, optimizer, inputs, step)"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function in C that does not tell: its own error must do
        return function(device, **given)
    _check_takes(signature, name, device, given)
    try:
        return function(device, **given)
    except (TypeError, ValueError) as error:
        if odd := [key for key, value in given.items() if isinstance(value, str) and _is_number(signature, key)]:
            told = f"{type(error).__name__}: {in_one_line(error)}"
            texts = " and ".join(f"{key}={given[key]!r}" for key in odd)
            raise UnusableStep(f"{name} fails with the text {texts} ({told}): give a number") from error
        raise


def _check_takes(signature: inspect.Signature, name: str, device: torch.device, given: Mapping[str, Any]) -> None:
    first = next(iter(signature.parameters.values()), None)
    if first is not None and _is_no_device(signature, first.name):
        raise UnusableStep(f"{name} takes {first.name} first, where it is given the device: {_FORM}")
    try:
        signature.bind(device, **given)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or f"nothing; {_FORM}"
        told = ", ".join(["the device", *given])
        raise UnusableStep(f"{name} cannot be called with {told} ({error}): it takes {takes}") from None


def _is_no_device(signature: inspect.Signature, name: str) -> bool:
    return "device" not in name and ("batch" in name.lower() or _is_number(signature, name))


def _is_number(signature: inspect.Signature, name: str) -> bool:
    """Return whether a parameter is a number, by its annotation (also if that is a text) or else by its default."""
    parameter = signature.parameters.get(name)
    if parameter is None:
        return False
    if parameter.annotation is not parameter.empty:
        return parameter.annotation in (*_NUMBERS, "int", "float")
    return isinstance(parameter.default, _NUMBERS)
