"""A sweep as a user describes it: a grid of cells, read from TOML and checked."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as validated

from profl.bench.cell import EXACT, Cell, MeasuredAs, Positive, Recipe, Seed, Width
from profl.bench.data import shape_of, takes_folder, users_of
from profl.bench.data.partition import parse_scheme
from profl.bench.errors import InputError, why_unreadable
from profl.bench.experiment import Experiment, Offers
from profl.bench.files import read_bounded
from profl.bench.fleet import UNLIMITED, Tier
from profl.bench.memory.gpu.profile import VIRTUAL, resolve
from profl.bench.models import ModelSpec
from profl.bench.registry import method_class, method_options
from profl.bench.technique import NONE, Technique
from profl.bench.validation import checked


@validated(frozen=True, config=EXACT)
class Grid:
    """The axes of a sweep, each a list of values: its cells are their product."""

    method: Annotated[list[str], Field(min_length=1)]
    model: Annotated[list[str], Field(min_length=1)]
    width: Annotated[list[Width], Field(min_length=1)]
    dataset: Annotated[list[str], Field(min_length=1)]
    tier: Annotated[list[str], Field(min_length=1)]
    seed: Annotated[list[Seed], Field(min_length=1)]
    technique: Annotated[list[str], Field(min_length=1)] = field(default_factory=lambda: [NONE])


LARGEST_CONFIG_BYTES = 2**20
"""Longer files are no sweep's configuration."""

GRID = tuple(axis.name for axis in fields(Grid))


@validated(frozen=True, config=EXACT)
class Config:
    """A sweep as a user describes it.

    Parameters
    ----------
    grid
        What is varied.
    gpu, data, memory_only, measured_as
        As of ``Cell``.
    recipe
        How every method trains.
    options
        Options by method.
    learning_rates
        Learning rates by method, where one has another than the recipe's.
    """

    grid: Grid
    gpu: str
    data: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    learning_rates: dict[str, Positive] = field(default_factory=dict)
    memory_only: bool = False
    measured_as: MeasuredAs | None = None


def read_config(path: Path) -> Config:
    """Read a sweep's TOML file: the fields of `Config`, tables such as ``[grid]`` and ``[options.METHOD]``.

    Raises
    ------
    InputError
        If the file is missing or malformed, or holds a key that is not known or a value that cannot be used.
    """
    try:
        text = read_bounded(path, LARGEST_CONFIG_BYTES).decode()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({why_unreadable(error)}): give a TOML file, or --preset NAME"
        ) from None
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of more digits, and tables deeper, than Python reads
        raise InputError(f"{path} is not TOML: {error}") from None
    return checked(Config, values, str(path))


def cells(config: Config) -> list[Cell]:
    """Return the cells of a sweep, each once; `experiments` also looks up what they name.

    A method that ignores memory gives the same result in every tier; it gets one cell, in the tier `UNLIMITED`.

    Raises
    ------
    InputError
        If a name is unknown or a value cannot be used.
    GpuUnavailable
        If no GPU has this name.
    """
    result = []
    if config.memory_only and not config.gpu.startswith(VIRTUAL):
        raise InputError(
            f"memory_only needs a virtual GPU, not '{config.gpu}': choose one with --gpu; on a physical GPU "
            "every sweep records the memory of its rounds"
        )
    if config.memory_only and config.measured_as is not None:
        raise InputError(
            "memory_only records the memory of the training itself, measured_as that of another scale: leave one out"
        )
    resolve(config.gpu)
    parse_scheme(config.recipe.partition)
    for name, options in config.options.items():
        method_options(name, options)
    for name in config.learning_rates:
        method_class(name)
    if config.data is not None and not any(takes_folder(name) for name in config.grid.dataset):
        names = ", ".join(config.grid.dataset)
        raise InputError(f"data is '{config.data}', but {names} comes with profl: leave data out, or name its dataset")
    ignoring = {name for name in config.grid.method if method_class(name).ignores_memory}
    rates = {name: config.learning_rates.get(name, config.recipe.learning_rate) for name in config.grid.method}
    recipes = {rate: replace(config.recipe, learning_rate=rate) for rate in rates.values()}
    tiers = {text: _read_tier(text, config.recipe.devices) for text in {*config.grid.tier, UNLIMITED}}
    techniques = {text: str(Technique.parse(text)) for text in config.grid.technique}
    seen = set()
    for values in itertools.product(*(getattr(config.grid, axis) for axis in GRID)):
        named = dict(zip(GRID, values, strict=True))
        if named["method"] in ignoring:
            named["tier"] = UNLIMITED
        named["technique"] = techniques[named["technique"]]
        if (identity := tuple(named.values())) in seen:
            continue
        seen.add(identity)
        cell = Cell(
            **named,
            gpu=config.gpu,
            data=config.data,
            recipe=recipes[rates[named["method"]]],
            options=config.options.get(named["method"], {}),
            listed_budgets=tiers[named["tier"]],
            memory_only=config.memory_only,
            measured_as=config.measured_as,
        )
        result.append(cell)
    return result


def _read_tier(text: str, devices: int) -> list[int] | None:
    """Return the budgets that a tier lists, if it is a file; refuse one that gives no fleet of this size its memory."""
    tier = Tier.parse(text)
    tier.budgets(devices, 0, full_model_bytes=1)
    return None if tier.listed is None else list(tier.listed)


def experiments(config: Config) -> list[Experiment]:
    """Return the cells of a sweep with their names looked up, so that nothing is refused after work has begun.

    Raises
    ------
    InputError
        If a name is unknown, a value cannot be used, a model cannot take the examples of a dataset, or a dataset
        does not say who holds its examples where they are to be dealt so.
    GpuUnavailable
        If no GPU has this name.
    """
    offers = Offers()
    possible = [Experiment.of(cell, offers) for cell in cells(config)]
    for dataset, model in {(one.cell.dataset, one.model) for one in possible}:
        _check_shapes(dataset, model)
    for dataset, folder in {(one.cell.dataset, one.cell.data_folder) for one in possible if one.cell.recipe.by_user}:
        users_of(dataset, folder)
    return possible


def _check_shapes(dataset: str, model: ModelSpec) -> None:
    """Refuse a dataset whose examples the model cannot take; measuring alone needs none, but the number of classes."""
    given, taken = shape_of(dataset), model.skeleton().input_shape
    if given != taken:
        has, takes = ("x".join(map(str, shape)) for shape in (given, taken))
        raise InputError(
            f"dataset '{dataset}' has examples of shape {has}, but model '{model.name}' takes {takes}: "
            "choose another of either"
        )


def read_options(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return options by method from texts such as ``profl.pace=equal``; values are TOML's, bare words are texts.

    Raises
    ------
    InputError
        If a text is no such assignment, or assigns what another has assigned.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, assigned, value = (part.strip() for part in text.partition("="))
        method, dot, name = key.partition(".")
        if not (assigned and dot and method and name and value):
            raise InputError(f"option '{text}' is no assignment: write METHOD.NAME=VALUE, as in profl.pace=equal")
        if name in options.setdefault(method, {}):
            raise InputError(f"option '{key}' is given twice: give one value")
        options[method][name] = read_value(value)
    return options


def read_value(text: str) -> Any:
    """Return a value as TOML writes it; a bare word is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # no TOML, or a number of more digits than Python reads
        return text


def override(
    config: Config,
    grid: Mapping[str, Sequence[Any]],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    gpu: str | None = None,
    data: str | None = None,
    memory_only: bool = False,
    **recipe: Any,
) -> Config:
    """Return ``config`` with the axes and values that are given (not empty, not None), checked as a file's are."""
    given = {axis: list(values) for axis, values in grid.items() if values}
    changed = {name: value for name, value in recipe.items() if value is not None}
    merged = dict(config.options)
    for name, own in (options or {}).items():
        merged[name] = {**merged.get(name, {}), **own}
    values = {
        **asdict(config),
        "grid": {**asdict(config.grid), **given},
        "options": merged,
        "gpu": gpu or config.gpu,
        "data": data or config.data,
        "memory_only": memory_only or config.memory_only,
        "recipe": {**asdict(config.recipe), **changed},
    }
    return checked(Config, values, "command line")
