"""One run and the recipe it follows: the values a user chooses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from profl.bench.data.partition import Natural, parse_scheme
from profl.bench.errors import InputError
from profl.bench.fleet import Tier
from profl.bench.models import ModelSpec
from profl.bench.technique import NONE, Technique
from profl.bench.validation import checked

EXACT = ConfigDict(extra="forbid")
"""Refuse keys that are not known."""

# Bounds far above what can be run, below what would exhaust memory or a number's range before it is refused.
Count = Annotated[int, Field(ge=1, le=10**6)]
Width = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, le=10**6)]
NotNegative = Annotated[float, Field(ge=0, le=10**6)]
Share = Annotated[float, Field(ge=0, lt=1)]


@validated(frozen=True, config=EXACT)
class Recipe:
    """How every method of a comparison trains.

    Parameters
    ----------
    rounds
        Round budget of a run.
    devices, participants
        Size of the fleet; how many of the devices that can take part are drawn each round (all, if fewer can).
    partition
        How training examples are dealt to devices: ``iid``, ``dirichlet:ALPHA``, ``shards:N``, or ``natural``: each
        device is a user that the dataset names.
    batch_size
        Largest local batch; footprints are measured at it.
    local_epochs, learning_rate, momentum, weight_decay
        Local training by SGD.
    evaluate_every
        Test after every so many rounds, and after the last.
    held_out_share
        Share of the training data, of every class alike, that no device gets; if it is above 0, tests run on it and
        not on the test set, as settings are tuned.
    gradient_norm
        Whether the norm of the gradient is recorded at every test: what it costs is about one more pass over 512
        examples.
    """

    rounds: Count = 60
    devices: Count = 100
    participants: Count = 20
    partition: str = "dirichlet:0.5"
    batch_size: Count = 32
    local_epochs: Count = 2
    learning_rate: Positive = 0.05
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 5e-4
    evaluate_every: Count = 1
    held_out_share: Share = 0.0
    gradient_norm: bool = False

    def __post_init__(self) -> None:
        if self.participants > self.devices:
            raise InputError(
                f"participants = {self.participants} of {self.devices} devices: draw at most as many as there are"
            )

    @property
    def by_user(self) -> bool:
        """Whether the dataset itself has to say who holds which training example."""
        return isinstance(parse_scheme(self.partition), Natural)


@validated(frozen=True, config=EXACT)
class MeasuredAs:
    """The scale at which memory is measured, where training runs at another; what is None is that of training.

    Parameters
    ----------
    model
        Name of the network.
    width
        Channels of its first stage.
    batch_size
        Largest local batch.
    """

    model: str | None = None
    width: Width | None = None
    batch_size: Count | None = None

    def __post_init__(self) -> None:
        if self.model is None and self.width is None and self.batch_size is None:
            raise InputError("measured_as is empty: give model, width or batch_size, or leave it out")


@validated(frozen=True, config=EXACT)
class Cell:
    """One point of a sweep: what is run, on whom, and how.

    Parameters
    ----------
    method, model, dataset, tier
        Names as the registry, ``profl.bench.data`` and ``profl.bench.fleet`` know them.
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
    listed_budgets
        What the tier lists, in bytes, if it is a file: a file may change while a run goes on.
    memory_only
        Whether all training runs on the virtual GPU, where nothing is computed: memory round by round, no accuracy.
    measured_as
        At which scale footprints are measured; None: at that of training. Who can train what, and what tiers in
        percent refer to, then come from there.
    technique
        How local steps save memory, as `profl.bench.technique.Technique` reads it; what tiers in percent refer to stays
        plain training.
    """

    method: str
    model: str
    width: Width
    dataset: str
    tier: str
    seed: Seed
    gpu: str
    data: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    options: dict[str, Any] = field(default_factory=dict)
    listed_budgets: list[int] | None = None
    memory_only: bool = False
    measured_as: MeasuredAs | None = None
    technique: str = NONE

    def __post_init__(self) -> None:
        # However it is written, a cell has one name.
        object.__setattr__(self, "technique", str(Technique.parse(self.technique)))

    @property
    def data_folder(self) -> Path | None:
        """Where the dataset lies; None if it needs no folder, or has one of its own."""
        return Path(self.data) if self.data else None

    def spec(self, classes: int) -> ModelSpec:
        """Return the full model of the cell."""
        return ModelSpec(self.model, self.width, classes)

    @property
    def as_measured(self) -> Cell:
        """The cell as its memory is measured: at another scale, if it says so."""
        if self.measured_as is None:
            return self
        model, width, batch_size = (getattr(self.measured_as, name) for name in ("model", "width", "batch_size"))
        recipe = replace(self.recipe, batch_size=batch_size or self.recipe.batch_size)
        return replace(self, model=model or self.model, width=width or self.width, recipe=recipe, measured_as=None)

    @property
    def measured_scale(self) -> str | None:
        """The scale at which memory is measured, for people; None if it is that of training."""
        if self.measured_as is None:
            return None
        measured = self.as_measured
        return f"{measured.model} width {measured.width}, batch {measured.recipe.batch_size}"

    @property
    def contender(self) -> str:
        """The method, and the technique if there is one: what is compared, for people."""
        return Technique.parse(self.technique).label(self.method)

    def budgets(self, full_model_bytes: int) -> list[int]:
        """Return the memory of every device in bytes, given the full model's least budget."""
        if self.listed_budgets is not None:
            return list(self.listed_budgets)
        return Tier.parse(self.tier).budgets(self.recipe.devices, self.seed, full_model_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        values = asdict(self)
        # The name of a cell does not depend on there being other kinds, nor on what else could have been recorded.
        own = [(values, name) for name in ("memory_only", "measured_as", "technique")]
        own += [(values["recipe"], name) for name in ("held_out_share", "gradient_norm")]
        for table, name in own:
            if table[name] in (None, False, 0, NONE):
                del table[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "cell") -> Cell:
        """Read what ``to_dict`` returned.

        Raises
        ------
        InputError
            Naming ``source``, if a value is missing, unknown or of the wrong type.
        """
        return checked(cls, values, source)

    @property
    def folder_name(self) -> str:
        """A readable name, made unique by a hash of everything that decides the cell's result."""
        method = self.method if self.technique == NONE else f"{self.method}-{self.technique}"
        readable = f"{method}-{self.model}w{self.width}-{self.dataset}-{self.tier}-seed{self.seed}"
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:8]
        return re.sub(r"[^A-Za-z0-9.]+", "-", readable).strip("-") + "-" + digest
