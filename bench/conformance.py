"""What holds for every method: ``pytest --profl-method NAME`` runs it on yours, on two networks.

Each check fails with what is wrong and what to do about it. A method is handled here as the harness handles it
(`profl.bench.federation`), on made-up pictures, in seconds.
"""

from __future__ import annotations

import io
import math
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from profl.bench.aggregation import State, Update, leading
from profl.bench.cell import Recipe
from profl.bench.method import LocalContext, Method, RoundSummary, Task, filled, initial_state
from profl.bench.models import ModelSpec, StagedModel
from profl.bench.randomness import initialised, torch_generator
from profl.bench.registry import create_method
from profl.bench.training import LocalStep

MODELS = ("resnet18", "vgg11_bn")
CLASSES, EXAMPLES, ROUNDS, SEED = 10, 6, 20, 3
RECIPE = Recipe(rounds=ROUNDS, batch_size=EXAMPLES)
EVERY_CLASS = range(CLASSES)


@dataclass(frozen=True)
class Subject:
    """A method on one network, made anew as often as a check needs it.

    Parameters
    ----------
    create
        Makes the method from a seed.
    """

    create: Callable[[int], Method]

    def method(self, seed: int = SEED) -> Method:
        """Return the method as it stands before round 1, in a fleet that can train everything."""
        method = self.create(seed)
        method.settle({task.key: 7 for task in method.all_tasks()})
        return method

    def moments(self) -> Iterator[tuple[Method, Task]]:
        """Yield each offered task once, by key, with its method as it stands when it offers it.

        The schedule goes by without participants, in a fleet that can train everything and in one that can train only
        the task that is announced last.
        """
        seen = set()
        for least in (False, True):
            method = self.create(SEED)
            keys = [task.key for task in method.all_tasks()]
            method.settle({key: 7 * (not least or key == keys[-1]) for key in keys})
            for number in range(1, ROUNDS + 1):
                for task in offered(method, number):
                    if task.key not in seen:
                        seen.add(task.key)
                        yield method, task
                method.finish_round(RoundSummary(number, 0, math.nan))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every check on the methods that the module lists as ``METHODS``, or that the command line names."""
    if "subject" in metafunc.fixturenames:
        names = getattr(metafunc.module, "METHODS", metafunc.config.getoption("profl_method"))
        subjects = [
            pytest.param(Subject(partial(_create, name, ModelSpec(model, 4, CLASSES))), id=f"{name}-{model}")
            for name, model in product(names, MODELS)
        ]
        metafunc.parametrize("subject", subjects)


def _create(name: str, model: ModelSpec, seed: int) -> Method:
    return create_method(name, model, ROUNDS, seed)


# What a device does


def device(classes: Iterable[int] = EVERY_CLASS) -> LocalContext:
    """Return a device that holds examples of these classes."""
    held = torch.zeros(CLASSES, dtype=torch.bool)
    held[list(classes)] = True
    return LocalContext(torch_generator(SEED, "local"), held, EXAMPLES)


def batch(model: ModelSpec, seed: int = 0, classes: Sequence[int] = EVERY_CLASS) -> tuple[Tensor, Tensor]:
    """Draw examples of the model's shape, and labels among these classes."""
    generator, takes = torch_generator(seed, "batch"), _skeleton(model)
    labels = torch.tensor(list(classes))[torch.randint(len(classes), (EXAMPLES,), generator=generator)]
    inputs = torch.randn(EXAMPLES, *takes.input_shape, generator=generator)
    return inputs.to(takes.input_dtype), labels


@cache
def _skeleton(model: ModelSpec) -> StagedModel:
    return model.skeleton()


def offered(method: Method, number: int) -> Sequence[Task]:
    """Begin a round as the harness does; return what the method offers in it."""
    method.finished_rounds = number - 1
    return method.tasks()


def loaded(method: Method, task: Task, local: LocalContext) -> nn.Module:
    """Return a fresh module of a task with the global values in it."""
    with initialised(SEED, "resident"):
        module = task.build()
    task.load(module, method.global_state, local)
    return module


def train(method: Method, task: Task, seed: int = 0, classes: Sequence[int] = EVERY_CLASS) -> Update:
    """Take one local step of each segment of a task from the method's global state; return the update."""
    local = device(classes)
    module = loaded(method, task, local)
    for segment in range(task.segments):
        task.enter(module, segment)
        LocalStep(task, module, RECIPE)(*batch(method.model, seed, classes))
    return task.update(module, method.global_state, local)


def play(method: Method, number: int) -> None:
    """Run a round in which one device trains each offered task."""
    updates = [train(method, task, seed=100 * number + i) for i, task in enumerate(offered(method, number))]
    method.aggregate(updates)
    method.finish_round(RoundSummary(number, len(updates), 1.0))


def copied(state: Mapping[str, Tensor]) -> State:
    """Return a copy of tensors by name."""
    return {name: value.clone() for name, value in state.items()}


def held(update: Update, name: str, shape: Sequence[int]) -> Tensor:
    """Return which elements of a global tensor an update holds; bool, of the tensor's shape."""
    elements = torch.zeros(tuple(shape), dtype=torch.bool)
    if name not in update.state:
        return elements
    sent = update.masks.get(name, torch.ones_like(update.state[name], dtype=torch.bool))
    if region := update.regions.get(name):
        elements[torch.meshgrid(*region, indexing="ij")] = sent
    else:
        leading(elements, sent.shape).copy_(sent)
    return elements


# The checks


def test_it_says_what_it_is(subject: Subject) -> None:
    method = subject.method()
    assert is_dataclass(method.Options), "Options is no dataclass: sweeps and --option fill its fields"
    assert isinstance(method.deviations, tuple), (
        f"deviations are {method.deviations!r}: give a tuple of sentences, ('One.',) with a comma if there is one"
    )
    for name in ("kind", "shrinks", "source"):
        said = getattr(method, name)
        assert isinstance(said, str), f"{name} is {said!r}: give a text, empty if there is nothing to say"
    assert isinstance(method.phase, str), f"phase is {method.phase!r}: give a text, for the records"
    for name, figure in method.diagnostics().items():
        assert type(figure) in (int, float), (
            f"diagnostics have {name!r}: {figure!r}: give numbers by name, NaN where one is unknown"
        )


def test_tasks_are_values(subject: Subject) -> None:
    tasks, again = subject.method().all_tasks(), subject.method(seed=SEED + 1).all_tasks()
    keys = [task.key for task in tasks]
    assert keys, "all_tasks lists none: a method must offer something to train"
    assert len({*keys}) == len(keys), f"all_tasks lists a key twice, {keys}: footprints are kept by key"
    assert keys == [task.key for task in again], "all_tasks depends on the seed: what is measured must not"
    for task in tasks:
        received = _travelled(task)
        assert received == task, f"task '{task.key}' is another one after pickling: make it a frozen dataclass"
        assert received.key == task.key, f"the key of task '{task.key}' changes when the task is pickled"


def _travelled(task: Task) -> Task:
    try:
        return pickle.loads(pickle.dumps(task))
    except Exception as error:  # whatever a class may raise
        return pytest.fail(f"task '{task.key}' cannot travel to a worker process: {error!r}", pytrace=False)


def test_tasks_build_without_memory(subject: Subject) -> None:
    for task in subject.method().all_tasks():
        with torch.device("meta"):
            module = task.build()
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        real = [name for name, value in tensors.items() if value.device.type != "meta"]
        assert not real, f"build of task '{task.key}' puts {real[:3]} on a device of its own choice: leave that open"
        assert module.training, f"build of task '{task.key}' gives a module in eval mode: give it in train mode"
        trained = [name for name, value in module.named_parameters() if value.requires_grad]
        assert trained, f"no parameter of task '{task.key}' has requires_grad: nothing would train"


def test_every_offered_task_is_announced_and_keeps_its_size(subject: Subject) -> None:
    method = subject.method()
    announced = {task.key: task for task in method.all_tasks()}
    for number in range(1, ROUNDS + 1):
        tasks = offered(method, number)
        assert tasks, f"no task is offered in round {number}: offer one, if only the last again"
        for task in tasks:
            assert task.key in announced, (
                f"task '{task.key}' is offered in round {number}, but all_tasks does not list it: its memory is unknown"
            )
            # Equal tasks are equal modules; of tasks that differ in every round two are enough.
            if number in (2, ROUNDS) and task != announced[task.key]:
                assert _sizes(task) == _sizes(announced[task.key]), (
                    f"task '{task.key}' has other tensors in round {number} than when it was measured: "
                    "give what differs in size another key"
                )
        method.finish_round(RoundSummary(number, 0, math.nan))


def _sizes(task: Task) -> dict[str, tuple[torch.Size, bool]]:
    with torch.device("meta"):
        module = task.build()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: (value.shape, value.requires_grad) for name, value in tensors}


def test_a_local_step_trains_what_it_is_to(subject: Subject) -> None:
    for method, task in subject.moments():
        module = loaded(method, task, device())
        inputs, targets = batch(method.model)
        for segment in range(task.segments):
            task.enter(module, segment)
            loss = task.loss(module, inputs, targets)
            assert loss.shape == (), f"the loss of task '{task.key}' has shape {tuple(loss.shape)}: give a scalar"
            assert loss.isfinite(), f"the loss of task '{task.key}' is {loss.item()} in its first step"
            loss.backward()
        idle = [name for name, value in module.named_parameters() if value.requires_grad and value.grad is None]
        assert not idle, (
            f"task '{task.key}' has requires_grad where no gradient comes, {idle[:3]}: it counts as trained"
        )
        module.zero_grad()
        before = copied(dict(module.named_parameters()))
        LocalStep(task, module, RECIPE)(inputs, targets)
        moved = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
        frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
        assert moved - frozen, f"a step of task '{task.key}' changes no parameter"
        assert not moved & frozen, f"a step of task '{task.key}' changes what is frozen: {sorted(moved & frozen)[:3]}"
        _assert_belongs(task.update(module, method.global_state, device()), method, task, module)


def _assert_belongs(update: Update, method: Method, task: Task, module: nn.Module) -> None:
    where = f"update of task '{task.key}'"
    assert update.examples == EXAMPLES, f"the {where} tells {update.examples} examples: pass local.examples on"
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    assert trained & update.state.keys(), (
        f"the {where} has nothing of what it trains under the module's own names, so that it counts as untrained: name "
        "a task's tensors as global_state does"
    )
    own = {value.data_ptr() for value in module.state_dict().values()}
    for name, value in update.state.items():
        assert name in method.global_state, f"the {where} has '{name}', which global_state has not"
        assert value.data_ptr() not in own, (
            f"the {where} shares '{name}' with the module, which the next device overwrites: clone it"
        )
        whole = method.global_state[name].shape
        assert _fits(value.shape, whole), (
            f"'{name}' of the {where} has shape {tuple(value.shape)}, no part of the global {tuple(whole)}"
        )
        mask = update.masks.get(name)
        assert mask is None or (mask.dtype == torch.bool and mask.shape == value.shape), (
            f"the mask of '{name}' in the {where} is not bool and of the shape of its value"
        )
        region = update.regions.get(name, [torch.arange(size) for size in value.shape])
        assert tuple(map(len, region)) == value.shape, (
            f"the region of '{name}' in the {where} is not one index tensor for each dimension, as long as that is"
        )
        for indices, size in zip(region, whole, strict=True):
            assert set(indices.tolist()) <= {*range(size)}, (
                f"the region of '{name}' in the {where} has an index that is not from 0 to {size - 1}"
            )
            assert len(indices.unique()) == len(indices), f"the region of '{name}' in the {where} has an index twice"


def _fits(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Return whether a tensor of this shape can be a part of a larger one."""
    return len(shape) == len(whole) and all(size <= most for size, most in zip(shape, whole, strict=True))


def test_loading_leaves_nothing_of_the_device_before(subject: Subject) -> None:
    for method, task in subject.moments():
        module, few = loaded(method, task, device([2, 5])), device([1, 4])
        places = {name: value.data_ptr() for name, value in module.state_dict().items()}
        for value in module.state_dict().values():
            value.fill_(7)
        task.load(module, method.global_state, few)
        for name, value in module.state_dict().items():
            assert value.data_ptr() == places[name], f"load of task '{task.key}' replaces '{name}': copy into it"
        fresh = loaded(method, task, few)
        expected = dict([*fresh.named_parameters(), *fresh.named_buffers()])
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            assert torch.equal(value, expected[name]), (
                f"load of task '{task.key}' leaves in '{name}' what the device before has left there"
            )


def test_initial_values_follow_from_the_seed(subject: Subject) -> None:
    first, again, other = subject.method(), subject.method(), subject.method(seed=SEED + 1)
    names = list(first.global_state)
    assert names == list(again.global_state) == list(other.global_state), "the names in global_state depend on a draw"
    for name in names:
        assert torch.equal(first.global_state[name], again.global_state[name]), (
            f"'{name}' starts from other values although the seed is the same: draw within initialised(seed, ...)"
        )
    drawn = [name for name in names if not torch.equal(first.global_state[name], other.global_state[name])]
    assert drawn, "all starts from the same values whatever the seed: seeds would tell nothing apart"


def test_it_starts_from_the_values_that_all_start_from(subject: Subject) -> None:
    method = subject.method()
    full = initial_state(method.model, SEED)
    for name in full.keys() & method.global_state.keys():
        value = method.global_state[name]
        assert torch.equal(value, leading(full[name], value.shape)), (
            f"'{name}' does not start from the leading part of the full model's value, as all methods do: take it from "
            "initial_state(model, seed)"
        )


def test_global_generators_are_left_alone(subject: Subject) -> None:
    with _undrawn("__init__"):
        method = subject.create(SEED)
    with _undrawn("all_tasks, settle or tasks"):
        method.settle({task.key: 7 for task in method.all_tasks()})
        tasks = method.tasks()
    with initialised(SEED, "resident"):
        module = tasks[0].build()
    with _undrawn("load"):
        tasks[0].load(module, method.global_state, device())
    with _undrawn("update"):
        update = tasks[0].update(module, method.global_state, device())
    with _undrawn("aggregate"):
        method.aggregate([update])
    with _undrawn("finish_round, diagnostics or state_dict"):
        method.diagnostics()
        method.finish_round(RoundSummary(1, 1, 1.0))
        method.state_dict()


@contextmanager
def _undrawn(where: str) -> Iterator[None]:
    before = _global_generators()
    yield
    assert same(before, _global_generators()), (
        f"{where} draws from a global random generator, so that a run depends on what ran before it: use "
        "torch_generator(self.seed, purpose, round) of profl.bench.randomness, on a device local.generator"
    )


def _global_generators() -> list[Any]:
    numpys = np.random.get_state()  # noqa: NPY002 - the one that is not to be used
    return [torch.get_rng_state(), random.getstate(), repr(numpys)]


def test_it_resumes_to_the_bit(subject: Subject) -> None:
    straight, resumed = subject.method(), subject.method()
    play(straight, 1)
    try:
        resumed.load_state_dict(_stored(straight.state_dict()))
    except KeyError as error:
        pytest.fail(f"load_state_dict asks for {error}, which state_dict does not return: return it", pytrace=False)
    _assert_same_method(straight, resumed, 2, "after resuming")
    for method in (straight, resumed):
        play(method, 2)
    _assert_same_method(straight, resumed, 3, "in the round after resuming")


def _stored(state: Mapping[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except pickle.UnpicklingError:
        return pytest.fail(
            "state_dict returns more than tensors, numbers, strings and containers, and nothing else is read back",
            pytrace=False,
        )


def _assert_same_method(straight: Method, resumed: Method, number: int, when: str) -> None:
    """Check that two methods are the same as round ``number`` begins."""
    remedy = "state_dict must return, and load_state_dict take back, all that a schedule needs"
    tasks = [list(offered(method, number)) for method in (straight, resumed)]
    assert tasks[0] == tasks[1], f"other tasks are offered {when}: {remedy}"
    assert resumed.phase == straight.phase, f"the phase is another one {when}: {remedy}"
    names = [[network.name for network in method.tested_networks()] for method in (straight, resumed)]
    assert names[0] == names[1], f"other networks are tested {when}: {remedy}"
    assert same(resumed.global_state, straight.global_state), f"global_state is another one {when}: {remedy}"
    assert same(resumed.state_dict(), straight.state_dict()), f"state_dict is another one {when}: {remedy}"


def same(left: Any, right: Any) -> bool:
    """Return whether two nested containers hold the same tensors, numbers and strings, to the bit."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and torch.equal(left, right)
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right or (left != left and right != right)


def test_what_nobody_trains_keeps_its_value(subject: Subject) -> None:
    method = subject.method()
    before = copied(method.global_state)
    update = train(method, method.tasks()[-1], classes=[1, 4, 7])
    method.aggregate([update])
    for name, value in before.items():
        kept = ~held(update, name, value.shape)
        assert torch.equal(method.global_state[name][kept], value[kept]), (
            f"aggregate changes elements of '{name}' that no device has sent: they must keep their value"
        )


def test_what_nobody_changes_keeps_its_value(subject: Subject) -> None:
    method = subject.method()
    before = copied(method.global_state)
    updates = [task.update(loaded(method, task, device()), method.global_state, device()) for task in method.tasks()]
    method.aggregate(updates)
    for name, value in before.items():
        assert torch.allclose(method.global_state[name], value, rtol=1e-6), (
            f"every device sends back what it was sent, yet aggregate changes '{name}': load, update and aggregate "
            "disagree about which elements a device holds"
        )


def test_if_all_train_the_whole_model_it_is_fedavg(subject: Subject) -> None:
    method = subject.method()
    task = method.tasks()[0]
    updates = [train(method, task, seed) for seed in range(3)]
    if not all(held(updates[0], name, method.global_state[name].shape).all() for name in updates[0].state):
        pytest.skip("the most preferred task does not train whole tensors")
    method.aggregate(updates)
    for name in updates[0].state:
        mean = torch.stack([update.state[name].double() for update in updates]).mean(dim=0)
        assert torch.allclose(method.global_state[name], mean.to(method.global_state[name].dtype), rtol=1e-6), (
            f"three devices train the most preferred task, and '{name}' is not the mean of what they send; if the "
            "server is meant to do more than to average, leave this check out: -k 'not fedavg'"
        )


def test_tested_networks_take_the_global_values(subject: Subject) -> None:
    seen = set()
    for method, task in subject.moments():
        networks = method.tested_networks()
        assert networks, f"tested_networks gives none while task '{task.key}' is offered: give one at least"
        for network in networks:
            if network.name in seen:
                continue
            seen.add(network.name)
            where = f"tested network '{network.name}'"
            with torch.device("meta"):
                state = network.build().state_dict()
            for name, value in state.items():
                assert name in method.global_state, f"{where} has '{name}', which global_state has not"
                whole = method.global_state[name].shape
                assert _fits(value.shape, whole), (
                    f"'{name}' of {where} has shape {tuple(value.shape)}, no leading part of the global {tuple(whole)}"
                )
            module = filled(network.build, method.global_state).eval()
            passing = [name for name, _ in module.named_buffers() if name not in state]
            assert not passing, f"{where} has buffers that are not persistent, {passing[:3]}: nothing fills them"
            with torch.inference_mode():
                shape = tuple(module(batch(method.model)[0]).shape)
            assert shape == (EXAMPLES, CLASSES), (
                f"{where} gives an output of shape {shape} for a batch, not logits of shape {(EXAMPLES, CLASSES)}"
            )
