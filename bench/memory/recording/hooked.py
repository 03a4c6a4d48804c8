"""Follow a training step that tells nobody what it does: its phases, found by PyTorch's own hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from profl.bench.memory.recording.trail import is_compiling
from profl.bench.memory.workload import StepObserver, optimizers_of

if TYPE_CHECKING:
    from profl.bench.memory.workload import Optimizers


@contextmanager
def told_by_hooks(module: nn.Module, optimizer: Optimizers, observer: StepObserver) -> Iterator[None]:
    """Tell ``observer`` of the phases of the steps that run meanwhile.

    Forward begins when ``module`` or a part of it is called, backward with ``loss.backward()`` or
    ``torch.autograd.grad``, and the optimizer's step is that of any optimizer; a closure that it is given runs forward
    and backward passes of its own. Several passes may precede it, and none that is told: modules may be used without
    being called. A step is over when all of the optimizers given have stepped, or with this context.
    """
    follower = _Follower(module, optimizers_of(optimizer), observer)
    hooks = (
        register_optimizer_step_pre_hook(follower.optimizer_begins),
        register_optimizer_step_post_hook(follower.optimizer_ends),
    )
    with ExitStack() as undone:
        undone.enter_context(patch.dict(nn.modules.module._global_forward_pre_hooks, {_HOOK: _module_called}))
        for name, function in _FOLLOWED.items():
            undone.enter_context(patch.object(torch.autograd, name, function))
        undone.enter_context(patch.dict(_following, {"now": follower}))
        for hook in hooks:
            undone.callback(hook.remove)
        yield
        follower.finish()


# torch.compile remembers every function of PyTorch's for good, and compiles anew if a hook is another one, or has
# another number, than when it first saw it. So these stay the same and hold on to nothing.
_HOOK = -1
_following: dict[str, _Follower] = {}


def _module_called(module: nn.Module, _: object) -> None:
    if not is_compiling():
        _following["now"].module_called(module)


def _followed(differentiate: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(differentiate)
    def followed(*arguments: Any, **options: Any) -> Any:
        follower = _following.get("now")
        call = partial(differentiate, *arguments, **options)
        if follower is None or is_compiling():
            return call()
        outputs: Any = arguments[0] if arguments else options.get("outputs", options.get("tensors"))
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs or ()
        return follower.differentiate(call, outputs, calls_engine=differentiate is not _ENGINE)

    return followed


_ENGINE = torch.autograd.graph._engine_run_backward

# No hook tells that a backward pass begins without becoming part of the graph. The first two begin them all and make
# the first gradient; the third does the work for them, also where a program calls them by a name of its own.
_FOLLOWED = {name: _followed(getattr(torch.autograd, name)) for name in ("backward", "grad", "_engine_run_backward")}


class _Follower:
    def __init__(self, module: nn.Module, optimizers: Iterable[torch.optim.Optimizer], observer: StepObserver) -> None:
        self._modules = set(module.modules())
        self._optimizers = frozenset(optimizers)
        self._observer = observer
        self._phase = "between"
        self._coming = set(self._optimizers)
        self._differentiating = 0
        self._announced = False
        self._stepping = 0

    def module_called(self, module: nn.Module) -> None:
        # Checkpoints compute forward passes again in the middle of backward.
        called = getattr(module, "_orig_mod", module)  # of torch.compile
        if called in self._modules and not self._differentiating and self._phase != "forward":
            self._phase = "forward"
            self._observer.forward()

    def differentiate(self, call: Callable[[], Any], outputs: Iterable[object], *, calls_engine: bool) -> Any:
        if self._announced:  # by the function that now calls the engine
            self._announced = False
            return call()
        self._differentiating += 1
        try:
            self._backward_begins(outputs)
            self._announced = calls_engine
            return call()
        finally:
            self._announced = False
            self._differentiating -= 1
            if self._stepping and not self._differentiating:
                self._begin_optimizer()  # after its closure

    def _backward_begins(self, outputs: Iterable[object]) -> None:
        for output in outputs:
            if isinstance(output, Tensor):
                self._phase = "backward"
                self._observer.backward(output)

    def optimizer_begins(
        self, optimizer: torch.optim.Optimizer, arguments: Sequence[object], options: Mapping[str, object]
    ) -> None:
        if self._differentiating:  # a hook of a backward pass steps
            return
        self._stepping += 1
        runs_closure = any(map(callable, (*arguments[1:], *options.values())))
        if self._phase in ("forward", "backward") or (optimizer in self._optimizers and not runs_closure):
            self._begin_optimizer()

    def _begin_optimizer(self) -> None:
        if self._phase != "optimizer":
            self._phase = "optimizer"
            self._observer.optimizer()

    def optimizer_ends(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._differentiating:
            return
        self._stepping -= 1
        if not self._stepping and self._phase != "between":
            self._coming.discard(optimizer)
            if not self._coming:
                self.finish()

    def finish(self) -> None:
        if self._phase != "between":
            self._phase = "between"
            self._coming = set(self._optimizers)
            self._observer.end()
