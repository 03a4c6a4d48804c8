"""What a run's folder is called where nobody names it: by its preset or file, and by all that was given beside."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from typing import Any

from profl.bench.config import Config
from profl.bench.memory.gpu.profile import VIRTUAL

_LONGEST = 60
"""Characters of what is readable; a folder of more is no help."""


def run_name(stem: str, base: Config, chosen: Config) -> str:
    """Return ``default`` for the preset as it stands, ``default-width8`` for another width, and so on.

    The same is called the same, whenever it is run; the order in which values are given counts too. Where values are
    too long, or hold what is no good in a file's name, a hash of all that was given stands behind what is readable.

    Parameters
    ----------
    stem
        Name of the preset or file.
    base, chosen
        As it stands, and with what else was given.
    """
    before = _flat(base)
    given = {name: value for name, value in _flat(chosen).items() if (name, value) not in before.items()}
    memory = "-memory" if given.pop("memory_only", False) else ""
    readable = "".join(f"-{_part(name, value)}" for name, value in given.items())
    shown = re.sub(r"[^A-Za-z0-9._+-]+", "", readable)
    if len(readable) <= _LONGEST and all(map(_is_plain, given.values())):
        return f"{stem}{shown}{memory}"
    digest = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{stem}{shown[:_LONGEST]}-{digest}{memory}"


def _flat(config: Config) -> dict[str, Any]:
    """Return every value of a configuration by its own name."""
    values = asdict(config)
    options = {
        f"{method}.{name}": value for method, own in values.pop("options").items() for name, value in own.items()
    }
    gpu = values.pop("gpu").removeprefix(VIRTUAL)
    return {**values.pop("grid"), **values.pop("recipe"), **options, "gpu": gpu, **values}


def _part(name: str, value: Any) -> str:
    """Return a value for people: ``width8``, ``method-profl+heterofl``."""
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{name}{text}" if text[:1].isdigit() else f"{name}-{text}"


def _is_plain(value: Any) -> bool:
    """Return whether a value can be told again from how it stands in a name: numbers, and names of plain letters."""
    values = value if isinstance(value, list) else [value]
    return all(re.fullmatch(r"[A-Za-z0-9_.]+", str(one)) is not None for one in values)
