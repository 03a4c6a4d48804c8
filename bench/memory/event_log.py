"""Read the allocator's event log: which block was what, and how many bytes of each category lived when.

Moments are counted in events that change what lives: 0 is the start, moment ``n`` comes after ``n`` events.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.memory.footprint import Block
from bench.memory.workload import CATEGORIES

Event = Mapping[str, Any]

# A tensor's memory comes from one of these functions, however the tensor is made. What an operator asks of
# the allocator in any other way is scratch memory, its own or a library's.
_TENSOR_MEMORY = ("at::detail::empty_", "at::native::resize_bytes_")


@dataclass(frozen=True)
class Phase:
    """From ``moment`` on, new blocks that nobody claims are of ``category``."""

    moment: int
    name: str
    category: str


@dataclass(frozen=True)
class Claim:
    """What lives at ``addresses`` (None: everywhere) then is of ``category``. A block's first claim holds."""

    moment: int
    category: str
    addresses: Collection[int] | None = None


@dataclass(frozen=True)
class History:
    """What lived when.

    Parameters
    ----------
    live_bytes
        int64 (moments, categories), columns as in ``CATEGORIES``.
    peak_moment
        The first moment with the most live bytes.
    largest_blocks
        The largest blocks alive at the peak, largest first.
    """

    live_bytes: NDArray[np.int64]
    peak_moment: int
    largest_blocks: tuple[Block, ...]


@dataclass
class _Life:
    bytes: int
    category: str
    claimed: bool
    birth: int
    death: int | None = None

    def spans(self, moment: int) -> bool:
        return self.birth <= moment and (self.death is None or moment < self.death)


def changes(events: Sequence[Event]) -> list[Event]:
    """Return the events that change what lives: a block lives from ``alloc`` to ``free_completed``."""
    return [event for event in events if event["action"] in ("alloc", "free_completed")]


def read_log(
    events: Sequence[Event], phases: Sequence[Phase], claims: Sequence[Claim], end: int, largest: int = 5
) -> History:
    """Fold the log of one measurement, begun with nothing allocated, up to the moment ``end``.

    Parameters
    ----------
    events
        What `changes` returned, oldest first, with the C++ stack of every allocation as ``frames``.
    phases, claims
        In order of moment; the first phase begins at 0.
    end
        When the last step was over. After it cuBLAS gave its workspaces back and nothing else happened: a
        second way to know them, for machines on which PyTorch cannot unwind the stack.
    largest
        How many of the blocks alive at the peak to name.
    """
    lives = _lives(events, phases, claims)
    for life in lives:
        if life.death is not None and life.death > end and not life.claimed:
            life.category = "workspace"
    change = np.zeros((len(events) + 1, len(CATEGORIES)), dtype=np.int64)
    for life in lives:
        column = CATEGORIES.index(life.category)
        change[life.birth, column] += life.bytes
        if life.death is not None:
            change[life.death, column] -= life.bytes
    live_bytes = change.cumsum(axis=0)[: end + 1]
    peak_moment = int(live_bytes.sum(axis=1).argmax())
    alive = sorted((life for life in lives if life.spans(peak_moment)), key=lambda life: -life.bytes)
    return History(live_bytes, peak_moment, tuple(Block(life.bytes, life.category) for life in alive[:largest]))


def _lives(events: Sequence[Event], phases: Sequence[Phase], claims: Sequence[Claim]) -> list[_Life]:
    """Return every block that ever lived, in order of allocation."""
    lives: list[_Life] = []
    living: dict[int, _Life] = {}
    coming_phases, coming_claims = list(reversed(phases)), list(reversed(claims))
    category = ""
    for moment in range(len(events) + 1):
        while coming_claims and coming_claims[-1].moment == moment:
            _apply(coming_claims.pop(), living)
        while coming_phases and coming_phases[-1].moment == moment:
            category = coming_phases.pop().category
        if moment == len(events):
            break
        event = events[moment]
        if event["action"] == "alloc":
            own = "workspace" if _is_scratch(event) else category
            life = _Life(event["size"], own, claimed=False, birth=moment + 1)
            lives.append(life)
            living[event["addr"]] = life
        else:
            living.pop(event["addr"]).death = moment + 1
    return lives


def _apply(claim: Claim, living: Mapping[int, _Life]) -> None:
    for address in living if claim.addresses is None else claim.addresses:
        life = living.get(address)
        if life and not life.claimed:
            life.category, life.claimed = claim.category, True


def _is_scratch(event: Event) -> bool:
    """Whether no tensor owns the block. Where PyTorch cannot unwind the stack nobody knows: False."""
    names = [frame["name"] for frame in event.get("frames", ())]
    return any("::" in name for name in names) and not any(name.startswith(_TENSOR_MEMORY) for name in names)
