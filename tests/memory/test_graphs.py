"""CUDA graphs on the virtual GPU: what a capture allows, whose memory it is, and steps that are captured."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from profl.bench.memory import BuiltStep, MeasurementFailed, OutOfMemory, Prober
from tests.memory import graphed_steps
from tests.memory.graphed_steps import STEPS
from tests.memory.unwatched import PEAKS, Unwatched

pytestmark = pytest.mark.covers_children

GPU = "virtual:t4"
_PAGE_BYTES = 2 << 20


@dataclass(frozen=True)
class Running:
    """A program: the function of this name below, run in the worker."""

    name: str

    @property
    def key(self) -> str:
        return f"running {self.name}"

    def run(self, device: torch.device, report: Callable[[object], None]) -> object:
        return globals()[self.name](device)


# --- what a capture allows ---


def events_lead_a_capture(device: torch.device) -> dict[str, object]:
    work, beside, outside = torch.zeros(3, device=device), torch.cuda.Stream(), torch.cuda.Stream()
    told: dict[str, object] = {"before": torch.cuda.is_current_stream_capturing()}
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        told["within"] = torch.cuda.is_current_stream_capturing()
        work.add_(1)
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            told["beside"] = torch.cuda.is_current_stream_capturing()
            work.add_(1)
        with torch.cuda.stream(outside):
            told["outside"] = torch.cuda.is_current_stream_capturing()
        torch.cuda.current_stream().wait_stream(beside)
    with torch.cuda.stream(beside):
        told["after"] = torch.cuda.is_current_stream_capturing()
    return told


def test_a_capture_follows_the_events(prober: Prober) -> None:
    told = prober.run(Running("events_lead_a_capture"), GPU, lambda row: None)
    assert told == {"before": False, "within": True, "beside": True, "outside": False, "after": False}


def _read(work: torch.Tensor) -> None:
    work.sum().item()


def _synchronise(work: torch.Tensor) -> None:
    torch.cuda.synchronize()


def _synchronise_in_a_thread(work: torch.Tensor) -> None:
    def synchronise() -> None:
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            torch.cuda.synchronize()

    thread = threading.Thread(target=synchronise)
    thread.start()
    thread.join()


def _query(work: torch.Tensor) -> None:
    event = torch.cuda.Event()
    event.record()
    event.query()


def _wait_for_uncaptured_work(work: torch.Tensor) -> None:
    torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())


def _let_the_default_stream_wait(work: torch.Tensor) -> None:
    torch.cuda.default_stream().wait_stream(torch.cuda.current_stream())


def _leave_work_beside(work: torch.Tensor) -> None:
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        work.add_(1)


_SPOILT = "previous error during capture"
WRONG = {
    "_read": _SPOILT,
    "_synchronise": _SPOILT,
    "_synchronise_in_a_thread": _SPOILT,
    "_query": _SPOILT,
    "_wait_for_uncaptured_work": _SPOILT,
    "_let_the_default_stream_wait": _SPOILT,
    "_leave_work_beside": "unjoined work",
}


def wrong_captures(device: torch.device) -> dict[str, object]:
    """What each raises; in between, a capture that is right, and at last what is left."""
    work, told = torch.zeros(3, device=device), {}
    for name in WRONG:
        try:
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                work.add_(1)
                globals()[name](work)
        except RuntimeError as error:
            told[name] = str(error).splitlines()[0]
        torch.cuda.synchronize()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            work.add_(1)
    del work
    gc.collect()
    torch.cuda.empty_cache()
    return {**told, "left": torch.cuda.memory_reserved(device)}


def test_what_cuda_forbids_spoils_the_capture_and_nothing_else(prober: Prober) -> None:
    told = prober.run(Running("wrong_captures"), GPU, lambda row: None)
    assert told.pop("left") == 0
    assert set(told) == set(WRONG)
    for name, message in WRONG.items():
        assert message in told[name]


def _elsewhere(call: Callable[[], int]) -> int:
    """Return what ``call`` returns in a thread of its own."""
    returned: list[int] = []
    thread = threading.Thread(target=lambda: returned.append(call()))
    thread.start()
    thread.join()
    return returned[0]


def raw_calls(device: torch.device) -> dict[str, object]:
    """Modes and threads, which PyTorch chooses itself: by the functions of the runtime."""
    runtime, pointer, graph, count = ctypes.CDLL(None), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t()
    page, stream = ctypes.c_size_t(_PAGE_BYTES), ctypes.c_void_p(torch.cuda.Stream().cuda_stream)
    other = ctypes.c_void_p(torch.cuda.Stream().cuda_stream)
    told: dict[str, object] = {"default stream": runtime.cudaStreamBeginCapture(None, 0)}
    told["end of none"] = runtime.cudaStreamEndCapture(stream, ctypes.byref(graph))
    for name, mode in (("global", 0), ("thread", 1), ("relaxed", 2)):
        runtime.cudaStreamBeginCapture(stream, mode)
        told[f"again, {name}"] = runtime.cudaStreamBeginCapture(stream, mode)
        told[f"cudaMalloc elsewhere, {name}"] = _elsewhere(lambda: runtime.cudaMalloc(ctypes.byref(pointer), page))
        told[f"wrong stream, {name}"] = runtime.cudaStreamEndCapture(other, ctypes.byref(graph))
        told[f"end, {name}"] = runtime.cudaStreamEndCapture(stream, ctypes.byref(graph))
        runtime.cudaFree(pointer)
        if graph:
            runtime.cudaGraphGetNodes(graph, None, ctypes.byref(count))
            told[f"nodes, {name}"] = count.value
            runtime.cudaGraphDestroy(graph)
    return told


def test_modes_say_what_other_threads_may_do(prober: Prober) -> None:
    assert prober.run(Running("raw_calls"), GPU, lambda row: None) == {
        "default stream": 900,
        "end of none": 401,
        "again, global": 401,
        "cudaMalloc elsewhere, global": 900,
        "wrong stream, global": 401,
        "end, global": 901,
        "again, thread": 401,
        "cudaMalloc elsewhere, thread": 0,
        "wrong stream, thread": 401,
        "end, thread": 0,
        "nodes, thread": 0,
        "again, relaxed": 401,
        "cudaMalloc elsewhere, relaxed": 0,
        "wrong stream, relaxed": 401,
        "end, relaxed": 0,
        "nodes, relaxed": 0,
    }


def host_work(device: torch.device) -> dict[str, object]:
    told: dict[str, object] = {}
    pinned, graph, outer = torch.ones(4).pin_memory(), torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    zeros = torch.zeros(4, device=device)
    with torch.cuda.graph(graph):
        pinned.copy_(zeros, non_blocking=True)
    told["captured"] = pinned.tolist()
    with torch.cuda.graph(outer):
        graph.replay()
    told["replayed in a capture"] = pinned.tolist()
    outer.replay()
    told["replayed"] = pinned.tolist()
    del pinned
    gc.collect()
    torch._C._host_emptyCache()
    outer.replay()  # to memory that is gone
    return told


def test_copies_to_the_host_are_made_by_replays_as_long_as_the_memory_is_there(prober: Prober) -> None:
    assert prober.run(Running("host_work"), GPU, lambda row: None) == {
        "captured": [1, 1, 1, 1],
        "replayed in a capture": [1, 1, 1, 1],
        "replayed": [0, 0, 0, 0],
    }


# --- whose memory it is ---


def pools(device: torch.device) -> dict[str, int]:
    """Reserved bytes as graphs come and go: two with pools of their own, a third that shares the second's."""

    def capture(**options: object) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, **options):
            torch.empty(300_000, device=device)
        return graph

    told: dict[str, int] = {}

    def note(name: str) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        told[name] = torch.cuda.memory_reserved(device)

    first = capture()
    note("one")
    second = capture()
    note("two")
    third = capture(pool=second.pool())
    note("sharing")
    del second
    note("shared")
    del third
    note("first")
    first.reset()
    note("none")
    return told


def test_graphs_keep_their_pools(prober: Prober) -> None:
    assert prober.run(Running("pools"), GPU, lambda row: None) == {
        "one": 10 * _PAGE_BYTES,
        "two": 20 * _PAGE_BYTES,
        "sharing": 20 * _PAGE_BYTES,
        "shared": 20 * _PAGE_BYTES,
        "first": 10 * _PAGE_BYTES,
        "none": 0,
    }


def blocks_used_beside(device: torch.device) -> list[bool]:
    """Whether a block that a second stream uses is given out again, before and after the streams have joined."""
    torch.cuda.memory._set_allocator_settings("graph_capture_record_stream_reuse:True")
    beside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = torch.zeros(8, device=device)
        used = torch.zeros(8, device=device)
        place = used.data_ptr()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            used.add_(1)
            used.record_stream(beside)
        del used
        before = torch.zeros(8, device=device)
        torch.cuda.current_stream().wait_stream(beside)
        kept.add_(1)
        after = torch.zeros(8, device=device)
    torch.cuda.memory._set_allocator_settings("graph_capture_record_stream_reuse:False")
    return [place == before.data_ptr(), place == after.data_ptr()]


def test_the_allocator_sees_what_depends_on_what(prober: Prober) -> None:
    assert prober.run(Running("blocks_used_beside"), GPU, lambda row: None) == [False, True]


# --- steps that are captured ---


@pytest.mark.parametrize("name", STEPS)
def test_the_bytes_of_a_captured_step_are_pytorchs_own(prober: Prober, name: str) -> None:
    # The second time: where a kernel is first compiled its configurations are tried, which takes memory of its own.
    own = [prober.run(Unwatched(STEPS[name]), GPU, lambda _: None) for _ in range(2)][-1]
    footprint = prober.measure(BuiltStep(STEPS[name]), GPU, least_budget=False)
    assert tuple(getattr(footprint, f"peak_{peak}_bytes") for peak in PEAKS) == own
    assert footprint.categories_at_peak["parameters"] == footprint.parameter_bytes
    assert not any("leaves" in caveat or "grows" in caveat for caveat in footprint.caveats)


def test_a_captured_step_has_a_least_budget(prober: Prober) -> None:
    footprint = prober.measure(BuiltStep(graphed_steps.graphed_callable), GPU)
    assert footprint.least_budget_bytes is not None
    assert footprint.peak_allocated_bytes <= footprint.least_budget_bytes <= footprint.peak_reserved_bytes
    assert prober.fits(BuiltStep(graphed_steps.graphed_callable), GPU, footprint.least_budget_bytes)


def too_large(device: torch.device) -> graphed_steps.Built:
    net, optimizer, batch, _ = graphed_steps.pool_of_its_own(device)

    def step() -> None:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.empty(1 << 40, device=device)

    return net, optimizer, batch, step


def conditional(device: torch.device) -> graphed_steps.Built:
    net, optimizer, batch, _ = graphed_steps.pool_of_its_own(device)
    graph, true = torch.cuda.CUDAGraph(), torch.ones((), dtype=torch.bool, device=device)

    def step() -> None:
        with torch.cuda.graph(graph):
            graph.begin_capture_to_if_node(true)

    return net, optimizer, batch, step


def test_a_capture_that_fails_leaves_the_worker_in_order(prober: Prober) -> None:
    with pytest.raises(OutOfMemory, match="needs more than"):
        prober.measure(BuiltStep(too_large), GPU, least_budget=False)
    with pytest.raises(MeasurementFailed, match="cudaGraphConditionalHandleCreate, which the virtual GPU refuses"):
        prober.measure(BuiltStep(conditional), GPU, least_budget=False)
    footprint = prober.measure(BuiltStep(graphed_steps.pool_of_its_own), GPU, least_budget=False)
    assert footprint.caveats == ()
