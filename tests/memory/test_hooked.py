"""Phases found by hooks, and whose parameters are whose: on the CPU, where hooks are the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.utils.checkpoint import checkpoint

from profl.bench.memory.recording.hooked import told_by_hooks
from profl.bench.memory.recording.trail import parameter_owners, stage_parameter_bytes


class Diary:
    def __init__(self) -> None:
        self.phases: list[str] = []

    def forward(self) -> None:
        self.phases.append("forward")

    def backward(self, loss: Tensor) -> None:
        self.phases.append("backward")

    def optimizer(self) -> None:
        self.phases.append("optimizer")

    def end(self) -> None:
        self.phases.append("end")


module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
inputs = torch.ones(2, 3, requires_grad=True)


def plain() -> None:
    module(inputs).sum().backward()
    optimizer.step()


def gathered() -> None:
    for _ in range(2):
        module(inputs).sum().backward()
    optimizer.step()


def parts() -> None:
    torch.autograd.backward(tensors=[module[2](module[1](module[0](inputs))).sum()])
    optimizer.step()


def penalised() -> None:
    outputs = module(inputs).sum()
    (gradient,) = torch.autograd.grad(outputs=outputs, inputs=inputs, create_graph=True)
    (outputs + gradient.square().sum()).backward()
    optimizer.step()


def computed_again() -> None:
    checkpoint(module, inputs, use_reentrant=False).sum().backward()
    optimizer.step()


def computed_again_reentrantly() -> None:
    checkpoint(module, inputs, use_reentrant=True).sum().backward()
    optimizer.step()


def with_closure() -> None:
    def closure() -> float:
        loss = module(inputs).sum()
        loss.backward()
        return float(loss.detach())

    closure()
    optimizer.step(closure)


def only_closure() -> None:
    def closure() -> float:
        module(inputs).sum().backward()
        return 0.0

    optimizer.step(closure)


def other_functions() -> None:
    """Nobody calls the module, so a backward pass is the first that is heard."""
    (inputs @ module[0].weight).sum().backward()
    optimizer.step()


def imported() -> None:
    """By a name that was there before any hook."""
    outputs = module(inputs).sum()
    (gradient,) = grad(outputs, inputs, create_graph=True)
    (outputs + gradient.square().sum()).backward()
    optimizer.step()


def validated() -> None:
    plain()
    module(inputs)


def stepped_without_backward() -> None:
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def with_others() -> None:
    other = nn.Linear(3, 3)
    teacher = other(inputs)
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    (module(inputs) - teacher).sum().backward()
    optimizer.step()


WHOLE = ["forward", "backward", "optimizer", "end"]


@pytest.mark.parametrize(
    ("step", "phases"),
    [
        (plain, WHOLE),
        (gathered, ["forward", "backward", *WHOLE]),
        (parts, WHOLE),
        (penalised, ["forward", "backward", "backward", "optimizer", "end"]),
        (computed_again, WHOLE),
        (computed_again_reentrantly, ["forward", "backward", "backward", "optimizer", "end"]),
        (with_closure, ["forward", "backward", "optimizer", *WHOLE]),
        (only_closure, WHOLE),
        (other_functions, WHOLE[1:]),
        (imported, ["forward", "backward", "backward", "optimizer", "end"]),
        (validated, [*WHOLE, "forward", "end"]),
        (stepped_without_backward, ["optimizer", "end"]),
        (with_others, WHOLE),
        (lambda: module(inputs), ["forward", "end"]),
        (lambda: module(inputs).sum().backward(), ["forward", "backward", "end"]),
        (lambda: None, []),
    ],
)
def test_phases(step: Callable[[], object], phases: list[str]) -> None:
    diary = Diary()
    with told_by_hooks(module, optimizer, diary):
        step()
    assert diary.phases == phases


def test_two_steps_are_told_as_two() -> None:
    diary = Diary()
    with told_by_hooks(module, optimizer, diary):
        plain()
        plain()
    assert diary.phases == WHOLE * 2


def test_a_step_is_over_when_every_optimizer_has_stepped() -> None:
    other = torch.optim.Adam(module[0].parameters())
    diary = Diary()
    with told_by_hooks(module, [optimizer, other], diary):
        for _ in range(2):
            module(inputs).sum().backward()
            optimizer.step()
            module(inputs).sum().backward()
            other.step()
    assert diary.phases == [*WHOLE[:-1], *WHOLE] * 2


def test_an_optimizer_that_steps_in_the_middle_of_backward_is_part_of_it() -> None:
    diary = Diary()
    hook = module[0].weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    with told_by_hooks(module, optimizer, diary):
        module(inputs).sum().backward()
    hook.remove()
    assert diary.phases == ["forward", "backward", "end"]


def test_an_error_leaves_no_hook_behind() -> None:
    before = torch.autograd.backward, torch.autograd.grad
    with pytest.raises(ZeroDivisionError), told_by_hooks(module, optimizer, Diary()):
        raise ZeroDivisionError
    assert (torch.autograd.backward, torch.autograd.grad) == before
    assert not nn.modules.module._global_forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.body = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Sequential(nn.Linear(4, 2))])
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.body[0].weight


def test_the_first_owner_of_a_parameter_counts() -> None:
    tied = Tied()
    owners = parameter_owners(tied)
    assert owners[tied.scale] == "(root)"
    assert owners[tied.head.weight] == "body.0"
    assert owners[tied.body[1][0].bias] == "body.1.0"
    assert stage_parameter_bytes(tied) == {"body.0": 4 * 16, "body.1": 4 * 10, "head": 0, "(root)": 4 * 5}
