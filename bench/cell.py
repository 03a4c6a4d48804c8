"""One run and the recipe it follows: the values a user chooses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bench.errors import InputError
from bench.models import ModelSpec


@dataclass(frozen=True)
class Recipe:
    """How every method of a comparison trains.

    Parameters
    ----------
    rounds
        Round budget of a run.
    devices, participants
        Size of the fleet; how many of the devices that can take part are drawn each round (all, if fewer can).
    partition
        How training examples are dealt to devices: ``iid``, ``dirichlet:ALPHA`` or ``shards:N``.
    batch_size
        Largest local batch; footprints are measured at it.
    local_epochs, learning_rate, momentum, weight_decay
        Local training by SGD.
    evaluate_every
        Test after every so many rounds, and after the last.
    """

    rounds: int = 60
    devices: int = 100
    participants: int = 20
    partition: str = "dirichlet:0.5"
    batch_size: int = 32
    local_epochs: int = 2
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name == "partition":
                continue
            whole = setting.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise InputError(f"{setting.name} = {value!r}: give a {'whole ' if whole else ''}number")
            least = 0 if setting.name in ("momentum", "weight_decay") else 1 if whole else None
            if not (value >= least if least is not None else value > 0) or value == float("inf"):
                raise InputError(f"{setting.name} = {value!r}: give a number {'above 0' if not least else 'from 1'}")
        if self.participants > self.devices:
            raise InputError(
                f"participants = {self.participants} of {self.devices} devices: draw at most as many as there are"
            )


@dataclass(frozen=True)
class Cell:
    """One point of a sweep: what is run, on whom, and how.

    Parameters
    ----------
    method, model, dataset, tier
        Names as the registry, ``bench.data`` and ``bench.fleet`` know them.
    width
        Channels of the model's first stage.
    seed
        Seed of every random draw.
    gpu
        Where footprints are measured: ``cuda`` or ``virtual:NAME``.
    data
        Folder of the dataset, if it needs one.
    recipe
        How every method trains.
    options
        The method's own options.
    """

    method: str
    model: str
    width: int
    dataset: str
    tier: str
    seed: int
    gpu: str
    data: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("method", "model", "dataset", "tier", "gpu"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} = {getattr(self, name)!r}: give a name in quotes")
        if type(self.width) is not int or self.width < 1:
            raise InputError(f"width = {self.width!r}: give the channels of the first stage, from 1")
        if type(self.seed) is not int or self.seed < 0:
            raise InputError(f"seed = {self.seed!r}: give a whole number from 0")

    def spec(self, classes: int) -> ModelSpec:
        """Return the full model of the cell."""
        return ModelSpec(self.model, self.width, classes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        """Read what ``to_dict`` returned."""
        return cls(**{**values, "recipe": Recipe(**values["recipe"])})

    @property
    def folder_name(self) -> str:
        """A readable name, made unique by a hash of everything that decides the cell's result."""
        readable = f"{self.method}-{self.model}w{self.width}-{self.dataset}-{self.tier}-seed{self.seed}"
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:8]
        return re.sub(r"[^A-Za-z0-9.]+", "-", readable).strip("-") + "-" + digest
