"""A pytest plugin: a test fails when a training step needs more GPU memory than its marker allows.

Beside the marker, the option ``--profl-method`` runs `profl.bench.conformance` on a method. Every pytest run loads this
wherever the package is installed: it imports nothing until a test or the option asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from profl.bench.memory import Footprint, Prober
    from profl.bench.memory.api import Build
    from profl.bench.memory.workload import Workload

_DEFAULT_GPU = "virtual:h100"

_MARKER = (
    "peak_memory(limit, gpu=None, quantity='requested'): fail if a training step that the test measures with "
    "memory_footprint needs more than the limit, as in '300MiB'; quantity may also be 'allocated', 'reserved', "
    f"'least_budget', ...: the bytes of a Footprint. Measured on {_DEFAULT_GPU} if no GPU is given. Of several markers "
    "the closest counts: of each quantity, and of those that name a GPU."
)


class _Limit(NamedTuple):
    """What a marker asks: ``quantity`` as the user names it, ``metric`` as `Footprint` does."""

    limit_bytes: int
    gpu: str | None
    quantity: str
    metric: str


class _SectionLine(NamedTuple):
    """A line of the terminal section; ``median_seconds`` and ``known_bytes`` (of the compared run) may be unknown."""

    test: str
    gpu: str
    quantity: str
    peak_bytes: int | None
    limit_bytes: int | None
    known_bytes: int | None
    median_seconds: float | None


_MEASURED = pytest.StashKey[list["Footprint"]]()
_SECTION_LINES = pytest.StashKey[list[_SectionLine]]()
_COMPARED = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("profl").addoption(
        "--profl-method",
        action="append",
        default=[],
        metavar="NAME",
        help="instead of the tests found, check that this method keeps profl's contract; may be given again",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.stash[_SECTION_LINES] = []
    if names := config.getoption("profl_method"):
        _collect_conformance(config, names)


def _collect_conformance(config: pytest.Config, names: list[str]) -> None:
    """Let pytest collect the suite that comes along: alone, or after the files that the command line names."""
    from profl.bench.errors import InputError
    from profl.bench.registry import method_class

    try:
        for name in names:
            method_class(name)
    except InputError as error:
        raise pytest.UsageError(f"--profl-method: {error}") from None
    named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
    config.args = [*named, str(Path(__file__).with_name("conformance.py"))]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test whose marker is wrong fail alone, before anything is set up for it."""
    try:
        _demand(item)
    except ValueError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture(scope="session")
def _memory_prober() -> Iterator[Prober]:
    from profl.bench.memory import Prober

    with Prober() as prober:
        yield prober


@pytest.fixture
def memory_footprint(request: pytest.FixtureRequest, _memory_prober: Prober) -> Callable[..., Footprint]:
    """Function that measures the GPU memory of a training step in a worker process and returns its Footprint.

    It takes what `profl.bench.memory.measure` takes, or a `profl.bench.memory.workload.Workload` in place of ``build``.
    The GPU is that of the marker ``peak_memory`` unless another is given. The marker's limit holds for every step
    measured; the least budget is searched for where it is limited. With pytest-benchmark's ``benchmark`` in the same
    test, the bytes also land in its ``extra_info``; no timed pass is ever measured.
    """
    limits, default_gpu = _demand(request.node)
    request.node.stash[_MEASURED] = measured = list[Any]()  # anew where a failed test is run again
    budget_limited = any(limit.quantity == "least_budget" for limit in limits)

    def measure(
        build: Build | Workload,
        gpu: str = default_gpu,
        *,
        steps: int = 3,
        least_budget: bool = False,
        snapshot: Path | None = None,
    ) -> Footprint:
        __tracebackhide__ = True
        from profl.bench.memory import BuiltStep, GpuUnavailable, MeasurementFailed

        workload: Any = build if hasattr(build, "prepare") else BuiltStep(build)
        try:
            footprint = _memory_prober.measure(
                workload,
                gpu,
                steps=steps,
                least_budget=least_budget or budget_limited,
                timeline=True,
                snapshot=snapshot,
            )
        except (GpuUnavailable, MeasurementFailed) as error:
            raise error.with_traceback(None) from None  # the message says it all, the frames are not the user's
        measured.append(footprint)
        return footprint

    return measure


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    (limits, _), measured = _demand(item), item.stash.get(_MEASURED, [])
    try:
        result = yield
    finally:
        if measured:
            _record(item, limits, measured)
    if limits and not measured:
        pytest.fail(
            "marked peak_memory, but nothing was measured: call the fixture memory_footprint with the function that "
            "builds the training step",
            pytrace=False,
        )
    if excesses := [text for footprint in measured if (text := _excess(footprint, limits))]:
        pytest.fail("\n\n".join(excesses), pytrace=False)
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_compare_machine_info(config: pytest.Config, compared_benchmark: dict[str, Any]) -> None:
    """Keep what the compared run has measured; of several runs the last one counts."""
    compared = config.stash.setdefault(_COMPARED, {})
    compared.update({entry["fullname"]: entry["extra_info"] for entry in compared_benchmark["benchmarks"]})


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:  # pytest-benchmark raises an error here if time has regressed
        if config.stash[_SECTION_LINES]:
            _write_section(terminalreporter, config.stash[_SECTION_LINES], _COMPARED in config.stash)


def _demand(item: pytest.Item) -> tuple[list[_Limit], str]:
    """Return what the test's markers ask: a limit for each quantity, and the GPU; the closest marker counts.

    Raises
    ------
    ValueError
        If an argument is wrong, or two of the limits name different GPUs.
    """
    try:
        closest_first = [peak_memory(*mark.args, **mark.kwargs) for mark in item.iter_markers("peak_memory")]
    except (TypeError, ValueError) as error:
        raise ValueError(f"marker peak_memory: {error}") from None
    limits = list({limit.quantity: limit for limit in reversed(closest_first)}.values())
    gpus = {limit.gpu for limit in limits if limit.gpu}
    if len(gpus) > 1:
        raise ValueError(f"its markers peak_memory name several GPUs, {sorted(gpus)}: name one")
    return limits, next((limit.gpu for limit in closest_first if limit.gpu), _DEFAULT_GPU)


def peak_memory(limit: str | int, gpu: str | None = None, quantity: str = "requested") -> _Limit:
    """Read the marker's arguments; named like the marker, for Python's own messages about them."""
    from profl.bench.errors import InputError, choose, nearest
    from profl.bench.fleet import parse_bytes

    metrics = {_quantity(metric): metric for metric in _metrics()}
    if quantity not in metrics:
        remedy = choose(nearest(str(quantity), metrics), ", ".join(metrics))
        raise InputError(f"unknown quantity {quantity!r}: {remedy}")
    if not isinstance(gpu, str | None):
        raise InputError(f"gpu cannot be {gpu!r}: give its name, as in 'virtual:t4'")
    if isinstance(limit, str):
        limit = parse_bytes(limit)
    elif type(limit) is not int or limit < 1:
        raise InputError(f"limit cannot be {limit!r}: give an amount of memory, as in '300MiB', or whole bytes above 0")
    return _Limit(limit, gpu, quantity, metrics[quantity])


def _metrics() -> list[str]:
    """Return the names of the fields of `Footprint` that hold bytes."""
    from profl.bench.memory import Footprint

    return [field.name for field in fields(Footprint) if field.name.endswith("_bytes")]


def _quantity(metric: str) -> str:
    return metric.removeprefix("peak_").removesuffix("_bytes")


def _most(measured: list[Footprint], metric: str) -> int | None:
    """Return the most bytes that any step of a test needs; None if that is unknown of any of them."""
    sizes = [getattr(footprint, metric) for footprint in measured]
    return None if None in sizes else max(sizes)


def _record(item: pytest.Item, limits: list[_Limit], measured: list[Footprint]) -> None:
    """Tell pytest-benchmark, if the test uses it, and keep the lines for the terminal."""
    known = item.config.stash.get(_COMPARED, {}).get(item.nodeid, {})
    seconds = None
    if (benchmark := getattr(item, "funcargs", {}).get("benchmark")) is not None:
        sizes = {metric: _most(measured, metric) for metric in _metrics()}
        benchmark.extra_info.update({metric: size for metric, size in sizes.items() if size is not None})
        seconds = benchmark.stats["median"] if benchmark.stats else None
    limited: dict[str, int | None] = {limit.metric: limit.limit_bytes for limit in limits}
    for metric, limit_bytes in (limited or {"peak_requested_bytes": None}).items():
        item.config.stash[_SECTION_LINES].append(
            _SectionLine(
                test=item.nodeid,
                gpu=", ".join(dict.fromkeys(footprint.environment.gpu for footprint in measured)),
                quantity=_quantity(metric),
                peak_bytes=_most(measured, metric),
                limit_bytes=limit_bytes,
                known_bytes=known.get(metric),
                median_seconds=seconds,
            )
        )


def _excess(footprint: Footprint, limits: list[_Limit]) -> str:
    """Return what is above its limit, by how much, what it consists of, and what to do; empty if nothing is."""
    step = f"{footprint.key} on {footprint.environment.device_name}"
    lines, remedies = [], []
    for limit in limits:
        size = getattr(footprint, limit.metric)
        if size is None:
            lines += [f"{limit.quantity} memory is unknown: {step}"]
            remedies += [f"Limit another quantity than {limit.quantity}, or measure on a GPU that tells it."]
        elif size > limit.limit_bytes:
            amounts = f"{_mib(size)} MiB, above the limit of {_mib(limit.limit_bytes)} MiB"
            lines += [
                f"{limit.quantity} memory is {amounts}: {step}",
                _line(size, limit.metric),
                _line(limit.limit_bytes, "limit"),
                _line(size - limit.limit_bytes, "too much"),
            ]
            gpu = f', gpu="{limit.gpu}"' if limit.gpu else ""
            raised = f'limit="{-(-size // 2**20)}MiB", quantity="{limit.quantity}"{gpu}'
            remedies += [f"If this growth is meant, raise the limit: @pytest.mark.peak_memory({raised})"]
    return "\n".join([*lines, *_peak_lines(footprint), *remedies]) if lines else ""


def _peak_lines(footprint: Footprint) -> Iterator[str]:
    position = footprint.peak_position
    where = f", reached in step {position.step}, {position.phase}, module {position.module or '?'}" if position else ""
    yield f"at the peak of requested memory{where}:"
    for category, held_bytes in sorted(footprint.categories_at_peak.items(), key=lambda entry: -entry[1]):
        yield _line(held_bytes, category)
    yield "largest blocks:"
    for block in footprint.largest_blocks:
        yield _line(block.bytes, f"{block.category}, module {block.module or '?'}, operator {block.operator or '?'}")


def _line(size: int, what: str) -> str:
    return f"{size:>18,} bytes  {_mib(size):>10} MiB  {what}"


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:,.2f}"


def _write_section(reporter: pytest.TerminalReporter, rows: list[_SectionLine], is_compared: bool) -> None:
    """Write a line per test and limited quantity; those above their limit in red."""
    texts = [
        ["test", *(row.test for row in rows)],
        ["GPU", *(row.gpu for row in rows)],
        ["quantity", *(row.quantity for row in rows)],
    ]
    figures = [
        ["peak (MiB)", *(_mib(row.peak_bytes) for row in rows)],
        ["limit (MiB)", *("none" if row.limit_bytes is None else _mib(row.limit_bytes) for row in rows)],
    ]
    if is_compared:
        figures.append(["change", *(_change(row) for row in rows)])
    if any(row.median_seconds is not None for row in rows):
        figures.append(["median time (ms)", *(_milliseconds(row.median_seconds) for row in rows)])
    padded = [_padded(column, str.ljust) for column in texts] + [_padded(column, str.rjust) for column in figures]
    heading, *lines = ("  ".join(cells) for cells in zip(*padded, strict=True))
    reporter.section("peak memory")
    reporter.line(heading)
    for row, line in zip(rows, lines, strict=True):
        reporter.line(line, red=_is_over(row))


def _padded(column: list[str], justify: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, column))
    return [justify(cell, width) for cell in column]


def _change(row: _SectionLine) -> str:
    if row.peak_bytes is None or not row.known_bytes:
        return "?"
    return f"{row.peak_bytes / row.known_bytes - 1:+.2%}"


def _milliseconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds * 1000:,.3f}"


def _is_over(row: _SectionLine) -> bool:
    return row.limit_bytes is not None and (row.peak_bytes is None or row.peak_bytes > row.limit_bytes)
