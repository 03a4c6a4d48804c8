"""What CUDA's kernels allocate beside their results, and which of several kernels PyTorch takes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.nn.attention import SDPBackend

_aten = torch.ops.aten

BLAS = frozenset(
    (_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.mv, _aten.addmv, _aten.dot, _aten._addmm_activation)
)
"""The operators that cuBLAS computes."""

_KIB = 1 << 10
_HOPPER = (9, 0)


def blas_workspace_bytes(capability: tuple[int, int]) -> int:
    """Return the size of the workspace that cuBLAS keeps, as PyTorch's ``CUDABlas`` chooses it.

    32 MiB from Hopper on, 8,320 KiB before, or what ``CUBLAS_WORKSPACE_CONFIG`` says: ``:SIZE:COUNT``, in KiB, and
    again.
    """
    chosen = re.findall(r":(\d+):(\d+)", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
    if chosen:
        return _KIB * sum(int(size) * int(count) for size, count in chosen)
    return 32 * _KIB * _KIB if capability >= _HOPPER else 8320 * _KIB


def accumulates(operator: torch._ops.OpOverload, arguments: Sequence[Any]) -> bool:
    """Whether autograd adds two gradients here and the first may be overwritten.

    Where gradients meet, autograd's engine adds in place if nobody else holds on to the first. With fake tensors it
    never does. It calls the operator itself, in the middle of a node's turn, and no formula of PyTorch's for a
    gradient ends in a plain sum of two.
    """
    if operator is not _aten.add.Tensor or torch.is_grad_enabled() or torch._C._current_autograd_node() is None:
        return False
    old, new = arguments[:2]
    return (
        isinstance(old, FakeTensor)
        and isinstance(new, FakeTensor)
        and old.size() == new.size()
        and old.dtype == new.dtype
        # The engine has just handed over the second: its count is that of a tensor which nobody else holds.
        and _tensor_uses(old) <= _tensor_uses(new)
        and _storage_uses(old) <= _storage_uses(new)
    )


def _tensor_uses(tensor: Any) -> int:
    return tensor._use_count()


def _storage_uses(tensor: Tensor) -> int:
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def scratch(operator: torch._ops.OpOverload, arguments: Sequence[Any]) -> Iterator[int]:
    """Return the bytes of each block that the operator's kernel holds while it runs."""
    packet = operator.overloadpacket
    for position in _MADE_CONTIGUOUS.get(packet, ()):
        operand = arguments[position]
        if isinstance(operand, Tensor) and not _is_dense(operand):
            yield _bytes(operand)
    if packet in BLAS:
        yield from (_bytes(part) for part in arguments if isinstance(part, Tensor) and 0 in part.stride())
    if packet is _aten._scaled_dot_product_efficient_attention_backward:
        yield _bytes(arguments[0])  # its product with the forward pass's result
    if packet is _aten.embedding_dense_backward:
        yield from _embedding_scratch(*arguments[:3])


# Which arguments a kernel first copies if they are not contiguous.
_MADE_CONTIGUOUS: dict[object, tuple[int, ...]] = {
    _aten.native_layer_norm: (0,),
    _aten.native_layer_norm_backward: (0, 1),
    _aten.native_group_norm: (0,),
    _aten.native_group_norm_backward: (0, 1),
    _aten.convolution: (0, 1),
    _aten.convolution_backward: (0, 1, 2),
}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_dense(tensor: Tensor) -> bool:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.is_contiguous() or channels_last


def _embedding_scratch(gradient: Tensor, words: Tensor, vocabulary: int) -> Iterator[int]:
    """Sorting the words, and partial sums for every run of a word (``EmbeddingBackwardKernel.cu``)."""
    if words.numel() <= 3072:
        return  # one kernel, without sorting
    yield from [_bytes(words)] * 3
    runs = words.numel() // 10 + min(words.numel(), vocabulary)
    features = -(-gradient.shape[-1] // 32) * 32
    yield runs * words.element_size()
    yield runs * features * 4


# --- which kernel ---------------------------------------------------------------------------------------------------


def attention(capability: tuple[int, int]) -> Callable[..., Tensor]:
    """Return ``scaled_dot_product_attention`` as on a GPU of this capability; PyTorch's own would ask the GPU.

    The kernels come in the order that PyTorch is set to, and each has its conditions (``sdp_utils.cpp``).
    """
    elsewhere = functional.scaled_dot_product_attention

    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        parts = (query, key, value)
        if not all(isinstance(part, FakeTensor) for part in parts):
            return elsewhere(*parts, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            parts = query, _, _ = (query.to(dtype), key.to(dtype), value.to(dtype))
        half = query.dtype in (torch.float16, torch.bfloat16)
        fused = (
            not enable_gqa
            and all(part.dim() == 4 and part.shape[-1] % (8 if half else 4) == 0 for part in parts)
            and query.dtype != torch.float64
        )
        learns = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
        for choice in torch._C._get_sdp_priority_order():
            match SDPBackend(choice):
                case SDPBackend.FLASH_ATTENTION if torch.backends.cuda.flash_sdp_enabled():
                    if fused and half and capability >= (8, 0) and attn_mask is None and query.shape[-1] <= 256:
                        return _aten._scaled_dot_product_flash_attention(*parts, dropout_p, is_causal, scale=scale)[0]
                case SDPBackend.EFFICIENT_ATTENTION if torch.backends.cuda.mem_efficient_sdp_enabled():
                    if fused:
                        bias = _as_bias(attn_mask, query)
                        kernel = _aten._scaled_dot_product_efficient_attention
                        return kernel(*parts, bias, learns, dropout_p, is_causal, scale=scale)[0]
                case SDPBackend.CUDNN_ATTENTION if torch.backends.cuda.cudnn_sdp_enabled():
                    if fused and half and capability >= (8, 0) and query.shape[-1] <= 128:
                        bias = _as_bias(attn_mask, query)
                        kernel = _aten._scaled_dot_product_cudnn_attention
                        return kernel(*parts, bias, learns, dropout_p, is_causal, scale=scale)[0]
                case SDPBackend.MATH if torch.backends.cuda.math_sdp_enabled():
                    break
        kernel = _aten._scaled_dot_product_attention_math
        return kernel(*parts, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]

    return scaled_dot_product_attention


def _as_bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    return mask if mask is None or mask.dtype != torch.bool else torch.zeros_like(mask, dtype=query.dtype)
