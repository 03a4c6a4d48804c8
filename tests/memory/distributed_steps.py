"""Training steps of one process of a group; the worker process imports this too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import rpc
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn import functional
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset

Built = tuple[nn.Module, Optimizer, Any, Callable[[], object]]

BATCH, WIDE, CLASSES = 48, 160, 10
LAYERS_BYTES = 4 * 2 * (WIDE * WIDE + WIDE)
PARAMETER_BYTES = LAYERS_BYTES + 4 * (2 * WIDE + WIDE * CLASSES + CLASSES)
BUFFER_BYTES = 4 * 2 * WIDE + 8


def begin(backend: str = "gloo", size: int = 1) -> None:
    distributed.init_process_group(backend, rank=0, world_size=size, store=distributed.HashStore())


def net(device: torch.device) -> nn.Module:
    layers = nn.Linear(WIDE, WIDE), nn.BatchNorm1d(WIDE), nn.ReLU(), nn.Linear(WIDE, WIDE), nn.Linear(WIDE, CLASSES)
    return nn.Sequential(*layers).to(device)


def training(device: torch.device, module: nn.Module, optimizer: Optimizer | None = None) -> Built:
    optimizer = optimizer or SGD(module.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.zeros(BATCH, WIDE, device=device)
    targets = torch.zeros(BATCH, dtype=torch.int64, device=device)

    def step() -> None:
        functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return module, optimizer, (inputs, targets), step


# --- DistributedDataParallel ---


def parallel(device: torch.device, hook: Callable[..., Any] | None = None, **options: Any) -> Built:
    begin()
    module = DistributedDataParallel(net(device), **options)
    if hook:
        module.register_comm_hook(None, hook)
    return training(device, module)


def gathered(device: torch.device) -> Built:
    """Gradients of two batches, exchanged once."""
    begin()
    module = DistributedDataParallel(net(device))
    module, optimizer, inputs, step = training(device, module)

    def both() -> None:
        with module.no_sync():
            functional.cross_entropy(module(inputs[0]), inputs[1]).backward()
        step()

    return module, optimizer, inputs, both


class PartlyUsed(nn.Module):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.used, self.unused = net(device), nn.Linear(WIDE, WIDE, device=device)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs)


def partly_used(device: torch.device) -> Built:
    begin()
    module = DistributedDataParallel(PartlyUsed(device), find_unused_parameters=True)
    *built, step = training(device, module)

    def checked() -> None:
        step()
        assert module.module.unused.weight.grad is None

    return (*built, checked)


def synchronised(device: torch.device) -> Built:
    begin()
    return training(device, DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(net(device))))


def sharded_state(device: torch.device) -> Built:
    begin()
    module = DistributedDataParallel(net(device))
    return training(device, module, ZeroRedundancyOptimizer(module.parameters(), Adam, lr=0.1))


def compiled(device: torch.device) -> Built:
    begin()
    return training(device, torch.compile(DistributedDataParallel(net(device)), backend="aot_eager"))


# --- others ---


def fully_sharded(device: torch.device, size: int = 1) -> Built:
    """One of ``size`` processes; more than one are played by PyTorch's own backend for tests."""
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if size == 1:
        begin()
    else:
        distributed.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    module = net(device)
    fully_shard(module)
    return training(device, module)


def on_one_device(device: torch.device, device_ids: list[int] | None = None) -> Built:
    return training(device, DataParallel(net(device), device_ids=device_ids))


def collective(device: torch.device, name: str, backend: str = "gloo") -> Built:
    """A gradient goes through a collective before the optimizer's step."""
    begin(backend)
    module, optimizer, inputs, _ = training(device, net(device))

    def step() -> None:
        functional.cross_entropy(module(inputs[0]), inputs[1]).backward()
        COLLECTIVES[name](module[0].weight.grad)
        optimizer.step()
        optimizer.zero_grad()

    return module, optimizer, inputs, step


COLLECTIVES: dict[str, Callable[[Tensor], object]] = {
    "all_reduce": distributed.all_reduce,
    "broadcast": lambda tensor: distributed.broadcast(tensor, 0),
    "reduce": lambda tensor: distributed.reduce(tensor, 0),
    "all_gather": lambda tensor: distributed.all_gather([torch.empty_like(tensor)], tensor),
    "all_gather_into_tensor": lambda tensor: distributed.all_gather_into_tensor(torch.empty_like(tensor), tensor),
    "reduce_scatter": lambda tensor: distributed.reduce_scatter_tensor(torch.empty_like(tensor), tensor),
    "all_to_all": lambda tensor: distributed.all_to_all_single(torch.empty_like(tensor), tensor),
    "gather": lambda tensor: distributed.gather(tensor, [torch.empty_like(tensor)]),
    "scatter": lambda tensor: distributed.scatter(tensor, [torch.empty_like(tensor)]),
    "barrier": lambda tensor: distributed.barrier(),
    "objects": lambda tensor: distributed.all_gather_object([None], "an object"),
}

STEPS: dict[str, Callable[[torch.device], Built]] = {
    "plain": parallel,
    "gradients in buckets": partial(parallel, gradient_as_bucket_view=True),
    "static graph": partial(parallel, static_graph=True),
    "many buckets": partial(parallel, bucket_cap_mb=0.05, device_ids=[0]),
    "half": partial(parallel, hook=default_hooks.fp16_compress_hook),
    "bfloat16": partial(parallel, hook=default_hooks.bf16_compress_hook),
    "gathered": gathered,
    "partly used": partly_used,
    "synchronised": synchronised,
    "sharded state": sharded_state,
    "compiled": compiled,
    "fully sharded": fully_sharded,
    "fully sharded by eight": partial(fully_sharded, size=8),
    "one device": on_one_device,
    **{name: partial(collective, name=name) for name in COLLECTIVES},
}

VARYING = {*COLLECTIVES, "half", "bfloat16", "fully sharded"}
"""Steps that send tensors which are then given up: gloo's own thread lets go of them a little sooner or later."""


# --- refused ---


def told_by_launcher(device: torch.device) -> Built:
    distributed.init_process_group("gloo")
    return training(device, net(device))


def one_of_two(device: torch.device, url: str | None) -> Built:
    if url is None:
        begin(size=2)
    else:
        distributed.init_process_group("gloo", init_method=url)
    return training(device, net(device))


def calling_remotely(device: torch.device) -> Built:
    rpc.init_rpc("worker", rank=0, world_size=2)
    return training(device, net(device))


def meshed(device: torch.device) -> Built:
    distributed.init_device_mesh("cuda", (1,))
    return training(device, net(device))


def elsewhere(device: torch.device) -> Built:
    return training(torch.device("cuda", 1), net(device))


def on_the_gpu(samples: list[tuple[Tensor]]) -> Tensor:
    return torch.stack([sample for (sample,) in samples]).cuda()


def collated_elsewhere(device: torch.device) -> Built:
    """Batches are put onto the GPU by a process that loads them."""
    next(iter(DataLoader(TensorDataset(torch.zeros(4, WIDE)), num_workers=1, collate_fn=on_the_gpu)))
    return training(device, net(device))
