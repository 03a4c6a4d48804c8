"""Read a pickle that holds nothing but plain data, whoever wrote it.

A pickle is a program. This reader knows only those of its instructions that build numbers, texts, lists, tuples and
dicts, so that nothing in a file can be looked up by name, called or imported. It is Python's own reader in Python:
the one in C reserves memory for as many objects as a file claims to remember.
"""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from profl.bench.errors import InputError, in_one_line, why_unreadable
from profl.bench.files import largest_unpacked

LARGEST_FILE_BYTES = 1 << 29
"""Unpacked; a step of 20,000 events with their stacks takes about 4 MB."""

_GZIP = b"\x1f\x8b"
_PART_BYTES = 1 << 20
_DEEPEST = 100  # lists and dicts begun and not ended; a snapshot has 6

_SCALARS = (
    pickle.NONE,
    pickle.NEWTRUE,
    pickle.NEWFALSE,
    pickle.BININT,
    pickle.BININT1,
    pickle.BININT2,
    pickle.LONG1,
    pickle.BINFLOAT,
    pickle.SHORT_BINUNICODE,
    pickle.BINUNICODE,
    pickle.BINUNICODE8,
    pickle.EMPTY_TUPLE,
)
_FLOW = (pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.BINGET, pickle.LONG_BINGET)
# Each of them takes memory many times its own one byte or two.
_COSTLY = (
    pickle.MARK,
    pickle.EMPTY_LIST,
    pickle.EMPTY_DICT,
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
    pickle.MEMOIZE,
    pickle.BINPUT,
    pickle.LONG_BINPUT,
)
# What is written for a snapshot has one such instruction in 15 bytes or more.
_LEAST_BYTES_PER_COSTLY = 4
_SPARE = 256

_Instruction = Callable[["_PlainUnpickler"], None]


class Plain(NamedTuple):
    """What a file holds: numbers, texts, lists, tuples and dicts, and how many bytes told of them, unpacked."""

    value: Any
    bytes: int


def read_plain(path: Path) -> Plain:
    """Return what the pickle at ``path`` holds; it may be gzipped.

    Memory and time grow with the size of the file alone, whatever it claims. What is read may still repeat a part
    many times, or contain itself, as lists can.

    Raises
    ------
    InputError
        If there is no such file, it is too large, damaged or no pickle, or holds anything but plain data.
    """
    content = _content(path)
    try:
        return Plain(_PlainUnpickler(content).load(), len(content))
    except Exception as error:  # whatever the instructions of a broken file may lead to
        raise InputError(
            f"{path} is no snapshot that can be read ({in_one_line(error)}): "
            "have torch.cuda.memory._dump_snapshot write it anew"
        ) from None


def _content(path: Path) -> bytes:
    most = LARGEST_FILE_BYTES
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is no plain file: name one that torch.cuda.memory._dump_snapshot wrote")
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if packed:
                most = largest_unpacked(path.stat().st_size, LARGEST_FILE_BYTES)
            opened = gzip.GzipFile(fileobj=file) if packed else file
            parts = iter(lambda: opened.read(_PART_BYTES), b"")
            content = b"".join(islice(parts, most // _PART_BYTES + 1))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: name a file that torch.cuda.memory._dump_snapshot wrote") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({why_unreadable(error)}): have it sent again") from None
    if len(content) > most:
        raise InputError(f"{path} holds more than {most} bytes: record fewer steps, or without stacks")
    return content


class _Instructions(dict[int, _Instruction]):
    """Those that are known; any other is refused by name."""

    def __missing__(self, code: int) -> _Instruction:
        import pickletools

        name = next((known.name for known in pickletools.opcodes if known.code == chr(code)), None)
        raise pickle.UnpicklingError(
            f"it holds the instruction {name}, which plain data does not need" if name else "it is no pickle"
        )


class _PlainUnpickler(pickle._Unpickler):
    stack: list[Any]  # of the list, tuple or dict that is being filled
    metastack: list[list[Any]]  # those of the ones around it
    pop_mark: Callable[[], list[Any]]  # gives back what was put on the stack since that one began

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._costly_left = len(content) // _LEAST_BYTES_PER_COSTLY + _SPARE

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to another file")

    def _pay(self) -> None:
        self._costly_left -= 1
        if self._costly_left < 0:
            raise pickle.UnpicklingError("it holds more lists and dicts than its size allows for")
        if len(self.metastack) > _DEEPEST:
            raise pickle.UnpicklingError(f"it is nested deeper than {_DEEPEST}")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        _fill(self.stack[-1], items)


def _fill(target: object, items: list[Any]) -> None:
    # Texts are hashed with a secret; of numbers a file could choose many with one hash, which take quadratic time.
    keys = items[::2]
    if type(target) is not dict or any(type(key) is not str for key in keys):
        raise pickle.UnpicklingError("it holds a key that is no text")
    target.update(zip(keys, items[1::2], strict=True))


def _paid(instruction: _Instruction) -> _Instruction:
    def paid(unpickler: _PlainUnpickler) -> None:
        unpickler._pay()
        instruction(unpickler)

    return paid


def _pythons(codes: Iterable[bytes]) -> dict[int, Any]:
    return {code[0]: pickle._Unpickler.dispatch[code[0]] for code in codes}


_PlainUnpickler.dispatch = _Instructions(  # type: ignore[assignment]
    _pythons((*_SCALARS, *_FLOW, pickle.APPEND, pickle.APPENDS))
    | {code: _paid(instruction) for code, instruction in _pythons(_COSTLY).items()}
    | {pickle.SETITEM[0]: _PlainUnpickler._set_item, pickle.SETITEMS[0]: _PlainUnpickler._set_items}
)
