"""One measured run against another: a physical card against its prediction, or any two GPUs.

What is compared: the peaks, what the requested peak consists of, and the allocator's events in order. Events are equal
if they allocate or release the same number of bytes; addresses, which no two runs share, do not count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from operator import attrgetter
from typing import Any, NamedTuple

from profl.bench.memory.comparison.matching import caveat
from profl.bench.memory.comparison.measured_run import BlockEvent, MeasuredRun
from profl.bench.memory.footprint import PEAKS, Environment, Footprint
from profl.bench.memory.workload import CATEGORIES

_AROUND = 3  # events on each side
_SOFTWARE = ("torch", "cuda", "cudnn", "allocator_settings")


class Pair(NamedTuple):
    """A size in both runs, in bytes. None: unknown."""

    run: int | None
    other: int | None

    @property
    def difference(self) -> int | None:
        """How much more it is in the run."""
        return None if self.run is None or self.other is None else self.run - self.other


@dataclass(frozen=True)
class Comparison:
    """``run`` against ``other``, which is the prediction if one of them is."""

    run: MeasuredRun
    other: MeasuredRun

    @property
    def environments(self) -> tuple[Environment, Environment]:
        """Where each was measured."""
        return self.run.footprint.environment, self.other.footprint.environment

    @cached_property
    def peaks(self) -> Mapping[str, Pair]:
        """By the names of `profl.bench.memory.footprint.PEAKS`."""
        return {name: self._both(attrgetter(attribute)) for name, attribute in PEAKS.items()}

    @cached_property
    def categories(self) -> Mapping[str, Pair]:
        """What the requested peak consists of, by category."""
        run, other = self.run.footprint.categories_at_peak, self.other.footprint.categories_at_peak
        return {name: Pair(run[name], other[name]) for name in CATEGORIES}

    @cached_property
    def parts(self) -> Mapping[str, Pair] | None:
        """What the requested peak consists of, by category and module, the largest difference first.

        Only what differs, empty if nothing does. None: unknown for one of the runs.
        """
        run, other = _parts(self.run.footprint), _parts(self.other.footprint)
        if run is None or other is None:
            return None
        pairs = {part: Pair(run[part], other[part]) for part in sorted({*run, *other}) if run[part] != other[part]}
        return dict(sorted(pairs.items(), key=lambda entry: -abs(entry[1].difference or 0)))

    @property
    def nvml_used_bytes(self) -> Pair:
        """What the driver said each process held."""
        return self._both(attrgetter("nvml_used_bytes"))

    @property
    def context_bytes(self) -> Pair:
        """What of that PyTorch's allocator had not reserved: the CUDA context.

        Unknown also where the process held less than the reserved peak, of which then something was given back.
        """
        return self._both(_context_bytes)

    @cached_property
    def divergence(self) -> int | None:
        """Index of the first event that differs: in action, in size, or in which block is released. None: none does."""
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
        return self.divergence is None and not self.parts and not any(size.difference for size in sizes)

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
        yield from _differences(self.run.workload, self.other.workload)
        run, other = self.environments
        yield from _differences(*({name: getattr(where, name) for name in _SOFTWARE} for where in (run, other)))
        yield from _differences({"steps": self.run.footprint.steps}, {"steps": self.other.footprint.steps})
        if self.parts is None:
            yield "what the peak consists of by module is unknown for one of them, and so not compared"
        for card, virtual in ((run, other), (other, run)):
            doubt = caveat(card.device_name, virtual.gpu) if virtual.is_virtual and not card.is_virtual else None
            yield from [doubt] if doubt else []
        yield from dict.fromkeys([*self.run.footprint.caveats, *self.other.footprint.caveats])

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON can hold it; every difference is the run's size less the other's."""
        return {
            "workload": dict(self.run.workload),
            "environments": {"run": asdict(self.environments[0]), "other": asdict(self.environments[1])},
            "is_identical": self.is_identical,
            "peaks": {PEAKS[name]: _shape(pair) for name, pair in self.peaks.items()},
            "categories_at_peak": {name: _shape(pair) for name, pair in self.categories.items()},
            "parts_at_peak": self.parts and {name: _shape(pair) for name, pair in self.parts.items()},
            "nvml_used_bytes": _shape(self.nvml_used_bytes),
            "context_bytes": _shape(self.context_bytes),
            "events": {
                "run": len(self.run.events),
                "other": len(self.other.events),
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
    def _logs(self) -> tuple[Sequence[BlockEvent], Sequence[BlockEvent]]:
        return self.run.events, self.other.events

    def _events_at(self, index: int) -> tuple[BlockEvent | None, BlockEvent | None]:
        run, other = (log[index] if index < len(log) else None for log in self._logs)
        return run, other

    def _both(self, size: Callable[[Footprint], int | None]) -> Pair:
        return Pair(size(self.run.footprint), size(self.other.footprint))


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


def _parts(footprint: Footprint) -> Counter[str] | None:
    """Return what the peak consists of, by category and module; None if that is unknown."""
    sizes: Counter[str] = Counter()
    for portion in footprint.attribution:
        sizes[f"{portion.category} of {portion.module or '?'}"] += portion.bytes
    return sizes or None


def _differences(run: Mapping[str, object], other: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys([*run, *other]):
        if run.get(name) != other.get(name):
            yield f"{name} is {run.get(name, '?')}, against {other.get(name, '?')}"


def _context_bytes(footprint: Footprint) -> int | None:
    if footprint.nvml_used_bytes is None or footprint.nvml_used_bytes < footprint.peak_reserved_bytes:
        return None
    return footprint.nvml_used_bytes - footprint.peak_reserved_bytes
