"""PyTorch's CUDA caching allocator in plain Python: what would a recorded step have reserved under other settings?

`replay` plays a trace of allocations and frees through a model of the allocator of PyTorch 2.14, whose numbers and
whose log of events equal those of the real one. Neither torch nor a GPU is needed. What the model leaves out:

- calls of ``torch.cuda.empty_cache``: a recording does not tell them from the allocator's own releases. Where there
  were any, replaying a recording under its own settings gives other events than the recorded ones;
- blocks that wait for another stream after ``record_stream``: they count as allocated until it is done with them, as
  in PyTorch's active bytes;
- memory pools and CUDA graphs: `recorded_trace` refuses recordings that use them;
- a GPU that other processes use too: memory ends at ``limit_bytes``, never before;
- the end of an expandable segment's addresses, 9/8 of the GPU's memory: here they never end.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from profl.bench.errors import InputError
from profl.bench.memory.replay.settings import GRANULE_BYTES, MIB, UNLIMITED_BYTES, AllocatorSettings, round_up

__all__ = [
    "Alloc",
    "Allocator",
    "AllocatorSettings",
    "Free",
    "Refused",
    "Replay",
    "ReplayedEvent",
    "Trace",
    "recorded_requests",
    "recorded_trace",
    "replay",
]

_SMALL_BYTES = MIB  # the largest block of the small pool
_SMALL_SEGMENT_BYTES = 2 * MIB
_OWN_SEGMENT_BYTES = 10 * MIB  # from here on a block that finds no room gets a segment of its own
_OWN_SEGMENT_GRANULE_BYTES = 2 * MIB
_ADDRESS_SPACE_BYTES = 1 << 60  # apart enough that no two segments meet


# --- what goes in --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alloc:
    """A block of ``bytes``, as requested, is handed out on ``stream``; ``block`` names it until it is freed.

    Streams are told apart, and ordered, by number: PyTorch's by their handles, 0 for the default one.
    """

    block: int
    bytes: int
    stream: int = 0


@dataclass(frozen=True)
class Free:
    """The block can be handed out again: it was freed, and no stream uses it any more."""

    block: int


@dataclass(frozen=True)
class Refused:
    """An allocation of ``bytes``, rounded up to a block, that ran out of memory."""

    bytes: int
    stream: int = 0


Trace = Sequence[Alloc | Free]


def recorded_trace(device_traces: Sequence[Sequence[Mapping[str, Any]]], device: int = 0) -> list[Alloc | Free]:
    """Return what a recording asked of the allocator.

    Parameters
    ----------
    device_traces
        ``torch.cuda.memory._snapshot()["device_traces"]``, of a recording that ``_record_memory_history`` began
        while nothing was allocated.
    device
        Index of the GPU.

    Raises
    ------
    InputError
        If the recording does not hold ``device``, frees a block that it does not allocate (it began late, or its
        oldest events are lost), ran out of memory, or allocated in a memory pool of its own.
    """
    if not 0 <= device < len(device_traces):
        raise InputError(f"the recording has {len(device_traces)} GPUs and none of index {device}: choose another")
    trace: list[Alloc | Free] = []
    for position, request in recorded_requests(device_traces[device]):
        if isinstance(request, Refused):
            raise InputError(f"event {position} ran out of memory: record with more, and limit the replay instead")
        trace.append(request)
    return trace


def recorded_requests(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Alloc | Free | Refused]]:
    """Yield what a GPU's events in a recording asked for, also in vain, each with its position among them.

    Takes and raises what `recorded_trace` does, but that memory may have run out.
    """
    living: dict[int, int] = {}
    for position, event in enumerate(events):
        if tuple(event.get("pool_id", (0, 0))) != (0, 0):
            raise InputError(f"event {position} uses a memory pool of its own: record without pools and CUDA graphs")
        match event["action"]:
            case "alloc":
                living[event["addr"]] = position
                yield position, Alloc(position, event["size"], event["stream"])
            case "free_completed":
                if event["addr"] not in living:
                    raise InputError(
                        f"event {position} frees a block that was allocated before the recording: begin it with "
                        "nothing allocated, and with max_entries above the number of its events"
                    )
                yield position, Free(living.pop(event["addr"]))
            case "oom":
                yield position, Refused(event["size"], event["stream"])


# --- what comes out ------------------------------------------------------------------------------------------------


class ReplayedEvent(NamedTuple):
    """One line of the allocator's log, in PyTorch's words.

    ``alloc`` and ``free_completed`` give the requested bytes, ``segment_alloc``, ``segment_free``, ``segment_map``
    and ``segment_unmap`` (the last two of expandable segments) those of the GPU. Addresses are the model's own.
    """

    action: str
    address: int
    bytes: int
    stream: int


@dataclass(frozen=True)
class Replay:
    """What the allocator did with a trace.

    Parameters
    ----------
    peak_requested_bytes, peak_allocated_bytes, peak_reserved_bytes
        The most bytes asked for, in blocks handed out, and held on the GPU, each at its own time.
    peak_segments
        The most segments held at a time; as in PyTorch's statistics, expandable ones do not count.
    out_of_memory_at
        Index in the trace of the allocation that failed, where the replay ended; None: all went well.
    """

    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_segments: int
    events: tuple[ReplayedEvent, ...]
    out_of_memory_at: int | None


_DEFAULT_SETTINGS = AllocatorSettings()


def replay(trace: Trace, settings: AllocatorSettings = _DEFAULT_SETTINGS, limit_bytes: int | None = None) -> Replay:
    """Play a trace through an allocator that holds nothing yet.

    Parameters
    ----------
    limit_bytes
        What ``torch.cuda.set_per_process_memory_fraction`` sets; None: no limit. As in PyTorch, an expandable
        segment may grow past it by the rounding to its page.

    Raises
    ------
    InputError
        If an event allocates no bytes or a block that lives, or frees one that does not.
    """
    allocator = Allocator(settings, limit_bytes)
    living: dict[int, Block] = {}
    failed_at = None
    for position, event in enumerate(trace):
        if isinstance(event, Free):
            if event.block not in living:
                raise InputError(f"event {position} frees block {event.block}, which is not allocated")
            allocator.free(living.pop(event.block))
            continue
        if event.bytes < 1 or event.block in living:
            raise InputError(f"event {position} is no allocation of a new block of 1 byte or more: {event}")
        block = allocator.allocate(event.bytes, event.stream)
        if block is None:
            failed_at = position
            break
        living[event.block] = block
    return Replay(
        peak_requested_bytes=allocator.requested.peak,
        peak_allocated_bytes=allocator.allocated.peak,
        peak_reserved_bytes=allocator.reserved.peak,
        peak_segments=allocator.segments.peak,
        events=tuple(allocator.events),
        out_of_memory_at=failed_at,
    )


# --- the allocator -------------------------------------------------------------------------------------------------


class _Gauge:
    """A statistic and the highest it ever was."""

    def __init__(self) -> None:
        self.current = self.peak = 0

    def add(self, amount: int) -> None:
        self.current += amount
        if self.current > self.peak:
            self.peak = self.current


@dataclass(eq=False, slots=True)
class _Segment:
    """A range of addresses, from ``start``, that belongs to a pool and a stream."""

    pool: _Pool
    stream: int
    start: int


@dataclass(eq=False, slots=True)
class Block:
    """A part of a segment. A block that is not mapped has addresses, but no memory behind them yet."""

    segment: _Segment
    address: int
    bytes: int
    mapped: bool = True
    free: bool = True
    requested_bytes: int = 0
    cached_at: int = 0
    previous: Block | None = None
    next: Block | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the block is all of its segment."""
        return self.previous is None and self.next is None

    @property
    def expandable_bytes(self) -> int:
        """What the block could grow to."""
        return self.bytes + (self.next.bytes if self.next and not self.next.mapped else 0)

    def insert_after(self, before: Block) -> None:
        """Take the place right after ``before``."""
        self.previous, self.next = before, before.next
        if before.next:
            before.next.previous = self
        before.next = self


def _by_size(block: Block) -> tuple[int, int, int, Block]:
    # Later segments have higher addresses here: among blocks of a size, the oldest segment's first block comes first.
    # No two blocks have one address, so that blocks themselves are never compared.
    return block.segment.stream, block.bytes, block.address, block


def _by_address(block: Block) -> tuple[int, int]:
    return block.segment.stream, block.address


class _Pool:
    """The free blocks for requests of one kind, of all streams.

    Parameters
    ----------
    page_bytes
        By how much an expandable segment grows.
    """

    def __init__(self, *, small: bool, page_bytes: int) -> None:
        self.small = small
        self.page_bytes = page_bytes
        self.cached: list[tuple[int, int, int, Block]] = []  # as `_by_size` has them: compared without a call
        self.unmapped: list[Block] = []
        self.clock = 0

    def add(self, block: Block) -> None:
        if block.mapped:
            block.cached_at = self.clock
            insort(self.cached, _by_size(block))
        else:
            insort(self.unmapped, block, key=_by_address)

    def remove(self, block: Block) -> None:
        if block.mapped:
            del self.cached[bisect_left(self.cached, _by_size(block))]
        else:
            del self.unmapped[bisect_left(self.unmapped, _by_address(block), key=_by_address)]

    def position(self, stream: int, least_bytes: int) -> int:
        """Return where the stream's blocks of ``least_bytes`` or more begin in ``cached``."""
        return bisect_left(self.cached, (stream, least_bytes, 0))

    def at(self, position: int) -> Block:
        """Return the cached block that is there."""
        return self.cached[position][3]

    def holds(self, position: int, stream: int) -> bool:
        """Return whether a block of the stream is there."""
        return 0 <= position < len(self.cached) and self.cached[position][0] == stream


class Allocator:
    """The model itself: empty, with the statistics and the log of what it does."""

    def __init__(self, settings: AllocatorSettings, limit_bytes: int | None) -> None:
        self.requested, self.allocated, self.reserved, self.segments = _Gauge(), _Gauge(), _Gauge(), _Gauge()
        self.events: list[ReplayedEvent] = []
        self._settings = settings
        self._block_bytes = cache(settings.block_bytes)  # of the few sizes that come again and again
        self._limit_bytes = UNLIMITED_BYTES if limit_bytes is None else limit_bytes
        self._max_split_bytes = settings.max_split_bytes or UNLIMITED_BYTES
        self._rounding_bytes = settings.max_non_split_rounding_bytes or settings.large_segment_bytes
        self._collects_garbage = (
            limit_bytes is not None and settings.garbage_collection_threshold > 0 and not settings.expandable_segments
        )
        self._small = _Pool(small=True, page_bytes=_SMALL_SEGMENT_BYTES)
        self._large = _Pool(small=False, page_bytes=settings.large_segment_bytes)
        self._next_start = _ADDRESS_SPACE_BYTES
        self._most_granted_bytes, self._least_refused_bytes = 0, UNLIMITED_BYTES + 1

    @property
    def limits_alike(self) -> range:
        """The limits in bytes under which everything so far would have been the same."""
        if self._collects_garbage:
            return range(self._limit_bytes, self._limit_bytes + 1)
        return range(self._most_granted_bytes, self._least_refused_bytes)

    def allocate(self, requested_bytes: int, stream: int) -> Block | None:
        """Return a block, or None if memory ran out."""
        needed_bytes = self._block_bytes(requested_bytes)
        pool = self._small if needed_bytes <= _SMALL_BYTES else self._large
        if self._collects_garbage:
            pool.clock += 1
        block = self._reuse(pool, stream, needed_bytes) or self._obtain(pool, stream, needed_bytes)
        if block is None:
            return None
        if self._may_split(block, needed_bytes):
            rest = Block(block.segment, block.address + needed_bytes, block.bytes - needed_bytes)
            rest.insert_after(block)
            block.bytes = needed_bytes
            pool.add(rest)
        block.free = False
        block.requested_bytes = requested_bytes
        self.requested.add(requested_bytes)
        self.allocated.add(block.bytes)
        self._log("alloc", block, requested_bytes)
        return block

    def free(self, block: Block) -> None:
        """Put the block back into its pool."""
        self.requested.add(-block.requested_bytes)
        self.allocated.add(-block.bytes)
        self._log("free_completed", block, block.requested_bytes)
        block.free = True
        self._merge_with_neighbours(block)
        block.segment.pool.add(block)

    # --- finding a block ---

    def _reuse(self, pool: _Pool, stream: int, needed_bytes: int) -> Block | None:
        """Return the cached block that fits best, if it does not waste too much."""
        position = pool.position(stream, needed_bytes)
        if not pool.holds(position, stream):
            return None
        block = pool.at(position)
        if self._settings.expandable_segments:
            # How well a block fits is judged by what it can grow to: the end of the segment is spared.
            while pool.holds(position + 1, stream):
                if pool.at(position + 1).expandable_bytes >= block.expandable_bytes:
                    break
                position += 1
                block = pool.at(position)
        if needed_bytes < self._max_split_bytes <= block.bytes:
            return None
        if needed_bytes >= self._max_split_bytes and block.bytes >= needed_bytes + self._rounding_bytes:
            return None
        del pool.cached[position]
        return block

    def _obtain(self, pool: _Pool, stream: int, needed_bytes: int) -> Block | None:
        """Return a block of new memory; what is cached is given up for it where needed."""
        if self._collects_garbage:
            self._collect_garbage()
        block = self._grow(pool, stream, needed_bytes)
        if block is None and self._release_oversize(pool, stream, needed_bytes):
            block = self._grow(pool, stream, needed_bytes)
        if block is None:
            self._release_cached()
            block = self._grow(pool, stream, needed_bytes)
        return block

    def _may_split(self, block: Block, needed_bytes: int) -> bool:
        rest_bytes = block.bytes - needed_bytes
        if block.segment.pool.small or self._settings.expandable_segments:
            return rest_bytes >= GRANULE_BYTES
        return needed_bytes < self._max_split_bytes and rest_bytes > _SMALL_BYTES

    def _merge_with_neighbours(self, block: Block) -> None:
        """Let the block, which is in no list, swallow free ones beside it that are mapped or not as it is."""
        before = block.previous
        if before and before.free and before.mapped == block.mapped:
            block.segment.pool.remove(before)
            block.address, block.bytes = before.address, before.bytes + block.bytes
            block.previous = before.previous
            if block.previous:
                block.previous.next = block
        after = block.next
        if after and after.free and after.mapped == block.mapped:
            block.segment.pool.remove(after)
            block.bytes += after.bytes
            block.next = after.next
            if block.next:
                block.next.previous = block

    # --- taking memory from the GPU ---

    def _grow(self, pool: _Pool, stream: int, needed_bytes: int) -> Block | None:
        """Return a block of new memory, in no list, or None where the limit is in the way."""
        if pool.small:
            segment_bytes = _SMALL_SEGMENT_BYTES
        elif needed_bytes < _OWN_SEGMENT_BYTES:
            segment_bytes = self._settings.large_segment_bytes
        else:
            segment_bytes = round_up(needed_bytes, _OWN_SEGMENT_GRANULE_BYTES)
        held_bytes = self.reserved.current + segment_bytes
        if held_bytes > self._limit_bytes:
            self._least_refused_bytes = min(self._least_refused_bytes, held_bytes)
            return None
        self._most_granted_bytes = max(self._most_granted_bytes, held_bytes)
        if self._settings.expandable_segments:
            return self._expand(pool, stream, needed_bytes)
        block = Block(segment := self._new_segment(pool, stream), segment.start, segment_bytes)
        self.segments.add(1)
        self.reserved.add(block.bytes)
        self._log("segment_alloc", block, block.bytes)
        return block

    def _new_segment(self, pool: _Pool, stream: int) -> _Segment:
        segment = _Segment(pool, stream, self._next_start)
        self._next_start += _ADDRESS_SPACE_BYTES
        return segment

    def _expand(self, pool: _Pool, stream: int, needed_bytes: int) -> Block:
        """Map memory until there is a free block of ``needed_bytes``."""
        block = self._room(pool, stream, needed_bytes)
        if not block.mapped:
            self._map(block, min(block.bytes, needed_bytes))
        while block.bytes < needed_bytes:
            after = block.next
            assert after is not None
            self._map(after, min(after.bytes, needed_bytes - block.bytes))
            block = after
        pool.remove(block)
        return block

    def _room(self, pool: _Pool, stream: int, needed_bytes: int) -> Block:
        """Return the first of the blocks, mapped or not but all free, that together are large enough."""
        for block in pool.unmapped[bisect_left(pool.unmapped, (stream, 0), key=_by_address) :]:
            if block.segment.stream != stream:
                break
            first = block.previous if block.previous and block.previous.free else block
            last, room_bytes = first, first.bytes
            while room_bytes < needed_bytes and last.next and last.next.free:
                last = last.next
                room_bytes += last.bytes
            if room_bytes >= needed_bytes:
                return first
        segment = self._new_segment(pool, stream)
        block = Block(segment, segment.start, _ADDRESS_SPACE_BYTES // 2, mapped=False)
        pool.add(block)
        return block

    def _map(self, block: Block, least_bytes: int) -> None:
        """Put memory behind the beginning of the block, at least so much, in whole pages."""
        pool = block.segment.pool
        pool.remove(block)
        mapped_bytes = round_up(least_bytes, pool.page_bytes)
        if mapped_bytes < block.bytes:
            rest = Block(block.segment, block.address + mapped_bytes, block.bytes - mapped_bytes, mapped=False)
            rest.insert_after(block)
            pool.add(rest)
        block.bytes, block.mapped = mapped_bytes, True
        self.reserved.add(mapped_bytes)
        self._log("segment_map", block, mapped_bytes)
        self._merge_with_neighbours(block)
        pool.add(block)

    # --- giving memory back to the GPU ---

    def _collect_garbage(self) -> None:
        """Release segments of the large pool that lay unused for longest, down to the threshold."""
        threshold_bytes = int(self._settings.garbage_collection_threshold * self._limit_bytes)
        excess_bytes = self.reserved.current - threshold_bytes
        candidates = [
            block for *_, block in self._large.cached if block.is_whole and not self._settings.expandable_segments
        ]
        while excess_bytes > 0 and candidates:
            ages = [self._large.clock - block.cached_at for block in candidates]
            mean_age = sum(ages) / len(ages)
            kept = []
            for block, age in zip(candidates, ages, strict=True):
                if age >= mean_age:
                    excess_bytes -= block.bytes
                    self._release(block)
                else:
                    kept.append(block)
            candidates = kept

    def _release_oversize(self, pool: _Pool, stream: int, needed_bytes: int) -> bool:
        """Release a cached block that is too large to split, or several; return whether that may be enough."""
        if self._max_split_bytes == UNLIMITED_BYTES or self._settings.expandable_segments:
            return False
        wanted_bytes = max(needed_bytes, self._max_split_bytes)
        position = pool.position(stream, wanted_bytes)
        if pool.holds(position, stream):
            self._release(pool.at(position))
            return True
        released_bytes = 0
        while released_bytes < wanted_bytes and pool.holds(position := position - 1, stream):
            block = pool.at(position)
            if block.bytes < self._max_split_bytes:
                break
            released_bytes += block.bytes
            self._release(block)
        return released_bytes >= wanted_bytes

    def _release_cached(self) -> None:
        """Give back whatever no block in use shares."""
        for pool in (self._large, self._small):
            for *_, block in list(pool.cached):
                if self._settings.expandable_segments:
                    self._unmap(block)
                elif block.is_whole:
                    self._release(block)

    def _release(self, block: Block) -> None:
        """Give a whole segment back."""
        block.segment.pool.remove(block)
        self.segments.add(-1)
        self.reserved.add(-block.bytes)
        self._log("segment_free", block, block.bytes)

    def _unmap(self, block: Block) -> None:
        """Give back the whole pages in a cached block."""
        segment, pool = block.segment, block.segment.pool
        start = segment.start + round_up(block.address - segment.start, pool.page_bytes)
        end = block.address + block.bytes
        end -= (end - segment.start) % pool.page_bytes
        if start >= end:
            return
        pool.remove(block)
        before_bytes, after_bytes = start - block.address, block.address + block.bytes - end
        if after_bytes:
            after = Block(segment, end, after_bytes)
            after.insert_after(block)
            pool.add(after)
        if before_bytes:
            # The block itself stays in front; what is unmapped comes after it.
            unmapped = Block(segment, start, end - start, mapped=False)
            unmapped.insert_after(block)
            block.bytes = before_bytes
            pool.add(block)
            block = unmapped
        block.bytes, block.mapped = end - start, False
        self.reserved.add(-block.bytes)
        self._log("segment_unmap", block, block.bytes)
        self._merge_with_neighbours(block)
        if not block.is_whole:  # with its last page a segment is gone
            pool.add(block)

    def _log(self, action: str, block: Block, amount_bytes: int) -> None:
        self.events.append(ReplayedEvent(action, block.address, amount_bytes, block.segment.stream))
