"""Processes of a group, of which a measurement is the only one: the bytes are PyTorch's own, or it says what to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from profl.bench.memory import BuiltStep, Footprint, MeasurementFailed, Prober
from tests.memory import distributed_steps
from tests.memory.distributed_steps import BUFFER_BYTES, COLLECTIVES, PARAMETER_BYTES, STEPS, VARYING
from tests.memory.unwatched import PEAKS, Unwatched

pytestmark = pytest.mark.covers_children

GPU = "virtual:t4"
ALONE = "a virtual GPU is alone: torch.distributed.init_process_group('gloo', rank=0, world_size=1, store="


def measured(prober: Prober, name: str, **options: object) -> Footprint:
    return prober.measure(BuiltStep(STEPS[name]), GPU, **{"least_budget": False, "timeline": True, **options})


def refusal(prober: Prober, build: Callable[..., Any], gpu: str = GPU) -> str:
    """Return the one line that refuses a step."""
    with pytest.raises(MeasurementFailed) as refused:
        prober.measure(BuiltStep(build), gpu, least_budget=False)
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize("name", STEPS)
def test_the_bytes_are_pytorchs_own_and_nothing_is_odd(prober: Prober, name: str) -> None:
    own = prober.run(Unwatched(STEPS[name]), GPU, lambda _: None)
    footprint = measured(prober, name)
    peaks = tuple(getattr(footprint, f"peak_{peak}_bytes") for peak in PEAKS)
    assert peaks == (pytest.approx(own, abs=PARAMETER_BYTES) if name in VARYING else own)
    assert footprint.caveats == ()


@pytest.mark.parametrize("name", ["plain", "static graph", "many buckets", "gathered", "synchronised"])
def test_buckets_are_buffers_as_large_as_the_gradients(prober: Prober, name: str) -> None:
    footprint = measured(prober, name)
    assert footprint.categories_at_peak["parameters"] == PARAMETER_BYTES
    assert footprint.categories_at_peak["gradients"] == PARAMETER_BYTES
    masks = 32 if name == "static graph" else 0  # which of the eight parameters were used
    assert footprint.categories_at_peak["buffers"] == BUFFER_BYTES + PARAMETER_BYTES + masks


def test_a_bucket_that_the_gradients_lie_in_is_gradients(prober: Prober) -> None:
    apart, within = (measured(prober, name) for name in ("plain", "gradients in buckets"))
    assert within.categories_at_peak["buffers"] == BUFFER_BYTES
    assert within.categories_at_peak["gradients"] == PARAMETER_BYTES
    assert within.peak_requested_bytes < apart.peak_requested_bytes


def test_a_hook_that_halves_gradients_takes_half_as_much_for_a_while(prober: Prober) -> None:
    plain, half = (measured(prober, name) for name in ("plain", "half"))
    assert half.categories_at_peak["temporaries"] - plain.categories_at_peak["temporaries"] > 0


def test_of_eight_processes_each_keeps_an_eighth(prober: Prober) -> None:
    """Of rows, rounded up."""
    whole, eighth = (measured(prober, f"fully sharded{by}") for by in ("", " by eight"))
    assert whole.parameter_bytes == whole.categories_at_peak["optimizer state"] == PARAMETER_BYTES
    assert PARAMETER_BYTES / 8 <= eighth.parameter_bytes < 1.1 * PARAMETER_BYTES / 8


def test_a_least_budget_begins_a_group_for_every_trial(prober: Prober) -> None:
    footprint = measured(prober, "plain", least_budget=True)
    assert footprint.least_budget_bytes is not None
    assert footprint.least_budget_bytes <= footprint.peak_reserved_bytes


# --- refused ---


@pytest.mark.parametrize("url", [None, "tcp://127.0.0.1:1?rank=0&world_size=2"])
def test_nobody_is_waited_for(prober: Prober, url: str | None) -> None:
    line = refusal(prober, partial(distributed_steps.one_of_two, url=url))
    assert line.startswith(f"a process group of 2 would wait for its other members; {ALONE}")


@pytest.mark.parametrize(
    ("step", "missing"),
    [
        (distributed_steps.told_by_launcher, "RANK"),
        (distributed_steps.meshed, "RANK"),
        (distributed_steps.calling_remotely, "MASTER_ADDR"),
    ],
)
def test_what_only_a_launcher_would_say_is_asked_for(prober: Prober, step: Callable[..., Any], missing: str) -> None:
    assert refusal(prober, step).startswith(f"nothing says what {missing} of the process group is; {ALONE}")


@pytest.mark.parametrize("name", ["all_reduce", "barrier", "objects"])
def test_nccl_is_refused_by_name(prober: Prober, name: str) -> None:
    assert name in COLLECTIVES
    line = refusal(prober, partial(distributed_steps.collective, name=name, backend="nccl"))
    assert "it calls ncclGetUniqueId, which the virtual GPU refuses (at distributed_steps.py:" in line
    assert line.endswith(": choose the backend gloo")
    assert measured(prober, "plain").caveats == ()


@pytest.mark.parametrize(
    "step", [distributed_steps.elsewhere, partial(distributed_steps.on_one_device, device_ids=[0, 1])]
)
def test_there_is_one_gpu(prober: Prober, step: Callable[..., Any]) -> None:
    assert refusal(prober, step).endswith("asks for a second GPU, and a measurement has one: use device 0 alone")


def test_no_other_process_has_the_gpu(prober: Prober) -> None:
    line = refusal(prober, distributed_steps.collated_elsewhere)
    assert line.endswith(
        "uses the GPU in a process of its own, and a measurement is one process: use it in this one alone"
    )


def test_estimates_have_no_group(prober: Prober) -> None:
    line = refusal(prober, STEPS["plain"], "estimate:t4")
    assert line.endswith("it begins a process group, and an estimate plays none: measure it on virtual:NAME")
