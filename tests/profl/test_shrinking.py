import io
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from profl.bench.method import initial_state
from profl.blocks import BlockModel
from profl.method import ProFL
from profl.options import ProFLOptions
from profl.shrinking import MapTask, ShrinkTask

FAST_MAP = ProFLOptions(map_learning_rate=0.05, pace="equal")


def copied(state):
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def part(state, *prefixes):
    """The parameters (no BatchNorm statistics) under some prefixes."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {name: v for name, v in state.items() if name.startswith(prefixes) and not name.endswith(statistics)}


def same(first, second):
    assert first.keys() == second.keys()
    assert first
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture
def history(tiny, play):
    """Global tensors when each step begins, of a whole run with shrinking: by the step's phase."""
    method = ProFL(tiny, rounds=14, seed=5, options=FAST_MAP)
    seen = {method.phase: copied(method.global_state)}
    for _ in play(method, range(1, 15)):
        seen.setdefault(method.phase, copied(method.global_state))
    seen["end"] = copied(method.global_state)
    return seen


@pytest.mark.parametrize("block", [2, 3])
def test_teacher_and_student_are_the_networks_of_their_names(tiny, block, batch, local):
    method = ProFL(tiny, rounds=30, seed=0, options=ProFLOptions())
    state = method.global_state | {
        name.replace("head", "teacher_head"): torch.randn_like(value)
        for name, value in method.global_state.items()
        if name.startswith("head")
    }
    task = MapTask(tiny, block)
    module, shrunk, student = (
        task.build(),
        ShrinkTask(tiny, block).build(),
        BlockModel(tiny, task.real_blocks, frozen=0),
    )
    task.load(module, state, local)
    teachers = {name: state[name] for name in shrunk.state_dict()}
    if block == 3:  # the last block's teacher keeps its own head
        teachers |= {name: state[f"teacher_{name}"] for name in teachers if name.startswith("head")}
    shrunk.load_state_dict(teachers)
    student.load_state_dict({name: state[name] for name in student.state_dict()})

    inputs, _ = batch()
    by_student, by_teacher = module(inputs)
    torch.testing.assert_close(by_teacher, shrunk(inputs))
    torch.testing.assert_close(by_student, student(inputs))
    assert by_student.requires_grad
    assert not by_teacher.requires_grad


def test_mapping_loss_is_the_mean_squared_error(tiny, batch):
    task = MapTask(tiny, 3)
    module = task.build()
    inputs, targets = batch()
    student, teacher = module(inputs)
    expected = ((student - teacher) ** 2).sum() / student.numel()
    torch.testing.assert_close(task.loss(module, inputs, targets), expected)
    torch.testing.assert_close(task.loss(module, inputs, 3 - targets), expected)


@pytest.mark.parametrize("block", [2, 3])
def test_a_trained_student_approaches_its_teacher(tiny, block, batch, train):
    method = ProFL(tiny, rounds=30, seed=0, options=ProFLOptions())
    heads = {name: value for name, value in method.global_state.items() if name.startswith("head")}
    state = method.global_state | {f"teacher_{name}": value for name, value in heads.items()}
    task = MapTask(tiny, block, learning_rate=0.05)
    inputs, targets = batch()
    losses = []
    for steps in (0, 100):
        _, module = train(task, state, inputs, targets, steps=steps)
        losses.append(functional.mse_loss(*module(inputs)).item())
    assert losses[1] < 0.1 * losses[0]


def test_learning_rates(tiny):
    published = ProFL(tiny, 30, 0, ProFLOptions()).all_tasks()
    rates = {task.key: task.learning_rate for task in published}
    assert rates.pop("map 3") == rates.pop("map 2") == 1e-5
    assert set(rates.values()) == {None}
    changed = ProFL(tiny, 30, 0, ProFLOptions(map_learning_rate=0.3)).all_tasks()
    assert {task.learning_rate for task in changed if isinstance(task, MapTask)} == {0.3}


def test_steps_train_what_they_should(history):
    """Which parameters the server's copy changes over each step, in the order of a run."""
    phases = list(history)
    groups = ["stem", "stages.0", "stages.1", "stages.2", "proxies.1", "proxies.2", "head"]
    trained = {
        phase: {g for g in groups if not same(part(history[phase], g), part(history[after], g))}
        for phase, after in pairwise(phases)
    }
    assert trained == {
        "shrink 3/3": {"stages.2", "head"},
        "map 3/3": {"proxies.2", "head"},
        "shrink 2/3": {"stages.1", "proxies.2", "head"},
        "map 2/3": {"proxies.1"},
        "grow 1/3": {"stem", "stages.0", "proxies.1", "proxies.2", "head"},
        "grow 2/3": {"stages.1", "proxies.2", "head"},
        "grow 3/3": {"stages.2", "head"},
    }


def test_hand_over_to_growing(tiny, history):
    initial = initial_state(tiny, 5)
    first = ("stem", "stages.0")
    assert same(part(history["grow 1/3"], *first), part(initial, *first))
    shrunk = ("proxies.2", "head")  # final after the last shrinking step; the last mapping trains proxies.1
    assert same(part(history["grow 1/3"], *shrunk), part(history["map 2/3"], *shrunk))
    for phase, mapped, active in [("grow 2/3", "map 2/3", "stages.1"), ("grow 3/3", "map 3/3", "stages.2")]:
        assert same(part(history[phase], active), part(history[mapped], active))
        assert not same(part(history[phase], active), part(initial, active))


def test_without_shrinking_growing_starts_from_initial_values(tiny):
    shrinking = ProFL(tiny, 30, 5, ProFLOptions())
    method = ProFL(tiny, 30, 5, ProFLOptions(shrinking=False))
    assert method.phase == "grow 1/3"
    assert same(method.global_state, shrinking.global_state)
    everything = dict(method.global_state)
    for name in [name for name in everything if name.startswith("proxies")]:
        del everything[name]
    assert same(everything, initial_state(tiny, 5))


def test_a_teacher_keeps_the_head_it_was_trained_with(tiny, play):
    method = ProFL(tiny, rounds=40, seed=5, options=ProFLOptions(map_learning_rate=0.05, map_share=0.6))
    heads = []
    for _ in play(method, range(1, 15)):
        state = copied(method.global_state)
        if method.phase == "map 3/3":
            heads.append((part(state, "head"), part(state, "teacher_head")))
        else:
            assert not [name for name in state if name.startswith("teacher")]
    assert len(heads) == 3  # at its beginning and after all its rounds but the last
    start = {f"teacher_{name}": value for name, value in heads[0][0].items()}
    for head, teachers in heads[1:]:
        assert same(teachers, start)
        assert not same(head, heads[0][0])


def test_statistics_of_frozen_blocks_move_or_not(tiny, play):
    for mode in ("train", "eval"):
        method = ProFL(tiny, rounds=14, seed=5, options=ProFLOptions(frozen_batchnorm=mode))
        before = method.global_state["stem.1.running_mean"].clone()
        list(play(method, [1]))
        assert torch.equal(before, method.global_state["stem.1.running_mean"]) == (mode == "eval")
