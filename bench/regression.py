"""Memory regression: measured footprints against the committed reference, to the byte."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from profl.bench.cell import Cell
from profl.bench.config import Config, experiments
from profl.bench.errors import InputError
from profl.bench.files import naming
from profl.bench.fleet import parse_bytes
from profl.bench.measuring import workloads
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.recording.budget import GRANULE_BYTES
from profl.bench.results.schema import category_columns
from profl.bench.technique import NONE

PEAK = "peak_requested_bytes"

METRICS = (
    PEAK,
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "peak_activation_bytes",
    "parameter_bytes",
    "least_budget_bytes",
)
"""What is compared of a footprint, beside its categories at the peak."""

ENVIRONMENT = "environment"
"""Name of the difference that is in no entry."""

TOLERATED = "tolerated"

LARGEST = 5
"""How many of the parts of a peak that differ to name."""

Measurement = dict[str, Any]
"""What is compared: ``environment`` (flat), and by the footprint's name ``metrics`` (flat), ``portions`` (bytes at the
peak by category, module and phase) and ``commands`` (how to measure it alone). See `profl.bench.reference` for the
file.
"""


Tracked = Callable[[list[str]], Iterable[str]]


@dataclass(frozen=True)
class Difference:
    """An entry that is not as the reference has it.

    Parameters
    ----------
    entry
        Name of the footprint, or ``environment``.
    kind
        ``changed``, ``added`` or ``missing``; or ``tolerated``: changed, but no more than a tolerance lets it.
    details
        What differs, one line each: metrics first, then the parts of the peak that differ most.
    command
        How to measure the entry alone; None: it is not measured any more.
    """

    entry: str
    kind: str
    details: tuple[str, ...]
    command: str | None = None

    @property
    def fails(self) -> bool:
        """Whether a check must not pass."""
        return self.kind != TOLERATED

    def __str__(self) -> str:
        lines = [f"{self.kind:8} {self.entry}", *(f"         {detail}" for detail in self.details)]
        return "\n".join([*lines, f"         see it: {self.command}"] if self.command else lines)


def measure_all(config: Config, prober: Prober, tracked: Tracked = iter) -> Measurement:
    """Measure every task that a sweep's methods may offer; see `Measurement` for the form.

    Parameters
    ----------
    tracked
        Iterates over the names of what is measured; a progress bar may hang on to it.
    """
    steps = {step.key: (step, one.cell.as_measured) for one in experiments(config) for step in workloads(one).values()}
    footprints = {key: prober.measure(steps[key][0], config.gpu) for key in tracked(sorted(steps))}
    return {
        "environment": asdict(next(iter(footprints.values())).environment),
        "metrics": {key: _metrics(footprint) for key, footprint in footprints.items()},
        "portions": {key: _portions(footprint) for key, footprint in footprints.items()},
        "commands": {key: _command(cell, step.task.key) for key, (step, cell) in sorted(steps.items())},
    }


def _metrics(footprint: Footprint) -> dict[str, Any]:
    peaks = {name: getattr(footprint, name) for name in METRICS}
    return {**peaks, **category_columns(footprint.categories_at_peak)}


def _portions(footprint: Footprint) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for portion in footprint.attribution:
        sizes[f"{portion.category} of {portion.module or '?'} in {portion.phase or '?'}"] += portion.bytes
    return dict(sorted(sizes.items()))


def _command(cell: Cell, task: str) -> str:
    words = ["profl", "measure", "--method", cell.method, "--task", task, "--model", cell.model]
    words += ["--width", str(cell.width), "--batch-size", str(cell.recipe.batch_size), "--dataset", cell.dataset]
    words += ["--gpu", cell.gpu] + (["--data", cell.data] if cell.data else [])
    words += [] if cell.technique == NONE else ["--technique", cell.technique]
    return shlex.join(words)


def allowed_bytes(tolerance: str, expected_bytes: int) -> int:
    """Return by how many bytes ``2%`` or ``1MiB`` lets a number differ from what is expected.

    Raises
    ------
    InputError
        If the tolerance is neither a share nor an amount.
    """
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", str(tolerance))
    if share:
        return int(expected_bytes * Fraction(share[1]) / 100)
    try:
        return parse_bytes(str(tolerance))
    except InputError:
        raise InputError(f"tolerance '{tolerance}' is neither a share such as 2% nor an amount such as 1MiB") from None


def compare(reference: Measurement, measured: Measurement) -> list[Difference]:
    """Return every difference: changed, tolerated, added and missing entries; empty if there is none.

    The same task of a method in another setting, such as a larger batch, is changed, whatever a tolerance says.
    A tolerance of the reference applies where the environments differ or the GPU is physical; one for all entries
    then lets the environment differ too. Everywhere else one byte is a change.
    """
    environment = tuple(_changes(reference["environment"], measured["environment"]))
    inexact = _is_inexact(reference, measured)
    tolerances = reference.get("tolerances", {}) if inexact else {}
    for_all = reference.get("tolerance") if inexact else None
    kind = TOLERATED if for_all else "changed"
    found = [Difference(ENVIRONMENT, kind, tuple(text for text, _ in environment))] if environment else []
    known, now = reference["metrics"].keys(), measured["metrics"].keys()
    earlier = _in_another_setting(known - now, now - known)
    for name in sorted((known | now) - set(earlier.values())):
        if name in earlier:
            found.append(_of_another_setting(name, earlier[name], reference, measured))
        else:
            found += _entry(name, reference, measured, tolerances.get(name, for_all))
    return found


def _in_another_setting(missing: Collection[str], added: Collection[str]) -> dict[str, str]:
    """Return which entry that is missing is the same task as one that is added: by the latter's name.

    Of several settings the ones that differ in least belong together; where that leaves a choice, none do.
    """
    pairs = {}
    for name in added:
        earlier = _closest(name, missing)
        if earlier is not None and _closest(earlier, added) == name:
            pairs[name] = earlier
    return pairs


def _closest(name: str, others: Iterable[str]) -> str | None:
    """Return the entry of the same task whose setting differs in least; None if there is none, or several are alike."""
    task, setting = _task_and_setting(name)
    same = [other for other in others if _task_and_setting(other)[0] == task]
    differing = {other: len(setting ^ _task_and_setting(other)[1]) for other in same}
    closest = [other for other in same if differing[other] == min(differing.values())]
    return closest[0] if len(closest) == 1 else None


def _task_and_setting(entry: str) -> tuple[str, set[str]]:
    """Take ``profl/grow 1 of resnet18 width 64, 10 classes, batch 64`` apart."""
    task, _, setting = entry.partition(" of ")
    return task, set(setting.split(", "))


def _of_another_setting(name: str, earlier: str, reference: Measurement, measured: Measurement) -> Difference:
    (_, before), (_, now) = _task_and_setting(earlier), _task_and_setting(name)
    setting = f"the setting was {', '.join(sorted(before - now))}, is {', '.join(sorted(now - before))}"
    changes = [text for text, _ in _changes(reference["metrics"][earlier], measured["metrics"][name])]
    return Difference(name, "changed", (setting, *changes), measured.get("commands", {}).get(name))


def _is_inexact(reference: Measurement, measured: Measurement) -> bool:
    known = measured["environment"]
    return reference["environment"] != known or not known.get("is_virtual", True)


def _entry(name: str, reference: Measurement, measured: Measurement, tolerance: str | None) -> Iterator[Difference]:
    command = measured.get("commands", {}).get(name)
    if name not in reference["metrics"]:
        peak = f"peak {measured['metrics'][name][PEAK]:,} bytes is not in the reference"
        yield Difference(name, "added", (peak,), command)
    elif name not in measured["metrics"]:
        yield Difference(name, "missing", ("in the reference, but no longer measured",))
    else:
        changes = list(_changes(reference["metrics"][name], measured["metrics"][name], tolerance))
        beyond = [text for text, tolerated in changes if not tolerated]
        parts = [side.get("portions", {}).get(name, {}) for side in (reference, measured)]
        if beyond:
            hints = _hints(reference["metrics"][name], measured["metrics"][name])
            yield Difference(name, "changed", (*beyond, *_largest_changes(*parts), *hints), command)
        elif changes:
            yield Difference(name, TOLERATED, tuple(text for text, _ in changes), command)


def _changes(
    reference: Mapping[str, Any], measured: Mapping[str, Any], tolerance: str | None = None
) -> Iterator[tuple[str, bool]]:
    """Yield every change, and whether the tolerance lets it pass."""
    for metric in sorted(reference.keys() | measured.keys()):
        expected, actual = reference.get(metric), measured.get(metric)
        if expected == actual:
            continue
        growth, tolerated = "", False
        if isinstance(expected, int) and isinstance(actual, int):
            tolerated = tolerance is not None and abs(actual - expected) <= allowed_bytes(tolerance, expected)
            growth = f" ({actual - expected:+,})"
        yield f"{metric} was {_shown(expected)}, is {_shown(actual)}{growth}", tolerated


def _hints(reference: Mapping[str, Any], measured: Mapping[str, Any]) -> Iterator[str]:
    """Say where to look for what the parts of the requested peak cannot explain."""
    change = {name: (measured.get(name) or 0) - (reference.get(name) or 0) for name in METRICS}
    gaps = change["peak_reserved_bytes"] - change["peak_allocated_bytes"]
    if gaps >= GRANULE_BYTES:
        yield f"reserved grew by {gaps:,} bytes more than allocated: gaps that no block fits (fragmentation), or cached"
    if change["least_budget_bytes"] > 0 and not any(change[name] for name in METRICS if name != "least_budget_bytes"):
        yield "the recorded steps need the same: a later step or the smaller batch under a limit needs more"


def _largest_changes(reference: Mapping[str, int], measured: Mapping[str, int]) -> list[str]:
    """Say which parts of the peak differ most; nothing if the reference does not know its parts."""
    if not reference or not measured:
        return []
    change = {part: measured.get(part, 0) - reference.get(part, 0) for part in reference.keys() | measured.keys()}
    largest = sorted((part for part in change if change[part]), key=lambda part: (-abs(change[part]), part))
    return [f"at the peak: {part} {change[part]:+,} bytes" for part in largest[:LARGEST]]


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "?" if value is None else str(value)


def verdict(reference: Measurement, measured: Measurement, differences: Sequence[Difference]) -> str:
    """Say in one line how much of what was measured is as the reference has it."""
    entries = measured["metrics"]
    if not differences:
        return f"{len(entries)} entries, all equal"
    kinds = Counter(difference.kind for difference in differences if difference.entry != ENVIRONMENT)
    environment = [f"environment {found.kind}" for found in differences if found.entry == ENVIRONMENT]
    told = [f"{len(entries)} entries", *(f"{count} {kind}" for kind, count in kinds.items()), *environment]
    if (reference.get("tolerance") or reference.get("tolerances")) and not _is_inexact(reference, measured):
        told += ["no tolerance applies where numbers can be exact: same environment, virtual GPU"]
    return ", ".join(told)


def write_junit(path: Path, checked: Mapping[str, tuple[Iterable[str], Sequence[Difference]]]) -> None:
    """Write the result as JUnit XML: a test case per entry, its difference as the failure.

    Parameters
    ----------
    checked
        By reference file: the names of the entries that were measured, and what differs. A tolerated difference is
        the output of a test case that passes.
    """
    suites = ElementTree.Element("testsuites", name="profl check")
    for file, (entries, differences) in checked.items():
        found = {difference.entry: difference for difference in differences}
        names, failures = sorted({*entries, *found}), sum(difference.fails for difference in differences)
        suite = ElementTree.SubElement(suites, "testsuite", name=file, tests=str(len(names)), failures=str(failures))
        for name in names:
            case = ElementTree.SubElement(suite, "testcase", classname=f"memory.{Path(file).stem}", name=name)
            if name in found and found[name].fails:
                failure = ElementTree.SubElement(case, "failure", message=f"memory {found[name].kind}")
                failure.text = str(found[name])
            elif name in found:
                ElementTree.SubElement(case, "system-out").text = str(found[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


def github_annotation(file: Path, difference: Difference) -> str:
    """Return the line that makes GitHub Actions show the difference beside the run, at the reference file."""
    text = str(difference).replace("%", "%25").replace("\n", "%0A")
    return f"::error file={file},title=memory {difference.kind}::{text}"
