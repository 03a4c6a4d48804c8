"""What techniques change in a step, and what they must not change."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from profl.bench.cell import Cell, Recipe
from profl.bench.config import cells
from profl.bench.conformance import device, loaded
from profl.bench.engine import InProcess
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.memory.process.probe import Prober
from profl.bench.method import FullModel, Task
from profl.bench.models import ModelSpec
from profl.bench.models.registry import models
from profl.bench.operations import operations_per_step
from profl.bench.registry import methods
from profl.bench.report import closing_text
from profl.bench.report.page.reproduce import configurations
from profl.bench.report.study import studies
from profl.bench.results import read_run
from profl.bench.results.run import check_one_recipe
from profl.bench.technique import PLAIN, WAYS, Technique, checkpoint_units
from profl.bench.training import LocalStep, TrainingWorkload
from tests.conftest import SMALL_RECIPE, settle, small_cell
from tests.sweeps import CONFIG, Silent, bits, sweep

RECIPE = Recipe(learning_rate=0.1)
RESNET18 = ModelSpec("resnet18", 2, 3)


def trained(
    task: Task,
    technique: str,
    batch: tuple[Tensor, Tensor],
    recipe: Recipe = RECIPE,
    steps: int = 2,
    build: Callable[[], nn.Module] | None = None,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Train from the same values whatever the technique; return the losses, and every tensor afterwards."""
    torch.manual_seed(0)
    module = (build or task.build)()
    step = LocalStep(task, module, recipe, Technique.parse(technique))
    torch.manual_seed(1)
    return [step(*batch) for _ in range(steps)], module.state_dict()


def batch_of(count: int, classes: int = 3, shape: tuple[int, ...] = (3, 32, 32)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, *shape, generator=generator), torch.arange(count) % classes


def assert_same_bits(
    one: tuple[list[Tensor], dict[str, Tensor]], other: tuple[list[Tensor], dict[str, Tensor]]
) -> None:
    assert all(torch.equal(*pair) for pair in zip(one[0], other[0], strict=True))
    assert [name for name, value in one[1].items() if not torch.equal(value, other[1][name])] == []


@pytest.mark.parametrize(
    ("method", "technique"), [("fiarse", "checkpoint"), ("fjord", "micro-batch:2"), ("neulite", "micro-batch:2")]
)
def test_what_would_change_what_a_method_trains_is_refused(method: str, technique: str):
    with pytest.raises(InputError, match=f"technique '{technique}' for method '{method}' would .*: choose another"):
        Experiment.of(small_cell(method, width=4, technique=technique))


# How it is written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("none", "none"),
        ("checkpoint", "checkpoint"),
        ("micro-batch:2 + checkpoint", "checkpoint+micro-batch:2"),
        ("no-momentum+step-in-backward+autocast:bfloat16", "autocast:bfloat16+step-in-backward+no-momentum"),
    ],
)
def test_a_technique_has_one_spelling_whatever_the_order(text: str, written: str):
    technique = Technique.parse(text)
    assert str(technique) == written
    assert Technique.parse(written) == technique
    assert hash(Technique.parse(written)) == hash(technique)
    assert technique.label("fedavg") == ("fedavg" if written == "none" else f"fedavg with {written}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpointing", "unknown technique 'checkpointing': did you mean 'checkpoint'"),
        ("inplace", "unknown technique 'inplace': choose one of 8-bit-momentum, autocast, checkpoint"),
        ("", "unknown technique ''"),
        ("checkpoint+none", "unknown technique 'none'"),
        ("checkpoint:2", "'checkpoint' takes no setting, so not '2'"),
        ("micro-batch", "'micro-batch' needs a number of parts from 2 on: micro-batch:4"),
        ("micro-batch:1", "'micro-batch:1' needs a number of parts from 2 on"),
        ("micro-batch:²", "needs a number of parts"),
        ("autocast:int8", "'autocast:int8' needs one of bfloat16, float16"),
        ("micro-batch:2+micro-batch:4", "has micro-batch twice"),
        (
            "micro-batch:2+step-in-backward",
            "'step-in-backward' cannot go with 'micro-batch:2', which adds gradients up",
        ),
        ("8-bit-momentum+no-momentum", "'8-bit-momentum' cannot go with 'no-momentum', which keeps none"),
        ("autocast:float16+step-in-backward", "cannot go with 'autocast:float16', which looks for overflow"),
    ],
)
def test_what_is_no_technique_is_refused_in_one_line(text: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        Technique.parse(text)
    assert "\n" not in str(caught.value)


def test_every_way_says_what_it_does():
    assert all(way.about and way.name == name for name, way in WAYS.items())


# What it leaves as it is


@pytest.mark.no_cover
@pytest.mark.parametrize("technique", ["checkpoint", "step-in-backward", "checkpoint+step-in-backward"])
@pytest.mark.parametrize("name", sorted(models()))
def test_these_train_every_model_as_plain_training_does_to_the_bit(name: str, technique: str):
    """Running statistics and the number of batches among all tensors: recomputing moves nothing twice."""
    task = FullModel(ModelSpec(name, 2, 3))
    takes = task.model.skeleton()
    inputs, targets = batch_of(4, shape=takes.input_shape)
    batch = inputs.abs().to(takes.input_dtype), targets  # characters have no negative numbers
    assert_same_bits(trained(task, technique, batch), trained(task, "none", batch))


@pytest.mark.no_cover
@pytest.mark.parametrize("method", sorted(methods()))
def test_a_checkpointed_step_of_every_method_is_a_plain_one_to_the_bit(method: str):
    server = Experiment.of(small_cell(method, width=4)).method()
    settle(server, server.all_tasks())
    batch = batch_of(4, classes=10)
    for task in server.all_tasks():
        try:
            Technique.parse("checkpoint").check(task, 0.9, method)
        except InputError:
            continue
        build = partial(loaded, server, task, device(range(10))) if task in server.tasks() else task.build
        once, plain = (trained(task, technique, batch, steps=1, build=build) for technique in ("checkpoint", "none"))
        assert_same_bits(once, plain)


def test_checkpoints_compute_again_in_the_same_precision():
    batch = batch_of(4)
    once, plain = (trained(FullModel(RESNET18), f"{way}autocast:bfloat16", batch) for way in ("checkpoint+", ""))
    assert_same_bits(once, plain)


@dataclass(frozen=True)
class Staged(Task):
    """Two stages of made-up layers and a linear layer, in double precision."""

    layers: Callable[[], list[nn.Module]]
    clip: float | None = None

    key = "staged"

    @property
    def max_gradient_norm(self) -> float | None:  # type: ignore[override]
        return self.clip

    def build(self) -> nn.Module:
        stages = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), *self.layers()) for _ in range(2))
        return _Staged(stages, nn.Linear(8, 3)).double()


class _Staged(nn.Module):
    def __init__(self, stages: nn.ModuleList, head: nn.Module) -> None:
        super().__init__()
        self.stages, self.head = stages, head

    def forward(self, inputs: Tensor) -> Tensor:
        for stage in self.stages:
            inputs = stage(inputs)
        return self.head(inputs)


def rows(count: int) -> tuple[Tensor, Tensor]:
    inputs, targets = batch_of(count, shape=(8,))
    return inputs.double(), targets


def test_dropout_draws_the_same_when_it_is_computed_again():
    task = Staged(lambda: [nn.Dropout(0.5), nn.Tanh()])
    assert_same_bits(trained(task, "checkpoint", rows(6)), trained(task, "none", rows(6)))
    assert not torch.equal(trained(task, "none", rows(6))[0][0], trained(Staged(lambda: []), "none", rows(6))[0][0])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_of_any_momentum_move_once(momentum: float | None):
    task = Staged(lambda: [nn.BatchNorm1d(8, momentum=momentum), nn.Tanh()])
    once, plain = trained(task, "checkpoint", rows(6)), trained(task, "none", rows(6))
    assert_same_bits(once, plain)
    assert int(once[1]["stages.0.1.num_batches_tracked"]) == 2


@pytest.mark.parametrize("count", [2, 5, 12])
@pytest.mark.parametrize("technique", ["micro-batch:2", "micro-batch:4", "checkpoint+micro-batch:5"])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_micro_batches_train_as_the_whole_batch_does_where_nothing_looks_at_the_batch(
    technique: str, count: int, clip: float | None
):
    """Also parts of unequal sizes, and a batch of fewer examples than parts: to rounding in double precision."""
    task = Staged(lambda: [nn.LayerNorm(8), nn.Tanh()], clip)
    (losses, state), (plain_losses, plain) = (trained(task, text, rows(count)) for text in (technique, "none"))
    torch.testing.assert_close(losses, plain_losses, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(state, plain, rtol=1e-12, atol=1e-14)


def test_batchnorm_sees_a_part_at_a_time_so_that_micro_batches_train_otherwise():
    task = Staged(lambda: [nn.BatchNorm1d(8), nn.Tanh()])
    (_, parts), (_, plain) = (trained(task, text, rows(12)) for text in ("micro-batch:2", "none"))
    assert not torch.allclose(parts["head.weight"], plain["head.weight"], rtol=1e-3)
    assert int(parts["stages.0.1.num_batches_tracked"]) == 2 * int(plain["stages.0.1.num_batches_tracked"])


def test_parts_are_of_nearly_equal_sizes_and_their_shares_sum_to_one():
    parts = Technique.parse("micro-batch:4").parts(*rows(10))
    assert [len(targets) for _, targets, _ in parts] == [3, 3, 2, 2]
    assert sum(share for _, _, share in parts) == pytest.approx(1)
    assert torch.equal(torch.cat([inputs for inputs, _, _ in parts]), rows(10)[0])


def test_without_momentum_training_is_that_of_a_recipe_without_it():
    task, batch = FullModel(RESNET18), batch_of(4)
    assert_same_bits(trained(task, "no-momentum", batch), trained(task, "none", batch, replace(RECIPE, momentum=0)))
    step = LocalStep(task, task.build(), RECIPE, Technique.parse("no-momentum"))
    step(*batch)
    assert not any(state.get("momentum_buffer") is not None for state in step.optimizer.state.values())


def test_momentum_in_eight_bits_takes_a_quarter_and_trains_nearly_alike():
    pytest.importorskip("bitsandbytes")
    task, batch = FullModel(ModelSpec("resnet18", 8, 3)), batch_of(4)
    (_, state), (_, plain) = (trained(task, text, batch) for text in ("8-bit-momentum", "none"))
    weights = [name for name in plain if name.endswith("conv2.weight")]
    torch.testing.assert_close([state[name] for name in weights], [plain[name] for name in weights], rtol=0, atol=0.02)
    assert any(not torch.equal(state[name], plain[name]) for name in weights)
    kept = []
    for text in ("8-bit-momentum", "none"):
        step = LocalStep(task, task.build(), RECIPE, Technique.parse(text))
        step(*batch)
        kept.append(sum(v.nbytes for one in step.optimizer.state.values() for v in one.values() if torch.is_tensor(v)))
    assert 0.25 < kept[0] / kept[1] < 0.35


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("profl.bench.technique.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package bitsandbytes: pip install bitsandbytes"):
        Experiment.of(small_cell(technique="8-bit-momentum"))


# What it does


def test_units_are_residual_blocks_or_else_stages():
    assert len(checkpoint_units(RESNET18.build())) == 8
    assert len(checkpoint_units(ModelSpec("vgg11_bn", 2, 3).build())) == 3
    assert checkpoint_units(nn.Linear(2, 2)) == []


@pytest.mark.parametrize("name", ["resnet10_stride2", "resnet18", "resnet34", "vgg11_bn"])
def test_activations_are_in_place_already_so_that_there_is_no_technique_for_it(name: str):
    activations = [part for part in ModelSpec(name, 2, 3).skeleton().modules() if hasattr(part, "inplace")]
    assert activations
    assert all(part.inplace for part in activations)


def test_a_checkpointed_step_computes_its_units_twice_and_leaves_no_trace():
    module, calls = RESNET18.build(), []
    unit = checkpoint_units(module)[3]
    unit.conv1.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    LocalStep(FullModel(RESNET18), module, RECIPE, Technique.parse("checkpoint"))(*batch_of(2))
    assert calls == [True, True]
    assert not any("forward" in vars(part) for part in module.modules())
    with torch.no_grad():
        module(batch_of(2)[0])
    assert len(calls) == 3


def test_gradients_never_live_together_as_each_steps_at_once():
    alive: list[int] = []

    class Watched(FullModel):
        def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            for parameter in module.parameters():
                parameter.register_hook(lambda _: alive.append(sum(p.grad is not None for p in module.parameters())))
            return super().loss(module, inputs, targets)

    module = RESNET18.build()
    LocalStep(Watched(RESNET18), module, RECIPE, Technique.parse("step-in-backward"))(*batch_of(2))
    assert len(alive) == len(list(module.parameters()))
    assert max(alive) == 0  # as the next one comes
    assert not any(parameter._post_accumulate_grad_hooks for parameter in module.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_computes_in_half_the_bytes_and_keeps_parameters_and_gradients(dtype: str):
    seen: set[torch.dtype] = set()

    class Watched(FullModel):
        def build(self) -> nn.Module:
            module = super().build()
            module.stages[0].register_forward_hook(lambda _, inputs, output: seen.add(output.dtype))
            for parameter in module.parameters():
                parameter.register_hook(lambda gradient: seen.add(gradient.dtype))
            return module

    (losses, state), (plain, _) = (
        trained(Watched(RESNET18), text, batch_of(4)) for text in (f"autocast:{dtype}", "none")
    )
    assert getattr(torch, dtype) in seen
    assert {value.dtype for name, value in state.items() if "num_batches" not in name} == {torch.float32}
    assert losses[0].dtype == torch.float32
    torch.testing.assert_close(losses[0], plain[0], rtol=0.05, atol=0.05)
    assert not torch.equal(losses[0], plain[0])


def test_a_float16_step_that_overflows_is_left_out_and_the_next_is_scaled_less():
    class Steep(FullModel):
        def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            return super().loss(module, inputs, targets) * 1e36

    torch.manual_seed(0)
    module = RESNET18.build()
    before = copy.deepcopy(dict(module.named_parameters()))
    step = LocalStep(Steep(RESNET18), module, RECIPE, Technique.parse("autocast:float16"))
    step(*batch_of(4))
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    assert step._scaler.get_scale() == 2**15


def test_clipping_sees_gradients_without_their_scale():
    task = Staged(lambda: [nn.Tanh()], 0.01)
    moved = []
    for technique in ("autocast:float16", "none"):
        torch.manual_seed(0)
        module = task.build().float()
        before = module.head.weight.detach().clone()
        inputs, targets = rows(6)
        LocalStep(task, module, Recipe(learning_rate=1, momentum=0), Technique.parse(technique))(
            inputs.float(), targets
        )
        moved.append(float((module.head.weight.detach() - before).norm()))
    assert moved[0] == pytest.approx(moved[1], rel=0.05)


# What it costs


def test_what_is_computed_again_counts_again_and_nothing_else_does():
    model, recipe = ModelSpec("resnet18", 4, 10), Recipe(batch_size=4)
    count = {
        text: operations_per_step(FullModel(model), model, recipe, Technique.parse(text))
        for text in (
            "none",
            "checkpoint",
            "micro-batch:2",
            "checkpoint+micro-batch:2",
            "autocast:float16",
            "step-in-backward",
        )
    }
    assert count["checkpoint"] - count["none"] == 4 * _forward_of_stages(model)
    assert count["checkpoint+micro-batch:2"] == count["checkpoint"]
    assert {count[text] for text in ("micro-batch:2", "autocast:float16", "step-in-backward")} == {count["none"]}


def _forward_of_stages(model: ModelSpec) -> int:
    """Return the operations of ResNet18's stages for one example, by hand: a convolution at a time."""
    total, width = 0, model.width
    for stage in range(4):
        out, side = width * 2**stage, 32 // 2**stage
        into = out if stage == 0 else out // 2
        three_by_three = 9 * (into * out + 3 * out * out)
        shortcut = 0 if stage == 0 else into * out
        total += 2 * side**2 * (three_by_three + shortcut)
    return total


# Where it has no meaning


@pytest.mark.parametrize(
    ("method", "technique", "recipe", "message"),
    [
        ("heterofl", "step-in-backward", Recipe(), "task 'subnetwork 1' clips their norm: turn clipping off"),
        (
            "fedavg",
            "no-momentum",
            Recipe(momentum=0),
            "a momentum that the recipe does not have: leave the technique out",
        ),
        ("decomfl", "checkpoint", Recipe(), "task '5 perturbations' has none: leave the technique out"),
    ],
)
def test_a_technique_without_a_meaning_is_refused_before_anything_runs(
    method: str, technique: str, recipe: Recipe, message: str
):
    with pytest.raises(InputError, match=f"technique '{technique}' for method '{method}' .*{message}") as caught:
        Experiment.of(small_cell(method, technique=technique, recipe=recipe))
    assert "\n" not in str(caught.value)
    Experiment.of(small_cell(method, recipe=recipe))


def test_clipping_that_is_turned_off_forbids_nothing():
    Experiment.of(small_cell("heterofl", technique="step-in-backward", options={"max_gradient_norm": 0.0}))


def test_a_network_without_stages_has_no_checkpoints():
    class Bare(FullModel):
        def build(self) -> nn.Module:
            return nn.Linear(4, 3)

    with pytest.raises(InputError, match="finds no 'stages' in the network of task 'full model'"):
        Technique.parse("checkpoint").check(Bare(RESNET18), 0.9, "mine")


# Where it is recorded


def test_a_cell_without_a_technique_is_what_it_always_was():
    cell = small_cell()
    assert "technique" not in cell.to_dict()
    assert Cell.from_dict(cell.to_dict()) == cell
    assert cell.folder_name == small_cell(technique="none").folder_name


def test_a_cell_with_one_has_another_folder_and_survives_json():
    cell, again = small_cell(technique="micro-batch:2+checkpoint"), small_cell(technique="checkpoint+micro-batch:2")
    assert cell == again
    assert cell.to_dict()["technique"] == "checkpoint+micro-batch:2"
    assert Cell.from_dict(cell.to_dict()) == cell
    assert cell.folder_name.startswith("fedavg-checkpoint-micro-batch-2-resnet18w2-")
    with pytest.raises(InputError, match="unknown technique 'magic'"):
        Cell.from_dict({**small_cell().to_dict(), "technique": "magic"}, "cell.json")


def test_techniques_are_an_axis_and_each_makes_one_cell():
    grid = replace(CONFIG.grid, technique=["none", "micro-batch:2+checkpoint", "checkpoint+micro-batch:2"])
    found = cells(replace(CONFIG, grid=grid))
    assert len(found) == 2 * len(cells(CONFIG))
    assert {cell.technique for cell in found} == {"none", "checkpoint+micro-batch:2"}


def test_a_footprints_key_names_the_technique_and_a_plain_one_stays():
    plain = TrainingWorkload("a", RESNET18, FullModel(RESNET18), RECIPE)
    saving = replace(plain, technique=Technique.parse("checkpoint"))
    assert saving.key == plain.key + ", checkpoint"
    assert plain.technique == PLAIN


def test_a_sweep_trains_measures_and_records_the_technique(prober: Prober, tmp_path: Path):
    recipe = replace(SMALL_RECIPE, rounds=2, evaluate_every=1)
    todo = [
        small_cell("exclusive", "100%", technique=text, recipe=recipe)
        for text in ("none", "checkpoint", "micro-batch:2+no-momentum")
    ]
    sweep(todo, tmp_path, InProcess(), prober, Silent())
    plain, same, other = bits(todo, tmp_path).values()
    costs = {row["operations"] for row in plain}, {row["operations"] for row in same}
    assert max(costs[0]) < min(costs[1]) < 1.5 * min(costs[0])
    without = [[{**row, "operations": None} for row in rows] for rows in (plain, same, other)]
    assert without[0] == without[1] != without[2]

    run = read_run(tmp_path)
    check_one_recipe(tmp_path, [record.cell for record in run.records])
    assert set(run.cells["technique"]) == {cell.technique for cell in todo}
    assert set(run.cells["method"]) == {"exclusive"}
    assert run.cells["full_model_least_budget_bytes"].nunique() == 1  # what 100% refers to is plain training
    (study,) = studies(run)
    labels = ["exclusive", "exclusive with checkpoint", "exclusive with micro-batch:2+no-momentum"]
    assert study.methods == labels
    assert [method for method, _ in study.tasks] == labels
    assert study.bare_methods == ["exclusive"]
    assert "exclusive with checkpoint" in closing_text(run)
    needs = run.footprints.set_index("technique")
    assert len(needs) == 3
    assert needs.loc["checkpoint", "peak_activation_bytes"] < needs.loc["none", "peak_activation_bytes"]
    again = configurations(run.records)["study.toml"]
    assert all(f'"{cell.technique}"' in again for cell in todo)
    plain_alone = configurations([record for record in run.records if record.cell.technique == "none"])
    assert "technique" not in plain_alone["study.toml"]
