"""The training step of a decoder language model whose allocator traces somebody recorded on a card, restated.

24 pre-norm layers with rotary positions, a softmax and a cross-entropy written out, gated feed-forward parts, and an
AdamW that makes every new value out of place: its temporaries are what the peak consists of. See docs/trust.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

VOCABULARY, LAYERS, FEATURES, HIDDEN, HEADS, BATCH = 10_000, 24, 1024, 4096, 16, 4
WARM_UPS = 5
"""Steps that the program ran before it recorded one. All their batches stay on the card."""


class Projection(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("bsi,oi->bso", features, self.weight)


class RootMeanSquareNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(FEATURES))

    def forward(self, features: Tensor) -> Tensor:
        wide = features.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return (self.weight * scaled).to(features.dtype)


class RotaryPositions(nn.Module):
    def __init__(self, context: int, features: int) -> None:
        super().__init__()
        self.register_buffer("turns", torch.empty(2, context, features // 2), persistent=False)

    def forward(self, heads: Tensor) -> Tensor:
        even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
        cosine, sine = self.get_buffer("turns")[:, : heads.shape[-2], :].unbind(0)
        return torch.cat((cosine * even - sine * odd, sine * even + cosine * odd), dim=-1)


def softmax(scores: Tensor) -> Tensor:
    powers = torch.exp(scores - torch.max(scores, dim=-1, keepdim=True)[0])
    return powers / torch.sum(powers, dim=-1, keepdim=True)


def log_softmax(logits: Tensor) -> Tensor:
    largest = torch.max(logits, dim=-1, keepdim=True)[0]
    shifted = logits - largest
    return shifted - torch.log(torch.sum(torch.exp(shifted), dim=-1, keepdim=True))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    surprise = -log_softmax(logits)  # the shifted logits are gone before the sign changes, which decides the peak
    return torch.mean(torch.gather(surprise, -1, targets.unsqueeze(-1)))


class Attention(nn.Module):
    def __init__(self, positions: RotaryPositions) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (Projection(FEATURES, FEATURES) for _ in range(4))
        self.positions = positions

    def forward(self, features: Tensor) -> Tensor:
        query, key, value = (
            projection(features).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        query, key = self.positions(query), self.positions(key)
        places = torch.arange(features.shape[1], device=features.device)
        seen = (places[:, None] >= places[None, :])[None]
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])
        weights = softmax(torch.where(seen, scores, float("-inf")))
        mixed = torch.einsum("bhqk,bhkd->bhqd", weights, value)
        return self.output(mixed.transpose(1, 2).flatten(2).contiguous())


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.down, self.up = (
            Projection(FEATURES, HIDDEN),
            Projection(HIDDEN, FEATURES),
            Projection(FEATURES, HIDDEN),
        )

    def forward(self, features: Tensor) -> Tensor:
        gate = self.gate(features)
        return self.down(gate * torch.sigmoid(gate) * self.up(features))


class Layer(nn.Module):
    def __init__(self, positions: RotaryPositions) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(positions), FeedForward()
        self.norms = nn.ModuleList(RootMeanSquareNorm() for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        mixed = features + self.attention(self.norms[0](features))
        return mixed + self.feed_forward(self.norms[1](mixed))


class LanguageModel(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(VOCABULARY, FEATURES))
        positions = RotaryPositions(context, FEATURES // HEADS)
        self.layers = nn.ModuleList(Layer(positions) for _ in range(LAYERS))
        self.norm, self.head = RootMeanSquareNorm(), Projection(FEATURES, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        features = self.tokens[tokens, :]
        for layer in self.layers:
            features = layer(features)
        return self.head(self.norm(features))


class OutOfPlaceAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) written from the paper: its moments are new tensors in every step."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01})

    def step(self, closure=None) -> None:
        for group in self.param_groups:
            rate, (first_decay, second_decay) = group["lr"], group["betas"]
            for parameter in group["params"]:
                gradient, state = parameter.grad.data, self.state[parameter]
                number = state.get("number", 1)
                corrected = rate * math.sqrt(1 - second_decay**number) / (1 - first_decay**number)
                parameter.data -= rate * group["weight_decay"] * parameter.data
                first_before = state.get("first", torch.zeros_like(gradient))
                second_before = state.get("second", torch.zeros_like(gradient))
                first = first_decay * first_before + ((1 - first_decay) * gradient)
                second = second_decay * second_before + ((1 - second_decay) * torch.square(gradient))
                parameter.data -= corrected * first / (torch.sqrt(second) + group["eps"])
                state["first"], state["second"], state["number"] = first, second, number + 1


def build(device: torch.device, context: int, autocast: bool):
    """Return module, optimizer, batches and step, as `profl.measure` takes them."""
    with torch.device("meta"):
        module = LanguageModel(context)
    module.to_empty(device=device)
    optimizer = OutOfPlaceAdamW(module.parameters())
    # Tokens and targets, of all steps before and of the recorded one.
    batches = [
        torch.zeros(steps, BATCH, context, dtype=torch.int64, device=device)
        for steps in (WARM_UPS, 1)
        for _ in range(2)
    ]

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            logits = module(batches[2][0])
            loss = cross_entropy(logits, batches[3][0])
        loss.backward()
        optimizer.step()

    return module, optimizer, batches, step
