"""The process group of a virtual GPU has one member: nobody is waited for, and nobody needs to be asked.

`DistributedDataParallel` sends the shapes of its parameters to every process and reads back from the GPU whether they
agree. There a virtual one has zeros; but a group of one agrees with itself. Imported once the virtual GPU is in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any
from urllib.parse import parse_qsl, urlparse

from torch import Tensor, distributed
from torch.distributed import Logger, ProcessGroup, distributed_c10d
from torch.nn.parallel import distributed as data_parallel

from profl.bench.memory.errors import MeasurementFailed

_REMEDY = (
    "a virtual GPU is alone: torch.distributed.init_process_group('gloo', rank=0, world_size=1, "
    "store=torch.distributed.HashStore())"
)
_FAKE = "fake"  # PyTorch's own backend for tests: one process plays the member of a group of any size
_TOLD_BY_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def play_alone() -> None:
    """Let no process group that begins in this process wait for others, or ask itself."""
    # By the second name for remote calls.
    distributed_c10d.rendezvous = distributed.rendezvous = _without_others(distributed_c10d.rendezvous)
    distributed_c10d._new_process_group_helper = _of_one(distributed_c10d._new_process_group_helper)
    data_parallel._verify_param_shape_across_processes = _agree


def _without_others(meet: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(meet)
    def meeting(url: str, rank: int = -1, world_size: int = -1, **options: Any) -> Any:
        parts = urlparse(url)
        told = {name.upper(): value for name, value in parse_qsl(parts.query)}
        told |= {name: str(value) for name, value in (("RANK", rank), ("WORLD_SIZE", world_size)) if value >= 0}
        if parts.scheme == "env":
            told = {**os.environ, **told}
            missing = [name for name in _TOLD_BY_ENVIRONMENT if name not in told]
            if missing:
                raise MeasurementFailed(f"nothing says what {missing[0]} of the process group is; {_REMEDY}")
        _refuse_others(told.get("WORLD_SIZE", "1"))
        return meet(url, rank, world_size, **options)

    return meeting


def _of_one(make: Callable[..., Any]) -> Callable[..., Any]:
    parameters = signature(make)

    @wraps(make)
    def making(*arguments: Any, **options: Any) -> Any:
        asked = parameters.bind(*arguments, **options).arguments
        if asked["backend"] != _FAKE:
            _refuse_others(asked["group_size"])
        return make(*arguments, **options)

    return making


def _refuse_others(size: object) -> None:
    if str(size) != "1":
        raise MeasurementFailed(f"a process group of {size} would wait for its other members; {_REMEDY}")


def _agree(process_group: ProcessGroup, tensors: list[Tensor], logger: Logger | None = None) -> None:
    """Stand in for the question whether all processes have parameters of the same shapes."""
