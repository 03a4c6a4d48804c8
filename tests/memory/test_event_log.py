"""The allocator's log, folded by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from profl.bench.memory.footprint import Block, PeakPosition, Portion, Stage
from profl.bench.memory.recording import attribution
from profl.bench.memory.recording.event_log import STEP, Claim, Graph, Life, LogEntry, Phase, changes, read_log
from profl.bench.memory.workload import CATEGORIES

TENSOR = [{"name": "c10::cuda::malloc(unsigned long)"}, {"name": "at::detail::empty_cuda(long)"}]
SCRATCH = [{"name": "c10::cuda::malloc(unsigned long)"}, {"name": "at::native::cudnn_convolution()"}]


def alloc(address: int, size: int, frames: Sequence[dict[str, str]] = TENSOR) -> LogEntry:
    return {"action": "alloc", "addr": address, "size": size, "frames": frames}


def free(address: int) -> LogEntry:
    return {"action": "free_completed", "addr": address, "size": 0}


FORWARD = [Phase(0, "forward", "activations")]


def at(
    events: Sequence[LogEntry], moment: int, *, claims: Sequence[Claim] = (), phases: Sequence[Phase] = FORWARD
) -> dict[str, int]:
    """Return the categories that hold anything at ``moment``."""
    live = read_log(events, phases, claims, end=len(events)).live_bytes[moment].tolist()
    return {name: size for name, size in zip(CATEGORIES, live, strict=True) if size}


def test_only_allocations_and_completed_releases_count() -> None:
    events = [
        alloc(1, 5),
        {"action": "segment_alloc"},
        {"action": "free_requested"},
        free(1),
        {"action": "snapshot"},
    ]
    assert changes(events) == [events[0], events[3]]


def test_a_block_is_what_the_phase_of_its_birth_says() -> None:
    phases = [
        Phase(0, "between", "inputs"),
        Phase(1, "forward", "activations"),
        Phase(2, "backward", "temporaries"),
    ]
    events = [alloc(1, 10), alloc(2, 20), alloc(3, 30), free(1)]
    assert at(events, 3, phases=phases) == {"inputs": 10, "activations": 20, "temporaries": 30}
    assert at(events, 4, phases=phases) == {"activations": 20, "temporaries": 30}


def test_a_claim_reaches_back_to_the_birth_of_a_block() -> None:
    events = [alloc(1, 10), alloc(2, 20)]
    assert at(events, 1, claims=[Claim(2, "gradients", {1: "a"})]) == {"gradients": 10}


def test_a_claim_means_the_block_that_lives_at_the_address_then() -> None:
    """An address is used again and again; here a claim falls on the second of three blocks at one place."""
    events = [alloc(1, 10), free(1), alloc(1, 20), free(1), alloc(1, 30)]
    claims = [Claim(3, "gradients", {1: "a"})]
    assert [at(events, moment, claims=claims) for moment in (1, 3, 5)] == [
        {"activations": 10},
        {"gradients": 20},
        {"activations": 30},
    ]


def test_the_first_claim_holds() -> None:
    claims = [Claim(1, "parameters", {1: "a"}), Claim(1, "buffers"), Claim(1, "gradients", {1: "a"})]
    assert at([alloc(1, 10)], 1, claims=claims) == {"parameters": 10}


def test_a_claim_to_everything_alive() -> None:
    events = [alloc(1, 10), free(1), alloc(2, 20), alloc(3, 40)]
    assert at(events, 4, claims=[Claim(3, "buffers")]) == {"buffers": 20, "activations": 40}
    assert at(events, 1, claims=[Claim(3, "buffers")]) == {"activations": 10}


def test_a_claim_to_everything_gives_way_to_one_by_name() -> None:
    claims = [Claim(1, "buffers"), Claim(2, "parameters", {1: "a"}), Claim(2, "gradients", {1: "a"})]
    assert at([alloc(1, 10), alloc(2, 20)], 1, claims=claims) == {"parameters": 10}


def test_what_a_graph_keeps_of_other_phases_is_activations() -> None:
    events = [alloc(1, 10), alloc(2, 20), alloc(3, 40), alloc(4, 80)]
    phases = [Phase(0, "backward", "temporaries"), Phase(3, "between", "inputs")]
    history = read_log(events, phases, [Claim(4, "gradients", {3: "a"})], 4, [Graph(4, frozenset({1, 3, 4, 77}))])
    live = dict(zip(CATEGORIES, history.live_bytes[-1].tolist(), strict=True))
    assert {name: size for name, size in live.items() if size} == {
        "gradients": 40,
        "inputs": 80,  # a batch stays one
        "activations": 10,
        "temporaries": 20,
    }
    saved = {portion.bytes: portion.saved for portion in attribution.portions(history)}
    assert saved == {10: True, 20: None, 40: None, 80: None}


def test_a_storage_that_python_makes_is_a_tensors() -> None:
    copied = [{"name": "c10::make_storage_impl(c10::StorageImpl::use_byte_size_t)"}]
    assert at([alloc(1, 10, copied)], 1) == {"activations": 10}


def test_a_claim_to_a_freed_or_unknown_address_says_nothing() -> None:
    events = [alloc(1, 10), free(1)]
    assert at(events, 1, claims=[Claim(2, "gradients", {1: "a", 77: "b"})]) == {"activations": 10}


def test_what_no_tensor_owns_is_workspace() -> None:
    assert at([alloc(1, 10, SCRATCH), alloc(2, 20)], 2) == {"workspace": 10, "activations": 20}


@pytest.mark.parametrize("frames", [[], [{"name": "??"}]], ids=["no stack", "no names"])
def test_without_a_stack_the_release_at_the_end_tells_cublas(frames: list[dict[str, str]]) -> None:
    events = [alloc(1, 10, frames), alloc(2, 20, frames), free(1)]
    history = read_log(events, FORWARD, [], end=2)
    assert history.live_bytes[-1].sum() == 30
    assert history.live_bytes[-1, CATEGORIES.index("workspace")] == 10
    assert len(history.live_bytes) == 3


def test_the_first_peak() -> None:
    events = [alloc(1, 10), alloc(2, 30), alloc(3, 20), free(3), alloc(4, 20), free(2)]
    assert read_log(events, FORWARD, [], end=6).peak_moment == 3


# --- modules and operators ---


def lives(events: Sequence[LogEntry], *, claims: Sequence[Claim] = (), phases: Sequence[Phase] = FORWARD) -> list[Life]:
    return list(read_log(events, phases, claims, end=len(events)).lives)


@pytest.mark.parametrize(
    ("stamps", "module"),
    [
        ({}, None),
        ({"user_metadata": ""}, None),
        ({"user_metadata": "body.0"}, "body.0"),
        ({"user_metadata": STEP}, STEP),
        ({"user_metadata": "", "forward_frames": ["module body.1"]}, "body.1"),
        ({"user_metadata": STEP, "forward_frames": ["File 'net.py', line 1", "module body.1"]}, "body.1"),
        ({"user_metadata": "body.0", "forward_frames": ["module body.1"]}, "body.0"),
        ({"user_metadata": STEP, "forward_frames": ["File 'net.py', line 1"]}, STEP),
    ],
    ids=repr,
)
def test_the_module_is_the_one_that_runs_or_made_the_node_that_does(
    stamps: dict[str, object], module: str | None
) -> None:
    (life,) = lives([{**alloc(1, 10), **stamps}])
    assert (life.origin, life.module) == (module, module)


def test_a_claim_names_the_owner_and_keeps_the_origin() -> None:
    stamped = {**alloc(1, 10), "user_metadata": "body"}
    (claimed,) = lives([stamped], claims=[Claim(1, "gradients", {1: "head"})])
    assert (claimed.origin, claimed.module) == ("body", "head")
    (swept,) = lives([stamped], claims=[Claim(1, "buffers")])
    assert (swept.category, swept.module) == ("buffers", "body")


def test_a_workspace_that_outlives_the_last_step_is_no_modules() -> None:
    events = [{**alloc(1, 10, SCRATCH), "user_metadata": "head"}, free(1)]
    (life,) = read_log(events, FORWARD, [], end=1).lives
    assert (life.category, life.module, life.origin) == ("workspace", STEP, "head")


@pytest.mark.parametrize(
    ("names", "operator"),
    [
        ([], None),
        (["??", "at::detail::empty_cuda(long)"], None),
        (
            ["at::_ops::empty_like::call(long)", "at::native::conv()", "at::_ops::conv2d::redispatch(at::Tensor)"],
            "conv2d",
        ),
        (["at::_ops::mm::call(long)", "torch::autograd::generated::MmBackward0::apply(std::vector)"], "MmBackward0"),
        (["at::_ops::clone::call(long)", "torch::autograd::AccumulateGrad::apply(std::vector)"], "AccumulateGrad"),
        (["at::_ops::mul::call(long)", "forward.py", "torch::autograd::PyNode::apply(std::vector)"], "mul"),
    ],
    ids=repr,
)
def test_the_operator_is_the_outermost_below_python_or_the_node(names: list[str], operator: str | None) -> None:
    frames = [{"name": name, "filename": name if name.endswith(".py") else "libtorch.so"} for name in names]
    (life,) = lives([alloc(1, 10, frames)])
    assert life.operator == operator


# --- attribution ---

STEPS = [
    Phase(0, "prepare", "temporaries"),
    Phase(1, "between", "inputs"),
    Phase(1, "forward", "activations"),
    Phase(4, "backward", "temporaries"),
    Phase(6, "between", "inputs"),
]
EVENTS = [
    alloc(1, 100),  # the parameters
    {**alloc(2, 10, [{"name": "at::_ops::conv2d::call()"}, *TENSOR]), "user_metadata": "body.0"},  # saved
    {**alloc(3, 20), "user_metadata": "body.1.relu"},  # transient
    free(3),
    {**alloc(4, 5), "forward_frames": ["module body.1"]},
    free(2),
]
CLAIMS = [Claim(1, "parameters", {1: "body.0"})]


def test_the_peak_by_phase_category_module_and_what_is_saved() -> None:
    history = read_log(EVENTS, STEPS, CLAIMS, end=6)
    assert attribution.portions(history) == (
        Portion("prepare", "parameters", "body.0", None, 100),
        Portion("forward", "activations", "body.1.relu", False, 20),
        Portion("forward", "activations", "body.0", True, 10),
    )
    assert attribution.peak_position(history) == PeakPosition(1, "forward", "body.1.relu", None)
    assert attribution.largest_blocks(history, 2) == (
        Block(100, "parameters", "body.0"),
        Block(20, "activations", "body.1.relu"),
    )


def test_a_peak_between_two_steps_is_of_the_step_that_comes_next() -> None:
    history = read_log([*EVENTS, alloc(9, 500)], STEPS, CLAIMS, end=7)
    assert attribution.peak_position(history) == PeakPosition(2, "between", None, None)
    assert attribution.portions(history)[0] == Portion("between", "inputs", None, None, 500)


def test_the_stages_have_peaks_of_their_own() -> None:
    later = [*EVENTS, {**alloc(5, 7), "user_metadata": "body.0"}, {**alloc(6, 7), "user_metadata": "body.0"}]
    history = read_log(later, [*STEPS, Phase(6, "forward", "activations")], CLAIMS, end=8)
    assert attribution.stages(history, {"body.0": 100, "body.1": 0, "(root)": 3}) == (
        Stage("body.0", 100, 14),
        Stage("body.1", 0, 20),
        Stage("(root)", 3, 0),
    )


def test_what_lives_at_the_end_of_the_log_is_saved() -> None:
    kept, freed = [alloc(1, 10)], [alloc(1, 10), free(1)]
    assert attribution.portions(read_log(kept, FORWARD, [], end=1))[0].saved is True
    assert attribution.portions(read_log(freed, FORWARD, [], end=2))[0].saved is False


def test_an_empty_log_has_no_peak() -> None:
    history = read_log([], FORWARD, [], end=0)
    assert attribution.portions(history) == attribution.largest_blocks(history) == ()
    assert attribution.peak_position(history) is None
