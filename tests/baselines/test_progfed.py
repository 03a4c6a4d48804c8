"""ProgFed: fixed rounds, whole networks, and warming up."""

import pytest
import torch

from profl.baselines.progfed import StageTask
from profl.bench.conformance import loaded
from profl.bench.errors import InputError
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method
from tests.conftest import shown
from tests.oracles import progressive

PAPER = ModelSpec("resnet18", 64, 10)


def on_meta(task):
    with torch.device("meta"):
        return task.build()


def wait(method, key):
    """Let rounds go by without participants until a task is offered."""
    while method.tasks()[0].key != key:
        method.finished_rounds += 1


def offered(method):
    """Stage, and whether it is warmed up, in every round."""
    found = []
    for finished in range(method.rounds):
        method.finished_rounds = finished
        (task,) = method.tasks()
        found.append((task.stage, task.warming_up))
    return found


def test_the_stages_have_the_published_parameters_and_all_of_them_train():
    method = create_method("progfed", PAPER, rounds=100, seed=0)
    counted = {}
    for task in method.all_tasks():
        parameters = list(on_meta(task).parameters())
        counted[task.key] = sum(parameter.numel() for parameter in parameters)
        assert task.warming_up or all(parameter.requires_grad for parameter in parameters)
    assert list(counted.values()) == [progressive.PROGFED[i] for i in (0, 1, 1, 2, 2, 3, 3)]


@pytest.mark.parametrize(
    ("epochs", "cycle", "warm_up", "model"),
    [
        (3000, 375, 25, "resnet18"),  # published: CIFAR-100
        (1500, 250, 5, "vgg11_bn"),  # published: EMNIST, on another network of three stages
        (2000, 250, 0, "resnet18"),
    ],
)
def test_it_grows_in_the_published_rounds(epochs, cycle, warm_up, model):
    spec = ModelSpec(model, 4, 10)
    stages = len(spec.skeleton().stages)
    rounds = epochs + (stages - 1) * warm_up
    method = create_method("progfed", spec, rounds, seed=0, options={"warm_up_rounds": warm_up})
    assert offered(method) == progressive.progfed_rounds(epochs, cycle, stages, warm_up)


@pytest.mark.parametrize(("rounds", "warm_up"), [(10, 1), (60, 1), (180, 2), (3000, 25)])
def test_the_share_of_warming_up_is_the_published_one_of_any_budget(rounds, warm_up, make):
    found = offered(make("progfed", rounds=rounds))
    assert [found.count((stage, True)) for stage in (1, 2, 3, 4)] == [0, warm_up, warm_up, warm_up]
    assert found[-1] == (4, False)


def test_budgets_that_do_not_suffice_are_refused_with_the_least_that_does(make):
    assert {stage for stage, _ in offered(make("progfed", rounds=7))} == {1, 2, 3, 4}
    with pytest.raises(InputError, match=r"in 6 rounds: give it at least 7, or leave warming up out .*=0.$"):
        make("progfed", rounds=6)
    assert make("progfed", rounds=4, warm_up_rounds=0).phase == "grow 1/4"
    with pytest.raises(InputError, match=r"in 3 rounds: give it at least 4$"):
        make("progfed", rounds=3, warm_up_rounds=0)
    with pytest.raises(InputError, match="warm_up_rounds must be at least 0, not -1"):
        make("progfed", warm_up_rounds=-1)


@pytest.mark.parametrize("stage", [1, 2, 4])
def test_a_step_is_the_first_stages_and_an_exit_of_its_own(stage, make, model, context, batch):
    method = make("progfed")
    inputs, targets = batch()
    stages = {name: value for name, value in method.global_state.items() if "exits" not in name}
    reference = model.build()
    reference.load_state_dict(stages, strict=False)
    wanted = progressive.progfed_logits(reference, method.global_state, stage, inputs)
    task = StageTask(model, stage)
    loss = task.loss(loaded(method, task, context()), inputs, targets)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(wanted, targets))
    wait(method, task.key)
    reference.eval().load_state_dict(stages, strict=False)  # the statistics have moved
    torch.testing.assert_close(
        shown(method).eval()(inputs), progressive.progfed_logits(reference, method.global_state, stage, inputs)
    )


def test_the_last_step_is_plain_training_of_the_full_model(make, model, train):
    method, fedavg = make("progfed"), make("fedavg")
    grown, full = train(method, StageTask(model, 4)), train(fedavg, FullModel(model))
    assert all(torch.equal(grown.state[name.replace("head", "exits.4")], value) for name, value in full.state.items())


def test_warming_up_moves_the_new_stage_and_its_exit_alone(make, train):
    method = make("progfed", rounds=10)
    wait(method, "warm up 3")
    before = {name: value.clone() for name, value in method.global_state.items()}
    method.aggregate([train(method, method.tasks()[0], seed) for seed in (1, 2)])
    moved = {name for name, value in before.items() if not torch.equal(value, method.global_state[name])}
    weights = {name for name in moved if "running" not in name and "batches" not in name}
    parts = {".".join(name.split(".")[:2]) for name in weights}
    assert parts == {"stages.2", "exits.3"}
    assert "stages.0.0.bn1.running_mean" in moved  # all devices see the same features, those of the batch


def test_the_stages_before_a_new_one_keep_nothing_for_backward(make, model, batch):
    kept = {}
    for task in (StageTask(model, 2, warming_up=True), StageTask(model, 2)):
        shapes = kept[task.warming_up] = []
        module = task.build()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value, seen=shapes: seen.append(value), lambda value: value
        ):
            task.loss(module, *batch())
    wide = [sum(value.shape[2:] == (32, 32) for value in shapes) for shapes in (kept[True], kept[False])]
    assert wide[0] == 2  # what goes into the new stage, kept by the convolutions of its two ways
    assert wide[1] > 10
