"""The allocator's log, folded by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.memory.event_log import Claim, Event, Phase, changes, read_log
from bench.memory.footprint import Block
from bench.memory.workload import CATEGORIES

TENSOR = [{"name": "c10::cuda::malloc(unsigned long)"}, {"name": "at::detail::empty_cuda(long)"}]
SCRATCH = [{"name": "c10::cuda::malloc(unsigned long)"}, {"name": "at::native::cudnn_convolution()"}]


def alloc(address: int, size: int, frames: Sequence[dict[str, str]] = TENSOR) -> Event:
    return {"action": "alloc", "addr": address, "size": size, "frames": frames}


def free(address: int) -> Event:
    return {"action": "free_completed", "addr": address, "size": 0}


FORWARD = [Phase(0, "forward", "activations")]


def at(
    events: Sequence[Event], moment: int, *, claims: Sequence[Claim] = (), phases: Sequence[Phase] = FORWARD
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
    assert at(events, 1, claims=[Claim(2, "gradients", {1})]) == {"gradients": 10}


def test_a_claim_means_the_block_that_lives_at_the_address_then() -> None:
    """An address is used again and again; here a claim falls on the second of three blocks at one place."""
    events = [alloc(1, 10), free(1), alloc(1, 20), free(1), alloc(1, 30)]
    claims = [Claim(3, "gradients", {1})]
    assert [at(events, moment, claims=claims) for moment in (1, 3, 5)] == [
        {"activations": 10},
        {"gradients": 20},
        {"activations": 30},
    ]


def test_the_first_claim_holds() -> None:
    claims = [Claim(1, "parameters", {1}), Claim(1, "buffers"), Claim(1, "gradients", {1})]
    assert at([alloc(1, 10)], 1, claims=claims) == {"parameters": 10}


def test_a_claim_to_everything_alive() -> None:
    events = [alloc(1, 10), free(1), alloc(2, 20), alloc(3, 40)]
    assert at(events, 4, claims=[Claim(3, "buffers")]) == {"buffers": 20, "activations": 40}
    assert at(events, 1, claims=[Claim(3, "buffers")]) == {"activations": 10}


def test_a_claim_to_a_freed_or_unknown_address_says_nothing() -> None:
    events = [alloc(1, 10), free(1)]
    assert at(events, 1, claims=[Claim(2, "gradients", {1, 77})]) == {"activations": 10}


def test_what_no_tensor_owns_is_workspace() -> None:
    assert at([alloc(1, 10, SCRATCH), alloc(2, 20)], 2) == {"workspace": 10, "activations": 20}


@pytest.mark.parametrize("frames", [[], [{"name": "??"}]], ids=["no stack", "no names"])
def test_without_a_stack_the_release_at_the_end_tells_cublas(frames: list[dict[str, str]]) -> None:
    events = [alloc(1, 10, frames), alloc(2, 20, frames), free(1)]
    history = read_log(events, FORWARD, [], end=2)
    assert history.live_bytes[-1].sum() == 30
    assert history.live_bytes[-1, CATEGORIES.index("workspace")] == 10
    assert len(history.live_bytes) == 3


def test_the_first_peak_and_its_largest_blocks() -> None:
    events = [alloc(1, 10), alloc(2, 30), alloc(3, 20), free(3), alloc(4, 20), free(2)]
    history = read_log(events, FORWARD, [Claim(3, "inputs", {3})], end=6, largest=2)
    assert history.peak_moment == 3
    assert history.largest_blocks == (Block(30, "activations"), Block(20, "inputs"))
