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

from profl.bench.memory.estimate.reductions import partial_sums
from profl.bench.memory.estimate.refusals import NotPlayed
from profl.bench.memory.gpu.profile import VirtualGpu

_aten = torch.ops.aten

_BLAS = frozenset(
    (
        *(_aten.mm, _aten.addmm, _aten._addmm_activation, _aten.bmm, _aten.baddbmm, _aten.addbmm),
        *(_aten.mv, _aten.addmv, _aten.dot, _aten.vdot),
    )
)

_CONVOLUTIONS = frozenset((_aten.convolution, _aten.convolution_backward))

COMPOSED = frozenset((_aten._euclidean_dist, _aten.matmul, _aten.binary_cross_entropy_with_logits, _aten.log_sigmoid))
"""Operators that PyTorch composes of others out of autograd's sight, and what these are again composed of."""

_KIB = 1 << 10
_AMPERE, _HOPPER = (8, 0), (9, 0)


def uses_blas(operator: torch._ops.OpOverload, arguments: Sequence[Any], capability: tuple[int, int]) -> bool:
    """Whether cuBLAS computes it: a convolution, too, in bfloat16 where cuDNN has none."""
    packet = operator.overloadpacket
    without_cudnn = packet in _CONVOLUTIONS and arguments[0].dtype == torch.bfloat16 and capability < _AMPERE
    return packet in _BLAS or without_cudnn


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

    Where gradients meet, autograd's engine adds in place if nobody else holds on to the first, not even a tensor that
    it is a view of, such as a weight's gradient before it was transposed. With fake tensors it never does. It calls the
    operator itself, in the middle of a node's turn, and no formula of PyTorch's for a gradient ends in a plain sum of
    two.
    """
    if operator is not _aten.add.Tensor or torch.is_grad_enabled() or torch._C._current_autograd_node() is None:
        return False
    old, new = arguments[:2]
    return (
        isinstance(old, FakeTensor)
        and isinstance(new, FakeTensor)
        and old.size() == new.size()
        and old.dtype == new.dtype
        and not old._is_view()
        # The engine has just handed over the second: its count is that of a tensor which nobody else holds.
        and _tensor_uses(old) <= _tensor_uses(new)
        and _storage_uses(old) <= _storage_uses(new) - new._is_view()
    )


def _tensor_uses(tensor: Any) -> int:
    return tensor._use_count()


def _storage_uses(tensor: Tensor) -> int:
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def keep_buffer(operator: torch._ops.OpOverload, arguments: Sequence[Any], result: object) -> None:
    """Let the result keep the memory of what it was reduced from, if the operator's kernel reduces it in place.

    Such a loss is computed for every element, reduced, and shrunk to one number, but not its storage (``Loss.cu``).
    """
    position = _REDUCED_IN_PLACE.get(operator.overloadpacket)
    if position is None or not isinstance(result, Tensor):
        return
    predicted, wanted = arguments[:2]
    if len(arguments) <= position or arguments[position]:
        elements = torch.broadcast_shapes(predicted.shape, wanted.shape).numel()
        result.untyped_storage().resize_(elements * result.element_size())


# Such operators, and which argument says how they reduce: 0 is not at all.
_REDUCED_IN_PLACE: dict[object, int] = {
    _aten.mse_loss: 2,
    _aten.smooth_l1_loss: 2,
    _aten.soft_margin_loss: 2,
    _aten.binary_cross_entropy: 3,
}


def scratch(operator: torch._ops.OpOverload, arguments: Sequence[Any], gpu: VirtualGpu) -> Iterator[int]:
    """Return the bytes of each block that the operator's kernel holds while it runs."""
    packet = operator.overloadpacket
    for position in _MADE_CONTIGUOUS.get(packet, ()):
        operand = arguments[position]
        if isinstance(operand, Tensor) and not _is_dense(operand):
            yield _bytes(operand)
    if packet in _BLAS:
        yield from (_bytes(part) for part in arguments if isinstance(part, Tensor) and 0 in part.stride())
    if packet in _REDUCTIONS and len(arguments) > _REDUCTIONS[packet]:
        yield from partial_sums(arguments[0], arguments[_REDUCTIONS[packet]] or (), gpu)
    if packet is _aten._softmax_backward_data:
        yield _bytes(arguments[0])  # the product of gradient and result
    if packet is _aten.soft_margin_loss_backward:
        yield from [_bytes(arguments[1])] * 2  # the product of prediction and target, and its exponential
    if packet is _aten._scaled_dot_product_flash_attention and not (len(arguments) > 3 and arguments[3]):
        yield from _split_scratch(arguments[0], arguments[1], gpu)
    if packet in _ATTENTION_SCRATCH:
        yield from _ATTENTION_SCRATCH[packet](*arguments[:4])
    if packet is _aten.embedding_dense_backward and arguments[1].numel() > _WORDS_OF_ONE_KERNEL:
        yield from _embedding_scratch(*arguments[:3])
    if packet is _aten._embedding_bag_backward:
        gradient, words, _, _, _, _, vocabulary, *_ = arguments
        yield from _embedding_scratch(gradient, words, vocabulary)


# Which arguments a kernel first copies if they are not contiguous.
_MADE_CONTIGUOUS: dict[object, tuple[int, ...]] = {
    _aten.native_layer_norm: (0,),
    _aten.native_layer_norm_backward: (0, 1),
    _aten.native_group_norm: (0,),
    _aten.native_group_norm_backward: (0, 1),
    _aten._fused_rms_norm: (0,),
    _aten._fused_rms_norm_backward: (0, 1),
    _aten.convolution: (0, 1),
    _aten.convolution_backward: (0, 1, 2),
}

# Operators that sum, and which argument is the dimensions over which.
_REDUCTIONS: dict[object, int] = {_aten.sum: 1, _aten.mean: 1, _aten.linalg_vector_norm: 2}

_WORDS_OF_ONE_KERNEL = 3072
"""As many are not sorted first."""


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_dense(tensor: Tensor) -> bool:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.is_contiguous() or channels_last


def _embedding_scratch(gradient: Tensor, words: Tensor, vocabulary: int) -> Iterator[int]:
    """Sorting the words, and partial sums for every run of a word (``EmbeddingBackwardKernel.cu``)."""
    yield from [_bytes(words)] * 3
    segments = min(words.numel(), vocabulary)
    yield from [segments * words.element_size()] * 2
    runs = words.numel() // 10 + segments
    features = -(-gradient.shape[-1] // 32) * 32
    yield runs * words.element_size()
    yield runs * features * 4


def _split_scratch(query: Tensor, key: Tensor, gpu: VirtualGpu) -> Iterator[int]:
    """Results and sums of parts of the keys, where the queries are too few to occupy the GPU (``flash_api.cpp``)."""
    batch, heads, length, features = query.shape
    keys_per_block = 256 if features <= 64 else 128 if features <= 128 else 64
    key_blocks = -(-key.shape[2] // keys_per_block)
    blocks = batch * heads * -(-length // 64)
    places = 2 * gpu.multiprocessors
    if blocks >= 0.8 * places:
        return
    # A number of parts is worth a try if it makes them shorter, and used if it occupies the GPU nearly as well as any.
    tried = [
        parts
        for parts in range(1, min(128, places, key_blocks) + 1)
        if parts == 1 or -(-key_blocks // parts) != -(-key_blocks // (parts - 1))
    ]
    occupied = {parts: blocks * parts / places / -(-blocks * parts // places) for parts in tried}
    parts = next(parts for parts in tried if occupied[parts] >= 0.85 * max(occupied.values()))
    if parts > 1:
        rows = batch * heads * length
        yield 4 * parts * rows
        yield 4 * parts * rows * _in_wholes(features, 32)


def _flash_scratch(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Iterator[int]:
    """Sums over each row and the query's gradient, in fp32 and whole tiles (``flash_api.cpp``)."""
    batch, heads, length, features = query.shape
    rows = batch * heads * _in_wholes(length, 128)
    yield from _copied(gradient)
    yield 4 * rows
    yield 4 * rows * _in_wholes(features, 32)
    yield from _repeated(query, key, value)


def _cudnn_scratch(gradient: Tensor, query: Tensor, *_: Tensor) -> Iterator[int]:
    """Sums over each row and the query's gradient, in fp32: the workspace of cuDNN's plan."""
    if gradient.stride(-1) != 1:
        yield _bytes(gradient)  # copied
    yield 4 * query.shape[:3].numel() * (1 + query.shape[3])


def _efficient_scratch(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Iterator[int]:
    """Sums over each row, and the query's gradient in tiles of fp32 with a lock each (``attention_backward.cu``)."""
    batch, heads, length, features = query.shape
    rows = 4 * batch * heads * length
    tiles = batch * heads * -(-length // _TILE) * -(-features // _TILE)
    workspace = tiles * (4 * _TILE * _TILE + 16)
    yield from _copied(gradient)
    yield from _repeated(query, key, value)
    yield rows
    # Only kernels for halves make the sums themselves; else they are of a product, and copied, before the workspace is.
    yield workspace if _is_half(query) else max(workspace, rows + _bytes(gradient))


_TILE = 64

_ATTENTION_SCRATCH: dict[object, Callable[..., Iterator[int]]] = {
    _aten._scaled_dot_product_flash_attention_backward: _flash_scratch,
    _aten._scaled_dot_product_cudnn_attention_backward: _cudnn_scratch,
    _aten._scaled_dot_product_efficient_attention_backward: _efficient_scratch,
}


def _copied(gradient: Tensor) -> Iterator[int]:
    """Yield the gradient's bytes if it does not lie as the kernels want it, heads within words."""
    if not gradient.transpose(1, 2).is_contiguous():
        yield _bytes(gradient)


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> Iterator[int]:
    """Yield the bytes of gradients for each query's own key and value, where groups of queries share one."""
    if key.shape[1] != query.shape[1]:
        yield from (_bytes(part) // part.shape[1] * query.shape[1] for part in (key, value))


def _in_wholes(number: int, whole: int) -> int:
    return -(-number // whole) * whole


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


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
            query, key, value = (part.to(dtype) for part in parts)
            with torch.autocast("cuda", enabled=False):  # as a whole: what it consists of is not cast again
                return scaled_dot_product_attention(
                    query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
                )
        half = _is_half(query)
        aligned = 8 if half else 4 if capability >= _AMPERE else 1
        fused = (
            all(part.dim() == 4 and part.shape[-1] % aligned == 0 for part in parts)
            and (enable_gqa or len({part.shape[1] for part in parts}) == 1)
            and query.dtype in (torch.float32, torch.float16, *([torch.bfloat16] if capability >= _AMPERE else []))
        )
        learns = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
        for choice in _attention_order(capability):
            match SDPBackend(choice):
                case SDPBackend.FLASH_ATTENTION if torch.backends.cuda.flash_sdp_enabled():
                    if fused and half and capability >= _AMPERE and attn_mask is None and query.shape[-1] <= 256:
                        return _aten._scaled_dot_product_flash_attention(*parts, dropout_p, is_causal, scale=scale)[0]
                case SDPBackend.EFFICIENT_ATTENTION if torch.backends.cuda.mem_efficient_sdp_enabled():
                    if fused:
                        bias = _as_bias(attn_mask, query)
                        kernel = _aten._scaled_dot_product_efficient_attention
                        return kernel(*parts, bias, learns, dropout_p, is_causal, scale=scale)[0]
                case SDPBackend.CUDNN_ATTENTION if torch.backends.cuda.cudnn_sdp_enabled():
                    if fused and half and capability >= _AMPERE and query.shape[-1] <= 128:
                        bias = _as_bias(attn_mask, query)
                        kernel = _aten._scaled_dot_product_cudnn_attention
                        return kernel(*parts, bias, learns, dropout_p, is_causal, scale=scale)[0]
                case SDPBackend.MATH if torch.backends.cuda.math_sdp_enabled():
                    break
        else:
            raise NotPlayed(
                f"no kernel of attention that is allowed takes it in {query.dtype} ({_NO_KERNEL}): allow another in "
                "sdpa_kernel, or run it in a dtype that the kernel takes"
            )
        kernel = _aten._scaled_dot_product_attention_math
        return kernel(*parts, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]

    return scaled_dot_product_attention


def _attention_order(capability: tuple[int, int]) -> list[int]:
    """Return the kernels in the order that was set, or on GPUs that cuDNN suits best cuDNN's first."""
    order: list[int] = torch._C._get_sdp_priority_order()
    if order == _ORDER and capability[0] in (9, 10) and os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") != "1":
        return sorted(order, key=lambda choice: choice != SDPBackend.CUDNN_ATTENTION.value)
    return order


_NO_KERNEL = "No available kernel. Aborting execution."
"""What PyTorch says."""

_ORDER: list[int] = torch._C._get_sdp_priority_order()


def _as_bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    return mask if mask is None or mask.dtype != torch.bool else torch.zeros_like(mask, dtype=query.dtype)
