"""What lived when, as a snapshot tells it: against everything that the allocator did, and against PyTorch's own."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.replay.allocator import Alloc, Free
from profl.bench.memory.snapshot.history import TracedHistory
from profl.bench.memory.snapshot.reading import read_snapshot
from profl.bench.memory.snapshot.replaying import replayed
from profl.bench.memory.snapshot.snapshot import Annotation, DeviceMemory, Event, Snapshot
from profl.bench.memory.snapshot.stack import NO_STACK, Stack
from profl.bench.memory.snapshot.summary import summary
from tests.memory.snapshot.made import (
    BACKWARD,
    BLAS,
    FORWARD,
    MIB,
    OPTIMIZER,
    SETTINGS,
    event,
    segment,
    snapshot,
    told_by_allocator,
    traces,
    written,
)
from tests.planted import Planted

TEMPORARY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def read(path: Path, value: Any, protocol: int = 4) -> Snapshot:
    return read_snapshot(written(path / "made.pickle", value, protocol))


def history(path: Path, value: Any) -> TracedHistory:
    (device,) = read(path, value).devices.values()
    return TracedHistory(device)


def cut(value: dict[str, Any], begin: int) -> dict[str, Any]:
    """Lose the oldest events, as PyTorch does where there is no room for more."""
    return {**value, "device_traces": [value["device_traces"][0][begin:]]}


def live_bytes(log: Sequence[dict[str, Any]]) -> list[int]:
    signs = {"alloc": 1, "free_completed": -1}
    return list(accumulate((signs.get(line["action"], 0) * line["size"] for line in log), initial=0))


# --- against everything that happened ------------------------------------------------------------------------------


@TEMPORARY
@given(traces(), st.sampled_from(SETTINGS), st.floats(0, 1))
def test_what_lived_is_known_wherever_the_trace_begins(
    tmp_path: Path, trace: list[Alloc | Free], text: str, share: float
) -> None:
    whole = told_by_allocator(trace, text)
    log = whole["device_traces"][0]
    begin = int(share * len(log))
    told = history(tmp_path, cut(whole, begin))
    assert list(told.live_bytes) == live_bytes(log)[begin:]
    signs = {"segment_alloc": 1, "segment_map": 1}
    reserved = list(accumulate((signs.get(line["action"], 0) * line["size"] for line in log), initial=0))
    assert told.reserved_bytes is not None
    assert list(told.reserved_bytes) == reserved[begin:]
    assert told.peak_requested_bytes == max(live_bytes(log)[begin:])
    assert sum(block.bytes for block in told.at_peak) == told.peak_requested_bytes
    assert not told.misfits
    assert not any("counted back" in caveat for caveat in told.caveats())


@TEMPORARY
@given(traces(), st.sampled_from(SETTINGS))
def test_a_trace_from_the_start_reserves_what_it_did(tmp_path: Path, trace: list[Alloc | Free], text: str) -> None:
    value = read(tmp_path, told_by_allocator(trace, text))
    outcome = replayed(value, TracedHistory(value.devices[0]))
    assert outcome.is_comparable
    assert outcome.peak_reserved_bytes == outcome.recorded_reserved_bytes
    assert not outcome.remarks


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Footprint, Path]:
    """A step measured by a fresh process, whose cache is empty."""
    path = tmp_path_factory.mktemp("measured") / "snapshot.pickle"
    with Prober() as prober:
        return prober.measure(Planted(""), "virtual:t4", timeline=True, snapshot=path), path


def test_pytorchs_own_snapshot_has_the_peaks_of_its_statistics(measured: tuple[Footprint, Path]) -> None:
    footprint, path = measured
    told = TracedHistory(read_snapshot(path).devices[0])
    assert told.peak_requested_bytes == footprint.peak_requested_bytes
    assert told.peak_reserved_bytes == footprint.peak_reserved_bytes
    assert not told.misfits
    timeline = footprint.kept_timeline
    assert max(map(sum, zip(*timeline.live_bytes.values(), strict=True))) == told.peak_requested_bytes
    largest = [block.bytes for block in footprint.largest_blocks]
    assert [block.bytes for block in told.at_peak[: len(largest)]] == largest


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_pytorchs_own_snapshot_wherever_it_begins(
    measured: tuple[Footprint, Path], share: float, tmp_path: Path
) -> None:
    whole = pickle.loads(measured[1].read_bytes())
    log = whole["device_traces"][0]
    begin = int(share * len(log))
    assert list(history(tmp_path, cut(whole, begin)).live_bytes) == live_bytes(log)[begin:]


def test_pytorchs_own_snapshot_replayed(measured: tuple[Footprint, Path]) -> None:
    footprint, path = measured
    value = read_snapshot(path)
    told = TracedHistory(value.devices[0])
    outcome = replayed(value, told)
    assert outcome.peak_reserved_bytes == footprint.peak_reserved_bytes
    assert outcome.peak_allocated_bytes == footprint.peak_allocated_bytes
    assert outcome.is_comparable == told.begins_empty


def test_phases_by_frames_are_those_that_the_step_told(measured: tuple[Footprint, Path]) -> None:
    """What lives at the peak, by the stacks alone, against the phases that the step itself announced."""
    footprint, path = measured
    told = TracedHistory(read_snapshot(path).devices[0])
    announced: Counter[str | None] = Counter()
    for portion in footprint.attribution:
        announced[portion.phase] += portion.bytes if portion.category != "workspace" else 0
    by_frames: Counter[str] = Counter()
    for block in told.at_peak:
        by_frames[block.phase] += block.bytes if not block.workspace else 0
    assert by_frames["backward"] == announced["backward"]
    workspace = sum(block.bytes for block in told.at_peak if block.workspace)
    assert workspace == footprint.categories_at_peak["workspace"]


# --- versions and shapes -------------------------------------------------------------------------------------------

LIVE = segment(4096, 2 * MIB, [(4096, 1024, 1000)])
LOG = [event("alloc", 4096, 1000), event("alloc", 8192, 300), event("free_completed", 8192, 300)]
SHAPES = {
    "2.1": snapshot([LIVE], LOG),
    "with times": snapshot([LIVE], [line | {"time_us": 5} for line in LOG]),
    "2.6": snapshot(
        [LIVE | {"segment_pool_id": (0, 0), "is_expandable": False, "frames": []}],
        [line | {"time_us": 5, "compile_context": "N/A", "user_metadata": "", "frames": FORWARD} for line in LOG],
        allocator_settings={"PYTORCH_CUDA_ALLOC_CONF": "", "roundup_power2_divisions": {"1": 0}},
        external_annotations=[],
    ),
    "2.14": snapshot(
        [LIVE],
        [line | {"pool_id": (0, 0), "forward_frames": ["module conv"]} for line in LOG],
        allocator_settings={"PYTORCH_ALLOC_CONF": ""},
        external_annotations=[],
        user_defined={"later": [1.5, None]},
    ),
    "unknown keys": snapshot([LIVE | {"later": 1}], [line | {"later": None} for line in LOG], later=[]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", SHAPES.values(), ids=SHAPES)
def test_every_version_tells_the_same(value: Any, protocol: int, tmp_path: Path) -> None:
    told = TracedHistory(read(tmp_path, value, protocol).devices[0])
    assert list(told.live_bytes) == [0, 1000, 1300, 1000]
    assert list(told.reserved_bytes or []) == [2 * MIB] * 4


def test_version_2_0_does_not_tell_what_was_requested(tmp_path: Path) -> None:
    blocks = [{"size": 1024, "state": "active_allocated"}, {"size": 2 * MIB - 1024, "state": "inactive"}]
    value = read(tmp_path, snapshot([LIVE | {"blocks": blocks}], []))
    assert list(TracedHistory(value.devices[0]).live_bytes) == [1024]
    assert "only the sizes of blocks are told" in value.caveats[0]


def test_segments_alone(tmp_path: Path) -> None:
    told = history(tmp_path, [LIVE])
    assert told.peak_requested_bytes == 1000
    assert told.peak_moment == 0
    assert next(told.caveats()).startswith("no events are told")


def test_several_gpus_and_streams_are_kept_apart(tmp_path: Path) -> None:
    logs = [event("alloc", 4096, 10)], [], [event("alloc", 4096, 20), event("alloc", 8192, 7) | {"stream": 94}]
    value = read(tmp_path, snapshot([LIVE | {"device": 5}], *logs))
    assert list(value.devices) == [0, 2, 5]
    told = {index: TracedHistory(device) for index, device in value.devices.items()}
    assert [told[index].peak_requested_bytes for index in (0, 2, 5)] == [10, 27, 1000]
    assert value.devices[2].streams == [0, 94]
    assert any(caveat.startswith("2 streams") for caveat in told[2].caveats())


def test_a_block_that_waits_for_a_stream_lives(tmp_path: Path) -> None:
    blocks = [{"address": 4096, "size": 1024, "requested_size": 1000, "state": "active_pending_free"}]
    assert (
        history(tmp_path, snapshot([LIVE | {"blocks": blocks}], [event("free_requested", 4096, 1000)])).live_bytes[-1]
        == 1000
    )


@pytest.mark.parametrize(
    ("log", "misfit", "live"),
    [
        ([event("alloc", 4096, 1000), event("alloc", 4096, 1000)], "an allocation where", [0, 1000, 1000]),
        ([event("free_completed", 512, 5), event("free_completed", 512, 5)], "a release of what", [1005, 1000, 1000]),
        ([event("alloc", 4096, 1000), event("alloc", 512, 5)], "a block that no event releases", [0, 1000, 1005]),
        ([event("alloc", 4096, 999)], "a block that has other bytes at the end", [0, 999]),
        ([event("alloc", 4096, 9), event("free_completed", 4096, 9)], "a block that lives at the end", [0, 9, 0]),
        ([event("alloc", 512, 9), event("free_completed", 512, 8)], "a release of other bytes", [1000, 1009, 1000]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_counted_and_named(
    log: list[dict[str, Any]], misfit: str, live: list[int], tmp_path: Path
) -> None:
    told = history(tmp_path, snapshot([LIVE], log))
    ((name, count),) = told.misfits.items()
    assert name.startswith(misfit)
    assert count == 1
    assert list(told.live_bytes) == live
    assert f"1 x {name}" in list(told.caveats())


def test_running_out_of_memory_is_told(tmp_path: Path) -> None:
    oom = {"action": "oom", "device_free": 5, "size": 7 * MIB, "stream": 0}
    told = history(tmp_path, snapshot([LIVE], [event("alloc", 4096, 1000), oom]))
    assert "out of memory at event 2, where 7,340,032 B were asked for" in list(told.caveats())
    assert list(told.live_bytes) == [0, 1000, 1000]


def test_memory_pools_are_told_and_not_replayed(tmp_path: Path) -> None:
    value = read(tmp_path, snapshot([LIVE | {"segment_pool_id": (0, 1)}], [event("alloc", 4096, 1000, pool_id=(0, 1))]))
    told = TracedHistory(value.devices[0])
    assert "1 events and 2,097,152 B belong to memory pools of their own, as CUDA graphs have" in list(told.caveats())
    assert "memory pools of their own are not modelled" in replayed(value, told).remarks


def test_actions_of_later_versions_are_named(tmp_path: Path) -> None:
    told = history(tmp_path, snapshot([LIVE], [{"action": f"dance{number % 9}"} for number in range(50)]))
    assert list(told.live_bytes) == [1000] * 51
    (line,) = (caveat for caveat in told.caveats() if "dance" in caveat)
    assert line == "not known here, and left out, is what dance0, dance1, dance2, dance3, dance4 and 4 more means"


def test_running_out_of_memory_often_is_told_shortly(tmp_path: Path) -> None:
    told = history(tmp_path, snapshot([LIVE], [{"action": "oom", "size": 9}] * 100))
    assert sum("out of memory" in caveat for caveat in told.caveats()) == 6
    assert "out of memory 95 more times" in list(told.caveats())


def test_asking_for_more_than_any_gpu_holds(tmp_path: Path) -> None:
    told = history(tmp_path, snapshot([LIVE], [{"action": "oom", "device_free": 5, "size": 1 << 62, "stream": 0}]))
    assert f"out of memory at event 1, where {1 << 62:,} B were asked for" in list(told.caveats())


def test_segments_that_were_never_there_make_reserved_memory_unknown(tmp_path: Path) -> None:
    value = read(tmp_path, snapshot([], [event("segment_alloc", 0, 512)]))
    told = TracedHistory(value.devices[0])
    assert told.peak_reserved_bytes is None
    assert summary(value, told).peak_reserved_bytes is None


def test_when_the_peak_is(tmp_path: Path) -> None:
    log = [line | {"time_us": 1_000_000 + 250_000 * number} for number, line in enumerate(LOG)]
    value = read(tmp_path, snapshot([LIVE], log))
    assert summary(value, TracedHistory(value.devices[0])).when == "event 2 of 3, 0.250 s after the first"


# --- what stacks tell ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "phase", "place", "operator"),
    [
        (FORWARD, "forward", "study/network.py:12 forward", "conv2d"),
        (BACKWARD, "backward", None, "MulBackward0"),
        (OPTIMIZER, "optimizer", "study/train.py:2 main", None),
        (FORWARD[-1:], "other", "study/network.py:12 forward", None),
        (FORWARD[2:4], "forward", "modules/conv.py:7 forward", None),
        ([], "unknown", None, None),
        ([*BACKWARD, *OPTIMIZER], "backward", "study/train.py:2 main", "MulBackward0"),
        ([*OPTIMIZER[1:], *BACKWARD], "optimizer", "study/train.py:2 main", None),
    ],
)  # fmt: skip
def test_phase_place_and_operator(
    frames: list[dict[str, Any]], phase: str, place: str | None, operator: str | None, tmp_path: Path
) -> None:
    (block,) = history(tmp_path, snapshot([], [event("alloc", 4096, 5, frames=frames)])).blocks
    assert (block.phase, block.stack.place, block.operator) == (phase, place, operator)


def test_an_optimizer_of_ones_own_is_known_by_its_annotation(tmp_path: Path) -> None:
    log = [event("alloc", 512 * at, 9, time_us=at, frames=FORWARD[-1:]) for at in range(1, 6)]
    notes = [
        {"stage": stage, "name": "Optimizer.step#AdamW.step", "device": 0, "time_us": at}
        for stage, at in (("START", 2), ("END", 4))
    ]
    told = history(tmp_path, snapshot([], log, external_annotations=notes))
    assert [block.phase for block in told.blocks] == ["other", "optimizer", "optimizer", "optimizer", "other"]


TIMES = st.integers(0, 20)


@TEMPORARY
@given(st.lists(st.tuples(TIMES | st.none(), TIMES | st.none()), max_size=6), st.lists(TIMES, max_size=10))
def test_times_are_within_an_annotation_or_not(
    tmp_path: Path, ranges: list[tuple[int | None, int | None]], times: list[int]
) -> None:
    notes = [Annotation("Optimizer.step#SGD.step", *told) for told in ranges]
    events = [Event("alloc", 512 * number, 9, 0, at, NO_STACK) for number, at in enumerate(times)]
    told = TracedHistory(DeviceMemory(0, events, {}, 0, 0, False, annotations=notes))
    within = [
        any((begins is None or begins <= at) and (ends is None or at <= ends) and not (begins or 0) > (ends or 99)
            for begins, ends in ranges)
        for at in times
    ]  # fmt: skip
    assert [block.phase == "optimizer" for block in told.blocks] == within


def test_workspaces_by_stack_and_by_size(tmp_path: Path) -> None:
    lasting = 8_519_680
    blocks = [(4096, lasting, lasting), (4096 + lasting, 512, 5)]
    log = [
        event("alloc", 1 << 30, lasting, frames=BLAS),
        event("alloc", 1 << 31, lasting, frames=FORWARD),
        event("free_completed", 1 << 31, lasting),
        event("free_completed", 1 << 32, lasting),
    ]
    told = history(tmp_path, snapshot([segment(4096, 10 * MIB, blocks)], log))
    found = Counter((block.bytes, block.workspace) for block in told.blocks)
    assert found == {(lasting, "cuBLAS, by size"): 1, (lasting, "cuBLAS"): 1, (lasting, None): 2, (5, None): 1}
    assert any("known by their size alone" in caveat for caveat in told.caveats())


def test_texts_of_a_stack_do_not_steer_a_terminal() -> None:
    frame = {"name": "\x1b[31mred\u202e\n" + "x" * 1000, "filename": "a\x07b/evil.py", "line": 1}
    place = Stack([frame]).place
    assert place is not None
    assert place.isprintable()
    assert len(place) <= 160


UNMODELLED = {"allocator_settings": {"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"}}


# --- replay --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (snapshot([LIVE], []), "there are no events"),
        (snapshot([LIVE], [event("alloc", 8192, 9)]), "begins with 2,097,152 B reserved"),
        (told_by_allocator([Alloc(0, 9)]) | UNMODELLED, "not modelled"),
    ],
)  # fmt: skip
def test_why_a_replay_cannot_be_compared(value: Any, why: str, tmp_path: Path) -> None:
    told = read(tmp_path, value)
    outcome = replayed(told, TracedHistory(told.devices[0]))
    assert not outcome.is_comparable
    assert any(why in remark for remark in outcome.remarks)


def test_a_replay_names_the_first_segment_that_differs(tmp_path: Path) -> None:
    value = told_by_allocator([Alloc(0, 5 * MIB), Alloc(1, 30 * MIB)])
    grown = value["device_traces"][0][2]
    assert grown["action"] == "segment_alloc"
    grown["size"] += 2 * MIB
    value["segments"][1]["total_size"] += 2 * MIB
    told = read(tmp_path, value)
    outcome = replayed(told, TracedHistory(told.devices[0]))
    assert outcome.is_comparable
    assert outcome.remarks == (
        "change 1 of segments is segment_alloc of 33,554,432 B in the trace, "
        "segment_alloc of 31,457,280 B in the model",
    )
