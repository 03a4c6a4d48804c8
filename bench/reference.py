"""Reference files: the committed memory numbers of a sweep on a GPU, one JSON file each.

A file holds what `profl.bench.regression.Measurement` describes, and ``sweep``: ``preset`` (a name) or ``config`` (a
TOML file, its path relative to the reference file), and ``gpu`` where it is another one than the sweep's. By hand may
be added: ``tolerance`` (``2%`` or ``1MiB``) for all entries, ``tolerances`` for single ones. They apply where exact
numbers cannot be expected: in another environment, or on a physical GPU. A file that differs from this in any way is
refused, as what is not understood would not be compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as validated

from profl.bench.cell import EXACT
from profl.bench.config import Config, override, read_config
from profl.bench.errors import InputError
from profl.bench.presets import preset
from profl.bench.regression import PEAK, Measurement, allowed_bytes
from profl.bench.results.json_files import read_json, write_json
from profl.bench.validation import checked


@validated(frozen=True, config=EXACT)
class Sweep:
    """Which sweep's tasks a reference file is about.

    Parameters
    ----------
    preset, config
        One of both: the name of a preset, or the path of a TOML file, relative to the reference file.
    gpu
        Measured instead of the sweep's own GPU; None: the sweep's own.
    """

    preset: str | None = None
    config: str | None = None
    gpu: str | None = None

    def __post_init__(self) -> None:
        if (self.preset is None) == (self.config is None):
            raise InputError("a reference's sweep needs either a preset or a config")

    def __str__(self) -> str:
        what = f"preset {self.preset}" if self.config is None else self.config
        return f"{what} on {self.gpu}" if self.gpu else what

    @classmethod
    def of(cls, folder: Path, preset: str | None, config: Path | None, gpu: str | None) -> Sweep:
        """Return the sweep whose reference is to lie in ``folder``."""
        return cls(preset, None if config is None else Path(os.path.relpath(config, folder)).as_posix(), gpu)

    @property
    def file_name(self) -> str:
        """What its reference is called: by the sweep, and the GPU if it has another."""
        name = self.preset or Path(self.config or "").stem
        return f"{name}-{self.gpu.split(':')[-1]}.json" if self.gpu else f"{name}.json"

    def read(self, folder: Path) -> Config:
        """Return the configuration, given the folder of the reference file.

        Raises
        ------
        InputError
            If the preset is unknown, or the file is missing or damaged.
        """
        # A path is resolved by name: the folder may not exist yet.
        path = preset(str(self.preset)) if self.config is None else Path(os.path.normpath(folder / self.config))
        return override(read_config(path), {}, gpu=self.gpu)


@validated(frozen=True, config=EXACT)
class _File:
    sweep: Sweep
    environment: Mapping[str, str | int | bool | None]
    metrics: Mapping[str, Mapping[str, int | None]]
    portions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    tolerance: str | None = None
    tolerances: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise InputError("metrics has no entry, so that nothing would be compared")
        for name, entry in self.metrics.items():
            if entry.get(PEAK) is None:
                raise InputError(f"metrics of '{name}' has no {PEAK}")
        for name in self.tolerances:
            if name not in self.metrics:
                raise InputError(f"tolerances has '{name}', which is no entry of metrics")
        for tolerance in [self.tolerance or "0%", *self.tolerances.values()]:
            allowed_bytes(tolerance, 0)


def reference_files(folder: Path) -> list[Path]:
    """Return the reference files of a folder, by name.

    Raises
    ------
    InputError
        If there is none: nothing would be compared.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(
            f"no reference file in {folder.absolute()}: name the folder that holds some with --reference, or make the "
            "first one with --update and --preset or --config"
        )
    return files


_REMEDY = "restore the file, or delete it and make it anew with --update"


def read_reference(path: Path) -> tuple[Sweep, Measurement]:
    """Read committed numbers, and of which sweep they are.

    Raises
    ------
    InputError
        If the file is missing, damaged or of another form.
    """
    reference = read_json(path, _REMEDY)
    try:
        sweep = checked(_File, reference, str(path)).sweep
    except InputError as error:
        raise InputError(f"{error}; {_REMEDY}") from None
    return sweep, reference


def write_reference(path: Path, sweep: Sweep, measured: Measurement, earlier: Measurement | None = None) -> None:
    """Write measured numbers as the reference, with those tolerances of an earlier one that still apply."""
    kept: dict[str, Any] = {name: value for name, value in (earlier or {}).items() if name == "tolerance"}
    tolerances = (earlier or {}).get("tolerances", {})
    if of_entries := {name: value for name, value in tolerances.items() if name in measured["metrics"]}:
        kept["tolerances"] = of_entries
    named = {name: value for name, value in asdict(sweep).items() if value is not None}
    write_json(path, {"sweep": named, **kept, **measured})
