"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield another path to write to, which then takes the place of ``path``; its folder is made if need be.

    Whoever reads meanwhile, and after a kill, finds the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    yield partial
    os.replace(partial, path)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, `replacing` the one that is there."""
    with replacing(path) as partial:
        partial.write_text(text)
