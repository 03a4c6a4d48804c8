"""Reference files: the committed memory numbers of a sweep on a GPU, one JSON file each.

A file holds what `bench.regression.Measurement` describes, and ``sweep``: ``preset`` (a name) or ``config`` (a TOML
file, its path relative to the reference file), and ``gpu`` where it is another one than the sweep's. By hand may be
added: ``tolerance`` (``2%`` or ``1MiB``) for all entries, ``tolerances`` for single ones. They apply where exact
numbers cannot be expected: in another environment, or on a physical GPU.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from pydantic.dataclasses import dataclass as validated

from bench.cell import EXACT
from bench.config import Config, override, preset, read_config
from bench.errors import InputError
from bench.regression import Measurement, allowed_bytes
from bench.results import read_json, write_json
from bench.validation import checked


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
            f"no reference file in {folder.absolute()}: go to the folder that holds {folder}, give --reference, or "
            "make the first one with --update and --preset or --config"
        )
    return files


def read_reference(path: Path) -> tuple[Sweep, Measurement]:
    """Read committed numbers, and of which sweep they are.

    Raises
    ------
    InputError
        If the file is missing, damaged or of another form.
    """
    reference = read_json(path)
    if not isinstance(reference, dict) or not {"sweep", "environment", "metrics"} <= set(reference):
        raise InputError(f"{path} holds no sweep, environment and metrics: restore it, or delete it")
    for tolerance in [reference.get("tolerance", "0%"), *reference.get("tolerances", {}).values()]:
        allowed_bytes(tolerance, 0)
    return checked(Sweep, reference["sweep"], f"{path}: sweep"), reference


def write_reference(path: Path, sweep: Sweep, measured: Measurement, earlier: Measurement | None = None) -> None:
    """Write measured numbers as the reference, with the tolerances of an earlier one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in (earlier or {}).items() if name in ("tolerance", "tolerances")}
    named = {name: value for name, value in asdict(sweep).items() if value is not None}
    write_json(path, {"sweep": named, **kept, **measured})
