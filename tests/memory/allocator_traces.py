"""PyTorch's own allocator, playing traces in a process with a virtual GPU; and logs made comparable.

Run as a script this module is that process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

STREAMS = 3
REACH_BYTES = 80 << 30  # less than the addresses of an expandable segment, more than a trace maps
KEPT_UNLESS_NAMED = "expandable_segments:False,large_segment_size_mb:20"  # PyTorch sets all others back by itself
ACTIONS = ("alloc", "free_completed", "segment_alloc", "segment_free", "segment_map", "segment_unmap")
STATISTICS = ("requested_bytes", "allocated_bytes", "reserved_bytes", "segment")


@dataclass(frozen=True)
class Played:
    """What PyTorch's allocator did: its log, its peak statistics, and where it ran out of memory."""

    events: Sequence[tuple[str, int, int, int]]
    peaks: Mapping[str, int]
    out_of_memory_at: int | None


class RealAllocator:
    """PyTorch's allocator, in a process of its own; empty before every trace."""

    def __init__(self) -> None:
        from profl.bench.memory.process.probe import _setup

        setup, variables = _setup("virtual:sm_90")
        self._connection, other_end = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(other_end.fileno())],
            env=variables,
            pass_fds=[other_end.fileno()],
        )
        other_end.close()
        self._connection.send(sys.path)
        self._connection.send(setup)

    def play(self, settings: str, steps: Sequence[tuple[int, int, int]], limit_bytes: int | None = None) -> Played:
        """Play a trace: each step allocates ``(block, bytes, stream)``, or with 0 bytes frees the block."""
        return self._ask("play", settings, steps, limit_bytes)

    def divisions(self, settings: str) -> Sequence[int] | None:
        """Return into what the settings divide powers of two for rounding, None if PyTorch refuses them."""
        return self._ask("divisions", settings)

    def close(self) -> None:
        self._connection.close()
        self._process.kill()  # it has nothing to save, and takes seconds to end by itself
        self._process.wait()

    def _ask(self, *request: object) -> Any:
        self._connection.send(request)
        return self._connection.recv()


def comparable(events: Iterable[tuple[str, int, int, int]]) -> list[tuple[str, int, int, int, int]]:
    """Return the log with every address as the ordinal of its segment and the offset in it.

    An expandable segment begins at its first mapped page, lives until its last one is unmapped, and is nowhere near
    another one.
    """
    held: dict[int, list[int]] = {}  # by start: the ordinal, and the bytes behind it
    log = []
    segments = 0
    for action, address, size, stream in events:
        start = max((start for start in held if start <= address), default=None)
        far = start is None or address - start >= REACH_BYTES
        if action == "segment_alloc" or (action == "segment_map" and far):
            start = address
            held[start] = [segments, 0]
            segments += 1
        assert start is not None
        log.append((action, held[start][0], address - start, size, stream))
        if action in ("segment_alloc", "segment_map"):
            held[start][1] += size
        elif action in ("segment_free", "segment_unmap"):
            held[start][1] -= size
            if held[start][1] == 0:
                del held[start]
    return log


def _serve(connection: Connection) -> None:
    import torch

    torch.cuda.init()
    allocate = torch._C._cuda_cudaCachingAllocator_raw_alloc
    free = torch._C._cuda_cudaCachingAllocator_raw_delete
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    made = [torch.cuda.Stream() for _ in range(STREAMS - 1)]
    handles = sorted([0, *(stream.cuda_stream for stream in made)])

    def set_anew(settings: str) -> None:
        torch._C._accelerator_setAllocatorSettings(KEPT_UNLESS_NAMED)
        torch._C._accelerator_setAllocatorSettings(settings)

    def play(settings: str, steps: Sequence[tuple[int, int, int]], limit_bytes: int | None) -> Played:
        set_anew(settings)
        share = 1.0 if limit_bytes is None else min(1.0, (limit_bytes + 0.25) / total_bytes)
        torch.cuda.set_per_process_memory_fraction(share)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.memory._record_memory_history("all", context=None, max_entries=sys.maxsize, clear_history=True)
        addresses: dict[int, int] = {}
        failed_at = None
        for position, (block, size, stream) in enumerate(steps):
            if not size:
                free(addresses.pop(block))
                continue
            try:
                addresses[block] = allocate(size, handles[stream])
            except torch.OutOfMemoryError:
                failed_at = position
                break
        events = torch.cuda.memory._snapshot(0)["device_traces"][0]
        stats = torch.cuda.memory_stats()
        torch.cuda.memory._record_memory_history(None)
        for address in addresses.values():
            free(address)
        torch.cuda.empty_cache()
        log = [
            (event["action"], event["addr"], event["size"], handles.index(event["stream"]))
            for event in events
            if event["action"] in ACTIONS
        ]
        return Played(log, {name: stats[f"{name}.all.peak"] for name in STATISTICS}, failed_at)

    def divisions(settings: str) -> Sequence[int] | None:
        try:
            set_anew(settings)
        except (ValueError, IndexError, RuntimeError):
            return None
        return list(torch.cuda.memory._snapshot()["allocator_settings"]["roundup_power2_divisions"].values())

    answers = {"play": play, "divisions": divisions}
    while True:
        name, *arguments = connection.recv()
        connection.send(answers[name](*arguments))


def _main() -> None:
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, BrokenPipeError):
        sys.path[:] = connection.recv()
        setup = connection.recv()
        from profl.bench.memory.gpu.driver import load

        load(setup)
        # Under its own name, by which the other end knows what is sent.
        from tests.memory import allocator_traces

        allocator_traces._serve(connection)


if __name__ == "__main__":
    _main()
