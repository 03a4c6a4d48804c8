"""Which module's memory it is, seen in real training steps on a virtual GPU."""

from __future__ import annotations

import pickle
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from profl.bench.memory import BuiltStep, Footprint, Prober
from profl.bench.memory.recording.event_log import Life, Phase, changes, read_log
from profl.bench.memory.workload import Workload
from tests.memory import built_steps
from tests.memory.built_steps import FEATURES, BeforeAttribution
from tests.memory.workloads import Linear, ResNet18

pytestmark = pytest.mark.covers_children

GPU = "virtual:t4"
CHECKPOINTED = [partial(built_steps.checkpointed, use_reentrant=reentrant) for reentrant in (False, True)]
WORKLOADS = [
    Linear(),
    ResNet18(batch_size=8),
    ResNet18(batch_size=8, channels_last=True, frozen_stages=2),
    BuiltStep(built_steps.residual),
    BuiltStep(built_steps.transformer),
    BuiltStep(CHECKPOINTED[0]),
    BuiltStep(CHECKPOINTED[1]),
    BuiltStep(built_steps.custom_function),
    BuiltStep(built_steps.gradient_penalty),
    BuiltStep(partial(built_steps.chain, passes=3)),
]


def measured(prober: Prober, workload: Workload, **options: object) -> Footprint:
    return prober.measure(workload, GPU, least_budget=False, **{"timeline": True, **options})


def live_bytes(footprint: Footprint) -> list[int]:
    assert footprint.timeline is not None
    return np.sum(list(footprint.timeline.live_bytes.values()), axis=0).tolist()


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.key)
def test_attribution_changes_no_allocation(prober: Prober, workload: Workload) -> None:
    """Not one allocation or release of three steps differs, in size or in order; nor do rounding and segments."""
    with_it = measured(prober, workload)
    without = measured(prober, BeforeAttribution(workload), steps=1)
    assert live_bytes(with_it) == live_bytes(without)
    assert with_it.peak_requested_bytes == without.peak_requested_bytes
    assert with_it.peak_allocated_bytes == without.peak_allocated_bytes
    assert with_it.peak_reserved_bytes == without.peak_reserved_bytes


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.key)
def test_every_byte_of_the_peak_belongs_to_a_module(prober: Prober, workload: Workload) -> None:
    footprint = measured(prober, workload)
    frame = footprint.frame()
    assert frame["bytes"].sum() == footprint.peak_requested_bytes
    by_category = frame.groupby("category")["bytes"].sum().to_dict()
    assert by_category == {name: size for name, size in footprint.categories_at_peak.items() if size}
    assert "?" not in set(frame["module"])
    assert frame["saved"].notna().equals(frame["category"] == "activations")
    assert sum(stage.parameter_bytes for stage in footprint.stages) == footprint.parameter_bytes
    parameters = frame[frame["category"] == "parameters"].groupby("stage")["bytes"].sum().to_dict()
    assert parameters == {stage.name: stage.parameter_bytes for stage in footprint.stages if stage.parameter_bytes}
    held = sum(stage.peak_activation_bytes for stage in footprint.stages)
    assert held >= footprint.peak_activation_bytes - frame[frame["stage"] == "(step)"]["bytes"].sum()
    assert footprint.peak_position is not None
    assert footprint.peak_position.module is not None
    assert footprint.peak_position.operator is not None


def logged(prober: Prober, workload: Workload, folder: Path) -> list[Life]:
    """Return the blocks of a measurement as the allocator's log alone tells them."""
    measured(prober, workload, snapshot=folder / "log.pickle")
    events = changes(pickle.loads((folder / "log.pickle").read_bytes())["device_traces"][0])
    return list(read_log(events, [Phase(0, "step", "temporaries")], [], len(events)).lives)


def test_backward_knows_the_module_of_every_node(prober: Prober, tmp_path: Path) -> None:
    """Each layer's gradient has a size of its own."""
    lives = logged(prober, BuiltStep(built_steps.chain), tmp_path)
    sizes = {4 * wide * narrow: str(layer) for layer, (wide, narrow) in enumerate(pairwise(FEATURES))}
    gradients = [life for life in lives if life.operator == "MmBackward0" and life.bytes in sizes]
    assert len(gradients) == 3 * len(sizes)
    assert [life.origin for life in gradients] == [sizes[life.bytes] for life in gradients]
    assert {life.origin for life in gradients} == {"0", "1", "2", "3"}


@pytest.mark.parametrize(
    ("build", "again"),
    # The last result is saved by nobody, so saved tensors can do without it.
    list(zip(CHECKPOINTED, (["1.0.1", "1.1.1"], ["1.0.1", "1.1.1", "1.2.1"]), strict=True)),
    ids=["saved tensors", "reentrant"],
)
def test_what_backward_computes_again_belongs_to_its_module(
    prober: Prober, build: built_steps.Build, again: list[str], tmp_path: Path
) -> None:
    lives = logged(prober, BuiltStep(build), tmp_path)
    done = [life.origin for life in lives if life.operator == "gelu"]
    assert done == ["1.0.1", "1.1.1", "1.2.1", *again] * 3
    undone = [life.origin for life in lives if life.operator == "GeluBackward0"]
    assert undone == ["1.2.1", "1.1.1", "1.0.1"] * 3


def test_a_function_of_ones_own_is_attributed_too(prober: Prober, tmp_path: Path) -> None:
    lives = logged(prober, BuiltStep(built_steps.custom_function), tmp_path)
    products = [life.origin for life in lives if life.operator == "mul_Tensor"]
    assert products == ["1"] * 9  # one of forward and two of backward, in three steps


def test_entries_of_a_list_are_stages(prober: Prober) -> None:
    footprint = measured(prober, BuiltStep(built_steps.residual))
    assert [stage.name for stage in footprint.stages] == [
        "stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "head", "(root)",
    ]  # fmt: skip
    by_name = {stage.name: stage for stage in footprint.stages}
    picture_bytes = 4 * 8 * 16 * 16 * 16
    assert by_name["blocks.1"].parameter_bytes == 4 * (16 * 16 * 9 + 16)
    assert by_name["blocks.1"].peak_activation_bytes == picture_bytes
    # Of relu and the sum, which the whole module calls itself, every block's results are kept, and a sum in flight.
    assert by_name["(root)"].peak_activation_bytes >= 8 * picture_bytes


def test_the_peak_of_resnet18_is_in_a_convolutions_backward(prober: Prober) -> None:
    footprint = prober.measure(ResNet18(), "virtual:h100", least_budget=False)
    position = footprint.peak_position
    assert position is not None
    assert (position.step, position.phase, position.operator) == (2, "backward", "ConvolutionBackward0")
    assert position.module is not None
    assert position.module.startswith("layer4.")
    frame = footprint.frame()
    (plan,) = frame[(frame["category"] == "workspace") & (frame["module"] != "(step)")]["module"]
    assert plan == position.module
    assert {stage.name: stage.parameter_bytes for stage in footprint.stages}["layer4"] == 4 * 8_393_728
    assert footprint.largest_blocks[2].operator == "conv2d"


def test_gradients_gathered_over_several_passes(prober: Prober) -> None:
    footprint = measured(prober, BuiltStep(partial(built_steps.chain, passes=3)))
    assert footprint.timeline is not None
    names = [name for _, name in footprint.timeline.phases]
    assert names == ["prepare", "between", *((["forward", "backward"] * 3 + ["optimizer", "between"]) * 3)]
    assert max(footprint.timeline.live_bytes["gradients"]) == footprint.parameter_bytes
