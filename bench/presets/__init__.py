"""The configurations of sweeps that come with the package, one TOML file each."""

from __future__ import annotations

from pathlib import Path

from profl.bench.errors import unknown


def presets() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def preset(name: str) -> Path:
    """Return the configuration of this name; `InputError` if none comes with the package."""
    if name not in presets():
        unknown("preset", name, presets())
    return presets()[name]
