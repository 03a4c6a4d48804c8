"""Devices and their memory: tiers, who can train what, and what is lost when some cannot."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from profl.bench.errors import InputError, choose, nearest, why_unreadable
from profl.bench.files import read_bounded

if TYPE_CHECKING:
    import pandas as pd

UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
"""Bytes by unit, decimal and binary; read in upper or lower case."""

UNLIMITED = "unlimited"
"""The tier of a method that ignores memory: every task fits every device."""

_BYTES_BY_NAME = {name.lower(): size for name, size in UNITS.items()}
_NUMBER = r"([+-]?\d{1,20}(?:\.\d{1,20})?)"
_AMOUNT = re.compile(rf"{_NUMBER}\s*([a-z]*|%)", re.IGNORECASE)
_RANGE = re.compile(rf"{_NUMBER}\s*(%?)\s*\.\.\s*{_NUMBER}\s*([a-z]*|%)", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read an amount of memory such as ``512MiB``, ``900 MB`` or ``1.5GiB``, rounded down to whole bytes.

    Raises
    ------
    InputError
        If it is no number with a unit, or less than a byte.
    """
    amount = _AMOUNT.fullmatch(text.strip())
    if amount is None:
        raise InputError(f"'{text}' is not an amount of memory: write a number and a unit, as in 512MiB")
    number, unit = amount.groups()
    return _bytes(number, unit, text)


def _bytes(number: str, unit: str, text: str, or_share: bool = False) -> int:
    if Fraction(number) <= 0:
        raise InputError(f"'{text}' is not above zero: a budget is at least one byte")
    size = int(Fraction(number) * _unit_bytes(unit, text, Fraction(number), or_share))
    if size < 1:
        raise InputError(f"'{text}' is less than a byte: write a larger number or unit")
    _check_size(size, text)
    return size


def _check_size(size: int | Fraction, text: str) -> None:
    if size > sys.maxsize:
        raise InputError(f"'{text}' is more memory than can be addressed: write at most {sys.maxsize} B")


def format_bytes(size: float) -> str:
    """Return bytes with four significant digits and a binary unit, such as ``512 MiB``. May be negative."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if abs(size) >= UNITS[unit]:
            return f"{size / UNITS[unit]:.4g} {unit}"
    return f"{size:.4g} B"


@dataclass(frozen=True)
class Tier:
    """A named way to give a fleet its memory. Made by `Tier.parse`.

    Parameters
    ----------
    text
        What it was parsed from; names the tier in results.
    low, high
        Every device draws an integer from ``low`` to ``high``, both included.
    scale
        What the drawn integer counts: bytes, or percent of the full model's least budget if ``relative``.
    relative
        Whether the budgets follow from the full model's least budget, which then has to be measured first.
    listed
        The budgets in bytes as a file lists them, instead of draws.
    """

    text: str
    low: int = 1
    high: int = 1
    scale: Fraction = Fraction(0)
    relative: bool = False
    listed: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Tier:
        """Read a tier.

        ============== =====================================================================================
        ``512MiB``     All devices alike.
        ``50%``        All alike, in percent of the full model's least budget.
        ``100..900MB`` Every device draws an integer number of that unit, each equally likely.
        ``20%..120%``  Every device draws an integer percentage of the full model's least budget.
        ``unlimited``  More than any task needs.
        a file path    One budget a line, as many as devices; ``#`` starts a comment. Read once, now.
        ============== =====================================================================================

        Raises
        ------
        InputError
            If the text is none of these, a budget is not above zero, a range is reversed, or the file is
            malformed.
        """
        text = text.strip()
        if text == UNLIMITED:
            return cls(text, scale=Fraction(sys.maxsize))
        if match := _RANGE.fullmatch(text):
            return cls._parse_range(text, *match.groups())
        if match := _AMOUNT.fullmatch(text):
            number, unit = match.groups()
            if unit != "%":
                return cls(text, scale=Fraction(_bytes(number, unit, text, or_share=True)))
            if Fraction(number) <= 0:
                raise InputError(f"tier '{text}' is not above zero: write a share such as 50%")
            _check_share(Fraction(number), text)
            return cls(text, scale=Fraction(number), relative=True)
        if path := _file(text):
            return cls(text, listed=_read_budgets(path))
        shown = text if len(text) < 100 else f"{text[:100]}..."
        raise InputError(
            f"tier '{shown}' is neither a budget (512MiB), a share of the full model's least budget (50%), "
            "a range (100..900MB, 20%..120%) nor a file with one budget a line"
        )

    @classmethod
    def _parse_range(cls, text: str, low: str, low_percent: str, high: str, unit: str) -> Tier:
        if not (low.isdigit() and high.isdigit() and 0 < int(low) <= int(high)):
            raise InputError(
                f"tier '{text}' is no range of whole numbers above zero, the smaller first: write 100..900MB "
                "or 20%..120%, with a smaller unit instead of a fraction"
            )
        relative = unit == "%"
        if low_percent and not relative:
            raise InputError(f"tier '{text}' mixes a share and an amount: write 100..900MB or 20%..120%")
        scale = 1 if relative else _unit_bytes(unit, text, Fraction(high), or_share=True)
        if relative:
            _check_share(int(high), text)
        else:
            _check_size(int(high) * scale, text)
        return cls(text, int(low), int(high), Fraction(scale), relative)

    def budgets(self, devices: int, seed: int, full_model_bytes: int | None = None) -> list[int]:
        """Return the memory budget of every device in bytes.

        Ranges are drawn from Python's own ``random.Random(seed)``, one ``randint`` per device and nothing
        before: at seed 42, ``100..900MB`` is the fleet of ProFL's published code.

        Parameters
        ----------
        devices
            Size of the fleet.
        seed
            Seed of the draw.
        full_model_bytes
            Least budget of the full model; needed if ``relative``. Shares are rounded down to bytes.

        Raises
        ------
        InputError
            If the file does not list as many budgets as there are devices, or there are no devices.
        ValueError
            If the tier is relative and ``full_model_bytes`` is None.
        """
        if devices < 1:
            raise InputError(f"{devices} devices: a fleet needs at least 1")
        if self.listed is not None:
            if len(self.listed) != devices:
                raise InputError(
                    f"tier '{self.text}' lists {len(self.listed)} budgets for {devices} devices: make the numbers agree"
                )
            return list(self.listed)
        scale = self.scale
        if self.relative:
            if full_model_bytes is None:
                raise ValueError(f"tier '{self.text}' needs the full model's least budget")
            scale *= Fraction(full_model_bytes, 100)
        generator = random.Random(seed)
        return [int(generator.randint(self.low, self.high) * scale) for _ in range(devices)]


def eligibility(budgets: ArrayLike, least_budgets: Mapping[str, int]) -> pd.DataFrame:
    """Return who can train what.

    Parameters
    ----------
    budgets
        Memory of every device in bytes, shape (devices,).
    least_budgets
        Bytes that each task needs, by task.

    Returns
    -------
    DataFrame
        True where the device's budget suffices; bool, shape (devices, tasks).
    """
    import pandas as pd

    needed = np.fromiter(least_budgets.values(), np.int64)
    suffices = np.greater_equal.outer(np.asarray(budgets), needed)
    return pd.DataFrame(suffices, columns=pd.Index(least_budgets, name="task")).rename_axis(index="device")


def first_fitting(budgets: ArrayLike, needs: Sequence[int]) -> NDArray[np.int64]:
    """Return which of several tasks each device trains: the first that fits.

    Parameters
    ----------
    budgets
        Memory of every device in bytes, shape (devices,).
    needs
        Bytes that each task needs, the most preferred first.

    Returns
    -------
    ndarray
        Index into ``needs``, -1 where none fits; int64, shape (devices,).
    """
    held = np.asarray(budgets)
    first = np.zeros(held.shape, np.int64)
    for least in np.minimum.accumulate(np.asarray(needs, np.int64)):  # of the tasks so far
        first += held < least
    first[first == len(needs)] = -1
    return first


def eligible_counts(fleets: Mapping[str, ArrayLike], least_budgets: Mapping[str, int]) -> pd.DataFrame:
    """Return how many devices of each tier can train each task.

    Parameters
    ----------
    fleets
        The devices' budgets in bytes, by tier.
    least_budgets
        Bytes that each task needs, by task.

    Returns
    -------
    DataFrame
        Number of devices; int64, shape (tiers, tasks).
    """
    import pandas as pd

    counts = {tier: eligibility(budgets, least_budgets).sum() for tier, budgets in fleets.items()}
    return pd.DataFrame(counts).T.rename_axis(index="tier", columns="task")


class Lost(NamedTuple):
    """What a fleet loses when some devices take no part; shares in [0, 1]."""

    devices: float
    data: float
    classes: float


class Holdings:
    """Who holds which examples, laid out once so that what is lost is soon said, of a million devices too.

    Parameters
    ----------
    partition
        Indices into ``targets`` of the examples that each device holds.
    targets
        Class of every example; int, shape (examples,).
    classes
        Number of classes.
    """

    def __init__(self, partition: Sequence[NDArray[np.int64]], targets: ArrayLike, classes: int) -> None:
        self.sizes = np.fromiter(map(len, partition), np.int64, len(partition))
        """Number of examples on each device, shape (devices,)."""
        self._labels = np.asarray(targets)[np.concatenate(partition)]  # device after device
        self._classes = classes

    def lost(self, eligible: ArrayLike) -> Lost:
        """Return the shares of devices, of data and of classes that are out of reach.

        A class is out of reach if no eligible device holds an example of it.

        Parameters
        ----------
        eligible
            Whether each device takes part; bool, shape (devices,).
        """
        mask = np.asarray(eligible, dtype=bool)
        if mask.shape != self.sizes.shape:
            raise ValueError(f"a mask of shape {mask.shape} is not of these {len(self.sizes)} devices")
        reached = self._labels[np.repeat(mask, self.sizes)]
        total = len(self._labels)
        return Lost(
            devices=float((~mask).mean()),
            data=(total - len(reached)) / total,
            classes=(self._classes - len(np.unique(reached))) / self._classes,
        )


def _unit_bytes(unit: str, text: str, largest: Fraction, or_share: bool) -> int:
    """Return the bytes of a unit; without one, say how the text may be written, as a share too where that is taken."""
    if unit.lower() in _BYTES_BY_NAME:
        return _BYTES_BY_NAME[unit.lower()]
    if unit == "%":
        raise InputError(f"'{text}' is a share, but an amount is asked for: write a number and a unit, as in 512MiB")
    if unit:
        raise InputError(f"'{text}' has the unknown unit '{unit}': {choose(nearest(unit, UNITS), ', '.join(UNITS))}")
    likely = "MiB" if largest < 10**6 else "B"
    share = (
        f", or {text}% for a share of the full model's least budget" if or_share and largest <= _LARGEST_SHARE else ""
    )
    raise InputError(f"'{text}' has no unit: use one of {', '.join(UNITS)}, as in {text}{likely}{share}")


_LARGEST_SHARE = 10**6
"""Percent of a model's least budget; far above what any device has."""

_LARGEST_FILE_BYTES = 2**26
"""Of a list of budgets: 64 bytes for each of a million devices."""


def _check_share(percent: int | Fraction, text: str) -> None:
    if percent > _LARGEST_SHARE:
        raise InputError(f"tier '{text}' is above {_LARGEST_SHARE}%: write a smaller share, or {UNLIMITED}")


def _file(text: str) -> Path | None:
    """Return the file that a text names, if it does."""
    try:
        path = Path(text).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long for a name; ~ of nobody; a null character
        return None


def _read_budgets(path: Path) -> tuple[int, ...]:
    try:
        lines = read_bounded(path, _LARGEST_FILE_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a list of budgets ({why_unreadable(error)})") from error
    budgets = []
    for number, line in enumerate(lines, start=1):
        amount = line.partition("#")[0].strip()
        if amount:
            try:
                budgets.append(parse_bytes(amount))
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
    if not budgets:
        raise InputError(f"{path} lists no budgets: write one a line, as in 512MiB")
    return tuple(budgets)
