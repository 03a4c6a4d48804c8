"""Files that nobody vouches for: read as data, or refused in one line, and never executed."""

from __future__ import annotations

import gzip
import os
import pickle
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profl.bench.errors import InputError
from profl.bench.memory.snapshot import unpickling
from profl.bench.memory.snapshot.history import TracedHistory
from profl.bench.memory.snapshot.reading import read_snapshot
from profl.bench.memory.snapshot.summary import summary, to_dict
from profl.bench.memory.snapshot.unpickling import read_plain
from tests.memory.snapshot.made import BACKWARD, FORWARD, event, segment, snapshot, written

MIB = 1 << 20
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda part: st.lists(part) | st.lists(part).map(tuple) | st.dictionaries(st.text(), part),
)
VALID = snapshot(
    [segment(4096, 2 * MIB, [(4096, 1024, 1000)])],
    [
        event("segment_alloc", 4096, 2 * MIB, time_us=5),
        event("alloc", 4096, 1000, frames=FORWARD, time_us=6, user_metadata="conv1"),
        event("alloc", 8192, 500, frames=BACKWARD, time_us=7),
        event("free_requested", 8192, 500, time_us=8),
        event("free_completed", 8192, 500, time_us=9),
    ],
    allocator_settings={"PYTORCH_CUDA_ALLOC_CONF": "", "roundup_power2_divisions": {"1": 0, "2": 0}},
    external_annotations=[{"stage": "START", "name": "Optimizer.step#SGD.step", "device": 0, "time_us": 8}],
)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Yield what happens that no reading of data may do."""
    seen: list[str] = []
    watching = True

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if watching and name in ("os.system", "subprocess.Popen", "exec", "pickle.find_class", "os.posix_spawn"):
            seen.append(name)

    sys.addaudithook(hook)
    yield seen
    watching = False  # a hook stays for good


def refusal(path: Path, content: bytes, read: Callable[[Path], object] = read_plain) -> str:
    """Return why the file is refused, in one line that names it."""
    path.write_bytes(content)
    with watched() as seen, pytest.raises(InputError) as refused:
        read(path)
    assert not seen
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 500
    return message


def attempt(path: Path, read: Callable[[Path], object]) -> str | None:
    """Read the file; return why it is refused, None if it is not."""
    try:
        read(path)
    except InputError as error:
        return str(error)
    return None


# --- plain data ----------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLAIN, st.integers(2, 5), st.booleans())
def test_plain_data_is_read_as_pickle_reads_it(tmp_path: Path, value: Any, protocol: int, packed: bool) -> None:
    content = pickle.dumps(value, protocol=protocol)
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_plain(path) == (value, len(content))


def test_shared_parts_stay_shared(tmp_path: Path) -> None:
    frames = [{"name": "f", "filename": "x.py", "line": 1}]
    value = read_plain(written(tmp_path / "shared", [frames, frames])).value
    assert value[0] is value[1]


# --- what would be executed ----------------------------------------------------------------------------------------


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, how: Callable[..., object], *arguments: object) -> None:
        self.reduced = how, arguments

    def __reduce__(self) -> Any:
        return self.reduced


MARKER = "executed"
PROGRAMS = {
    "os.system by name": b"cos\nsystem\n(S'touch executed'\ntR.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch executed\x85R.",
    "an instance": b"(S'touch executed'\nios\nsystem\n.",
    "an object": b"(cos\nsystem\nS'touch executed'\no.",
    "a new object": b"\x80\x02cbuiltins\ndict\n)\x81.",
    "a state": b"\x80\x02}}b.",
    "a state in a dict": b"\x80\x02}\x8c\x01a}\x8c\x01bK\x01sbs.",
    "a registered class": b"\x80\x02\x82\x01.",
    "a persistent name": b"Pname\n.",
    "a persistent name from the stack": b"\x80\x02K\x01Q.",
    "a buffer outside": b"\x80\x05\x97.",
    "bytes": b"\x80\x04C\x01a.",
    "a set": b"\x80\x04\x8f.",
    "a duplicate": b"\x80\x02]2.",
    "a decimal number": b"I" + b"9" * 5000 + b"\n.",
    "a text of version 0": b"Vtext\n.",
    "no instruction": b"\xff",
    "nothing": b"",
    "JSON": b'{"segments": []}',
    "HTML": b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("content", PROGRAMS.values(), ids=PROGRAMS)
def test_what_is_no_plain_data_is_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refusal(tmp_path / "file.pickle", content)
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("how", [os.system, exec, eval])
def test_code_in_the_middle_of_a_snapshot_is_refused(
    how: Callable[..., object], protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "touch executed" if how is os.system else "open('executed', 'w')"
    value = {**VALID, "segments": [*VALID["segments"], Evil(how, code)]}
    message = refusal(tmp_path / "file.pickle", pickle.dumps(value, protocol=protocol))
    assert "plain data does not need" in message
    assert not (tmp_path / MARKER).exists()


# --- what would fill memory or never end ---------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def laughs(levels: int) -> bytes:
    """Return a list of two of a list of two of ...: a line each, 2^levels entries in all."""
    parts = [b"\x80\x02]q\x00"]
    for level in range(levels):
        before, now = bytes([level]), bytes([level + 1])
        parts += [b"0]q", now, b"(h", before, b"h", before, b"e"]
    return b"".join(parts).replace(b"0]", b"]") + b"."


BOMBS = {
    "a place in the memo": b"\x80\x02]r" + struct.pack("<I", 2**31) + b".",
    "a long text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "long bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "a long array": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "a frame longer than numbers": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "a long number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "lists in lists": nested(1_000_000),
    "marks": b"\x80\x02" + b"(" * 1_000_000,
    "tuples in tuples": b"\x80\x02N" + b"\x85" * 1_000_000 + b".",
    "empty dicts": b"\x80\x02(" + b"}" * 1_000_000 + b"t.",
    "one place after the other": b"\x80\x04]" + b"\x94" * 1_000_000 + b".",
    "keys of one hash": b"\x80\x02}("
    + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 5000))
    + b"u.",
    "twice twice": laughs(100),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_small_files_stay_small(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pickle"
    path.write_bytes(content)
    begun = time.monotonic()
    tracemalloc.start()
    message = attempt(path, read_snapshot)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2 * MIB + 60 * len(content)
    assert time.monotonic() - begun < 20
    assert message is None or message.startswith(str(path))


def test_a_packed_bomb_is_unpacked_to_the_limit_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickling, "LARGEST_FILE_BYTES", 4 * MIB)
    path = tmp_path / "bomb.pickle.gz"
    path.write_bytes(gzip.compress(bytes(200 * MIB), 1))
    tracemalloc.start()
    with pytest.raises(InputError, match="holds more than 4194304 bytes"):
        read_plain(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 * MIB


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_damaged_archive_is_refused(cut: int, tmp_path: Path) -> None:
    content = gzip.compress(pickle.dumps(VALID))
    assert "have it sent again" in refusal(tmp_path / "cut.gz", content[:-cut])


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing: name a file that"):
        read_plain(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read"):
        read_plain(tmp_path)


def test_a_list_shared_by_many_is_not_read_for_each(tmp_path: Path) -> None:
    """A stack of many frames that many events share; and a trace that many GPUs share."""
    frames = [FORWARD[0]] * 20_000
    events = [event("alloc", 512 * number, 512, frames=frames) for number in range(1, 20_000)]
    for value in (snapshot([], events), {"segments": [], "device_traces": [events] * 20_000}):
        with pytest.raises(InputError, match=r"more often than its size allows|GPUs, more than"):
            read_snapshot(written(tmp_path / "shared.pickle", value))


# --- mutations -----------------------------------------------------------------------------------------------------


def read_all(path: Path) -> None:
    """Read a snapshot and everything that is made of it."""
    read = read_snapshot(path)
    to_dict(read, [summary(read, TracedHistory(device), replay=True) for device in read.devices.values()])


def test_the_snapshot_that_is_mutated_is_read(tmp_path: Path) -> None:
    read_all(written(tmp_path / "valid.pickle", VALID))


@pytest.mark.parametrize("protocol", [2, 4])
def test_mutations_of_bytes_are_read_or_refused(protocol: int, tmp_path: Path) -> None:
    content = pickle.dumps(VALID, protocol=protocol)
    path = tmp_path / "mutated.pickle"
    draw = random.Random(protocol)
    with watched() as seen:
        for _ in range(1500):
            mutated = bytearray(content)
            for _ in range(draw.choice((1, 1, 1, 2, 5))):
                place = draw.randrange(len(mutated))
                kind = draw.randrange(4)
                if kind == 0:
                    mutated[place] = draw.randrange(256)
                elif kind == 1:
                    del mutated[place : place + draw.randrange(1, 9)]
                elif kind == 2:
                    mutated[place:place] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 5)))
                else:
                    source = draw.randrange(len(mutated))
                    mutated[place : place + 4] = mutated[source : source + 4]
            path.write_bytes(mutated)
            message = attempt(path, read_all) or str(path)
            assert message.startswith(str(path))
            assert "\n" not in message
    assert not seen


def test_every_beginning_of_a_snapshot_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps(VALID)
    for length in range(len(content)):
        refusal(tmp_path / "cut.pickle", content[:length])


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*at, key))


ODD = (
    None,
    True,
    -1,
    0,
    2**63,
    2**64,
    2**5000,
    1.5,
    float("nan"),
    "",
    "\x1b[31m",
    "x" * 10_000,
    [],
    [[]],
    {},
    {"a": 1},
)


@pytest.mark.parametrize("at", list(places(VALID)), ids=lambda at: ".".join(map(str, at)) or "all")
def test_odd_values_are_read_or_refused(at: tuple[Any, ...], tmp_path: Path) -> None:
    """Every number, text, list and dict of a snapshot replaced by each of many others, or left out."""
    for odd in (*ODD, ...):
        value = pickle.loads(pickle.dumps(VALID))
        if not at:
            value = None if odd is ... else odd
        else:
            holder = value
            for key in at[:-1]:
                holder = holder[key]
            if odd is ...:
                del holder[at[-1]]
            else:
                holder[at[-1]] = odd
        path = written(tmp_path / "odd.pickle", value)
        message = attempt(path, read_all) or str(path)
        assert message.startswith(str(path))
        assert len(message) < 500
        assert not {"\n", "\x1b"} & set(message)


def test_a_small_file_that_becomes_a_large_one_is_refused(tmp_path: Path):
    path = tmp_path / "snapshot.pickle.gz"
    path.write_bytes(gzip.compress(bytes(8 * MIB)))
    with pytest.raises(InputError, match=f"holds more than {100 * path.stat().st_size + MIB} bytes"):
        read_plain(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "snapshot.pickle")
    with pytest.raises(InputError, match=r"snapshot\.pickle is no plain file"):
        read_plain(tmp_path / "snapshot.pickle")
