"""Local training and testing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from profl.bench.cell import Recipe
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.training import (
    LocalStep,
    TrainingWorkload,
    evaluate,
    gradient_norm,
    recalibrate_batchnorm,
    train_locally,
)

SPEC = ModelSpec("resnet18", width=2, classes=3)
RECIPE = Recipe(batch_size=4, local_epochs=2)


def examples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 3


def trained(seed: int, augmented: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    module = SPEC.build()
    generator = torch.Generator().manual_seed(seed)
    loss = train_locally(FullModel(SPEC), module, *examples(10), RECIPE, generator, augmented)
    return loss, module.state_dict()


def test_training_depends_on_its_generator_alone():
    (loss, state), (same_loss, same_state) = trained(1), trained(1)
    assert loss == same_loss
    assert all(torch.equal(state[name], same_state[name]) for name in state)
    assert trained(2)[0] != loss
    assert trained(1, augmented=True)[0] != loss


def test_training_learns():
    torch.manual_seed(0)
    module, data = SPEC.build(), examples(12)
    losses = [
        train_locally(FullModel(SPEC), module, *data, RECIPE, torch.Generator().manual_seed(epoch), False)
        for epoch in range(20)
    ]
    assert losses[-1] < losses[0] / 2


def test_the_loss_is_the_mean_over_examples_also_with_a_smaller_last_batch():
    class Told(FullModel):
        """The loss is what the pictures say, whatever the weights."""

        def loss(self, module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return inputs.mean() + 0 * sum(parameter.sum() for parameter in module.parameters())

    pictures = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    loss = train_locally(
        Told(SPEC), SPEC.build(), pictures, torch.zeros(5, dtype=torch.int64), RECIPE, generator, False
    )
    assert loss == pytest.approx(2.0)


def test_a_step_tells_its_observer_each_phase_in_order():
    told: list[str] = []

    class Observer:
        def forward(self) -> None:
            told.append("forward")

        def backward(self, loss: torch.Tensor) -> None:
            assert loss.requires_grad
            told.append("backward")

        def optimizer(self) -> None:
            assert all(parameter.grad is not None for parameter in module.parameters())
            told.append("optimizer")

        def end(self) -> None:
            assert all(parameter.grad is None for parameter in module.parameters())
            told.append("end")

    task, module = FullModel(SPEC), SPEC.build()
    loss = LocalStep(task, module, RECIPE)(*examples(4), Observer())
    assert told == ["forward", "backward", "optimizer", "end"]
    assert not loss.requires_grad


def test_a_task_may_take_its_own_step_without_gradients():
    told: list[str] = []

    class Observer:
        def __getattr__(self, phase: str):
            return lambda *_: told.append(phase)

    class Shrinking(FullModel):
        forward_only = True

        def step(self, module: nn.Module, learning_rate: float, inputs: torch.Tensor, targets: torch.Tensor):
            assert learning_rate == RECIPE.learning_rate
            for parameter in module.parameters():
                parameter.mul_(1 - learning_rate)
            return self.loss(module, inputs, targets)

    task, module = Shrinking(SPEC), SPEC.build()
    before = module.head[2].weight.detach().clone()
    loss = LocalStep(task, module, RECIPE)(*examples(4), Observer())
    assert told == ["forward", "end"]
    assert not loss.requires_grad
    assert all(parameter.grad is None for parameter in module.parameters())
    torch.testing.assert_close(module.head[2].weight.detach(), before * (1 - RECIPE.learning_rate))


def test_the_optimizer_holds_what_trains_at_the_recipe_or_the_task_learning_rate():
    task, module = FullModel(SPEC), SPEC.build()
    module.stem.requires_grad_(False)
    optimizer = LocalStep(task, module, RECIPE).optimizer
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    assert optimizer.param_groups[0]["lr"] == RECIPE.learning_rate

    class Slow(FullModel):
        learning_rate = 1e-5

    assert LocalStep(Slow(SPEC), module, RECIPE).optimizer.param_groups[0]["lr"] == 1e-5


class Fixed(nn.Module):
    """Answers with the logits it is given as pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def test_evaluation_is_the_mean_over_examples_not_over_batches():
    logits = torch.zeros(300, 2)
    logits[:270, 1] = 9.0
    targets = torch.ones(300, dtype=torch.int64)
    loss, accuracy = evaluate(Fixed(), logits, targets)
    assert accuracy == pytest.approx(0.9)
    assert loss == pytest.approx(0.9 * math.log1p(math.exp(-9)) + 0.1 * math.log(2), rel=1e-4)


def test_an_infinite_loss_is_unknown_not_a_number():
    logits = torch.tensor([[math.inf, -math.inf]])
    assert math.isnan(evaluate(Fixed(), logits, torch.tensor([1]))[0])


def test_recalibration_gives_the_statistics_of_the_data():
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(99.0)
    inputs = examples(12)[0] * 2 + 5
    recalibrate_batchnorm(norm, inputs, batch_size=12)
    assert torch.allclose(norm.running_mean, inputs.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(norm.running_var, inputs.var((0, 2, 3)), rtol=1e-3)
    assert norm.momentum == 0.1


def test_recalibration_is_the_mean_over_full_batches_of_the_size_of_training():
    norm = nn.BatchNorm1d(2)
    inputs = torch.randn(11, 2)
    recalibrate_batchnorm(norm, inputs, batch_size=4)
    batches = inputs[:8].split(4)
    assert torch.allclose(norm.running_mean, sum(batch.mean(0) for batch in batches) / 2)
    assert torch.allclose(norm.running_var, sum(batch.var(0) for batch in batches) / 2)
    assert int(norm.num_batches_tracked) == 2


def test_fewer_examples_than_a_batch_are_one_batch():
    norm = nn.BatchNorm1d(2)
    inputs = torch.randn(3, 2)
    recalibrate_batchnorm(norm, inputs, batch_size=4)
    assert torch.allclose(norm.running_mean, inputs.mean(0))


class Halved(FullModel):
    """Trains a linear layer's weight, not its bias."""

    def build(self) -> nn.Module:
        module = nn.Linear(4, 3)
        module.bias.requires_grad_(False)
        return module


def test_the_gradients_norm_is_that_of_the_mean_loss_over_all_examples():
    task = Halved(SPEC)
    module, inputs, targets = task.build(), torch.randn(7, 4), torch.randint(3, (7,))
    norm = gradient_norm(task, module, inputs, targets, batch_size=3)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(module(inputs), targets), [module.weight])
    assert norm == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert module.weight.grad is None


def test_gradients_are_clipped_where_the_task_asks_for_it():
    class Clipped(Halved):
        max_gradient_norm = 1e-3

    plain, moved = Recipe(learning_rate=1.0, momentum=0.0, weight_decay=0.0), []
    for task in (Halved(SPEC), Clipped(SPEC)):
        torch.manual_seed(0)
        module, inputs, targets = task.build(), torch.randn(7, 4), torch.randint(3, (7,))
        before = module.weight.detach().clone()
        LocalStep(task, module, plain)(inputs, targets)
        moved.append(float((module.weight.detach() - before).norm()))
    assert moved[1] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0] > 10 * moved[1]


def test_every_fifth_measured_batch_is_half_as_large():
    sizes: list[int] = []

    class Watched(FullModel):
        def loss(self, module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            sizes.append(len(inputs))
            return super().loss(module, inputs, targets)

    prepared = TrainingWorkload("a", SPEC, Watched(SPEC), replace(RECIPE, batch_size=5)).prepare(torch.device("cpu"))
    for _ in range(6):
        prepared.step(Silent())
    assert sizes == [5, 5, 5, 5, 3, 5]


class Silent:
    """An observer that ignores everything."""

    def __getattr__(self, phase: str):
        return lambda *_: None


def test_workloads_that_differ_in_memory_differ_in_key():
    specs = (SPEC, ModelSpec("resnet34", 2, 3), ModelSpec("resnet18", 4, 3), ModelSpec("resnet18", 2, 4))
    recipes = (RECIPE, *(replace(RECIPE, **{name: 0}) for name in ("momentum", "weight_decay")), Recipe(batch_size=5))
    keys = {
        TrainingWorkload(scope, spec, FullModel(spec), recipe).key
        for scope in ("a", "b")
        for spec in specs
        for recipe in recipes
    }
    assert len(keys) == 2 * 4 * 4
