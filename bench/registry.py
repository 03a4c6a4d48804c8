"""Methods by name: entry points, so that other packages can plug in theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint
from inspect import isabstract
from typing import Any

from profl.bench.errors import InputError, choose, nearest
from profl.bench.method import Method
from profl.bench.models import ModelSpec
from profl.bench.plugins import installed, load
from profl.bench.validation import checked


def methods() -> Mapping[str, EntryPoint]:
    """Return the installed methods by name, from the entry points ``profl.methods``."""
    return installed("profl.methods")


def method_class(name: str) -> type[Method]:
    """Load the class of a method.

    Raises
    ------
    InputError
        If no installed package offers it, if its module cannot be imported, or if what is offered is no whole
        ``Method``.
    """
    loaded = load("method", name, methods())
    where = f"method '{name}' ({methods()[name].value})"
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise InputError(f"{where} is not a subclass of profl.bench.method.Method")
    if isabstract(loaded):
        lacking = ", ".join(sorted(loaded.__abstractmethods__))
        raise InputError(f"{where} does not define {lacking}, as profl.bench.method.Method asks")
    if not is_dataclass(loaded.Options):
        raise InputError(f"{where} has Options that are no dataclass: make them a frozen one")
    return loaded


def method_options(name: str, options: Mapping[str, Any]) -> Any:
    """Return a method's options, an instance of its ``Options``.

    Raises
    ------
    InputError
        If the method or one of the options is unknown, or a value is of the wrong type or refused.
    """
    kind = method_class(name).Options
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            there = choose(nearest(option, known), ", ".join(sorted(known))) if known else "it has none"
            raise InputError(f"method '{name}' has no option '{option}': {there}")
    return checked(kind, dict(options), f"options of method '{name}'")


def create_method(
    name: str, model: ModelSpec, rounds: int, seed: int, options: Mapping[str, Any] | None = None
) -> Method:
    """Make a method from its name and the values of its options.

    Raises
    ------
    InputError
        As `method_options`, or if the method refuses a value.
    """
    return method_class(name)(model, rounds, seed, method_options(name, options or {}))
