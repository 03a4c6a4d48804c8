import numpy as np
import pytest
import torch
from torch import nn

from profl.baselines import decomfl
from profl.baselines.decomfl import PerturbationTask, changes_of
from profl.bench.cell import Recipe
from profl.bench.conformance import RECIPE, loaded
from profl.bench.errors import InputError
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.randomness import torch_generator
from profl.bench.training import TrainingWorkload, train_locally
from tests.oracles.decomfl import zeroth_order_step

RATE = RECIPE.learning_rate * 0.01


def examples(count):
    return torch.randn(count, 3, 32, 32), torch.arange(count) % 10


def trained(method, context, count=6, batch_size=2, epochs=1):
    """Train a device; return its module and its update."""
    (task,) = method.tasks()
    module = loaded(method, task, context())
    recipe = Recipe(batch_size=batch_size, local_epochs=epochs)
    train_locally(task, module, *examples(count), recipe, torch.Generator().manual_seed(0), augmented=False)
    return module, task.update(module, method.global_state, context())


@pytest.mark.parametrize("central", [False, True])
def test_a_step_against_its_definition(central, model, batch, make, context):
    estimate = "central" if central else "forward"
    method = make("decomfl", perturbations=2, distance=0.01, estimate=estimate, rate_share=1.0)
    (task,) = method.tasks()
    module = loaded(method, task, context()).double()
    inputs, targets = batch()
    names = [name for name, _ in module.named_parameters()]

    def loss(weights):
        values = {name: torch.from_numpy(value) for name, value in zip(names, weights, strict=True)}
        return float(nn.functional.cross_entropy(torch.func.functional_call(module, values, inputs.double()), targets))

    def along(direction):
        generator = torch_generator(task.seed, 0, direction)
        return [torch.randn(value.shape, generator=generator).double().numpy() for value in module.parameters()]

    with torch.no_grad():
        weights = [value.detach().numpy().copy() for value in module.parameters()]
        after, changes = zeroth_order_step(loss, weights, [along(0), along(1)], 0.01, 0.3, central)
        task.step(module, 0.3, inputs.double(), targets)
    np.testing.assert_allclose(changes_of(module).numbers[0], changes, rtol=1e-5)
    for expected, value in zip(after, module.parameters(), strict=True):
        np.testing.assert_allclose(value.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_server_restores_from_the_numbers_what_the_device_has(make, context):
    method = make("decomfl")
    module, update = trained(method, context)
    for name, value in module.named_parameters():
        assert not torch.equal(value, method.global_state[name])
        torch.testing.assert_close(update.state[name], value.detach(), rtol=1e-4, atol=1e-5, msg=name)


def test_a_device_sends_a_number_for_every_direction_and_step_and_nothing_else(make, context):
    _, update = trained(make("decomfl", perturbations=3), context, count=5, batch_size=2, epochs=2)
    assert [(name, tuple(value.shape)) for name, value in update.sent.items()] == [("changes", (6, 3))]
    assert update.uploaded_bytes == 4 * 6 * 3


def test_what_is_restored_depends_on_the_numbers_alone(make, context):
    method = make("decomfl")
    module, update = trained(method, context)
    (task,) = method.tasks()
    for value in module.parameters():
        nn.init.normal_(value)
    again = task.update(module, method.global_state, context())
    assert all(torch.equal(value, again.state[name]) for name, value in update.state.items())


def test_the_mean_of_models_is_the_model_of_the_mean_numbers(make, train):
    # As published: the server averages numbers and moves once.
    method = make("decomfl", perturbations=2)
    (task,) = method.tasks()
    updates = [train(method, task, seed) for seed in (1, 2, 3)]
    numbers = torch.stack([update.sent["changes"] for update in updates]).double().mean(dim=0)
    before = {name: value.clone() for name, value in method.global_state.items()}
    method.aggregate(updates)
    names = list(updates[0].state)
    expected = {name: before[name].double() for name in names}
    for direction in range(2):
        generator = torch_generator(task.seed, 0, direction)
        for name in names:
            along = torch.randn(before[name].shape, generator=generator)
            expected[name] -= RATE / 2 * numbers[0, direction] * along
    for name in names:
        torch.testing.assert_close(method.global_state[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_directions_are_shared_by_a_rounds_devices_and_new_in_every_round(make):
    method, seeds = make("decomfl"), []
    for finished in range(3):
        method.finished_rounds = finished
        assert method.tasks() == method.tasks()
        seeds.append(method.tasks()[0].seed)
    assert len({*seeds}) == 3


def test_there_is_room_for_so_many_steps(make, context, batch, monkeypatch):
    monkeypatch.setattr(decomfl, "MOST_STEPS", 2)
    with pytest.raises(InputError, match="room for 2 local steps"):
        trained(make("decomfl", perturbations=1), context, count=6, batch_size=2)


@pytest.mark.parametrize("options", [{"perturbations": 0}, {"distance": 0.0}, {"rate_share": -1.0}])
def test_impossible_options_are_refused(options, make):
    with pytest.raises(InputError, match=next(iter(options))):
        make("decomfl", **options)


def test_it_needs_neither_gradients_nor_momentum_nor_what_backward_reads(prober):
    model = ModelSpec("resnet18", 8, 10)

    def footprint(task):
        return prober.measure(TrainingWorkload("d", model, task, RECIPE), "virtual:jetson-orin", least_budget=False)

    ours, plain = footprint(PerturbationTask(model, 0, 2, 1e-3, False, 0.01)), footprint(FullModel(model))
    assert ours.categories_at_peak["gradients"] == ours.categories_at_peak["optimizer state"] == 0
    assert ours.parameter_bytes == plain.parameter_bytes
    assert not ours.caveats
    assert ours.peak_requested_bytes < plain.peak_requested_bytes / 2
