"""What the contract gives a method that says nothing else than which tasks it offers."""

import pytest
import torch

import profl.bench.method as contract
from profl.bench.method import FullModel, Method, NoOptions, filled, initial_state
from profl.bench.models import ModelSpec
from tests.conftest import shown

MODEL = ModelSpec("resnet18", 2, 5)


class Plain(Method):
    def all_tasks(self):
        return [FullModel(self.model)]

    def tasks(self):
        return self.all_tasks()


class Narrow(Plain):
    """Sets its own global state."""

    def __init__(self, *values):
        super().__init__(*values)
        self.global_state = {"mine": torch.ones(1)}


@pytest.fixture
def drawn(monkeypatch):
    """The seeds of all initial states that are built."""
    seeds = []

    def counting(model, seed):
        seeds.append(seed)
        return initial_state(model, seed)

    monkeypatch.setattr(contract, "initial_state", counting)
    return seeds


def same(left, right):
    return list(left) == list(right) and all(torch.equal(value, right[name]) for name, value in left.items())


def test_the_default_state_is_the_full_models_and_built_once_when_it_is_read(drawn):
    method = Plain(MODEL, 10, 3, NoOptions())
    assert not drawn
    assert same(method.global_state, initial_state(MODEL, 3))
    method.global_state["head.2.bias"].fill_(7)
    assert method.global_state["head.2.bias"].eq(7).all()
    assert drawn == [3]


def test_a_method_that_has_or_is_given_another_state_does_not_pay_for_the_default(drawn):
    assert list(Narrow(MODEL, 10, 3, NoOptions()).global_state) == ["mine"]
    resumed = Plain(MODEL, 10, 3, NoOptions())
    resumed.load_state_dict({"global_state": {"mine": torch.zeros(1)}})
    assert list(resumed.global_state) == ["mine"]
    assert not drawn


def test_the_default_model_is_a_copy_of_the_full_one_with_the_global_values():
    method = Plain(MODEL, 10, 3, NoOptions())
    method.global_state["head.2.bias"].fill_(7)
    module = shown(method)
    assert same(module.state_dict(), method.global_state)
    module.head[2].bias.data.zero_()
    assert method.global_state["head.2.bias"].eq(7).all()


def test_filled_draws_no_initial_values_and_leaves_out_what_the_module_has_not():
    before = torch.get_rng_state()
    state = {**initial_state(MODEL, 3), "more": torch.ones(1)}
    module = filled(MODEL.build, state)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(module.state_dict(), initial_state(MODEL, 3))
