"""The settings of PyTorch's CUDA allocator that decide over device memory, read from PyTorch's own text."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Self

from profl.bench.errors import InputError, nearest, remedy

MIB = 1 << 20
GRANULE_BYTES = 512
UNLIMITED_BYTES = sys.maxsize

_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_INTERVALS = 16  # of sizes: from 1 MiB, each twice the one before
_PAIR = re.compile(r"(?P<key>[^,:\[\]]+):(?P<value>\[[^\[\]]*\]|[^,:\[\]]+)(,|$)")
_KEYS = (
    "expandable_segments",
    "large_segment_size_mb",
    "max_split_size_mb",
    "max_non_split_rounding_mb",
    "garbage_collection_threshold",
    "roundup_power2_divisions",
)


@dataclass(frozen=True)
class AllocatorSettings:
    """The settings that decide over device memory; the defaults are PyTorch's.

    Parameters
    ----------
    expandable_segments
        One segment for each pool and stream, which grows by pages (2 MiB in the small pool, ``large_segment_bytes``
        in the large one), in place of many of fixed size.
    large_segment_bytes
        Size of the segments that blocks of 1 to 10 MiB share.
    max_split_bytes
        Cached blocks of this size and more are never split; None: any is.
    max_non_split_rounding_bytes
        By how much such a block must be smaller than what it would waste; None: ``large_segment_bytes``.
    garbage_collection_threshold
        Above this share of the limit, cached segments are released before new ones are taken, the longest unused
        first; 0: never. Without a limit it has no effect.
    roundup_power2_divisions
        Into how many steps to divide the interval between two powers of two when rounding sizes up, 0 or 1 for
        none: 16 numbers, for the interval that begins at 1 MiB (or less), at 2 MiB, ..., at 32 GiB (or more).
    """

    expandable_segments: bool = False
    large_segment_bytes: int = 20 * MIB
    max_split_bytes: int | None = None
    max_non_split_rounding_bytes: int | None = None
    garbage_collection_threshold: float = 0.0
    roundup_power2_divisions: tuple[int, ...] = (0,) * _INTERVALS

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text that PyTorch takes in ``PYTORCH_ALLOC_CONF``.

        ``expandable_segments:True,max_split_size_mb:64,roundup_power2_divisions:[256:1,>:4]``; an empty text
        means the defaults. Keys that PyTorch knows but that are not modelled, those of host memory among them, are
        refused too.

        Raises
        ------
        InputError
            If a key is not one of `AllocatorSettings`, or PyTorch would refuse its value or read only half of it.
        """
        values = _pairs(text)
        large_segment_mb = _megabytes(values, "large_segment_size_mb", least=11) or 20
        max_split_mb = _megabytes(values, "max_split_size_mb", least=large_segment_mb)
        rounding_mb = _megabytes(values, "max_non_split_rounding_mb", least=large_segment_mb)
        return cls(
            expandable_segments=_boolean(values, "expandable_segments"),
            large_segment_bytes=large_segment_mb * MIB,
            max_split_bytes=max_split_mb and max_split_mb * MIB,
            max_non_split_rounding_bytes=rounding_mb and rounding_mb * MIB,
            garbage_collection_threshold=_share(values, "garbage_collection_threshold"),
            roundup_power2_divisions=_divisions(values, "roundup_power2_divisions"),
        )

    @classmethod
    def of_environment(cls) -> Self:
        """Read what this process's variables tell PyTorch; raises as `parse` does."""
        return cls.parse(next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), ""))

    def block_bytes(self, requested_bytes: int) -> int:
        """Return the size of the block that a request is rounded up to."""
        interval = min(max(requested_bytes.bit_length() - MIB.bit_length(), 0), _INTERVALS - 1)
        divisions = self.roundup_power2_divisions[interval]
        if divisions > 1 and requested_bytes > GRANULE_BYTES * divisions:
            return round_up(requested_bytes, (1 << requested_bytes.bit_length() - 1) // divisions)
        return round_up(requested_bytes, GRANULE_BYTES)


def round_up(amount: int, step: int) -> int:
    """Return the smallest multiple of ``step`` from ``amount`` on."""
    return -(-amount // step) * step


def _pairs(text: str) -> dict[str, str]:
    """Return the values by key; the last one of a key holds."""
    rest = "".join(text.split())
    values = {}
    while rest:
        pair = _PAIR.match(rest)
        if pair is None:
            raise InputError(f"allocator settings end in '{rest}': write key:value,key:value")
        if pair["key"] not in _KEYS:
            there = remedy(nearest(pair["key"], _KEYS), f"use {', '.join(_KEYS)}")
            raise InputError(f"allocator setting '{pair['key']}' is unknown or not modelled: {there}")
        values[pair["key"]] = pair["value"]
        rest = rest[pair.end() :]
    return values


def _megabytes(values: Mapping[str, str], key: str, least: int) -> int | None:
    text = values.get(key)
    if text is None:
        return None
    if not _is_whole(text) or not least <= int(text) <= UNLIMITED_BYTES // MIB:
        raise InputError(f"allocator setting {key}:{text}: give a whole number of MiB, at least {least}")
    return int(text)


def _boolean(values: Mapping[str, str], key: str) -> bool:
    text = values.get(key, "False")
    if text not in ("True", "False"):
        raise InputError(f"allocator setting {key}:{text}: write True or False")
    return text == "True"


def _share(values: Mapping[str, str], key: str) -> float:
    text = values.get(key)
    if text is None:
        return 0.0
    try:
        share = float(text)
    except ValueError:
        share = nan
    if not 0 < share < 1:
        raise InputError(f"allocator setting {key}:{text}: give a number between 0 and 1")
    return share


def _divisions(values: Mapping[str, str], key: str) -> tuple[int, ...]:
    """Read one number for all sizes, or ``[256:1,512:2,>:4]``: one from each of several sizes in MiB on.

    A size's number is for its interval alone, the first one also for all below; ``>`` is for what comes after the
    last size. Intervals that nobody names are not divided.
    """
    text = values.get(key)
    divisions = [0] * _INTERVALS
    if text is None:
        return tuple(divisions)
    if not text.startswith("["):
        if not _is_power_of_two(text):
            raise InputError(f"allocator setting {key}:{text}: give a power of two")
        return (int(text),) * _INTERVALS
    last = None
    for pair in text[1:-1].split(","):
        size, _, number = pair.partition(":")
        if not (size == ">" or _is_power_of_two(size)) or not (number == "0" or _is_power_of_two(number)):
            raise InputError(f"allocator setting {key}:{text}: '{pair}' is not like 256:4 or >:4, in powers of two")
        if size == ">":
            first = (last or 0) + 1
            divisions[first:] = [int(number)] * (_INTERVALS - first)
            continue
        interval = min(int(size).bit_length() - 1, _INTERVALS - 1)
        if last is None:
            divisions[:interval] = [int(number)] * interval
        divisions[interval] = int(number)
        last = interval
    return tuple(divisions)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_power_of_two(text: str) -> bool:
    return _is_whole(text) and int(text).bit_count() == 1
