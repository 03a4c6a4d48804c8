"""Read the allocator's event log: which block was what, and how many bytes of each category lived when.

Moments are counted in events that change what lives: 0 is the start, moment ``n`` comes after ``n`` events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profl.bench.memory.workload import CATEGORIES

LogEntry = Mapping[str, Any]
_Stack = tuple[int, ...]
_Told = tuple[str | None, str | None]

STEP = "(step)"
"""Module of what belongs to no module: the loss, the optimizer, the batch, a library's lasting workspace."""

GRAPH_NODE = "module "
"""What the traceback of a node of the autograd graph begins with, before the path of the module that made it."""

# A tensor's memory comes from one of these functions, however the tensor is made. What an operator asks of
# the allocator in any other way is scratch memory, its own or a library's.
_TENSOR_MEMORY = ("at::detail::empty_", "at::native::resize_bytes_", "c10::make_storage_impl")
# The buckets in which DistributedDataParallel exchanges gradients: made with it, and once more in the second step.
_BUCKET_MEMORY = "c10d::Reducer::initialize_buckets"
_OPERATOR = re.compile(r"at::_ops::(\w+)::(?:call|redispatch)\(")
_BACKWARD = re.compile(r"torch::autograd::(?:generated::)?(\w+)::apply\(")


@dataclass(frozen=True)
class Phase:
    """From ``moment`` on, new blocks that nobody claims are of ``category``."""

    moment: int
    name: str
    category: str


@dataclass(frozen=True)
class Claim:
    """What lives then at one of ``modules`` (address -> whose it is; None: everywhere) is of ``category``.

    A block's first claim holds. A claim to everything leaves every block with the module that allocated it, and gives
    way to one that names it.
    """

    moment: int
    category: str
    modules: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Graph:
    """What lives then at one of ``addresses``, of which autograd keeps a graph, is no temporary but an activation."""

    moment: int
    addresses: frozenset[int]


@dataclass
class Life:
    """A block of memory, from its allocation to its release.

    Parameters
    ----------
    phase
        Index of the phase in which it was allocated.
    origin
        Path of the module that ran when it was allocated, in backward the one that made the node of the graph.
        ``STEP``: none did. None: unknown.
    module
        Whose it is: the owner of a parameter, its gradient or its optimizer state, else ``origin``.
    operator
        That allocated it: as the program called it in forward (``conv2d``), the graph's node in backward
        (``ConvolutionBackward0``). None: unknown.
    birth, death
        First moment at which it lives, and first at which it no longer does. None: it outlives the log.
    claimed
        Whether a claim named it.
    in_graph
        Whether a graph keeps it that was not made in a forward pass.
    address
        Where it begins.
    """

    bytes: int
    category: str
    phase: int
    origin: str | None
    module: str | None
    operator: str | None
    birth: int
    death: int | None = None
    claimed: bool = False
    in_graph: bool = False
    address: int = 0

    def spans(self, moment: int) -> bool:
        """Whether it lives at ``moment``."""
        return self.birth <= moment and (self.death is None or moment < self.death)


@dataclass(frozen=True)
class History:
    """What lived when.

    Parameters
    ----------
    lives
        Every block, in order of allocation.
    phases
        As they were given.
    live_bytes
        int64 (moments, categories), columns as in ``CATEGORIES``.
    peak_moment
        The first moment with the most live bytes.
    """

    lives: tuple[Life, ...]
    phases: tuple[Phase, ...]
    live_bytes: NDArray[np.int64]
    peak_moment: int


def changes(events: Sequence[LogEntry]) -> list[LogEntry]:
    """Return the events that change what lives: a block lives from ``alloc`` to ``free_completed``."""
    return [event for event in events if event["action"] in ("alloc", "free_completed")]


def read_log(
    events: Sequence[LogEntry],
    phases: Sequence[Phase],
    claims: Sequence[Claim],
    end: int,
    graphs: Sequence[Graph] = (),
) -> History:
    """Fold the log of one measurement, begun with nothing allocated, up to the moment ``end``.

    Parameters
    ----------
    events
        What `changes` returned, oldest first. Of every allocation: the C++ stack as ``frames``, the path of the
        module that runs as ``user_metadata``, and in backward the traceback of the graph's node as
        ``forward_frames``; each may be missing.
    phases, claims
        In order of moment; the first phase begins at 0.
    end
        When the last step was over. After it cuBLAS gave its workspaces back and nothing else happened: a
        second way to know them, for machines on which PyTorch cannot unwind the stack.
    graphs
        In order of moment.
    """
    lives = _lives(events, phases, claims, graphs)
    for life in lives:
        if life.death is not None and life.death > end:
            life.category, life.module = "workspace", STEP
    live_bytes = np.stack(
        [live_bytes_of([life for life in lives if life.category == name], len(events)) for name in CATEGORIES], axis=1
    )[: end + 1]
    return History(tuple(lives), tuple(phases), live_bytes, int(live_bytes.sum(axis=1).argmax()))


def live_bytes_of(lives: Sequence[Life], end: int) -> NDArray[np.int64]:
    """Return how many bytes of ``lives`` live at each moment up to ``end``: int64 (end + 1,)."""
    change = np.zeros(end + 1, dtype=np.int64)
    for life in lives:
        if life.birth <= end:
            change[life.birth] += life.bytes
        if life.death is not None and life.death <= end:
            change[life.death] -= life.bytes
    return change.cumsum()


def _lives(
    events: Sequence[LogEntry], phases: Sequence[Phase], claims: Sequence[Claim], graphs: Sequence[Graph]
) -> list[Life]:
    """Return every block that ever lived, in order of allocation."""
    lives: list[Life] = []
    living: dict[int, Life] = {}
    coming_claims, coming_graphs = list(reversed(claims)), list(reversed(graphs))
    told: dict[_Stack, _Told] = {}
    phase = -1
    for moment in range(len(events) + 1):
        while coming_claims and coming_claims[-1].moment == moment:
            _apply(coming_claims.pop(), living)
        while coming_graphs and coming_graphs[-1].moment == moment:
            _keep(coming_graphs.pop(), living)
        while phase + 1 < len(phases) and phases[phase + 1].moment == moment:
            phase += 1
        if moment == len(events):
            break
        event = events[moment]
        if event["action"] == "alloc":
            known_category, operator = _told_by_stack(event.get("frames", ()), told)
            category = known_category or phases[phase].category
            origin = _origin(event)
            life = Life(
                event["size"],
                category,
                phase,
                origin,
                origin,
                operator,
                birth=moment + 1,
                address=event["addr"],
            )
            lives.append(life)
            living[event["addr"]] = life
        else:
            living.pop(event["addr"]).death = moment + 1
    return lives


def _apply(claim: Claim, living: Mapping[int, Life]) -> None:
    for address in living if claim.modules is None else claim.modules:
        life = living.get(address)
        if life and not life.claimed:
            life.category, life.claimed = claim.category, claim.modules is not None
            if claim.modules is not None:
                life.module = claim.modules[address]


def _keep(graph: Graph, living: Mapping[int, Life]) -> None:
    for address in graph.addresses:
        life = living.get(address)
        if life and not life.claimed and life.category == "temporaries":
            life.category, life.in_graph = "activations", True


def _told_by_stack(frames: Sequence[LogEntry], told: dict[_Stack, _Told]) -> _Told:
    """Return what `_known_category` and `_operator` do: PyTorch makes one frame of all that are equal."""
    stack = tuple(map(id, frames))
    if stack not in told:
        told[stack] = _known_category(frames), _operator(frames)
    return told[stack]


def _known_category(frames: Sequence[LogEntry]) -> str | None:
    """Return what a block is whatever the phase: scratch memory, if no tensor owns it, or a bucket of gradients.

    Where PyTorch cannot unwind the stack nobody knows: None.
    """
    allocators = {_allocator(frame["name"]) for frame in frames}
    if _BUCKET_MEMORY in allocators:
        return "buffers"
    if "::" in allocators and _TENSOR_MEMORY not in allocators:
        return "workspace"
    return None


@cache
def _allocator(name: str) -> object:
    """Return by which of the beginnings above a function asks for memory, "::" if it is another of C++."""
    if name.startswith(_BUCKET_MEMORY):
        return _BUCKET_MEMORY
    if name.startswith(_TENSOR_MEMORY):
        return _TENSOR_MEMORY
    return "::" if "::" in name else None


def _origin(event: LogEntry) -> str | None:
    """Return the module that runs, or else made the node of the graph that does."""
    running = event.get("user_metadata") or None
    if running not in (None, STEP):
        return running
    notes = [note for note in event.get("forward_frames", ()) if note.startswith(GRAPH_NODE)]
    return notes[-1].removeprefix(GRAPH_NODE) if notes else running


def _operator(frames: Sequence[LogEntry]) -> str | None:
    """Return the outermost operator, up to the first line of Python or node of the graph."""
    operator = None
    for frame in frames:
        if frame.get("filename", "").endswith(".py"):
            break
        node, called = _function(frame["name"])
        if node:
            return node
        operator = called or operator
    return operator


@cache
def _function(name: str) -> tuple[str | None, str | None]:
    """Return the node of the graph or the operator that a C++ function belongs to."""
    node, operator = _BACKWARD.match(name), _OPERATOR.match(name)
    return node and node[1], operator and operator[1]
