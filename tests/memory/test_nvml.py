"""What the driver says, where there is one."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from profl.bench.memory.nvml import process_used_bytes


class NVMLError(Exception):
    pass


def driver(*processes: tuple[int, int | None]) -> SimpleNamespace:
    """Return a stand-in for pynvml that knows (process, bytes)."""
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: {"GPU-abc": 1}[uuid],
        nvmlDeviceGetComputeRunningProcesses=lambda _: [
            SimpleNamespace(pid=number, usedGpuMemory=used_bytes) for number, used_bytes in processes
        ],
    )


def test_this_process_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver((1, 5), (os.getpid(), 700)))
    assert process_used_bytes("abc") == 700


@pytest.mark.parametrize("processes", [[], [(1, 5)], [(os.getpid(), None)]], ids=["none", "others", "untold"])
def test_unknown_is_none(monkeypatch: pytest.MonkeyPatch, processes: list[tuple[int, int | None]]) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(*processes))
    assert process_used_bytes("abc") is None


def test_no_driver_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NVMLError("driver not loaded")

    stand_in = driver((os.getpid(), 700))
    stand_in.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    assert process_used_bytes("abc") is None


def test_no_package_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert process_used_bytes("abc") is None
