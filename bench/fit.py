"""What trains in a given memory: the tasks, and the largest batch of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table

from profl.bench.errors import InputError
from profl.bench.fleet import format_bytes, parse_bytes
from profl.bench.memory.api import BuiltStep
from profl.bench.memory.errors import MeasurementFailed, OutOfMemory, UnusableStep
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.gpu.profile import resolve
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.workload import Workload
from profl.bench.operations import operations_per_example
from profl.bench.technique import PLAIN, Technique
from profl.bench.training import TrainingWorkload

LOOKAHEAD = 8
"""How many batch sizes above the answer are tried one by one. Where batches fail between others that fit, these gaps
were one or two wide: ResNet18's ``map 3`` in 64 MiB fails at 17, 18 and 21, and fits up to 26."""


BEGIN_BATCH = 256
"""The largest batch that is tried at first where no cap is given; it doubles as long as it fits."""

LARGEST_BATCH = 2**16
"""Where doubling ends: a step that fits even so hardly depends on its batch."""


Tell = Callable[[str, int, bool], object]


def _silent(key: str, budget_bytes: int, fits: bool) -> None: ...


def largest_batch(fits: Callable[[int], bool], most: int | None) -> int | None:
    """Return the largest batch size found to fit, from 1 to ``most``.

    Memory is not quite monotone in the batch size: cuDNN chooses its plans by it, and the allocator caches blocks in
    its sizes. So a batch may fail though a larger one fits, and no search but trying them all can be certain.

    What is guaranteed: the answer was tried and fits, and every larger batch that was tried failed. Among these are
    the next `LOOKAHEAD` ones, every power of two, and ``most``. It is therefore the largest of all, unless `LOOKAHEAD`
    or more failing batches in a row lie between two that fit (or before the first). Nothing is claimed about smaller
    batches.

    Parameters
    ----------
    fits
        Whether a batch of this size suffices with the memory; asked at most once for each.
    most
        The largest batch to try, at least 1. None: `BEGIN_BATCH`, doubled until one fails, at most `LARGEST_BATCH`.

    Returns
    -------
    int or None
        Pictures; None if no batch that was tried fits, among them 1 to `LOOKAHEAD`.
    """
    tried = cache(fits)
    most = most or _first_failing(tried)
    powers = [1 << exponent for exponent in range(most.bit_length())]
    largest, failing = 0, most + 1
    for batch in (most, *reversed(powers)):
        if tried(batch):
            largest = batch
            break
        failing = batch
    while failing - largest > 1:
        middle = (largest + failing) // 2
        if tried(middle):
            largest = middle
        else:
            failing = middle
    candidate = largest + 1
    while candidate <= min(largest + LOOKAHEAD, most):
        if tried(candidate):
            largest = candidate
        candidate += 1
    return largest or None


def _first_failing(fits: Callable[[int], bool]) -> int:
    """Return `BEGIN_BATCH` doubled until a batch fails, or `LARGEST_BATCH`."""
    most = BEGIN_BATCH
    while most < LARGEST_BATCH and fits(most):
        most *= 2
    return most


@dataclass(frozen=True)
class Fit:
    """In what batches a task trains.

    Parameters
    ----------
    method, task
        Name of the method, key of its task.
    largest_batches
        Pictures by budget in bytes, as `largest_batch` finds them; None where nothing fits.
    least_budget_bytes
        What a batch of one picture needs; None if the whole GPU is too small.
    operations_per_example
        Floating-point operations of training on one picture; None if not counted.
    technique
        How its steps save memory.
    """

    method: str
    task: str
    largest_batches: Mapping[int, int | None]
    least_budget_bytes: int | None
    operations_per_example: int | None
    technique: Technique = PLAIN

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "method": self.method,
            "technique": str(self.technique),
            "task": self.task,
            "least_budget_bytes": self.least_budget_bytes,
            "operations_per_example": self.operations_per_example,
            "fits": [
                {"budget_bytes": budget, "largest_batch": batch} for budget, batch in self.largest_batches.items()
            ],
        }


def read_budgets(texts: Iterable[str], gpu: str) -> dict[int, str]:
    """Read amounts of memory; return what was written, by bytes, in this order and each amount once.

    Raises
    ------
    InputError
        If one is no amount of memory, not above zero, or more than the virtual GPU has. A physical GPU's memory is
        not asked for: there a budget above it limits nothing.
    GpuUnavailable
        If no GPU has this name.
    """
    virtual = resolve(gpu)
    budgets: dict[int, str] = {}
    for text in texts:
        budget_bytes = parse_bytes(text)
        if virtual and budget_bytes > virtual.total_bytes:
            raise InputError(
                f"budget '{text}' is more than {gpu} has: give at most {format_bytes(virtual.total_bytes)}, "
                "or another GPU"
            )
        budgets.setdefault(budget_bytes, text.strip())
    return budgets


def fit_task(
    workload: TrainingWorkload,
    most: int | None,
    gpu: str,
    budgets: Iterable[int],
    prober: Prober,
    tell: Tell = _silent,
) -> Fit:
    """Return in what batches a task trains, as `fit_batches`; its recipe's batch size decides nothing."""

    def at(batch: int) -> TrainingWorkload:
        return replace(workload, recipe=replace(workload.recipe, batch_size=batch))

    batches, least = fit_batches(at, most, gpu, budgets, prober, tell)
    task, technique = workload.task, workload.technique
    operations = operations_per_example(task, workload.model, workload.recipe, technique)
    return Fit(workload.scope, task.key, batches, least, operations, technique)


def fit_batches(
    at: Callable[[int], Workload],
    most: int | None,
    gpu: str,
    budgets: Iterable[int],
    prober: Prober,
    tell: Tell = _silent,
) -> tuple[dict[int, int | None], int | None]:
    """Return the largest batch by budget, each run for ten steps under a real limit, and the least budget of batch 1.

    Parameters
    ----------
    at
        The step with a batch of this size.
    most
        The largest to try, as of `largest_batch`.
    budgets
        Bytes of GPU memory.
    tell
        Told of every batch that is tried: the step's key, the budget in bytes, and whether it ran.

    Raises
    ------
    GpuUnavailable, MeasurementFailed
        As `Prober.measure`, but `OutOfMemory` is an answer: None.
    UnusableStep
        If a batch of one asks nothing of the GPU.
    """

    def largest(budget_bytes: int) -> int | None:
        def fits(batch: int) -> bool:
            step = at(batch)
            try:
                found = prober.fits(step, gpu, budget_bytes)
            except UnusableStep:
                raise
            except MeasurementFailed as error:
                where = f"with a batch of {batch} (--batch-size caps what is tried)"
                raise MeasurementFailed(f"{where}, {error}") from error
            tell(step.key, budget_bytes, found)
            return found

        return largest_batch(fits, most)

    try:
        least_budget_bytes = _asking(prober.measure(at(1), gpu)).least_budget_bytes
    except OutOfMemory:
        least_budget_bytes = None
    return {budget: largest(budget) for budget in budgets}, least_budget_bytes


def _asking(footprint: Footprint) -> Footprint:
    """Refuse a step that leaves the GPU alone: every batch would fit, until the CPU's memory is full."""
    if not footprint.peak_requested_bytes:
        raise UnusableStep(f"{footprint.key}: {'; '.join(footprint.caveats)}")
    return footprint


def fit(
    build: Callable[..., Any], budget: int | str, gpu: str = "virtual:h100", *, most: int | None = None
) -> int | None:
    """Return the largest batch whose training step runs in a given GPU memory, as `largest_batch` finds it.

    Parameters
    ----------
    build
        As `profl.bench.memory.measure` takes it, with a second argument ``batch_size``, examples in the batch.
    budget
        GPU memory: bytes, or a text such as ``512MiB``.
    gpu
        ``cuda``, or a virtual GPU, which needs no hardware: ``virtual:h100``, ``virtual:t4``, ...
    most
        The largest batch to try. None: as large as fits, at most `LARGEST_BATCH`.

    Returns
    -------
    int or None
        Examples; None if no batch that was tried fits.

    Raises
    ------
    InputError
        If the budget is no amount of memory, or more than the virtual GPU has.
    GpuUnavailable, MeasurementFailed
        As `profl.bench.memory.measure`.

    Examples
    --------
    ::

        from profl import fit

        if __name__ == "__main__":
            print(fit(build, "512MiB", "virtual:t4"))
    """
    (budget_bytes,) = read_budgets([f"{budget} B" if isinstance(budget, int) else budget], gpu)
    with Prober() as prober:
        with suppress(OutOfMemory):
            _asking(prober.measure(step_at(build, 1), gpu, least_budget=False))
        return largest_batch(lambda batch: prober.fits(step_at(build, batch), gpu, budget_bytes), most)


def step_at(build: Callable[..., Any], batch_size: int) -> BuiltStep:
    """Return the step that ``build`` makes with a batch of this size."""
    return BuiltStep(partial(build, batch_size=batch_size))


def fit_table(fits: Sequence[Fit], budgets: Mapping[int, str], most: int | None) -> Table:
    """Return a row per task, grouped by method, and a column per budget; ``+`` marks the largest that may be tried."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("task", no_wrap=True)
    for text in budgets.values():
        table.add_column(text, justify="right")
    table.add_column("batch 1 needs", justify="right")
    table.add_column("M operations\nan example", justify="right")
    for method, group in groupby(fits, key=lambda fit: fit.technique.label(fit.method)):
        tasks = list(group)
        for row, task in enumerate(tasks):
            batches = [_batch(task.largest_batches[budget], most) for budget in budgets]
            least = "?" if task.least_budget_bytes is None else format_bytes(task.least_budget_bytes)
            counted = task.operations_per_example
            operations = "?" if counted is None else f"{counted / 1e6:,.1f}"
            table.add_row("" if row else method, task.task, *batches, least, operations, end_section=task is tasks[-1])
    return table


def _batch(largest: int | None, most: int | None) -> str:
    if largest is None:
        return "-"
    return f"{largest}+" if largest == (most or LARGEST_BATCH) else str(largest)


def guarantee(fits: Collection[Fit], most: int | None) -> str:
    """Return what the numbers of `fit_table` promise, and what those of its marks mean that stand in it."""
    batches = [batch for fit in fits for batch in fit.largest_batches.values()]
    tried = (
        f"every power of two, and {most}"
        if most
        else f"and powers of two up to the first from {BEGIN_BATCH} on that failed"
    )
    cap = most or LARGEST_BATCH
    told = ["The largest batch that ran ten training steps in that memory."]
    if any(batch != cap for batch in batches):
        told.append(f"Every larger one that was tried failed: the next {LOOKAHEAD}, {tried}.")
    if cap in batches:
        given = f", as --batch-size {most} is the cap: give a larger one, or leave it out."
        told.append(f"{cap}+ ran, and none above was tried{given if most else ': give --batch-size for a larger cap.'}")
    if None in batches:
        told.append("- means that none that was tried fits.")
    if any(None in (fit.least_budget_bytes, fit.operations_per_example) for fit in fits):
        told.append("? is unknown.")
    return " ".join([*told, "A batch smaller than the answer may still fail."])
