"""Training steps that capture CUDA graphs, in the ways that PyTorch offers; workers import this too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

Built = tuple[nn.Module, Optimizer, Any, Callable[[], object]]

BATCH, WIDE, NARROW = 40, 96, 16


def _net(device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    net = nn.Sequential(nn.Linear(WIDE, WIDE), nn.BatchNorm1d(WIDE), nn.Dropout(0.1), nn.Linear(WIDE, NARROW))
    return net.to(device), *_batch(device)


def _batch(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.zeros(BATCH, WIDE, device=device), torch.zeros(BATCH, dtype=torch.int64, device=device)


def whole_step(device: torch.device) -> Built:
    """Forward, backward and optimizer in one graph, after a warm-up on a stream beside; then replayed."""
    net, features, targets = _net(device)
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    graph, beside, captured = torch.cuda.CUDAGraph(), torch.cuda.Stream(), []

    def train() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(features), targets)
        loss.backward()
        optimizer.step()
        return loss

    def step() -> None:
        if not captured:
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                train()
            torch.cuda.current_stream().wait_stream(beside)
            optimizer.zero_grad()
            with torch.cuda.graph(graph):
                captured.append(train())
        features.copy_(torch.ones_like(features))
        graph.replay()

    return net, optimizer, (features, targets), step


def captured_before(device: torch.device) -> Built:
    """The same, captured while the step is built: only replays are left of it."""
    net, optimizer, batch, step = whole_step(device)
    step()
    return net, optimizer, batch, step


def optimizer_alone(device: torch.device) -> Built:
    """Only the optimizer's step is captured, at the second step."""
    net, features, targets = _net(device)
    optimizer = AdamW(net.parameters(), capturable=True)
    graphs: list[torch.cuda.CUDAGraph | None] = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        functional.cross_entropy(net(features), targets).backward()
        if not graphs:
            graphs.append(None)
            optimizer.step()
            return
        if len(graphs) == 1:
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[1]):
                optimizer.step()
        graphs[1].replay()

    return net, optimizer, (features, targets), step


def graphed_callable(device: torch.device) -> Built:
    """Forward and backward of the network are graphs that share a pool; loss and optimizer are not."""
    net, features, targets = _net(device)
    net = torch.cuda.make_graphed_callables(net, (torch.zeros_like(features),))
    optimizer = AdamW(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(net(features), targets).backward()
        optimizer.step()

    return net, optimizer, (features, targets), step


def pool_of_its_own(device: torch.device) -> Built:
    """No graph, but a memory pool for the forward pass."""
    net, features, targets = _net(device)
    optimizer = SGD(net.parameters(), lr=0.1)
    pool = torch.cuda.MemPool()

    def step() -> None:
        with torch.cuda.use_mem_pool(pool):
            loss = functional.cross_entropy(net(features), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return net, optimizer, (features, targets), step


def reduced_overhead(device: torch.device) -> Built:
    """Compiled for graphs: the second step captures what the third replays. Small, as compiling takes seconds."""
    net = nn.Sequential(nn.Linear(WIDE, NARROW), nn.ReLU()).to(device)
    features, targets = _batch(device)
    optimizer = SGD(net.parameters(), lr=0.1)
    fast = torch.compile(net, mode="reduce-overhead")

    def step() -> None:
        functional.cross_entropy(fast(features), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return net, optimizer, (features, targets), step


STEPS: dict[str, Callable[[torch.device], Built]] = {
    "whole step": whole_step,
    "captured before": captured_before,
    "optimizer alone": optimizer_alone,
    "graphed callable": graphed_callable,
    "pool of its own": pool_of_its_own,
    "reduced overhead": reduced_overhead,
}
