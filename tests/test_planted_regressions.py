"""The memory check catches realistic regressions, names the culprit, and lets harmless changes pass."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from profl.bench.memory.process.probe import Prober
from profl.bench.regression import Difference, Measurement, _metrics, _portions, compare
from tests.planted import Planted

GPU = "virtual:jetson-orin"

REGRESSIONS = {
    "extra saved activation": "activations of (root) in forward",
    "fp32 copy": "activations of (root) in forward",
    "rectifier out of place": "activations of (root) in forward",
    "gradients kept alive": "gradients of first",
    "frozen block trains": "optimizer state of stem",
    "state for frozen parameters": "optimizer state of stem",
    "another optimizer": "optimizer state of first",
    "leaked batch": "activations of (step) in forward",
    "graph kept alive": "activations of",
    "larger batch": "inputs of",
    "wider proxy": "temporaries of second in backward",
    "history buffer": "buffers of second",
}
"""What is planted, and the part of the peak that must be among the five named."""

HARMLESS = (
    "another seed",
    "another learning rate",
    "in-place method",
    "loss by hand",
    "loss as a module",
    "parameter groups",
    "frozen parameters passed too",
    "norms by name",
    "mean over both axes at once",
    "a new name of the plan",
)


def measured(prober: Prober, plan: str) -> Measurement:
    footprint = prober.measure(Planted(plan), GPU, least_budget=False)
    return {
        "environment": asdict(footprint.environment),
        "metrics": {"step": _metrics(footprint)},
        "portions": {"step": _portions(footprint)},
    }


def differences(prober: Prober, plan: str) -> list[Difference]:
    return compare(measured(prober, ""), measured(prober, plan))


@pytest.mark.parametrize(("plan", "culprit"), REGRESSIONS.items())
def test_a_planted_regression_is_caught_and_its_culprit_named(plan: str, culprit: str, prober: Prober) -> None:
    (difference,) = differences(prober, plan)
    parts = [detail.removeprefix("at the peak: ") for detail in difference.details if "at the peak" in detail]
    grown = [part for part in parts if part.startswith(culprit)]
    assert grown, str(difference)
    assert " +" in grown[0]


def test_what_is_compared_of_a_footprint(prober: Prober) -> None:
    footprint = prober.measure(Planted("extra saved activation"), GPU)
    compared = _metrics(footprint)
    for name in ("requested", "allocated", "reserved", "activation"):
        assert compared[f"peak_{name}_bytes"] == getattr(footprint, f"peak_{name}_bytes") > 0
    assert compared["least_budget_bytes"] == footprint.least_budget_bytes is not None
    assert compared["parameter_bytes"] == footprint.parameter_bytes > 0
    assert sum(_portions(footprint).values()) == footprint.peak_requested_bytes


@pytest.mark.parametrize("plan", HARMLESS)
def test_a_harmless_change_passes(plan: str, prober: Prober) -> None:
    assert differences(prober, plan) == []
