"""Steps as people write them: each byte is counted as what it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from profl.bench.memory import BuiltStep, Footprint, MeasurementFailed, Prober, recorded
from profl.bench.memory.recording.allocator_log import TUNED
from profl.bench.memory.workload import Unobserved
from tests.memory import steps_as_written
from tests.memory.steps_as_written import BATCH, CLIENT_BYTES, NARROW, STEPS, WIDE

GPU = "virtual:t4"
HIDDEN_BYTES = 4 * BATCH * WIDE
WORKSPACE_BYTES = 8320 << 10
"""Of cuBLAS, one for each thread."""


def measured(prober: Prober, build: Callable[[torch.device], Any], **options: object) -> Footprint:
    return prober.measure(BuiltStep(build), GPU, **{"least_budget": False, "timeline": True, **options})


def phases(footprint: Footprint) -> list[str]:
    return [name for _, name in footprint.kept_timeline.phases]


def at_peak(footprint: Footprint, category: str) -> pd.DataFrame:
    frame = footprint.frame()
    return frame[frame["category"] == category]


def live_bytes(footprint: Footprint, category: str) -> list[int]:
    return footprint.kept_timeline.live_bytes[category]


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_counted_and_every_byte_has_a_place(prober: Prober, name: str) -> None:
    footprint = measured(prober, STEPS[name])
    assert footprint.steps == 3
    assert phases(footprint).count("between") == 4
    assert "?" not in set(footprint.frame()["module"])
    assert footprint.peak_position is not None
    assert footprint.peak_position.step <= 3


@pytest.mark.parametrize(
    ("build", "late_bytes"),
    [
        (steps_as_written.gradients_by_function, HIDDEN_BYTES + 4),
        (steps_as_written.gradients_of_samples, HIDDEN_BYTES + 4 * BATCH),
    ],
)
def test_a_thread_of_autograds_own_may_let_go_late(prober: Prober, build: Callable[..., Any], late_bytes: int) -> None:
    alone, beside = (measured(prober, partial(build, one_thread=one)).peak_requested_bytes for one in (True, False))
    assert beside - alone - WORKSPACE_BYTES in (0, late_bytes)


# --- modules whose __call__ never runs ---


@pytest.mark.parametrize("name", ["copied client", "copied client by functions"])
def test_a_clients_copy_is_parameters_gradients_and_state_of_its_own(prober: Prober, name: str) -> None:
    footprint = measured(prober, STEPS[name])
    assert footprint.categories_at_peak["parameters"] == 2 * CLIENT_BYTES
    assert footprint.categories_at_peak["optimizer state"] == CLIENT_BYTES
    assert max(live_bytes(footprint, "gradients")) == CLIENT_BYTES
    round_of_two = ["forward", "backward", "optimizer"] * 2
    assert phases(footprint) == ["prepare", "between", *[*round_of_two, "between"] * 3]


def test_a_copy_that_is_called_is_told_by_its_class(prober: Prober) -> None:
    parameters = at_peak(measured(prober, STEPS["copied client"]), "parameters").set_index("module")["bytes"]
    assert parameters["Called.body"] == parameters["body"] == 4 * (WIDE * WIDE + WIDE)


@pytest.mark.parametrize("name", ["weights only", "other methods", "functional weights", "own function"])
def test_forward_begins_with_the_step_where_no_module_is_called(prober: Prober, name: str) -> None:
    footprint = measured(prober, STEPS[name])
    assert phases(footprint) == ["prepare", "between", *["forward", "backward", "optimizer", "between"] * 3]
    assert max(live_bytes(footprint, "inputs")) == HIDDEN_BYTES  # the batch, and nothing that was computed
    assert max(live_bytes(footprint, "activations")) >= HIDDEN_BYTES


def test_steps_without_autograd_are_steps(prober: Prober) -> None:
    footprint = measured(prober, STEPS["zeroth order"])
    assert phases(footprint) == ["prepare", "between", *["forward", "optimizer", "between"] * 3]
    assert footprint.categories_at_peak["optimizer state"] == CLIENT_BYTES


# --- tensors without plain storage ---


@pytest.mark.parametrize("name", ["sparse rows, SGD", "sparse rows, SparseAdam"])
def test_a_sparse_gradient_is_its_rows_and_their_numbers(prober: Prober, name: str) -> None:
    rows = BATCH * 8
    footprint = measured(prober, STEPS[name])
    assert footprint.categories_at_peak["gradients"] == rows * (4 * 32 + 8)
    dense = 4 * 500 * 32
    assert footprint.categories_at_peak["optimizer state"] == (2 * dense if "Adam" in name else 0)


def test_every_kind_of_tensor_counts_what_it_holds(prober: Prober) -> None:
    footprint = measured(prober, STEPS["odd buffers"])
    statistics = 4 * 2 * WIDE + 8
    coo, csr = 5 * (2 * 8 + 4), 3 * 8 + 2 * (8 + 4)
    quantised = 16 * 16 + (16 * 16 + 16 * (8 + 8))
    buffers = at_peak(footprint, "buffers").set_index("module")["bytes"]
    assert buffers["norm"] == statistics
    assert buffers["(root)"] >= coo + csr + quantised + 2 * 4 * 10


# --- several optimizers and models ---


def test_every_optimizers_state_is_named_by_the_module_that_it_trains(prober: Prober) -> None:
    footprint = measured(prober, STEPS["adversaries"])
    state = at_peak(footprint, "optimizer state").set_index("module")["bytes"].to_dict()
    assert state == {"0.0": 2 * 4 * (NARROW * WIDE + WIDE), "1.0": 2 * 4 * (WIDE + 1)}
    both = ["forward", "backward", "optimizer"] * 2
    assert phases(footprint) == ["prepare", "between", *[*both, "between"] * 3]


@pytest.mark.parametrize("name", ["adversaries, one undeclared", "undeclared optimizer"])
def test_an_optimizer_that_nobody_declares_is_found_by_its_steps(prober: Prober, name: str) -> None:
    footprint = measured(prober, STEPS[name])
    state = {
        "undeclared optimizer": 2 * 4 * (WIDE * WIDE + WIDE),
        "adversaries, one undeclared": 2 * 4 * (NARROW * WIDE + WIDE + WIDE + 1),
    }
    assert live_bytes(footprint, "optimizer state")[-1] == state[name]


def test_an_average_and_a_teacher_are_parameters(prober: Prober) -> None:
    for name in ("averaged", "taught"):
        assert measured(prober, STEPS[name]).categories_at_peak["parameters"] == 2 * CLIENT_BYTES


# --- a forward pass after the optimizer's step ---


def test_a_graph_that_waits_for_the_next_step_is_activations(prober: Prober) -> None:
    for name in ("kept for the next", "kept for the next by functions"):
        footprint = measured(prober, STEPS[name])
        norm = 0 if "functions" in name else HIDDEN_BYTES + 2 * 4 * WIDE
        assert live_bytes(footprint, "activations")[-1] == HIDDEN_BYTES + norm + 4
        assert live_bytes(footprint, "inputs")[-1] == HIDDEN_BYTES


def test_what_a_graph_of_gradients_keeps_is_saved(prober: Prober) -> None:
    activations = at_peak(measured(prober, STEPS["adversaries with penalty"]), "activations")
    of_backward = activations[activations["phase"] == "backward"]
    assert of_backward["bytes"].sum() >= HIDDEN_BYTES
    assert of_backward["saved"].all()


def test_a_closures_passes_are_passes(prober: Prober) -> None:
    footprint = measured(prober, STEPS["closure of SGD"])
    assert phases(footprint) == ["prepare", "between", *["forward", "backward", "optimizer", "between"] * 3]
    footprint = measured(prober, STEPS["closure of LBFGS"])
    assert footprint.categories_at_peak["optimizer state"] > CLIENT_BYTES
    assert any("reads numbers" in caveat for caveat in footprint.caveats)


# --- what stays, and what grows ---


@pytest.mark.parametrize(("every_step", "more"), [(False, "no more"), (True, f"{HIDDEN_BYTES} more")])
def test_what_stays_is_told_and_the_next_measurement_is_clean(prober: Prober, every_step: bool, more: str) -> None:
    build = partial(steps_as_written.leaking, every_step=every_step)
    footprint = measured(prober, build, least_budget=True)
    left = 4000 + 3 * HIDDEN_BYTES * every_step
    *growing, stays, unsearched = footprint.caveats
    assert stays.startswith(f"leaves {left} bytes on the GPU when all that was built is given up, {more} with every s")
    assert "4000 of buffers of (step)" in stays
    assert unsearched.startswith("least budget not searched for")
    assert footprint.least_budget_bytes is None
    assert [caveat.split(":")[0] for caveat in growing] == (
        [f"grows from step to step, by {HIDDEN_BYTES} bytes a step"] if every_step else []
    )
    prober._footprints.clear()
    assert measured(prober, STEPS["gathered"]).caveats == ()


def test_growth_is_told_with_its_slope_also_where_nothing_stays(prober: Prober) -> None:
    (caveat,) = measured(prober, STEPS["growing"], steps=5).caveats
    norm = HIDDEN_BYTES + 2 * 4 * WIDE
    outputs = 4 * BATCH * NARROW
    assert caveat.startswith(f"grows from step to step, by {HIDDEN_BYTES + norm + outputs + 4} bytes a step: ")
    assert "of activations of body" in caveat


def test_two_steps_are_too_few_to_tell_growth(prober: Prober) -> None:
    assert measured(prober, STEPS["growing"], steps=2).caveats == ()


def test_steps_inside_backward_are_part_of_it(prober: Prober) -> None:
    footprint = measured(prober, STEPS["stepping in backward"])
    assert phases(footprint) == ["prepare", "between", *["forward", "backward", "between"] * 3]
    assert live_bytes(footprint, "optimizer state")[-1] == 2 * CLIENT_BYTES
    assert max(live_bytes(footprint, "gradients")) < CLIENT_BYTES
    assert any("of optimizer state of body" in caveat for caveat in footprint.caveats)


# --- torch.compile ---


def test_compiled_kernels_keep_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of pointwise operators: eager ones save each result, a compiled graph only what it begins with.

    Nothing was compiled before: at first configurations of kernels are tried, which takes memory, too.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with Prober() as fresh:
        eager, joined, fused = (
            measured(fresh, partial(steps_as_written.pointwise, backend=backend))
            for backend in (None, "aot_eager", "inductor")
        )
    assert eager.peak_activation_bytes > joined.peak_activation_bytes > fused.peak_activation_bytes
    assert eager.caveats == joined.caveats == ()
    assert fused.caveats == (TUNED,)
    with Prober() as later:
        again = measured(later, partial(steps_as_written.pointwise, backend="inductor"))
    assert again.caveats == ()
    assert again.peak_requested_bytes < fused.peak_requested_bytes


def test_a_step_is_compiled_once(prober: Prober) -> None:
    """Whoever watches must not be what the compiled code depends on: anew every time, it would soon not be at all."""
    ten = measured(prober, partial(steps_as_written.pointwise, backend="aot_eager"), steps=10)
    three = measured(prober, partial(steps_as_written.pointwise, backend="aot_eager"))
    assert ten.categories_at_peak == three.categories_at_peak
    assert measured(prober, steps_as_written.counting_graphs).parameter_bytes == CLIENT_BYTES


@dataclass(frozen=True)
class GraphsKept:
    """A program that tells how many graphs PyTorch has compiled and not forgotten, after a step if there is one."""

    step: BuiltStep | None = None
    key: str = "graphs kept"

    def run(self, device: torch.device, report: Callable[[object], None]) -> int:
        if self.step:
            self.step.prepare(device).step(Unobserved())
        return sys.modules["torch._dynamo.convert_frame"].FRAME_COUNTER


def test_what_was_compiled_is_forgotten_with_its_job(prober: Prober) -> None:
    step = partial(steps_as_written.pointwise, backend="aot_eager")
    assert prober.run(GraphsKept(BuiltStep(step)), GPU, print) > 0
    assert prober.run(GraphsKept(), GPU, print) == 0


def test_what_cannot_be_compiled_is_refused_by_name(prober: Prober) -> None:
    with pytest.raises(MeasurementFailed, match=r"not_here.* cannot be compiled here .*backend='aot_eager'") as refused:
        measured(prober, partial(steps_as_written.compiled, backend=steps_as_written.not_here))
    assert len(str(refused.value).splitlines()) == 1


# --- steps recorded in place ---


@dataclass(frozen=True)
class InPlace:
    """Two steps in one block; how many and which phases were recorded."""

    build: Callable[[torch.device], Any]
    key: str = "in place"

    def run(self, device: torch.device, report: Callable[[object], None]) -> tuple[int, list[str]]:
        module, optimizer, inputs, step = self.build(device)
        with recorded(module, optimizer, inputs) as recording:
            step()
            step()
        return recording.footprint.steps, phases(recording.footprint)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("validated", ["forward", "backward", "optimizer"]),
        ("adversaries", ["forward", "backward", "optimizer", "forward", "backward", "optimizer"]),
        ("gathered", [*["forward", "backward"] * 3, "optimizer"]),
    ],
)
def test_steps_in_place_are_counted_too(prober: Prober, name: str, step: list[str]) -> None:
    steps, found = prober.run(InPlace(STEPS[name]), GPU, lambda _: None)
    assert steps == 2
    tail = ["optimizer", "forward"] if name == "validated" else []  # of the last step, no step of its own
    assert found == ["prepare", "between", *step, "between", *step, *tail, "between"]
