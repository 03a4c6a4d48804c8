"""Operations are counted as one would by hand, and a frozen part costs no backward pass."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from profl.bench import operations
from profl.bench.cell import Recipe
from profl.bench.experiment import Experiment
from profl.bench.measuring import measure_step
from profl.bench.memory.errors import MeasurementFailed
from profl.bench.memory.process.pausing import Pausing
from profl.bench.memory.process.probe import Prober
from profl.bench.method import FullModel, Task
from profl.bench.models import ModelSpec
from profl.bench.operations import operations_per_example, operations_per_step
from profl.bench.technique import PLAIN, Technique
from profl.bench.training import TrainingWorkload
from tests.conftest import small_cell

RECIPE = Recipe(batch_size=4)
MODEL = ModelSpec("resnet18", 4, 10)
SIDE = 32


@pytest.fixture(autouse=True)
def _nothing_counted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_counted", {})


@dataclass(frozen=True)
class OneConvolution(Task):
    """A 3x3 convolution of 3 to 5 channels, the mean over its pixels, and a linear layer; parts may be frozen."""

    frozen: tuple[str, ...] = ()
    reads_a_value: bool = False

    @property
    def key(self) -> str:
        return f"frozen {self.frozen} reads {self.reads_a_value}"

    def build(self) -> nn.Module:
        module = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10)
        )
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not name.startswith(self.frozen) if self.frozen else True)
        return module

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().loss(module, inputs, targets)
        return loss * (2 if self.reads_a_value and float(loss.detach()) > 1 else 1)


CONVOLUTION = 2 * (3 * 3 * 3) * 5 * SIDE**2
LINEAR = 2 * 5 * 10


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        # The first layer needs no gradient of its inputs: forward and weights; the second one needs both.
        ((), 2 * CONVOLUTION + 3 * LINEAR),
        (("0",), CONVOLUTION + 2 * LINEAR),
        (("3",), 2 * CONVOLUTION + 2 * LINEAR),
    ],
    ids=["nothing frozen", "the convolution frozen", "the linear layer frozen"],
)
def test_a_convolution_and_a_linear_layer_are_counted_as_by_hand(frozen: tuple[str, ...], expected: int):
    assert operations_per_example(OneConvolution(frozen), MODEL, RECIPE) == expected
    assert operations_per_step(OneConvolution(frozen), MODEL, RECIPE) == 4 * expected


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_every_pass_through_a_convolution_costs_the_same_whatever_its_groups(kind: type[nn.Module], groups: int):
    module = kind(8, 16, 3, stride=2, padding=1, groups=groups, bias=False)
    inputs = torch.randn(2, 8, 10, 10, requires_grad=True)
    with operations._counter() as counter:
        outputs = module(inputs)
        forward = counter.get_total_flops()
        outputs.sum().backward()
    positions = 10 * 10 if kind is nn.ConvTranspose2d else 5 * 5
    assert forward == 2 * 2 * positions * 8 * 16 * 9 / groups
    assert counter.get_total_flops() == 3 * forward


def test_a_step_that_reads_a_value_is_counted_where_there_are_values():
    with pytest.raises(RuntimeError, match="meta"):
        float(torch.zeros((), device="meta"))
    plain, reading = (operations_per_step(OneConvolution((), reads), MODEL, RECIPE) for reads in (False, True))
    assert reading == plain


def test_they_are_counted_while_the_step_is_measured(prober: Prober, monkeypatch: pytest.MonkeyPatch):
    step = TrainingWorkload("counted meanwhile", MODEL, OneConvolution(), RECIPE)
    asked: list[int] = []

    def measuring(*arguments: object, **options: object) -> Pausing[None]:
        yield
        asked.extend(operations._counted.values())

    with monkeypatch.context() as patch:
        patch.setattr(prober, "measuring", measuring)
        _, counted = measure_step(step, "virtual:sm_90", prober)
    assert asked == [counted] == [operations_per_step(step.task, MODEL, RECIPE)]
    footprint, again = measure_step(step, "virtual:sm_90", prober, least_budget=False)
    assert again == counted
    assert footprint.key == step.key


def test_what_was_counted_elsewhere_is_taken_over(monkeypatch: pytest.MonkeyPatch):
    tasks = OneConvolution(), OneConvolution(("0",))
    counts = {task.key: operations_per_step(task, MODEL, RECIPE) for task in tasks}
    monkeypatch.setattr(operations, "_counted", {})  # another process
    monkeypatch.setattr(operations, "_count", lambda workload, device: pytest.fail("counted again"))
    operations.take_over(counts, tasks, MODEL, RECIPE, PLAIN)
    assert {task.key: operations_per_step(task, MODEL, RECIPE) for task in tasks} == counts


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": replace(RECIPE, batch_size=5)},
        {"model": replace(MODEL, width=5)},
        {"technique": Technique.parse("checkpoint")},
    ],
)
def test_what_was_counted_of_another_step_is_not_taken_for_its_own(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, object]
):
    step = {"task": FullModel(MODEL), "model": MODEL, "recipe": RECIPE, "technique": PLAIN}
    monkeypatch.setattr(operations, "_count", lambda workload, device: 17)
    operations.take_over({"full model": 1, "another": 2}, [FullModel(MODEL)], MODEL, RECIPE, PLAIN)
    assert operations_per_step(**step) == 1
    assert operations_per_step(**step | other) == 17


@dataclass(frozen=True)
class AnotherFullModel(FullModel):
    """Of the same key."""


def test_a_count_is_of_no_task_if_several_types_have_its_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(operations, "_count", lambda workload, device: 17)
    tasks = FullModel(MODEL), AnotherFullModel(MODEL)
    operations.take_over({"full model": 1}, tasks, MODEL, RECIPE, PLAIN)
    assert [operations_per_step(task, MODEL, RECIPE) for task in tasks] == [17, 17]


@dataclass(frozen=True)
class WithoutLoss(FullModel):
    """Fails wherever it runs."""

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        raise SystemExit("no loss")


def test_a_step_that_fails_is_told_as_the_measurement_tells_it(prober: Prober):
    step = TrainingWorkload("fails", MODEL, WithoutLoss(MODEL), RECIPE)
    with pytest.raises(MeasurementFailed, match="no loss"):
        measure_step(step, "virtual:sm_90", prober, least_budget=False)


def test_operations_per_example_do_not_depend_on_the_batch():
    counts = {operations_per_example(FullModel(MODEL), MODEL, Recipe(batch_size=size)) for size in (1, 2, 7, 32)}
    assert len(counts) == 1


def test_frozen_blocks_do_no_backward_pass():
    profl = Experiment.of(small_cell("profl", width=4))
    count = {task.key: operations_per_example(task, profl.model, RECIPE) for task in profl.tasks}
    whole = operations_per_example(FullModel(profl.model), profl.model, RECIPE)
    forward = _forward(profl.model)
    for block in (2, 3, 4):
        assert forward < count[f"grow {block}"] < whole / 1.5
    assert count["grow 4"] == count["shrink 4"]
    assert count["map 4"] < count["grow 4"]


def _forward(model: ModelSpec) -> int:
    """Return the operations of the stem and the first stage of ResNet18 alone, by hand."""
    width = model.width
    return 2 * 9 * SIDE**2 * (3 * width + 4 * width * width)


def test_a_task_that_is_another_value_every_round_is_counted_once(monkeypatch: pytest.MonkeyPatch):
    ran: list[str] = []
    count = operations._count
    monkeypatch.setattr(
        operations, "_count", lambda workload, device: ran.append(device.type) or count(workload, device)
    )
    depth = Experiment.of(small_cell("depthfl"))
    for weight in (0.1, 0.2):
        operations_per_example(replace(depth.tasks[-1], distillation=weight), depth.model, RECIPE)
    assert ran == ["meta"]
    # A task of the same key of another method is another task.
    inclusive = Experiment.of(small_cell("inclusivefl"))
    assert inclusive.tasks[-1].key == depth.tasks[-1].key
    counts = {operations_per_example(one.tasks[-1], one.model, RECIPE) for one in (depth, inclusive)}
    assert len(counts) == 2
