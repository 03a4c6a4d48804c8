"""What an estimate cannot play, refused by name before PyTorch asks for a driver that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from torch import Tensor
from torch._functorch import eager_transforms
from torch.distributed import distributed_c10d
from torch.nn.modules import rnn

_aten = torch.ops.aten


class NotPlayed(RuntimeError):
    """A step asks for what an estimate cannot play; the message says what, and the remedy."""


@contextmanager
def refusing() -> Iterator[None]:
    """Raise `NotPlayed` where a program asks CUDA or a library for what fake tensors do not have."""
    recurrent = {name: _without_cudnn(getattr(torch._VF, name)) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
    by_mode = {f"RNN_{mode}": recurrent[f"rnn_{mode.lower()}"] for mode in ("TANH", "RELU")}
    graphs = _refuse("it captures a CUDA graph: run the step without, or measure it on virtual:NAME")
    gradients = _refuse(
        "it differentiates by torch.func (grad, vjp, jacrev, vmap(grad)): take loss.backward() or torch.autograd.grad, "
        "or measure it on virtual:NAME"
    )
    groups = _refuse("it begins a process group, and an estimate plays none: measure it on virtual:NAME")
    initialising = _refuse("it asks CUDA for more than tensors: measure it on virtual:NAME")
    replaced: list[tuple[object, str, object]] = [
        *((torch._VF, name, function) for name, function in recurrent.items()),
        *((owner, "make_graphed_callables", graphs) for owner in (torch.cuda, torch.cuda.graphs)),
        (torch.cuda.CUDAGraph, "__new__", graphs),
        (eager_transforms, "_autograd_grad", gradients),
        *((distributed_c10d, name, groups) for name in ("rendezvous", "_new_process_group_helper")),
        (torch.cuda, "_lazy_init", initialising),
        (torch.cuda, "synchronize", lambda device=None: None),
    ]
    with ExitStack() as undone:
        for owner, name, value in replaced:
            undone.enter_context(patch.object(owner, name, value))
        undone.enter_context(patch.dict(rnn._rnn_impls, by_mode))
        yield


def refuse_operator(operator: torch._ops.OpOverload, options: Mapping[str, Any]) -> None:
    """Raise `NotPlayed` if this operator with these options is one of those that are not played."""
    if operator.overloadpacket in _PINNING or options.get("pin_memory"):
        raise NotPlayed(
            "it pins memory, for which the host needs a driver: leave pin_memory out, it takes nothing of the GPU's "
            "memory, or measure it on virtual:NAME"
        )
    if options.get("layout") not in (None, torch.strided):
        refuse_sparse(options["layout"])


def refuse_sparse(layout: torch.layout) -> NoReturn:
    """Raise `NotPlayed` for a tensor of this layout."""
    raise NotPlayed(
        f"it has tensors of layout {layout}, as large as their values say: leave out sparse=True and the like, or "
        "measure it on virtual:NAME"
    )


_PINNING = frozenset((_aten._pin_memory, _aten.pin_memory))


def _refuse(reason: str) -> Callable[..., NoReturn]:
    def refused(*_: object, **__: object) -> NoReturn:
        raise NotPlayed(reason)

    return refused


def _without_cudnn(run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def running(inputs: Tensor, *others: Any) -> Any:
        if inputs.is_cuda and torch.backends.cudnn.enabled:
            raise NotPlayed(
                f"it runs a recurrent network of cuDNN ({run.__name__}), and only cuDNN knows what that takes: run it "
                "under torch.backends.cudnn.flags(enabled=False), or measure it on virtual:NAME"
            )
        return run(inputs, *others)

    return running
