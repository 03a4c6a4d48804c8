"""Steps whose peaks are made by what single kernels take beside their results; the worker process imports this too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.memory.built_steps import Build, Built

ROWS, WIDE, HEAD = 4096, 256, 64

Loss = Callable[[nn.Module, Tensor], Tensor]


def _trained(module: nn.Module, inputs: Tensor, loss_of: Loss) -> Built:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        loss_of(module, inputs).backward()
        optimizer.step()
        optimizer.zero_grad()

    return module, optimizer, inputs, step


def regressed(device: torch.device, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Built:
    module = nn.Linear(WIDE, WIDE).to(device)
    inputs = torch.zeros(ROWS, WIDE, device=device)
    return _trained(module, inputs, lambda module, inputs: loss_of(module(inputs), inputs))


def layered(device: torch.device, layers: Callable[[], list[nn.Module]], dtype: torch.dtype = torch.float32) -> Built:
    module = nn.Sequential(nn.Linear(WIDE, WIDE), *layers()).to(device, dtype)
    inputs = torch.zeros(16, ROWS // 16, WIDE, device=device, dtype=dtype)
    return _trained(module, inputs, lambda module, inputs: module(inputs).float().sum())


def bag_of_words(device: torch.device) -> Built:
    module = nn.Sequential(nn.EmbeddingBag(3000, 64), nn.Linear(64, 8)).to(device)
    words = torch.zeros(256, 128, dtype=torch.int64, device=device)
    return _trained(module, words, lambda module, words: module(words).sum())


def attending(
    device: torch.device,
    dtype: torch.dtype,
    groups: int = 8,
    head: int = HEAD,
    kernel: str | None = None,
    autocast: torch.dtype | None = None,
) -> Built:
    """Attention of 8 heads, in ``groups`` of which each has one key and one value."""
    module = nn.Linear(WIDE, (8 + 2 * groups) * head).to(device, dtype)
    inputs = torch.zeros(2, 500, WIDE, device=device, dtype=dtype)

    def loss_of(module: nn.Module, inputs: Tensor) -> Tensor:
        chosen: AbstractContextManager[object] = (
            nullcontext() if kernel is None else sdpa_kernel(getattr(SDPBackend, kernel))
        )
        with torch.autocast("cuda", autocast, enabled=autocast is not None), chosen:
            heads = module(inputs).unflatten(-1, (-1, head)).transpose(1, 2)
            query, key, value = heads.split((8, groups, groups), dim=1)
            return functional.scaled_dot_product_attention(query, key, value, enable_gqa=groups < 8).float().sum()

    return _trained(module, inputs, loss_of)


def inferred(device: torch.device, mode: Callable[[], AbstractContextManager[object]]) -> Built:
    """A pass of a module that is never trained, with products of all kinds."""
    module = nn.Sequential(nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE, bias=False)).to(device)
    inputs = torch.zeros(16, WIDE, device=device)

    def step() -> Tensor:
        with mode():
            outputs = module(inputs)
            return torch.einsum("ij,kj->ik", outputs, outputs) @ outputs

    return module, torch.optim.SGD(module.parameters(), lr=0.1), inputs, step


def squared_errors(predicted: Tensor, wanted: Tensor) -> Tensor:
    return functional.mse_loss(predicted, wanted, reduction="none").mean()


def cross_entropy_of_bits(predicted: Tensor, wanted: Tensor) -> Tensor:
    return functional.binary_cross_entropy(predicted.sigmoid(), wanted)


def wide() -> list[nn.Module]:
    return [nn.Linear(WIDE, 3000)]


def narrow() -> list[nn.Module]:
    return [nn.GELU(), nn.Linear(WIDE, 20), nn.ReLU(), nn.Linear(20, 7)]


def root_mean_square() -> list[nn.Module]:
    return [nn.RMSNorm(WIDE)]


def softmax() -> list[nn.Module]:
    return [nn.Softmax(-1)]


HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32

STEPS: dict[str, Build] = {
    "mean squared error": partial(regressed, loss_of=functional.mse_loss),
    "sum of squared errors": partial(regressed, loss_of=partial(functional.mse_loss, reduction="sum")),
    "squared errors": partial(regressed, loss_of=squared_errors),
    "smooth error": partial(regressed, loss_of=functional.smooth_l1_loss),
    "Huber's error": partial(regressed, loss_of=functional.huber_loss),
    "soft margin": partial(regressed, loss_of=functional.soft_margin_loss),
    "cross entropy of bits": partial(regressed, loss_of=cross_entropy_of_bits),
    "bias": partial(layered, layers=list),
    "bias in bfloat16": partial(layered, layers=list, dtype=BRAIN),
    "wide bias": partial(layered, layers=wide),
    "biases": partial(layered, layers=narrow),
    "root mean square norm": partial(layered, layers=root_mean_square),
    "softmax": partial(layered, layers=softmax),
    "bag of words": bag_of_words,
    "attention": partial(attending, dtype=FULL),
    "attention in halves": partial(attending, dtype=HALF),
    "attention in bfloat16": partial(attending, dtype=BRAIN),
    "attention under autocast": partial(attending, dtype=FULL, autocast=BRAIN),
    "attention, efficient": partial(attending, dtype=HALF, head=96, kernel="EFFICIENT_ATTENTION"),
    "attention, by products": partial(attending, dtype=HALF, kernel="MATH"),
    "attention in groups": partial(attending, dtype=FULL, groups=2),
    "attention in groups in halves": partial(attending, dtype=HALF, groups=4),
    "attention in one group in bfloat16": partial(attending, dtype=BRAIN, groups=1),
    "attention in groups of wide heads": partial(attending, dtype=BRAIN, groups=2, head=128),
    "inference mode": partial(inferred, mode=torch.inference_mode),
    "no gradients": partial(inferred, mode=torch.no_grad),
}
