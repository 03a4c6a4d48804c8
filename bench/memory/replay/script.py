"""What a workload asks of the allocator whatever the limit, and hence under which limits it holds.

A process knows nothing of its limit until an allocation is refused; up to there it asks for the same under any. Most
refusals end it. A few it survives: where cuDNN cannot have a workspace, PyTorch tries plans with other workspaces in
turn, then goes on as before. Such a block is freed before anything else is asked for; what is asked for in its place is
known once a trial was seen in which it was refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from profl.bench.errors import InputError
from profl.bench.memory.replay.allocator import (
    Alloc,
    Allocator,
    AllocatorSettings,
    Block,
    Free,
    Refused,
    ReplayedEvent,
    recorded_requests,
)

Log = Sequence[Mapping[str, Any]]
"""The events of one GPU, as in ``torch.cuda.memory._snapshot()["device_traces"]``."""

_COMPARED = frozenset(("alloc", "free_completed", "segment_alloc", "segment_free", "segment_map", "segment_unmap"))
_FORWARD_REQUESTS = 100


class Unforeseen(Exception):
    """Something else happened under a limit than was foreseen."""


@dataclass(frozen=True)
class Forecast:
    """What happens under a limit.

    Parameters
    ----------
    fits
        Whether the workload runs to its end, if nothing is asked for in place of the blocks in ``unknown``.
    unknown
        The requests, by position, that are refused without its being known what is asked for then.
    limits
        The limits in bytes under which the same happens.
    events
        What the allocator does, up to the last request or to the refusal that ends it.
    """

    fits: bool
    unknown: frozenset[int]
    limits: range
    events: Sequence[ReplayedEvent]


@dataclass(frozen=True)
class _Sequel:
    """What is asked for in turn where a block is refused.

    Parameters
    ----------
    sizes
        Each in place of the one before, if that is refused too.
    survives
        Whether the workload goes on when all are refused. None: that was not seen.
    """

    sizes: tuple[int, ...]
    survives: bool | None

    def tells_more_than(self, other: _Sequel) -> bool:
        return (len(self.sizes), self.survives is not None) > (len(other.sizes), other.survives is not None)


class Script:
    """What a workload asks for, in order, with what is known of refusals.

    Parameters
    ----------
    log
        Of a trial that began with nothing allocated, and in which no request was refused.

    Raises
    ------
    InputError
        If the log says that the trial was none such, or used memory pools of its own.
    """

    def __init__(self, log: Log, settings: AllocatorSettings) -> None:
        requests = [request for _, request in recorded_requests(log)]
        # Nothing depends on what is freed after the last allocation, if it is not that one itself.
        while len(requests) > 1 and isinstance(requests[-1], Free) and not _passes(*requests[-2:]):
            requests.pop()
        self._requests: list[Alloc | Free] = []
        for request in requests:
            if isinstance(request, Refused):
                raise InputError("an allocation was refused: record a trial with more memory")
            self._requests.append(request)
        self._settings = settings
        self._block_bytes = cache(settings.block_bytes)
        self._sequels: dict[int, _Sequel] = {}
        self._forecasts: list[Forecast] = []

    def forecast(self, limit_bytes: int) -> Forecast:
        """Say what happens under a limit, as far as is known."""
        for known in self._forecasts:
            if limit_bytes in known.limits:
                return known
        forecast = self._play(limit_bytes)
        self._forecasts.append(forecast)
        return forecast

    def learn(self, limit_bytes: int, fits: bool, log: Log) -> None:
        """Take in what a trial did under a limit.

        Raises
        ------
        Unforeseen
            If the script, which now knows of it, does not tell just that, event for event: the workload asks for other
            things under other limits, or the allocator is not as its model, and forecasts are worth nothing.
        InputError
            If the trial used memory pools of its own, or did not begin with nothing allocated.
        """
        requests = [request for _, request in recorded_requests(log)]
        if not fits:  # what comes after the refusal that ended it is no request of the workload's
            while requests and not isinstance(requests[-1], Refused):
                requests.pop()
        self._take_in(requests, fits)
        forecast = self.forecast(limit_bytes)
        told = [self._comparable(event.action, event.bytes, event.stream) for event in forecast.events]
        seen = [
            self._comparable(event["action"], event["size"], event["stream"])
            for event in log
            if event["action"] in _COMPARED
        ]
        asked_for_more = any(action == "alloc" for action, *_ in seen[len(told) :])
        if forecast.unknown or forecast.fits != fits or told != seen[: len(told)] or asked_for_more:
            raise Unforeseen

    def _comparable(self, action: str, size: int, stream: int) -> tuple[str, int, int]:
        """Return an event with sizes in blocks: what is asked for in place of a block may be known no better."""
        return action, size if action.startswith("segment") else self._block_bytes(size), stream

    # --- playing ---

    def _play(self, limit_bytes: int) -> Forecast:
        allocator = Allocator(self._settings, limit_bytes)
        living: dict[int, Block] = {}
        unknown: set[int] = set()
        fits = True
        position = 0
        while position < len(self._requests):
            request = self._requests[position]
            position += 1
            if isinstance(request, Free):
                allocator.free(living.pop(request.block))
            elif block := allocator.allocate(request.bytes, request.stream):
                living[request.block] = block
            else:
                survives = self._ask_instead(allocator, position - 1, request.stream)
                if survives is False:
                    fits = False
                    break
                if survives is None:
                    unknown.add(position - 1)
                position += 1  # past its release
        return Forecast(fits, frozenset(unknown), allocator.limits_alike, allocator.events)

    def _ask_instead(self, allocator: Allocator, position: int, stream: int) -> bool | None:
        """Ask for what comes in place of a refused block; return whether the workload survives, None if unknown."""
        if not self._is_passing(position):
            return False
        sequel = self._sequels.get(position)
        if sequel is None:
            return None
        for size in sequel.sizes:
            if block := allocator.allocate(size, stream):
                allocator.free(block)
                return True
        return sequel.survives

    def _is_passing(self, position: int) -> bool:
        """Whether the block allocated there is freed before anything else is asked for."""
        return position + 1 < len(self._requests) and _passes(*self._requests[position : position + 2])

    # --- learning ---

    def _take_in(self, requests: Sequence[Alloc | Free | Refused], fits: bool) -> None:
        """Walk through the script and a trial's requests together, and keep what came in place of refused blocks."""
        learned: set[int] = set()
        position = place = 0
        while position < len(self._requests) and place < len(requests):
            if isinstance(requests[place], Refused) and self._is_passing(position):
                sequel, place = self._seen_sequel(position, requests, place + 1, fits)
                known = self._sequels.get(position)
                if known is None or sequel.tells_more_than(known):
                    self._sequels[position] = sequel
                    learned.add(position)
                position += 2
            else:
                position, place = position + 1, place + 1
        self._forecasts = [known for known in self._forecasts if learned.isdisjoint(known.unknown)]

    def _seen_sequel(
        self, position: int, requests: Sequence[Alloc | Free | Refused], place: int, fits: bool
    ) -> tuple[_Sequel, int]:
        """Return what came in place of the block refused there, and where in ``requests`` the script goes on.

        A trial does not say which of its requests are the script's own again: that reading counts with which the next
        ones agree longest.
        """
        readings = []
        sizes: list[int] = []
        for request in islice(requests, place, None):
            readings.append((_Sequel(tuple(sizes), survives=True), place))
            if not isinstance(request, Refused):
                break
            sizes.append(request.bytes)
            place += 1
        if place == len(requests):
            readings.append((_Sequel(tuple(sizes), survives=fits), place))
        elif place + 1 < len(requests) and _passes(*requests[place : place + 2]):
            granted = requests[place]
            assert isinstance(granted, Alloc)
            readings.append((_Sequel((*sizes, granted.bytes), survives=None), place + 2))
        return max(reversed(readings), key=lambda reading: self._agreement(position + 2, requests, reading[1]))

    def _agreement(self, position: int, requests: Sequence[Alloc | Free | Refused], place: int) -> int:
        """Return how many requests from ``place`` on are those of the script from ``position`` on."""
        script = islice(self._requests, position, position + _FORWARD_REQUESTS)
        agreeing = 0
        for own, seen in zip(script, islice(requests, place, None), strict=False):
            if isinstance(own, Free) != isinstance(seen, Free):
                break
            if isinstance(own, Alloc) and not isinstance(seen, Free):
                refused = isinstance(seen, Refused)
                own_bytes = self._block_bytes(own.bytes) if refused else own.bytes
                if (own_bytes, own.stream) != (seen.bytes, seen.stream):
                    break
                if refused:
                    return agreeing + 1
            agreeing += 1
        return agreeing


def _passes(request: Alloc | Free | Refused, following: Alloc | Free | Refused) -> bool:
    return isinstance(request, Alloc) and isinstance(following, Free) and following.block == request.block
