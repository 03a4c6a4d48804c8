"""What installed packages plug in, found by entry points: methods and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from profl.bench.errors import InputError, in_one_line, unknown


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Return what is plugged in by name, without importing it; ``group`` is ``profl.methods`` or ``profl.models``."""
    return {name: offers[0] for name, offers in _offers(group).items()}


@cache
def _offers(group: str) -> Mapping[str, Sequence[EntryPoint]]:
    """Return every entry point of a group by name: more than one where packages meet."""
    offers: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        offers.setdefault(point.name, []).append(point)
    return offers


def load(kind: str, name: str, points: Mapping[str, EntryPoint]) -> Any:
    """Import what one of the entry points names; ``kind`` says in errors what it is.

    Raises
    ------
    InputError
        If no installed package offers it, if several do, or if its module cannot be imported or sets PyTorch
        otherwise for all.
    """
    if name not in points:
        unknown(kind, name, points)
    offers = _offers(points[name].group).get(name, ())
    if len({offer.value for offer in offers}) > 1:
        packages = " and ".join(sorted(f"{offer.dist.name if offer.dist else '?'} ({offer.value})" for offer in offers))
        raise InputError(f"{kind} '{name}' is offered by {packages}: uninstall all but one, or rename theirs")
    from profl.bench.contained import contained  # imports torch, which names alone do not need

    where = f"{kind} '{name}' ({points[name].value})"
    with contained(where):
        try:
            return points[name].load()
        except (Exception, SystemExit) as error:  # a plug-in's module may raise anything
            raise InputError(f"{where} cannot be imported: {_said(error)}") from error


def offered_by(group: str, name: str) -> str | None:
    """Return the package and version that offer a name, and where it lies there; None if that is not known."""
    point = installed(group).get(name)
    dist = point.dist if point else None
    return f"{dist.name} {dist.version} ({point.value})" if point and dist else None


def _said(error: Exception | SystemExit) -> str:
    return f"it exits with {error.code!r}" if isinstance(error, SystemExit) else in_one_line(error)
