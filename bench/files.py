"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield another path to write to, which then takes the place of ``path``; its folder is made if need be.

    Whoever reads meanwhile, and after a kill or the loss of power, finds the old file or the new one. Several may write
    at once, as each has a path of its own: the last one's file stays. An error leaves nothing behind, a kill a file
    that ends in ``.partial``.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name[:200]}.{secrets.token_hex(4)}.partial")
    try:
        with naming(path, partial):
            yield partial
            _to_disk(partial)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Let an error in the block say which file is to be written, where it does not itself: as on a full disk.

    Nor does it where it names ``partial``, of which nobody but `replacing` knows.
    """
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(partial), partial):
            error.filename = str(path)
        raise


def check_writable(path: Path) -> None:
    """Make the folder of a file that is to be written later; raise `OSError` if nothing can be written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), tempfile.TemporaryFile(dir=path.parent):
        pass


def read_bounded(path: Path, most: int) -> bytes:
    """Return what a file holds.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it holds more than ``most`` bytes, is no plain file (but a pipe or a device, say, which may never end), or
        its name is none.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is no plain file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it holds more than {most} bytes")
    return content


def largest_unpacked(packed_bytes: int, most: int) -> int:
    """Return how many bytes a gzipped file may hold, at most ``most``: what is measured never shrinks a hundredfold.

    What does was made to: a quarter of a megabyte can hold a quarter of a gigabyte of empty lists.
    """
    return min(most, 100 * packed_bytes + 2**20)


def _to_disk(path: Path) -> None:
    """Wait until a file's content is on the disk: its new name may otherwise get there before it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """Write a text file, `replacing` the one that is there."""
    with replacing(path) as partial:
        partial.write_text(text)
