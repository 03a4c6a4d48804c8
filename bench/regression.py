"""Memory regression: measured footprints against the committed reference, to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import InputError
from bench.memory.footprint import Footprint
from bench.memory.probe import Prober
from bench.results import category_columns, read_json, write_json
from bench.sweep import Config, cells, workloads

REFERENCE_FILE = "default.json"

METRICS = (
    "peak_requested_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "peak_activation_bytes",
    "parameter_bytes",
    "least_budget_bytes",
)
"""What is compared of a footprint, beside its categories at the peak."""

Measurement = dict[str, Any]
"""``environment`` (flat) and ``metrics`` (by the footprint's name, flat): the form of a reference file."""


def measure_all(config: Config, prober: Prober) -> Measurement:
    """Measure every task that a sweep's methods may offer.

    Returns
    -------
    dict
        ``{"environment": {...}, "metrics": {name: {metric: bytes}}}``.
    """
    steps = {step.key: step for cell in cells(config) for step in workloads(cell).values()}
    footprints = {key: prober.measure(step, config.gpu) for key, step in sorted(steps.items())}
    environment = next(iter(footprints.values())).environment
    return {
        "environment": asdict(environment),
        "metrics": {key: _metrics(footprint) for key, footprint in footprints.items()},
    }


def _metrics(footprint: Footprint) -> dict[str, Any]:
    peaks = {name: getattr(footprint, name) for name in METRICS}
    return {**peaks, **category_columns(footprint.categories_at_peak)}


def read_reference(folder: Path) -> Measurement:
    """Read the committed numbers.

    Raises
    ------
    InputError
        If the file is missing, damaged or of another form.
    """
    path = folder / REFERENCE_FILE
    if not path.exists():
        raise InputError(f"{path} is missing: write it with 'profl check --reference {folder} --update'")
    reference = read_json(path)
    if not isinstance(reference, dict) or not {"environment", "metrics"} <= set(reference):
        raise InputError(f"{path} holds no environment and metrics: restore it, or rewrite it with --update")
    return reference


def write_reference(folder: Path, measured: Measurement) -> Path:
    """Write measured numbers as the new reference; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REFERENCE_FILE, measured)
    return folder / REFERENCE_FILE


def compare(reference: Measurement, measured: Measurement) -> list[str]:
    """Return one line per difference, changed, added and missing entries alike; empty if there is none."""
    return [
        *_changes("environment", reference["environment"], measured["environment"]),
        *(
            line
            for name in sorted(reference["metrics"].keys() | measured["metrics"].keys())
            for line in _entry(name, reference["metrics"], measured["metrics"])
        ),
    ]


def _entry(name: str, reference: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    if name not in reference:
        return [f"added    {name}: peak {measured[name]['peak_requested_bytes']:,} bytes is not in the reference"]
    if name not in measured:
        return [f"missing  {name}: in the reference, but no longer measured"]
    return list(_changes(name, reference[name], measured[name]))


def _changes(name: str, reference: Mapping[str, Any], measured: Mapping[str, Any]) -> Iterator[str]:
    for metric in sorted(reference.keys() | measured.keys()):
        expected, actual = reference.get(metric), measured.get(metric)
        if expected != actual:
            growth = f" ({actual - expected:+,})" if isinstance(expected, int) and isinstance(actual, int) else ""
            yield f"changed  {name}: {metric} was {_shown(expected)}, is {_shown(actual)}{growth}"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "?" if value is None else str(value)
