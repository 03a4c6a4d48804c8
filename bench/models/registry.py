"""Models by name: entry points, so that other packages can plug in theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint

from profl.bench.errors import InputError
from profl.bench.models.staged import StagedModel
from profl.bench.plugins import installed, load


def models() -> Mapping[str, EntryPoint]:
    """Return the installed models by name, from the entry points ``profl.models``."""
    return installed("profl.models")


def model_builder(name: str) -> Callable[..., StagedModel]:
    """Load what builds a model: called with a ``ModelSpec``, it returns a fresh ``StagedModel``.

    Raises
    ------
    InputError
        If no installed package offers the model, if its module cannot be imported, or if what is offered cannot be
        called. What it builds is checked by ``ModelSpec.build``.
    """
    builder = load("model", name, models())
    if not callable(builder):
        raise InputError(
            f"model '{name}' ({models()[name].value}) cannot be called with a profl.bench.models.ModelSpec"
        )
    return builder
