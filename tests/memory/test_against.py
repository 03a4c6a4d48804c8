"""What differs between two measured runs. One virtual GPU plays the physical card that another one predicts."""

from __future__ import annotations

import difflib
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from profl.bench.memory.comparison.against import Comparison, Pair, longest_common_subsequence
from profl.bench.memory.comparison.measured_run import MeasuredRun, measure_run, recorded_run
from profl.bench.memory.comparison.side import BlockEvent
from profl.bench.memory.comparison.tables import comparison_tables
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.recording import measurement
from profl.bench.memory.timeline import Timeline
from profl.bench.memory.workload import Workload
from tests.memory.test_footprint import ATTRIBUTED, FOOTPRINT
from tests.planted import Planted

GPU = "virtual:h100"
CARD = "NVIDIA H100 80GB HBM3"
MIB = 1 << 20
BATCH_BYTES = 16 * 3 * 32 * 32 * 4


def planted(prober: Prober, plan: str, gpu: str = GPU) -> MeasuredRun:
    return measure_run(prober, Planted(plan), gpu, {"plan": plan}, least_budget=False)


@pytest.fixture(scope="module")
def original(prober: Prober) -> MeasuredRun:
    return planted(prober, "")


def printed(comparison: Comparison) -> str:
    console = Console(file=io.StringIO(), width=160)
    for table in comparison_tables(comparison):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


# --- what is measured ----------------------------------------------------------------------------------------------


def test_events_tell_what_lives_when(original: MeasuredRun) -> None:
    """Folding them gives the timeline that was measured, at every moment."""
    timeline = original.footprint.timeline
    assert timeline is not None
    live_bytes = [0]
    for event in original.events:
        live_bytes.append(live_bytes[-1] + (event.bytes if event.action == "alloc" else -event.bytes))
    assert live_bytes == [sum(sizes) for sizes in zip(*timeline.live_bytes.values(), strict=True)]


def test_events_tell_where_the_peak_is(original: MeasuredRun) -> None:
    timeline, position = original.footprint.timeline, original.footprint.peak_position
    assert timeline is not None
    totals = [sum(sizes) for sizes in zip(*timeline.live_bytes.values(), strict=True)]
    event = original.events[totals.index(max(totals)) - 1]
    assert position is not None
    assert (event.step, event.phase, event.module, event.operator) == (
        position.step,
        position.phase,
        position.module,
        position.operator,
    )


def test_events_of_a_log_by_step_and_phase(tmp_path: Path) -> None:
    """An event belongs to the phase that has begun when it happens; what comes after the timeline's end is left out."""
    phases = ((0, "prepare"), (1, "between"), (2, "forward"), (3, "backward"), (4, "between"))
    live = {"activations": [0, 512, 512 + 256, 512 + 256 + 128, 512 + 256, 256]}
    frame = {"name": "at::_ops::conv2d::call(at::Tensor const&)", "filename": "Operators.cpp", "line": 1}
    allocated = [
        {"action": "alloc", "addr": address, "size": size, "user_metadata": "conv", "frames": [frame]}
        for address, size in ((7000, 512), (8000, 256), (9000, 128))
    ]
    released = [{"action": "free_completed", "addr": address, "size": 0} for address in (9000, 7000, 8000)]
    asked = [{"action": "free_requested", "addr": 9000, "size": 128}, {"action": "segment_alloc", "addr": 1, "size": 1}]
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps({"device_traces": [[*allocated, *asked, *released]]}))
    measured = recorded_run(replace(FOOTPRINT, timeline=Timeline(live, phases)), path, {"task": "grow 1"})
    assert measured.workload == {"task": "grow 1"}
    assert measured.events == (
        BlockEvent("alloc", 512, 0, 0, "prepare", "conv", "conv2d"),
        BlockEvent("alloc", 256, 1, 1, "between", "conv", "conv2d"),
        BlockEvent("alloc", 128, 2, 1, "forward", "conv", "conv2d"),
        BlockEvent("free", 128, 2, 1, "backward", "conv", "conv2d"),
        BlockEvent("free", 512, 0, 2, "between", "conv", "conv2d"),
    )


def test_a_footprint_without_timeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tiny has no timeline"):
        recorded_run(replace(FOOTPRINT, timeline=None), tmp_path / "missing", {})


# --- runs that are equal -------------------------------------------------------------------------------------------


def test_the_same_step_twice_has_no_difference(original: MeasuredRun, prober: Prober) -> None:
    comparison = Comparison(original, planted(prober, ""))
    assert comparison.is_identical
    assert comparison.divergence is None
    assert comparison.unmatched_events == (0, 0)
    assert comparison.parts == {}
    assert not list(comparison.cautions())
    assert comparison.verdict() == (
        f"the same {len(original.events)} allocations and releases in the same order, the same bytes"
    )
    assert "where the events part" not in printed(comparison)


@dataclass(frozen=True)
class OnCard:
    """Measures where the virtual GPU is loaded and bears a card's name: as a physical one is measured."""

    workload: Workload
    snapshot: Path

    @property
    def key(self) -> str:
        return f"{self.workload.key} on a card"

    def run(self, device: torch.device, report: Callable[[object], None]) -> Footprint:
        virtual = torch.cuda.get_device_properties(device)
        seen = mock.Mock(wraps=virtual, total_memory=virtual.total_memory, uuid=virtual.uuid)
        seen.name = CARD
        options = {"steps": 3, "least_budget": True, "timeline": True, "snapshot": self.snapshot}
        with mock.patch("torch.cuda.get_device_properties", return_value=seen):
            return measurement.measure_workload(self.workload, "cuda", device, **options)


def test_a_card_against_its_prediction(prober: Prober, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot.pickle"
    footprint = prober.run(OnCard(Planted(), snapshot), GPU, lambda report: None)
    card = recorded_run(footprint, snapshot, {"plan": ""})
    comparison = Comparison(card, measure_run(prober, Planted(), GPU, {"plan": ""}))
    assert comparison.is_identical
    assert comparison.peaks["least budget"].run == comparison.peaks["least budget"].other != None  # noqa: E711
    assert not list(comparison.cautions())
    # The stub driver answers for NVML too, and has no context.
    assert comparison.nvml_used_bytes == Pair(footprint.peak_reserved_bytes, None)
    assert comparison.context_bytes == Pair(0, None)
    assert CARD in printed(comparison)


# --- runs that differ ----------------------------------------------------------------------------------------------


def test_an_extra_activation_is_found_where_it_is_allocated(original: MeasuredRun, prober: Prober) -> None:
    changed = planted(prober, "extra saved activation")
    comparison = Comparison(changed, original)
    sigmoid = next(index for index, event in enumerate(changed.events) if event.operator == "sigmoid")
    # Its result is as large as the next convolution's, which comes in its place: sizes differ from the product on.
    assert original.events[sigmoid].bytes == changed.events[sigmoid].bytes
    assert comparison.divergence == sigmoid + 1
    activation_bytes = 16 * 32 * 32 * 32 * 4
    block = changed.events[sigmoid].block + 1
    product = BlockEvent("alloc", activation_bytes, block, 1, "forward", "(root)", "mul_Tensor")
    assert changed.events[sigmoid + 1] == product
    assert comparison.verdict().startswith(
        f"event {sigmoid + 1} is the first that differs: "
        "allocates 2,097,152 B (step 1, forward, (root), mul_Tensor), against allocates "
    )
    assert comparison.unmatched_events == (len(changed.events) - len(original.events), 0)
    assert comparison.parts is not None
    assert next(iter(comparison.parts)) == "activations of (root)"
    assert comparison.categories["activations"].difference == comparison.parts["activations of (root)"].difference
    assert list(comparison.cautions()) == ["plan is extra saved activation, against "]
    assert not comparison.is_identical
    text = printed(comparison)
    assert "activations of (root)" in text
    assert "sigmoid" in text


def test_another_batch_differs_from_the_batch_on(original: MeasuredRun, prober: Prober) -> None:
    comparison = Comparison(original, planted(prober, "larger batch"))
    first = next(index for index, event in enumerate(original.events) if event.bytes == BATCH_BYTES)
    assert comparison.divergence == first
    assert original.events[first].phase == "prepare"
    # Pictures and targets: half as much again.
    assert comparison.categories["inputs"] == Pair(BATCH_BYTES + 16 * 8, (BATCH_BYTES + 16 * 8) * 3 // 2)
    assert comparison.categories["parameters"].difference == 0


def test_other_allocator_settings_change_bytes_but_no_event(
    original: MeasuredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with Prober() as prober:
        comparison = Comparison(original, planted(prober, ""))
    assert comparison.divergence is None
    assert comparison.peaks["peak requested"].difference == 0
    assert comparison.peaks["peak reserved"].difference
    assert not comparison.is_identical
    assert comparison.verdict().endswith("in the same order; bytes differ")
    assert list(comparison.cautions()) == [
        "allocator_settings is default, against PYTORCH_ALLOC_CONF=expandable_segments:True"
    ]


# --- what is made of two runs, without a GPU -----------------------------------------------------------------------


def log(*sizes: int) -> tuple[BlockEvent, ...]:
    """Return a log of allocations (positive) and of releases of the last block of a size (negative)."""
    events: list[BlockEvent] = []
    living: dict[int, list[int]] = {}
    blocks = 0
    for size in sizes:
        if size > 0:
            living.setdefault(size, []).append(blocks)
            events.append(BlockEvent("alloc", size, blocks, 1, "forward", "conv", "conv2d"))
            blocks += 1
        else:
            events.append(BlockEvent("free", -size, living[-size].pop(), 1, "forward", "conv", "conv2d"))
    return tuple(events)


def run(*sizes: int, **changes: Any) -> MeasuredRun:
    return MeasuredRun({}, replace(ATTRIBUTED, **changes), log(*sizes))


SIZES = st.lists(st.sampled_from([256, 512, 1024]), min_size=1, max_size=60)
PLANTED = 999


@given(SIZES, st.data())
def test_a_replaced_event_is_found(sizes: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(sizes) - 1))
    comparison = Comparison(run(*sizes), run(*sizes[:index], PLANTED, *sizes[index + 1 :]))
    assert comparison.divergence == index
    assert comparison.unmatched_events == (1, 1)


@given(SIZES, st.data())
def test_an_inserted_event_is_found(sizes: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(sizes)))
    longer = run(*sizes[:index], PLANTED, *sizes[index:])
    for comparison, unmatched in ((Comparison(longer, run(*sizes)), (1, 0)), (Comparison(run(*sizes), longer), (0, 1))):
        assert comparison.divergence == index
        assert comparison.unmatched_events == unmatched


@given(*[st.lists(st.integers(0, 3), max_size=12)] * 2)
def test_the_longest_common_subsequence_is_that_of_the_textbook(first: list[int], second: list[int]) -> None:
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for row, entry in enumerate(first):
        for column, its in enumerate(second):
            either = max(lengths[row][column + 1], lengths[row + 1][column])
            lengths[row + 1][column + 1] = lengths[row][column] + 1 if entry == its else either
    assert longest_common_subsequence(first, second) == lengths[-1][-1]


@given(*[st.lists(st.integers(0, 5), max_size=300)] * 2)
def test_no_shorter_than_what_difflib_finds(first: list[int], second: list[int]) -> None:
    found = difflib.SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    assert longest_common_subsequence(first, second) >= sum(block.size for block in found)


def test_another_block_of_the_same_size_released() -> None:
    events = [BlockEvent("alloc", 512, block, 1, "forward", None, None) for block in (0, 1)]
    runs = [
        MeasuredRun({}, FOOTPRINT, (*events, BlockEvent("free", 512, block, 1, "backward", None, None)))
        for block in (0, 1)
    ]
    comparison = Comparison(*runs)
    assert comparison.divergence == 2
    assert comparison.unmatched_events == (0, 0)
    assert not comparison.is_identical
    assert comparison.verdict().endswith("only which block of a size is released differs")


def test_a_log_that_ends_early() -> None:
    comparison = Comparison(run(512, 256), run(512))
    assert comparison.divergence == 1
    assert [index for index, _, _ in comparison.around_divergence()] == [0, 1]
    assert comparison.verdict() == (
        "event 1 is the first that differs: allocates 256 B (step 1, forward, conv, conv2d), against none; "
        "1 of 2 events have no counterpart, and 0 of the other's 1"
    )
    assert "(ended)" in printed(comparison)


@pytest.mark.parametrize(
    ("used_bytes", "context_bytes", "shown"),
    [(522 * MIB, 500 * MIB, "500.0"), (22 * MIB, 0, "0.0"), (None, None, "?"), (21 * MIB, None, "?")],
    ids=["context", "none", "untold", "given back"],
)
def test_the_context_is_what_the_allocator_did_not_reserve(
    used_bytes: int | None, context_bytes: int | None, shown: str
) -> None:
    comparison = Comparison(run(512, nvml_used_bytes=used_bytes), run(512))
    assert comparison.context_bytes == Pair(context_bytes, None)
    assert comparison.is_identical
    (row,) = (line.split() for line in printed(comparison).splitlines() if "CUDA context" in line)
    assert row[2:] == [shown, "?", "?"]


def test_unknown_is_no_difference_and_no_zero() -> None:
    comparison = Comparison(run(512, least_budget_bytes=4096), run(512, attribution=()))
    assert comparison.parts is None
    assert comparison.peaks["least budget"] == Pair(4096, None)
    assert comparison.peaks["least budget"].difference is None
    assert comparison.is_identical
    assert comparison.to_dict()["parts_at_peak"] is None


def test_only_the_largest_parts_are_shown() -> None:
    moved = [
        replace(portion, module=f"{portion.module}-{number}") for number, portion in enumerate(ATTRIBUTED.attribution)
    ]
    comparison = Comparison(run(512), run(512, attribution=tuple(moved)))
    assert comparison.parts is not None
    assert [abs(pair.difference or 0) for pair in comparison.parts.values()] == [4 * MIB] * 2 + [2 * MIB] * 4
    text = printed(comparison)
    assert "what differs most at the peak, 1 more" in text
    assert sum(part in text for part in comparison.parts) == 5


def test_what_else_differs_is_said() -> None:
    card = replace(FOOTPRINT.environment, gpu="cuda", device_name="NVIDIA T1000", is_virtual=False, torch="2.11.0")
    comparison = Comparison(
        MeasuredRun({"batch_size": 64, "rounds": 1}, replace(FOOTPRINT, environment=card, steps=2), log(512)),
        MeasuredRun({"batch_size": 32}, replace(FOOTPRINT, caveats=("reads numbers",)), log(512)),
    )
    assert list(comparison.cautions()) == [
        "batch_size is 64, against 32",
        "rounds is 1, against ?",
        "torch is 2.11.0, against 2.14.1",
        "steps is 2, against 1",
        "what the peak consists of by module is unknown for one of them, and so not compared",
        "virtual:t4 describes another card than NVIDIA T1000: NVIDIA Tesla T4 16 GB",
        "reads numbers",
    ]


def test_as_json() -> None:
    comparison = Comparison(run(512, 256, -256, nvml_used_bytes=30 * MIB), run(512, 256, -512))
    values = json.loads(json.dumps(comparison.to_dict()))
    assert values["events"]["first_difference"] == 2
    assert values["events"]["unmatched"] == {"run": 1, "other": 1}
    assert values["events"]["around"][2]["run"]["bytes"] == 256
    assert values["context_bytes"] == {"run": 8 * MIB, "other": None, "difference": None}
    assert values["peaks"]["peak_reserved_bytes"] == {"run": 22 * MIB, "other": 22 * MIB, "difference": 0}
    assert values["parts_at_peak"] == {}
    assert not values["is_identical"]


def test_markup_in_names_is_shown_as_it_is() -> None:
    events = tuple(event._replace(module="[red]") for event in log(512))
    comparison = Comparison(MeasuredRun({}, FOOTPRINT, events), run(256))
    assert "[red]" in printed(comparison)
