"""One measured run against another: a physical card against its prediction, any two GPUs, or recorded traces.

What is compared: the peaks, what the requested peak consists of, and the allocator's events in order. Events are equal
if they allocate or release the same number of bytes; addresses, which no two runs share, do not count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

from profl.bench.memory.comparison.alignment import alignment
from profl.bench.memory.comparison.matching import caveat
from profl.bench.memory.comparison.side import BlockEvent, Side
from profl.bench.memory.footprint import PEAKS, Environment
from profl.bench.memory.workload import CATEGORIES

_AROUND = 3  # events on each side


class Pair(NamedTuple):
    """A size in both runs, in bytes. None: unknown."""

    run: int | None
    other: int | None

    @property
    def difference(self) -> int | None:
        """How much more it is in the run."""
        return None if self.run is None or self.other is None else self.run - self.other


class Only(NamedTuple):
    """How many blocks of a size live at the peak of the run, and of the other."""

    run: int
    other: int


@dataclass(frozen=True)
class Comparison:
    """``run`` against ``other``, which is the prediction if one of them is.

    Of a run that was measured everything is known. A trace that somebody recorded may begin and end anywhere: its
    events are compared from where both are alike for longest, up to where the first of them ends.
    """

    run: Side
    other: Side

    @property
    def environments(self) -> tuple[Environment | None, Environment | None]:
        """Where each was measured. None: unknown."""
        return self.run.environment, self.other.environment

    @cached_property
    def peaks(self) -> Mapping[str, Pair]:
        """By the names of `profl.bench.memory.footprint.PEAKS`."""
        return {name: Pair(size, self.other.peaks[name]) for name, size in self.run.peaks.items()}

    @cached_property
    def categories(self) -> Mapping[str, Pair]:
        """What the requested peak consists of, by category. Empty: unknown for one of the runs."""
        run, other = self.run.categories, self.other.categories
        if run is None or other is None:
            return {}
        return {name: Pair(run[name], other[name]) for name in CATEGORIES}

    @cached_property
    def parts(self) -> Mapping[str, Pair] | None:
        """What the requested peak consists of, by category and module, the largest difference first.

        Only what differs, empty if nothing does. None: unknown for one of the runs.
        """
        run, other = self.run.parts, self.other.parts
        if run is None or other is None:
            return None
        pairs = {part: Pair(run[part], other[part]) for part in sorted({*run, *other}) if run[part] != other[part]}
        return dict(sorted(pairs.items(), key=lambda entry: -abs(entry[1].difference or 0)))

    @cached_property
    def only(self) -> Mapping[int, Only]:
        """The sizes of which other numbers of blocks live at the peaks, the most bytes first; no workspaces."""
        return _unequal(self.run.sizes_at_peak.blocks, self.other.sizes_at_peak.blocks)

    @cached_property
    def workspaces(self) -> Mapping[int, Only]:
        """The workspaces that cuBLAS keeps, by size, also those of which both have the same."""
        run, other = self.run.sizes_at_peak.workspaces, self.other.sizes_at_peak.workspaces
        return {size: Only(run[size], other[size]) for size in sorted({*run, *other})}

    @cached_property
    def shared(self) -> Counter[int]:
        """How many blocks of each size live at both peaks; no workspaces."""
        return self.run.sizes_at_peak.blocks & self.other.sizes_at_peak.blocks

    @property
    def nvml_used_bytes(self) -> Pair:
        """What the driver said each process held."""
        return Pair(self.run.nvml_used_bytes, self.other.nvml_used_bytes)

    @property
    def context_bytes(self) -> Pair:
        """What of that PyTorch's allocator had not reserved: the CUDA context.

        Unknown also where the process held less than the reserved peak, of which then something was given back.
        """
        return Pair(self.run.context_bytes, self.other.context_bytes)

    @property
    def is_partial(self) -> bool:
        """Whether one of them begins in the middle, so that its events are compared as a part of the other's."""
        return not (self.run.begins_empty and self.other.begins_empty)

    @cached_property
    def starts(self) -> tuple[int, int]:
        """Index of the event in each log from which on they are compared."""
        if not self.is_partial:
            return 0, 0
        run, other = ([(event.action, event.bytes) for event in side.events] for side in (self.run, self.other))
        return alignment(run, other)

    @cached_property
    def divergence(self) -> int | None:
        """Index of the first event that differs: in action, in size, or in which block is released. None: none does.

        Counted, as blocks are, from where the comparison starts.
        """
        logs = ([(event.action, event.bytes, event.block) for event in log] for log in self._logs)
        return next((index for index, (run, other) in enumerate(zip_longest(*logs)) if run != other), None)

    @cached_property
    def unmatched_events(self) -> tuple[int, int]:
        """How many events of each run have no counterpart of the same action and size, in the same order, at best."""
        run, other = ([(event.action, event.bytes) for event in log] for log in self._logs)
        matched = longest_common_subsequence(run, other)
        return len(run) - matched, len(other) - matched

    @property
    def is_identical(self) -> bool:
        """Whether all that is known of both is equal, to the byte and the event; NVML's view apart."""
        sizes = [*self.peaks.values(), *self.categories.values()]
        unequal = self.parts or self.only or any(size.difference for size in sizes)
        return self.divergence is None and not unequal and all(run == other for run, other in self.workspaces.values())

    def around_divergence(self) -> Iterator[tuple[int, BlockEvent | None, BlockEvent | None]]:
        """Yield index and both runs' events, from a few before the divergence to a few after; None: it has ended."""
        if self.divergence is None:
            return
        shown = range(max(0, self.divergence - _AROUND), self.divergence + _AROUND + 1)
        for index in shown:
            run, other = self._events_at(index)
            if run or other:
                yield index, run, other

    def verdict(self) -> str:
        """Return in one line whether and where the runs differ."""
        run, other = self._logs
        if self.divergence is None:
            same = f"the same {len(run)} allocations and releases in the same order"
            return f"{same}, the same bytes" if self.is_identical else f"{same}; bytes differ"
        mine, its = self._events_at(self.divergence)
        first = f"event {self.divergence} is the first that differs: {mine or 'none'}, against {its or 'none'}"
        if not any(self.unmatched_events):
            return f"{first}; only which block of a size is released differs"
        alone, its_alone = self.unmatched_events
        return f"{first}; {alone} of {len(run)} events have no counterpart, and {its_alone} of the other's {len(other)}"

    def cautions(self) -> Iterator[str]:
        """Yield what else the runs differ in, and what to doubt about the virtual ones, a line each."""
        if self.is_partial:
            told = [f"event {start} of {side.name}" for start, side in zip(self.starts, self._sides, strict=True)]
            yield f"{len(self._logs[0])} events are compared, from {told[0]} and {told[1]} on"
        if self.run.workload is not None and self.other.workload is not None:
            yield from _differences(self.run.workload, self.other.workload)
        yield from _differences(*(_both_tell(side.software, self._sides) for side in self._sides))
        for side, its in ((self.run, self.other), (self.other, self.run)):
            alone = side.software.keys() - its.software.keys()
            if alone and side.environment is None:
                yield f"only {side.name} tells {', '.join(sorted(alone))}"
        if self.run.steps is not None and self.other.steps is not None:
            yield from _differences({"steps": self.run.steps}, {"steps": self.other.steps})
        if self.parts is None:
            yield "what the peak consists of by module is unknown for one of them, and so not compared"
        yield from self._doubts()
        yield from dict.fromkeys([*self.run.caveats, *self.other.caveats])

    def _doubts(self) -> Iterator[str]:
        """Yield what to doubt where a virtual GPU stands for a card."""
        run, other = self.environments
        if run is None or other is None:
            return
        for card, virtual in ((run, other), (other, run)):
            doubt = caveat(card.device_name, virtual.gpu) if virtual.is_virtual and not card.is_virtual else None
            yield from [doubt] if doubt else []

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON can hold it; every difference is the run's size less the other's."""
        return {
            "workload": self.run.workload and dict(self.run.workload),
            "environments": {"run": _fields(self.environments[0]), "other": _fields(self.environments[1])},
            "is_identical": self.is_identical,
            "peaks": {PEAKS[name]: _shape(pair) for name, pair in self.peaks.items()},
            "categories_at_peak": {name: _shape(pair) for name, pair in self.categories.items()},
            "parts_at_peak": self.parts and {name: _shape(pair) for name, pair in self.parts.items()},
            "nvml_used_bytes": _shape(self.nvml_used_bytes),
            "context_bytes": _shape(self.context_bytes),
            "sizes_at_peak": {
                "shared": [[size, count] for size, count in sorted(self.shared.items())],
                "differing": [{"bytes": size, **only._asdict()} for size, only in self.only.items()],
                "workspaces": [{"bytes": size, **only._asdict()} for size, only in self.workspaces.items()],
            },
            "events": {
                "run": len(self.run.events),
                "other": len(self.other.events),
                "starts": dict(zip(("run", "other"), self.starts, strict=True)),
                "first_difference": self.divergence,
                "unmatched": dict(zip(("run", "other"), self.unmatched_events, strict=True)),
                "around": [
                    {"index": index, "run": run and run._asdict(), "other": other and other._asdict()}
                    for index, run, other in self.around_divergence()
                ],
            },
            "cautions": list(self.cautions()),
        }

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.run, self.other

    @cached_property
    def _logs(self) -> tuple[Sequence[BlockEvent], Sequence[BlockEvent]]:
        """The events that are compared, blocks numbered as they first come."""
        run, other = (side.events[start:] for side, start in zip(self._sides, self.starts, strict=True))
        if not self.is_partial:
            return run, other
        common = min(len(run), len(other))
        return _renumbered(run[:common]), _renumbered(other[:common])

    def _events_at(self, index: int) -> tuple[BlockEvent | None, BlockEvent | None]:
        run, other = (log[index] if index < len(log) else None for log in self._logs)
        return run, other


def _renumbered(log: Sequence[BlockEvent]) -> list[BlockEvent]:
    numbers: dict[int, int] = {}
    return [event._replace(block=numbers.setdefault(event.block, len(numbers))) for event in log]


def _unequal(run: Counter[int], other: Counter[int]) -> dict[int, Only]:
    sizes = {size: Only(run[size], other[size]) for size in sorted({*run, *other}) if run[size] != other[size]}
    return dict(sorted(sizes.items(), key=lambda entry: -entry[0] * abs(entry[1].run - entry[1].other)))


def _both_tell(software: Mapping[str, str], sides: Iterable[Side]) -> dict[str, str]:
    return {name: told for name, told in software.items() if all(name in side.software for side in sides)}


def _fields(environment: Environment | None) -> dict[str, Any] | None:
    return None if environment is None else asdict(environment)


def longest_common_subsequence(run: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Return how many entries both have in the same order, at best.

    One bit of a whole number stands for each entry of ``run``, so that a step of the usual table's rows is four
    operations on whole numbers (Hyyrö, 2004): logs of 10,000 events take a twentieth of a second, where ``difflib``,
    which need not find the best, can take ten.
    """
    places: defaultdict[Hashable, int] = defaultdict(int)
    for index, entry in enumerate(run):
        places[entry] |= 1 << index
    everywhere = (1 << len(run)) - 1
    unmatched = everywhere
    for entry in other:
        found = unmatched & places.get(entry, 0)
        unmatched = ((unmatched + found) | (unmatched - found)) & everywhere
    return len(run) - unmatched.bit_count()


def _shape(pair: Pair) -> dict[str, int | None]:
    return {**pair._asdict(), "difference": pair.difference}


def _differences(run: Mapping[str, object], other: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys([*run, *other]):
        if run.get(name) != other.get(name):
            yield f"{name} is {run.get(name, '?')}, against {other.get(name, '?')}"
