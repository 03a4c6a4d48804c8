"""What holds for every rival."""

import io
import pickle

import pytest
import torch

from profl.bench.method import RoundSummary
from profl.bench.models import ModelSpec
from tests.conftest import settle, shown

RIVALS = ["fedavg", "exclusive", "allsmall", "heterofl", "depthfl", "inclusivefl"]

pytestmark = pytest.mark.parametrize("name", RIVALS)


@pytest.fixture(params=["resnet18", "vgg11_bn"])
def model(request) -> ModelSpec:
    return ModelSpec(request.param, width=4, classes=10)


def copied(state):
    return {name: value.clone() for name, value in state.items()}


def assert_same_state(left, right):
    assert list(left) == list(right)
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def play(method, train, rounds):
    """Let one device train each offered task in every given round."""
    for number in rounds:
        updates = [train(method, task, seed=100 * number + i) for i, task in enumerate(method.tasks())]
        method.aggregate(updates)
        method.finish_round(RoundSummary(number, len(updates), 1.0))


def test_tasks_build_without_memory_and_train_everything(name, make):
    for task in make(name).all_tasks():
        with torch.device("meta"):
            module = task.build()
        assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {"meta"}
        assert all(parameter.requires_grad for parameter in module.parameters())
        assert all(part.training for part in module.modules())


def test_one_local_step_of_every_task(name, make, context, batch):
    method = make(name)
    # settle makes AllSmall offer what it trains; the others do not listen.
    for task in method.all_tasks():
        settle(method, [task])
        module, local = task.build(), context()
        task.load(module, method.global_state, local)
        before = copied(dict(module.named_parameters()))
        loss = task.loss(module, *batch())
        assert loss.shape == ()
        assert loss.isfinite()
        loss.backward()
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        assert all(parameter.grad is not None for parameter in module.parameters())
        # Not all: what a BatchNorm scales away has no gradient.
        moved = [name for name, value in module.named_parameters() if not torch.equal(value, before[name])]
        assert len(moved) > len(before) / 2
        assert {"stem.0.weight", list(before)[-1]} <= set(moved)
        update = task.update(module, method.global_state, local)
        assert update.examples == local.examples
        for tensor, value in update.state.items():
            assert value.dim() == method.global_state[tensor].dim()
            assert value.data_ptr() not in {held.data_ptr() for held in module.state_dict().values()}


def test_loading_fills_the_resident_module_in_place(name, make, context):
    method = make(name)
    task = method.tasks()[0]
    settle(method, [task])
    module = task.build()
    for tensor in module.state_dict().values():
        tensor.fill_(7)
    places = {key: tensor.data_ptr() for key, tensor in module.state_dict().items()}
    task.load(module, method.global_state, context())
    assert {key: tensor.data_ptr() for key, tensor in module.state_dict().items()} == places
    # The first task is the whole model: nothing of what was there is left.
    assert_same_state(module.state_dict(), {key: method.global_state[key] for key in places})


def test_tasks_are_values(name, make):
    tasks, again = make(name).all_tasks(), make(name, seed=4).all_tasks()
    assert [task.key for task in tasks] == [task.key for task in again]
    assert len({task.key for task in tasks}) == len(tasks)
    for task in tasks:
        received = pickle.loads(pickle.dumps(task))
        assert received == task
        assert received.key == task.key


def test_every_offered_task_was_announced(name, make, train):
    method = make(name)
    announced = {task.key for task in method.all_tasks()}
    assert {task.key for task in method.tasks()} <= announced
    play(method, train, [1])
    assert {task.key for task in method.tasks()} <= announced


def test_the_most_preferred_task_has_the_most_parameters(name, make):
    counts = []
    for task in make(name).all_tasks():
        with torch.device("meta"):
            counts.append(sum(parameter.numel() for parameter in task.build().parameters()))
    assert counts == sorted(set(counts), reverse=True)


def test_initial_values_follow_from_the_seed_alone(name, make):
    first = make(name)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, other = make(name), make(name, seed=4)
    shown(again)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_state(first.global_state, again.global_state)
    drawn = [key for key, value in first.global_state.items() if value.dim() > 1]
    assert drawn
    assert not any(torch.equal(first.global_state[key], other.global_state[key]) for key in drawn)


def test_all_start_from_the_same_full_model(name, make):
    fedavg, method = make("fedavg").global_state, make(name)
    settle(method, method.all_tasks())
    # Depth methods call the head their last exit.
    stages = [key for key in fedavg if not key.startswith("head.")]
    assert_same_state({key: method.global_state[key] for key in stages}, {key: fedavg[key] for key in stages})
    head = [value for key, value in fedavg.items() if key.startswith("head.")]
    assert all(any(torch.equal(value, mine) for mine in method.global_state.values()) for value in head)


def test_if_every_device_trains_the_full_model_it_aggregates_like_fedavg(name, make, train):
    method = make(name)
    settle(method, method.all_tasks())
    full = method.tasks()[0]
    updates = [train(method, full, seed) for seed in range(3)]
    method.aggregate(updates)
    trained = [key for key in method.global_state if key in updates[0].state]
    for key in trained:
        held = torch.stack([update.state[key].double() for update in updates])
        plain = (held.sum(dim=0) / 3).to(method.global_state[key].dtype)
        assert torch.equal(method.global_state[key], plain), key
    # Everything trains, save the exits that the full task of InclusiveFL has not.
    missing = {key for key in method.global_state if key not in trained}
    assert not [key for key in missing if "running" not in key and "batches" not in key and "exits" not in key]


def test_the_global_model_gives_logits_and_is_a_copy(name, make, train, batch):
    method = make(name)
    play(method, train, [1])
    before = copied(method.global_state)
    module = shown(method)
    assert module.eval()(batch()[0]).shape == (6, 10)
    for tensor in module.state_dict().values():
        tensor.zero_()
    assert_same_state(method.global_state, before)


def test_it_resumes_to_the_bit(name, make, train, batch):
    straight = make(name)
    settle(straight, straight.all_tasks()[1:])
    play(straight, train, [1])
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed, inputs = make(name), batch()[0]
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(shown(resumed).eval()(inputs), shown(straight).eval()(inputs))

    for method in (straight, resumed):
        play(method, train, [2])

    assert_same_state(resumed.global_state, straight.global_state)
    assert list(resumed.tasks()) == list(straight.tasks())
    assert resumed.phase == straight.phase
    assert torch.equal(shown(resumed).eval()(inputs), shown(straight).eval()(inputs))
    left, right = resumed.state_dict(), straight.state_dict()
    del left["global_state"], right["global_state"]
    assert left == right


def test_what_nobody_trains_keeps_its_value(name, make, train):
    method = make(name)
    smallest = method.tasks()[-1]
    before = copied(method.global_state)
    update = train(method, smallest, classes=[1, 4, 7])
    method.aggregate([update])
    for key, after in method.global_state.items():
        held = torch.zeros(after.shape, dtype=torch.bool)
        if key in update.regions:
            held[torch.meshgrid(*update.regions[key], indexing="ij")] = True
        elif key in update.state:
            held[tuple(slice(size) for size in update.state[key].shape)] = True
        assert torch.equal(after[~held], before[key][~held]), key
    if len(method.tasks()) > 1:
        assert sum(value.numel() for value in update.state.values()) < sum(v.numel() for v in before.values()) / 2
