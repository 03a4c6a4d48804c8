"""The plain tensors that a tensor consists of: only these have memory of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}
_BY_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)
_SIMPLE = frozenset((Tensor, nn.Parameter))


def plain_tensors(tensor: Tensor) -> Iterable[Tensor]:
    """Return the tensors with memory of their own that make up ``tensor``; most are it itself.

    A sparse one has indices and values, one quantised by channel its scales and zero points, a subclass that wraps
    others (nested, quantised, distributed) what it says. A parameter that has yet to learn its shape has none.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if type(tensor) in _SIMPLE and tensor.layout is torch.strided and not (tensor.is_quantized or wrapped):
        return (tensor,)  # asked of each tensor many times a step
    return _parts(tensor)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    if is_lazy(tensor):
        return
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # of torch.func
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            part = getattr(tensor, name)
            if isinstance(part, Tensor):  # the mesh of devices of a distributed one is none
                yield from plain_tensors(part)
        return
    # Of a parameter this is the data: the parts of what autograd watches would be part of its graph.
    data = tensor.detach() if tensor.layout in _PARTS or tensor.is_quantized else tensor
    if tensor.layout in _PARTS:
        yield from (getattr(data, part)() for part in _PARTS[tensor.layout])
        return
    yield tensor
    if tensor.is_quantized and data.qscheme() in _BY_CHANNEL:
        yield from (data.q_per_channel_scales(), data.q_per_channel_zero_points())
