"""Read a snapshot that PyTorch wrote, of version 2.0 to 2.14, and refuse what cannot be one.

What a snapshot holds has grown: stacks, pools, settings and annotations may be missing, and what is not known here is
ignored. What every version tells must be there and be possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from profl.bench.errors import InputError
from profl.bench.memory.snapshot.snapshot import MOVING_ACTIONS, Annotation, DeviceMemory, Event, LiveBlock, Snapshot
from profl.bench.memory.snapshot.stack import NO_STACK, Stack, shown
from profl.bench.memory.snapshot.unpickling import read_plain

_MOST_DEVICES = 1024
_MOST_EVENTS = 10_000_000
_LARGEST_BYTES = 1 << 50  # no GPU holds a PiB
_LAST_ADDRESS = 1 << 64


class _Misfit(Exception):
    """What is wrong, and where."""


def read_snapshot(path: Path) -> Snapshot:
    """Return the snapshot at ``path``.

    Raises
    ------
    InputError
        As `read_plain` does, and if what the file holds cannot be a snapshot.
    """
    plain = read_plain(path)
    try:
        return _Reading(plain.bytes).snapshot(shown(path.name), plain.value)
    except _Misfit as misfit:
        raise InputError(
            f"{path} is no snapshot of PyTorch's allocator ({misfit}): "
            "name a file that torch.cuda.memory._dump_snapshot wrote"
        ) from None


class _Reading:
    """Reads one file.

    Parts may be shared, which takes two bytes in the file: so that time and memory grow with its size alone, every
    stack is read once, and what is read in all is bounded.
    """

    def __init__(self, file_bytes: int) -> None:
        self._frames_left = 4 * file_bytes + 1000
        self._events_left = _MOST_EVENTS
        self._read_frames: dict[int, Sequence[dict[str, Any]]] = {}
        self._caveats: dict[str, None] = {}

    def snapshot(self, name: str, value: Any) -> Snapshot:
        if isinstance(value, list):  # what torch.cuda.memory_snapshot returns
            value = {"segments": value, "device_traces": []}
        content = _mapping(value, "the whole")
        traces = _list(content.get("device_traces", []), "device_traces")
        if len(traces) > _MOST_DEVICES:
            raise _Misfit(f"it tells of {len(traces)} GPUs, more than {_MOST_DEVICES}")
        segments = [_mapping(segment, "a segment") for segment in _list(content.get("segments"), "segments")]
        by_device: dict[int, list[Mapping[str, Any]]] = {}
        for segment in segments:
            by_device.setdefault(_number(segment, "device", _MOST_DEVICES, 0), []).append(segment)
        annotations = self._annotations(content.get("external_annotations", []))
        events = {index: self._events(trace) for index, trace in enumerate(traces) if trace}
        devices = {
            index: self._device(index, events.get(index, []), by_device.get(index, []), annotations.get(index, ()))
            for index in sorted({*events, *by_device})
        }
        settings = dict(self._settings(content.get("allocator_settings", {})))
        return Snapshot(name, devices, settings, tuple(self._caveats))

    def _device(
        self,
        index: int,
        events: Sequence[Event],
        segments: Sequence[Mapping[str, Any]],
        annotations: Sequence[Annotation],
    ) -> DeviceMemory:
        live: dict[int, LiveBlock] = {}
        reserved_bytes = ends = 0
        placed = sorted(segments, key=lambda segment: _number(segment, "address", _LAST_ADDRESS))
        for segment in placed:
            begins, size = segment["address"], _number(segment, "total_size", _LARGEST_BYTES)
            if begins < ends:
                raise _Misfit(f"two segments of GPU {index} overlap at address {begins}")
            ends = begins + size
            reserved_bytes += size
            live |= {block.address: block for block in self._live(segment, begins, ends)}
        expandable = any(segment.get("is_expandable") is True for segment in segments)
        pooled = sum(segment["total_size"] for segment in segments if any(_pool(segment, "segment_pool_id")))
        return DeviceMemory(index, events, live, reserved_bytes, len(segments), expandable, pooled, annotations)

    def _live(self, segment: Mapping[str, Any], begins: int, ends: int) -> Iterator[LiveBlock]:
        """Yield the blocks of a segment that live."""
        stream = _number(segment, "stream", _LAST_ADDRESS, 0)
        for value in _list(segment.get("blocks"), "blocks"):
            block = _mapping(value, "a block")
            address, size = _number(block, "address", _LAST_ADDRESS, begins), _number(block, "size", _LARGEST_BYTES)
            if address < begins or address + size > ends or size == 0:
                raise _Misfit(f"a block of {size} bytes at address {address} does not fit into its segment")
            begins = address + size
            if _text(block, "state").startswith("active"):
                yield LiveBlock(address, self._requested_bytes(block, size), stream, self._stack(block))

    def _requested_bytes(self, block: Mapping[str, Any], size: int) -> int:
        if "requested_size" not in block:
            self._caveats["of what lives at the end only the sizes of blocks are told, not what was requested"] = None
            return size
        requested_bytes = _number(block, "requested_size", _LARGEST_BYTES)
        if requested_bytes > size:
            raise _Misfit(f"a block of {size} bytes holds {requested_bytes}")
        return requested_bytes

    def _events(self, trace: Any) -> list[Event]:
        entries = _list(trace, "a trace")
        self._events_left -= len(entries)
        if self._events_left < 0:
            raise _Misfit(f"it tells of more than {_MOST_EVENTS} events")
        return [self._event(_mapping(entry, "an event")) for entry in entries]

    def _event(self, entry: Mapping[str, Any]) -> Event:
        action = shown(_text(entry, "action"))
        moves = action in MOVING_ACTIONS
        return Event(
            action,
            _number(entry, "addr", _LAST_ADDRESS, ... if moves else None),
            # A program may ask for more than any GPU holds, and be told that memory ran out.
            _number(entry, "size", _LARGEST_BYTES if moves else _LAST_ADDRESS, ... if moves else 0),
            _number(entry, "stream", _LAST_ADDRESS, 0),
            _number(entry, "time_us", _LAST_ADDRESS, None),
            self._stack(entry) if action == "alloc" else NO_STACK,
            pooled=any(_pool(entry, "pool_id")),
        )

    def _stack(self, entry: Mapping[str, Any]) -> Stack:
        """Return who asked, as far as the event or block tells."""
        frames = self._frames(entry.get("frames", ()))
        metadata, forward = entry.get("user_metadata"), entry.get("forward_frames") or ()
        notes = [shown(note) for note in _list(forward, "forward_frames") if isinstance(note, str)]
        self._frames_left -= len(frames) + len(notes) + 1
        if self._frames_left < 0:
            raise _Misfit("it repeats its stacks more often than its size allows for")
        if not frames and not metadata and not notes:
            return NO_STACK
        return Stack(frames, shown(metadata) if isinstance(metadata, str) and metadata else None, notes)

    def _frames(self, value: Any) -> Sequence[dict[str, Any]]:
        """Return a stack's frames; those of one that was read before are not read again."""
        if id(value) not in self._read_frames:
            frames = [_mapping(frame, "a frame") for frame in _list(value, "frames")]
            for frame in frames:
                _text(frame, "name"), _text(frame, "filename")
                _number(frame, "line", _LAST_ADDRESS, 0)
            self._read_frames[id(value)] = frames
        return self._read_frames[id(value)]

    def _annotations(self, value: Any) -> dict[int, list[Annotation]]:
        """Return what the program named, by GPU; of ranges of one name, the last begun ends first."""
        found: dict[int, list[Annotation]] = {}
        begun: dict[tuple[int, str], list[int]] = {}
        for entry in _list(value, "external_annotations"):
            note = _mapping(entry, "an annotation")
            device, name = _number(note, "device", _MOST_DEVICES, 0), shown(_text(note, "name"))
            at = _number(note, "time_us", _LAST_ADDRESS)
            if _text(note, "stage") == "START":
                begun.setdefault((device, name), []).append(at)
            else:
                starts = begun.get((device, name))
                found.setdefault(device, []).append(Annotation(name, starts.pop() if starts else None, at))
        for (device, name), starts in begun.items():
            found.setdefault(device, []).extend(Annotation(name, start, None) for start in starts)
        return found

    def _settings(self, value: Any) -> Iterator[tuple[str, str]]:
        for name, setting in _mapping(value, "allocator_settings").items():
            if isinstance(setting, dict):
                parts = ",".join(f"{key}:{part}" for key, part in setting.items() if isinstance(part, int | float))
                yield shown(name), shown(f"[{parts}]")
            elif isinstance(setting, str | int | float):
                yield shown(name), shown(str(setting))


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Misfit(f"{what} is {_kind(value)} and no dict")
    return value


def _list(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _Misfit(f"{what} is {_kind(value)} and no list")
    return value


def _pool(entry: Mapping[str, Any], key: str) -> Sequence[Any]:
    """Return the two numbers of a memory pool, both 0 for the one that everything shares."""
    return _list(entry.get(key, ()), key)[:2]


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise _Misfit(f"{key} is {_kind(value)} and no text")
    return value


def _number(entry: Mapping[str, Any], key: str, limit: int, default: Any = ...) -> Any:
    """Return a whole number from 0 to below ``limit``; where it is missing, the default if there is one."""
    value = entry.get(key, default)
    if value is default and default is not ...:
        return default
    if value is ...:
        raise _Misfit(f"{key} is missing")
    if type(value) is not int:
        raise _Misfit(f"{key} is {_kind(value)} and no whole number")
    if not 0 <= value < limit:
        told = str(value) if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"
        raise _Misfit(f"{key} is {told}, but must be from 0 to {limit - 1}")
    return value


def _kind(value: Any) -> str:
    """Return what a value is, but not what it says: it may be long."""
    return "missing" if value is None else f"a {type(value).__name__}"
