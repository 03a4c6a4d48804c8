"""Follow a training step that tells nobody what it does: its phases, found by PyTorch's own hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from profl.bench.memory.workload import StepObserver


@contextmanager
def told_by_hooks(module: nn.Module, optimizer: torch.optim.Optimizer, observer: StepObserver) -> Iterator[None]:
    """Tell ``observer`` of the phases of the steps that run meanwhile.

    Forward begins when ``module`` or a part of it is called, backward with ``loss.backward()`` or
    ``torch.autograd.grad``, and the optimizer's step is that of ``optimizer``. Several forward and backward passes
    may precede it. A step that ends sooner, for example after forward, ends with this context.
    """
    follower = _Follower(module, observer)
    autograd = torch.autograd
    backward, grad = autograd.backward, autograd.grad
    hooks = (
        nn.modules.module.register_module_forward_pre_hook(follower.module_called),
        optimizer.register_step_pre_hook(follower.optimizer_begins),
        optimizer.register_step_post_hook(follower.optimizer_ends),
    )
    # No hook tells that a backward pass begins without becoming part of the graph. These two begin them all.
    autograd.backward, autograd.grad = follower.following(backward), follower.following(grad)
    try:
        yield
        follower.finish()
    finally:
        autograd.backward, autograd.grad = backward, grad
        for hook in hooks:
            hook.remove()


class _Follower:
    def __init__(self, module: nn.Module, observer: StepObserver) -> None:
        self._modules = set(module.modules())
        self._observer = observer
        self._phase = "between"
        self._differentiating = False

    def module_called(self, module: nn.Module, _: object) -> None:
        # Checkpoints compute forward passes again in the middle of backward.
        if module in self._modules and not self._differentiating and self._phase in ("between", "backward"):
            self._phase = "forward"
            self._observer.forward()

    def following(self, differentiate: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(differentiate)
        def followed(*arguments: Any, **options: Any) -> Any:
            outputs: Any = arguments[0] if arguments else options.get("outputs", options.get("tensors"))
            already, self._differentiating = self._differentiating, True
            try:
                self._backward_begins([outputs] if isinstance(outputs, Tensor) else outputs or ())
                return differentiate(*arguments, **options)
            finally:
                self._differentiating = already

        return followed

    def _backward_begins(self, outputs: Iterable[object]) -> None:
        if self._phase in ("forward", "backward"):
            for output in outputs:
                if isinstance(output, Tensor):
                    self._phase = "backward"
                    self._observer.backward(output)

    def optimizer_begins(self, *_: object) -> None:
        if self._phase in ("forward", "backward"):
            self._phase = "optimizer"
            self._observer.optimizer()

    def optimizer_ends(self, *_: object) -> None:
        if self._phase == "optimizer":
            self.finish()

    def finish(self) -> None:
        if self._phase != "between":
            self._phase = "between"
            self._observer.end()
