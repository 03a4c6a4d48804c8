"""Models by name: entry points, so that other packages can plug in theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint

from profl.bench.errors import InputError, unknown
from profl.bench.models.normalisation import NORMALISATIONS, split_name
from profl.bench.models.staged import StagedModel
from profl.bench.plugins import installed, load


def models() -> Mapping[str, EntryPoint]:
    """Return the installed models by name, from the entry points ``profl.models``."""
    return installed("profl.models")


def families() -> Mapping[str, EntryPoint]:
    """Return what builds ``FAMILY:NAME``, the networks of another library by their names there, by family.

    They come from the entry points ``profl.model_families``. Each has one width, and cannot be narrowed.
    """
    return installed("profl.model_families")


def is_of_family(name: str) -> bool:
    """Return whether a model's name is one of a family."""
    return ":" in split_name(name)[0] and name.partition(":")[0] in families()


def model_builder(name: str) -> Callable[..., StagedModel]:
    """Load what builds a model: called with a ``ModelSpec``, it returns a fresh ``StagedModel`` with BatchNorm.

    Parameters
    ----------
    name
        Of the model, and of its normalisation if it is to have another: ``resnet18``, ``resnet18:group``,
        ``torchvision:resnet50``.

    Raises
    ------
    InputError
        If no installed package offers the model, if its module cannot be imported, if what is offered cannot be
        called, or if the normalisation is unknown. What is built is checked by ``ModelSpec.build``.
    """
    if is_of_family(name):
        return load("model family", name.partition(":")[0], families())
    model, _ = split_name(name)
    known, _, last = model.rpartition(":")
    if known in models():
        unknown("normalisation", last, NORMALISATIONS)
    builder = load("model", model, models())
    if not callable(builder):
        raise InputError(
            f"model '{model}' ({models()[model].value}) cannot be called with a profl.bench.models.ModelSpec"
        )
    return builder
