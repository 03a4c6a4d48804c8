"""What the virtual GPU keeps of cuDNN's answers is told again as cuDNN told it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch

from profl.bench.memory.process.probe import Prober

CONVOLUTION_DESCRIPTOR, NO_DESCRIPTOR = 1, 999
"""``CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR``, and a kind that there is none of."""

BAD_PARAMETER = 2
"""In thousands, of what cuDNN answers with."""


@dataclass(frozen=True)
class Refusals:
    """What is said of descriptors that lack everything as they are finalized, one after another.

    Parameters
    ----------
    kinds
        Of descriptors.
    unread
        Positions of those of which the reason is not asked for.
    """

    kinds: tuple[int, ...]
    unread: tuple[int, ...] = ()
    key: str = "refusals"

    def run(self, device: torch.device, report: Callable[[object], None]) -> list[tuple[int, bytes]]:
        torch.zeros(1, device=device)
        driver, found = ctypes.CDLL("libcuda.so.1"), []
        for place, kind in enumerate(self.kinds):
            descriptor, text = ctypes.c_void_p(), ctypes.create_string_buffer(256)
            driver.cudnnBackendCreateDescriptor(kind, ctypes.byref(descriptor))
            status = driver.cudnnBackendFinalize(descriptor)
            if place not in self.unread:
                driver.cudnnGetLastErrorString(text, ctypes.c_size_t(256))
            driver.cudnnBackendDestroyDescriptor(descriptor)
            found.append((status, text.value))
        return found


@dataclass(frozen=True)
class Orders:
    """What is answered when a convolution's pass over tensors is finalized: before the convolution is, and after."""

    key: str = "orders"

    def run(self, device: torch.device, report: Callable[[object], None]) -> list[int]:
        torch.zeros(1, device=device)
        convolution = _described(
            1, {100: _enum(0), 101: _enum(1, 7), 106: _int64s(2)} | dict.fromkeys(range(102, 106), _int64s(1, 1))
        )
        shapes = {704: (2, 8, 16, 16), 703: (8, 8, 3, 3), 705: (2, 8, 16, 16)}
        tensors = {name: _tensor(number, shape) for number, (name, shape) in enumerate(shapes.items())}

        def finalized() -> int:
            named = {name: (15, ctypes.c_void_p, (one.value,)) for name, one in {**tensors, 702: convolution}.items()}
            return int(_driver().cudnnBackendFinalize(_described(10, named | {700: _double(1.0), 701: _double(0.0)})))

        early = finalized()
        _driver().cudnnBackendFinalize(convolution)
        return [early, finalized()]


Attribute = tuple[int, type, tuple[float, ...]]
"""Its type in cuDNN's numbers, in C's, and the values."""


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _enum(value: int, kind: int = 1) -> Attribute:
    return kind, ctypes.c_int, (value,)


def _int64s(*values: int) -> Attribute:
    return 3, ctypes.c_int64, values


def _double(value: float) -> Attribute:
    return 5, ctypes.c_double, (value,)


def _described(kind: int, attributes: Mapping[int, Attribute]) -> ctypes.c_void_p:
    descriptor = ctypes.c_void_p()
    _driver().cudnnBackendCreateDescriptor(kind, ctypes.byref(descriptor))
    for name, (type_of, in_c, values) in attributes.items():
        count = ctypes.c_int64(len(values))
        _driver().cudnnBackendSetAttribute(descriptor, name, type_of, count, (in_c * len(values))(*values))
    return descriptor


def _tensor(number: int, shape: tuple[int, ...]) -> ctypes.c_void_p:
    strides = [prod(shape[place + 1 :]) for place in range(len(shape))]
    described = {
        901: _enum(0),
        902: _int64s(*shape),
        903: _int64s(*strides),
        906: _int64s(number + 1),
        900: _int64s(16),
    }
    tensor = _described(17, described)
    assert _driver().cudnnBackendFinalize(tensor) == 0
    return tensor


def test_a_refusal_is_told_with_its_reason_as_often_as_it_is_asked_for(prober: Prober):
    first, *others = prober.run(Refusals((CONVOLUTION_DESCRIPTOR,) * 3), "virtual:h100", lambda _: None)
    status, reason = first
    assert status // 1000 == BAD_PARAMETER
    assert reason
    assert others == [first, first]


def test_a_reason_is_that_of_the_failure_it_is_told_with(prober: Prober):
    """Also where that of one before was never read."""
    kinds = (CONVOLUTION_DESCRIPTOR, CONVOLUTION_DESCRIPTOR, NO_DESCRIPTOR, NO_DESCRIPTOR)
    *_, told, again = prober.run(Refusals(kinds, unread=(0, 1)), "virtual:h100", lambda _: None)
    assert told == again
    assert told[1]


def test_an_answer_is_not_that_of_before_what_it_names_was_finalized(prober: Prober):
    early, late = prober.run(Orders(), "virtual:h100", lambda _: None)
    assert early // 1000 == BAD_PARAMETER
    assert late == 0
