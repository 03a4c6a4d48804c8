"""What differs from the published methods, as the methods themselves say."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from profl.bench.errors import InputError
from profl.bench.registry import method_class


def deviations(methods: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return by method what differs from the published one; nothing of a method that is not installed here."""
    found = {}
    for name in methods:
        with suppress(InputError):
            found[name] = method_class(name).deviations
    return {name: said for name, said in found.items() if said}
