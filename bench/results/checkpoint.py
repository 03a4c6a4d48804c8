"""A cell's state after a round: written with whose it is and a checksum, and read with both in mind."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from profl.bench.errors import InputError
from profl.bench.files import replacing

_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype)
_CONTAINERS = (list, tuple, torch.Size)
_TABLES = (dict, OrderedDict)


def write_checkpoint(path: Path, cell: str, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint of a cell.

    Raises
    ------
    InputError
        If the state holds what could not be read back: anything but tensors, numbers, texts and plain containers.
    """
    content = {**state, "cell": cell}
    content["checksum"] = _checksum(content)
    with replacing(path) as partial, open(partial, "wb") as file:
        torch.save(content, file)  # into a path, torch does not say that a disk is full


def read_checkpoint(path: Path, cell: str) -> dict[str, Any]:
    """Return the state that was written.

    One that an earlier version wrote has no checksum, and is taken as it is if all its numbers are finite: otherwise
    a training that diverged cannot be told from damage.

    Raises
    ------
    ValueError
        If the file is damaged or holds another cell's state.
    """
    try:
        content = torch.load(path, weights_only=True)
    except Exception as error:  # as many kinds as there are kinds of damage
        raise ValueError(f"is damaged ({type(error).__name__})") from error
    if not isinstance(content, dict) or type(content.get("round")) is not int:
        raise ValueError("is damaged (it names no round)")
    written = content.pop("checksum", None)
    if written is None and not _finite(content):
        raise ValueError("holds numbers that are not finite, and no checksum")
    if content.get("cell", cell) != cell:
        raise ValueError(f"is that of {content['cell']}")
    if written is not None and written != _checksum(content):
        raise ValueError("is damaged (it does not agree with its checksum)")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    digest = sha256()
    _add(content, "state", digest.update)
    return digest.hexdigest()


def _add(value: Any, name: str, update: Any) -> None:
    """Add a value and all in it to a checksum; types are exact, as others would not be read back."""
    kind = type(value)
    if kind in (Tensor, nn.Parameter) and value.layout == torch.strided and value.device.type != "meta":
        update(f"{value.dtype} {tuple(value.shape)};".encode())
        if value.device.type == "cpu":  # on a virtual GPU there are no values
            update(memoryview(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
    elif kind in _TABLES:
        update(f"table {len(value)};".encode())
        for key, entry in value.items():
            _add(key, f"{name}, a key", update)
            _add(entry, f"{name}.{key}", update)
    elif kind in _CONTAINERS:
        update(f"list {len(value)};".encode())
        for place, entry in enumerate(value):
            _add(entry, f"{name}.{place}", update)
    elif kind in _PLAIN:
        update(f"{kind.__name__} {value!r};".encode())
    else:
        raise InputError(
            f"{name.removeprefix('state.')} of the checkpoint is of type {kind.__name__}, which is not read back: let "
            "state_dict return tensors, numbers, texts, lists and dictionaries"
        )


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, (list, tuple)) else True
