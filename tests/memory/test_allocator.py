"""The allocator in plain Python against PyTorch's own, event for event and statistic for statistic."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profl.bench.errors import InputError
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.replay.allocator import (
    Alloc,
    AllocatorSettings,
    Free,
    Replay,
    ReplayedEvent,
    recorded_trace,
    replay,
)
from tests.memory.allocator_traces import STATISTICS, STREAMS, RealAllocator, comparable
from tests.memory.workloads import ResNet18

MIB = 1 << 20
GPU_BYTES = 85_029_158_912

SETTINGS = (
    "",
    "expandable_segments:True",
    "expandable_segments:True,max_split_size_mb:20,large_segment_size_mb:12,roundup_power2_divisions:4",
    "max_split_size_mb:64,max_non_split_rounding_mb:40,roundup_power2_divisions:[1:1,4:2,16:4,>:16]",
    "garbage_collection_threshold:0.6,max_split_size_mb:20",
)

Step = tuple[int, int, int]  # block, bytes (0: free it), stream


@pytest.fixture(scope="module")
def real() -> Iterator[RealAllocator]:
    allocator = RealAllocator()
    yield allocator
    allocator.close()


def assert_alike(allocator: RealAllocator, text: str, steps: Sequence[Step], limit_bytes: int) -> Replay:
    """Play the steps through both allocators; return what the one in Python did."""
    played = allocator.play(text, steps, limit_bytes)
    replayed = replay(trace(steps), AllocatorSettings.parse(text), limit_bytes)
    assert comparable(replayed.events) == comparable(played.events)
    assert peaks(replayed) == played.peaks
    assert replayed.out_of_memory_at == played.out_of_memory_at
    return replayed


def trace(steps: Sequence[Step]) -> list[Alloc | Free]:
    return [Alloc(*step) if step[1] else Free(step[0]) for step in steps]


def peaks(replayed: Replay) -> dict[str, int]:
    values = (
        replayed.peak_requested_bytes,
        replayed.peak_allocated_bytes,
        replayed.peak_reserved_bytes,
        replayed.peak_segments,
    )
    return dict(zip(STATISTICS, values, strict=True))


# --- random traces ---

SIZES = st.one_of(
    st.integers(1, MIB),
    st.integers(MIB - 1024, 10 * MIB + 1024),
    st.integers(10 * MIB, 300 * MIB),
    st.sampled_from([512, MIB, MIB + 1, 2 * MIB, 10 * MIB - 512, 10 * MIB, 11 * MIB, 20 * MIB, 64 * MIB]),
)


@st.composite
def traces(draw: st.DrawFn) -> list[Step]:
    """Return allocations on several streams, and frees of living blocks in any order."""
    steps: list[Step] = []
    living: list[int] = []
    for size, stream, victim in draw(
        st.lists(st.tuples(SIZES, st.integers(0, STREAMS - 1), st.integers(0, 99) | st.none()), max_size=60)
    ):
        if victim is not None and living:
            steps.append((living.pop(victim % len(living)), 0, 0))
        else:
            living.append(len(steps))
            steps.append((len(steps), size, stream))
    return steps


@pytest.mark.parametrize("text", SETTINGS)
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=traces(), limit_bytes=st.integers(2 * MIB, 400 * MIB) | st.just(GPU_BYTES))
def test_any_trace_is_replayed_exactly(real: RealAllocator, text: str, steps: list[Step], limit_bytes: int) -> None:
    assert_alike(real, text, steps, limit_bytes)


def long_trace(seed: int, length: int) -> list[Step]:
    """Return a trace whose sizes recur, as those of training do, and which keeps some 60 blocks alive."""
    rng = random.Random(seed)
    ranges = [(1, MIB), (MIB, 10 * MIB), (10 * MIB, 150 * MIB)]
    favourites = [rng.randint(*rng.choice(ranges)) for _ in range(20)]
    steps: list[Step] = []
    living: list[int] = []
    for block in range(length):
        if len(living) > 60 or (living and rng.random() < 0.45):
            steps.append((living.pop(rng.randrange(len(living))), 0, 0))
        else:
            size = rng.choice(favourites) if rng.random() < 0.6 else rng.randint(*rng.choice(ranges))
            living.append(block)
            steps.append((block, size, rng.randrange(STREAMS)))
    return steps


@pytest.mark.parametrize("text", SETTINGS)
def test_a_long_trace_that_gives_memory_back_is_replayed_exactly(real: RealAllocator, text: str) -> None:
    steps = long_trace(seed=1, length=1500)
    unlimited = assert_alike(real, text, steps, GPU_BYTES)
    # As tight as just goes well: then the allocator has to give up what it caches, and take new memory.
    fits, fails = unlimited.peak_reserved_bytes, unlimited.peak_requested_bytes // 2
    while fits - fails > 2 * MIB:
        middle = (fits + fails) // 2
        if replay(trace(steps), AllocatorSettings.parse(text), middle).out_of_memory_at is None:
            fits = middle
        else:
            fails = middle
    tight = assert_alike(real, text, steps, fits)
    assert tight.out_of_memory_at is None
    assert any(event.action in ("segment_free", "segment_unmap") for event in tight.events)
    assert tight.peak_reserved_bytes < unlimited.peak_reserved_bytes
    assert assert_alike(real, text, steps, fails).out_of_memory_at is not None


# --- a recorded training step ---


@pytest.fixture(scope="module")
def recording(prober: Prober, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, int]]:
    """Return the log of two training steps of ResNet18, and the peaks that PyTorch counted."""
    file = tmp_path_factory.mktemp("recording") / "snapshot.pickle"
    footprint = prober.measure(ResNet18(16), "virtual:h100", steps=2, least_budget=False, snapshot=file)
    counted = {
        "requested_bytes": footprint.peak_requested_bytes,
        "allocated_bytes": footprint.peak_allocated_bytes,
        "reserved_bytes": footprint.peak_reserved_bytes,
    }
    return pickle.loads(file.read_bytes())["device_traces"], counted


def test_a_recorded_training_step_is_replayed_exactly(recording: tuple[Any, dict[str, int]]) -> None:
    traces, counted = recording
    replayed = replay(recorded_trace(traces))

    assert {name: peaks(replayed)[name] for name in counted} == counted
    recorded = [
        (event["action"], event["addr"], event["size"], event["stream"])
        for event in traces[0]
        if event["action"] in {event.action for event in replayed.events}
    ]
    assert comparable(replayed.events) == comparable(recorded)


@pytest.mark.parametrize("text", SETTINGS)
def test_the_recorded_step_under_other_settings_is_what_pytorch_would_do(
    recording: tuple[Any, dict[str, int]], real: RealAllocator, text: str
) -> None:
    events = recorded_trace(recording[0])
    streams = sorted({event.stream for event in events if isinstance(event, Alloc)})
    steps = [
        (event.block, event.bytes, streams.index(event.stream)) if isinstance(event, Alloc) else (event.block, 0, 0)
        for event in events
    ]
    replayed = assert_alike(real, text, steps, GPU_BYTES)
    assert replayed.peak_requested_bytes == recording[1]["requested_bytes"]


# --- what cannot be replayed ---


def alloc_event(address: int, size: int = 512, **more: object) -> dict[str, object]:
    return {"action": "alloc", "addr": address, "size": size, "stream": 0, **more}


def free_event(address: int) -> dict[str, object]:
    return {"action": "free_completed", "addr": address, "size": 512, "stream": 0}


def test_a_recording_reuses_addresses_and_skips_what_is_not_asked_for() -> None:
    other = {"action": "segment_alloc", "addr": 7, "size": 2 * MIB, "stream": 0}
    events = [other, alloc_event(7), free_event(7), alloc_event(7, 100)]
    first, freed, second = recorded_trace([[], events], device=1)
    assert (first.bytes, second.bytes) == (512, 100)  # type: ignore[union-attr]
    assert first.block == freed.block != second.block


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([free_event(7)], "event 0 frees a block that was allocated before the recording"),
        ([alloc_event(7), {"action": "oom", "size": 1, "stream": 0, "device_free": 0}], "event 1 ran out of memory"),
        ([alloc_event(7, pool_id=(0, 1))], "event 0 uses a memory pool of its own"),
    ],
)
def test_a_recording_that_cannot_be_replayed_is_refused(events: list[dict[str, object]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recorded_trace([events])


def test_a_gpu_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(InputError, match="has 1 GPUs and none of index 1"):
        recorded_trace([[]], device=1)


@pytest.mark.parametrize(
    "faulty", [[Free(3)], [Alloc(1, 0)], [Alloc(1, 8), Alloc(1, 8)], [Alloc(1, 8), *[Free(1)] * 2]]
)
def test_an_impossible_trace_is_refused(faulty: list[Alloc | Free]) -> None:
    with pytest.raises(InputError, match=f"event {len(faulty) - 1} "):
        replay(faulty)


def test_memory_that_runs_out_is_a_result() -> None:
    result = replay([Alloc(0, MIB), Alloc(1, 30 * MIB), Free(0)], limit_bytes=20 * MIB)
    assert result.out_of_memory_at == 1
    assert result.peak_reserved_bytes == 2 * MIB
    assert [event.action for event in result.events] == ["segment_alloc", "alloc"]


def test_garbage_is_not_collected_without_a_limit() -> None:
    steps = [Alloc(0, 40 * MIB), Free(0), Alloc(1, 60 * MIB)]
    collecting = AllocatorSettings(garbage_collection_threshold=0.1)
    assert replay(steps, collecting).peak_segments == 2
    assert replay(steps, collecting, limit_bytes=200 * MIB).peak_segments == 1


def test_one_allocation_is_rounded_up_in_blocks_and_segments() -> None:
    result = replay([Alloc(5, 1000, stream=9)])
    base = result.events[0].address
    assert result.events == (ReplayedEvent("segment_alloc", base, 2 * MIB, 9), ReplayedEvent("alloc", base, 1000, 9))
    assert (result.peak_requested_bytes, result.peak_allocated_bytes) == (1000, 1024)


# --- settings ---

ACCEPTED = (
    "",
    "expandable_segments:True",
    " max_split_size_mb : 64 , expandable_segments:False,",
    "large_segment_size_mb:40,max_split_size_mb:40",
    "max_split_size_mb:40,large_segment_size_mb:11",
    "max_non_split_rounding_mb:20,large_segment_size_mb:11",
    "garbage_collection_threshold:0.8",
    "roundup_power2_divisions:8",
    "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]",
    "roundup_power2_divisions:[4:2,64:0]",
    "roundup_power2_divisions:[>:4]",
    "roundup_power2_divisions:[131072:16,1:2]",
)
REFUSED = (
    "threshold:1",
    "expandable_segments",
    "expandable_segments:true",
    "max_split_size_mb:10",
    "max_split_size_mb:x",
    "max_split_size_mb:99999999999999999999",
    "large_segment_size_mb:10",
    "large_segment_size_mb:40,max_split_size_mb:32",
    "max_non_split_rounding_mb:19",
    "garbage_collection_threshold:0",
    "garbage_collection_threshold:1",
    "garbage_collection_threshold:nan",
    "roundup_power2_divisions:3",
    "roundup_power2_divisions:0",
    "roundup_power2_divisions:[256:3]",
    "roundup_power2_divisions:[3:1]",
    "roundup_power2_divisions:[256:1",
    ",expandable_segments:True",
)


def test_settings_are_read_as_pytorch_reads_them(real: RealAllocator) -> None:
    for text in ACCEPTED:
        assert real.divisions(text) == list(AllocatorSettings.parse(text).roundup_power2_divisions), text


def test_settings_that_pytorch_refuses_are_refused(real: RealAllocator) -> None:
    for text in REFUSED:
        assert real.divisions(text) is None, text
        with pytest.raises(InputError, match="allocator setting"):
            AllocatorSettings.parse(text)


def test_settings_hold_bytes() -> None:
    text = "expandable_segments:True,large_segment_size_mb:24,max_split_size_mb:64,garbage_collection_threshold:0.8"
    assert AllocatorSettings.parse(text) == AllocatorSettings(
        expandable_segments=True,
        large_segment_bytes=24 * MIB,
        max_split_bytes=64 * MIB,
        max_non_split_rounding_bytes=None,
        garbage_collection_threshold=0.8,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_split_size:64", "'max_split_size' is unknown or not modelled: did you mean 'max_split_size_mb'?"),
        ("max_split_size_mb:64mb", "max_split_size_mb:64mb: give a whole number of MiB, at least 20"),
        ("expandable_segments:yes", "expandable_segments:yes: write True or False"),
        ("expandable_segments:True max_split_size_mb:64", "write True or False|key:value"),
        ("roundup_power2_divisions:[256:4,8]", "'8' is not like 256:4"),
        ("max_split_size_mb", "end in 'max_split_size_mb': write key:value"),
    ],
)
def test_a_bad_setting_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        AllocatorSettings.parse(text)


def test_neither_torch_nor_a_gpu_is_needed() -> None:
    code = "import sys; from profl.bench.memory.replay.allocator import replay; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
