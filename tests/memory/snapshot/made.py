"""Snapshots made by hand, and by the model of PyTorch's allocator, in the shapes that versions of PyTorch write."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from profl.bench.memory.replay.allocator import Alloc, AllocatorSettings, Free, ReplayedEvent, replay

MIB = 1 << 20
SETTINGS = ("", "expandable_segments:True", "max_split_size_mb:20")

FORWARD = [
    {"name": "at::_ops::conv2d::call(at::Tensor const&)", "filename": "Operators.cpp", "line": 1},
    {"name": "at::detail::empty_cuda(c10::ArrayRef<long>)", "filename": "??", "line": 0},
    {"name": "forward", "filename": "/venv/lib/python3.11/site-packages/torch/nn/modules/conv.py", "line": 7},
    {"name": "_call_impl", "filename": "/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", "line": 3},
    {"name": "forward", "filename": "/home/me/study/network.py", "line": 12},
]
BACKWARD = [
    {"name": "at::detail::empty_cuda(c10::ArrayRef<long>)", "filename": "??", "line": 0},
    {"name": "torch::autograd::generated::MulBackward0::apply(std::vector<at::Tensor>&&)", "filename": "??", "line": 0},
    {"name": "torch::autograd::Engine::evaluate_function(int)", "filename": "??", "line": 0},
]
OPTIMIZER = [
    {"name": "at::detail::empty_cuda(c10::ArrayRef<long>)", "filename": "??", "line": 0},
    {"name": "step", "filename": "C:\\python\\Lib\\site-packages\\torch\\optim\\sgd.py", "line": 9},
    {"name": "main", "filename": "C:\\study\\train.py", "line": 2},
]
BLAS = [
    {"name": "at::cuda::getNewWorkspace()", "filename": "??", "line": 0},
    {"name": "at::cuda::getCurrentCUDABlasHandle()", "filename": "??", "line": 0},
    {"name": "main", "filename": "train.py", "line": 1},
]


def event(action: str, address: int, size: int, **more: Any) -> dict[str, Any]:
    """Return a line of a trace as version 2.1 writes it."""
    return {"action": action, "addr": address, "size": size, "stream": 0, **more}


def segment(address: int, size: int, blocks: Iterable[tuple[int, int, int]] = (), **more: Any) -> dict[str, Any]:
    """Return a segment with the blocks (address, size, requested size) that live in it; the rest is free."""
    told, at = [], address
    for begins, block_bytes, requested_bytes in sorted(blocks):
        if at < begins:
            told.append({"address": at, "size": begins - at, "requested_size": 0, "state": "inactive"})
        live = {"address": begins, "size": block_bytes, "requested_size": requested_bytes, "state": "active_allocated"}
        told.append(live)
        at = begins + block_bytes
    if at < address + size:
        told.append({"address": at, "size": address + size - at, "requested_size": 0, "state": "inactive"})
    return {
        "device": 0,
        "address": address,
        "total_size": size,
        "stream": 0,
        "segment_type": "large",
        "blocks": told,
    } | more


def snapshot(segments: Sequence[dict[str, Any]], *traces: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"segments": list(segments), "device_traces": [list(trace) for trace in traces], **more}


def written(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@st.composite
def traces(draw: st.DrawFn, streams: int = 2) -> list[Alloc | Free]:
    """Draw what a program may ask of the allocator."""
    sizes = st.one_of(st.integers(1, 4096), st.integers(MIB // 2, 3 * MIB), st.integers(9 * MIB, 40 * MIB))
    asked: list[Alloc | Free] = []
    living: list[int] = []
    for number in range(draw(st.integers(1, 40))):
        if living and draw(st.booleans()):
            asked.append(Free(living.pop(draw(st.integers(0, len(living) - 1)))))
        else:
            asked.append(Alloc(number, draw(sizes), draw(st.integers(0, streams - 1))))
            living.append(number)
    return asked


def told_by_allocator(trace: Sequence[Alloc | Free], settings: str = "") -> dict[str, Any]:
    """Return the snapshot that the allocator's model leaves at the end of a trace, with everything it did before."""
    played = replay(trace, AllocatorSettings.parse(settings))
    log = [
        event(told.action, _address(told), told.bytes, time_us=1000 + number) | {"stream": told.stream}
        for number, told in enumerate(played.events)
    ]
    held: dict[int, tuple[int, int]] = {}
    live: dict[int, int] = {}
    for line in log:
        if line["action"] in ("segment_alloc", "segment_map"):
            held[line["addr"]] = line["size"], line["stream"]
        elif line["action"] == "alloc":
            live[line["addr"]] = line["size"]
        elif line["action"] == "free_completed":
            del live[line["addr"]]
        else:
            raise AssertionError(f"{line['action']}: no limit, so nothing is given back")
    segments = []
    for begins, size, stream in _joined(held):
        inside = {address: asked for address, asked in live.items() if begins <= address < begins + size}
        blocks = [(address, -(-asked // 512) * 512, asked) for address, asked in inside.items()]
        segments.append(segment(begins, size, blocks, stream=stream, is_expandable="expandable" in settings))
    variable = {"PYTORCH_CUDA_ALLOC_CONF": settings, "expandable_segments": "expandable" in settings}
    return snapshot(segments, log, allocator_settings=variable, external_annotations=[])


def _address(told: ReplayedEvent) -> int:
    """Return an address as a GPU has them: the model's segments are farther apart than 64 bits hold."""
    return (told.address >> 60 << 42) + (told.address & (1 << 60) - 1)


def _joined(held: dict[int, tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return what is mapped, pages that follow each other as one segment."""
    joined: list[tuple[int, int, int]] = []
    for begins, (size, stream) in sorted(held.items()):
        if joined and joined[-1][0] + joined[-1][1] == begins:
            joined[-1] = (joined[-1][0], joined[-1][1] + size, stream)
        else:
            joined.append((begins, size, stream))
    return joined
