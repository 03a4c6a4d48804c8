"""The suite that authors run on their methods, run on ours; and what holds for rivals alone."""

import pytest
import torch

from profl.bench.aggregation import leading, taken
from profl.bench.conformance import *  # noqa: F403 - the suite
from profl.bench.conformance import loaded
from profl.bench.registry import methods
from tests.conftest import settle, shown

METHODS = sorted(methods())

# These train another part of the network in every step: their own tests say which.
PROGRESSIVE = {"neulite", "profl", "progfed", "slt", "smartfreeze"}
SAME_PARAMETERS = {"cocofl", "fedepth", "fiarse"}
"""All tasks hold the whole network: what trains at a time is less, or is masked."""
FREEZING = {"cocofl"}

each_rival = pytest.mark.parametrize("name", [name for name in METHODS if name not in PROGRESSIVE])


def skeleton(task):
    with torch.device("meta"):
        return task.build()


@pytest.mark.parametrize("name", sorted({*METHODS} - PROGRESSIVE - FREEZING))
def test_a_rival_trains_all_that_a_device_holds(name, make):
    for task in make(name).all_tasks():
        assert all(parameter.requires_grad for parameter in skeleton(task).parameters())


@each_rival
def test_the_most_preferred_task_has_the_most_parameters(name, make):
    counts = [sum(value.numel() for value in skeleton(task).parameters()) for task in make(name).all_tasks()]
    assert counts == sorted(set(counts) if name not in SAME_PARAMETERS else counts, reverse=True)


@each_rival
def test_the_most_preferred_task_is_the_full_model(name, make):
    method, fedavg = make(name), make("fedavg").global_state
    settle(method, method.all_tasks())
    # Depth methods call the head their last exit.
    stages = [key for key in fedavg if not key.startswith("head.")]
    assert all(torch.equal(method.global_state[key], fedavg[key]) for key in stages)
    head = [value for key, value in fedavg.items() if key.startswith("head.")]
    assert all(any(torch.equal(value, mine) for mine in method.global_state.values()) for value in head)
    trained = {key for key, _ in skeleton(method.tasks()[0]).named_parameters()}
    assert {key for key in stages if "running" not in key and "batches" not in key} <= trained


@each_rival
def test_devices_and_tests_start_from_the_values_that_all_start_from(name, make, context):
    method, fedavg = make(name), make("fedavg").global_state
    settle(method, method.all_tasks()[-1:])
    task, device = method.tasks()[-1], context()
    module = loaded(method, task, device)
    regions = task.update(module, method.global_state, device).regions
    for state, parts in ((module.state_dict(), regions), (shown(method, -1).state_dict(), {})):
        compared = [key for key in state if key in fedavg]
        assert compared
        for key in compared:
            part = taken(fedavg[key], parts[key]) if key in parts else leading(fedavg[key], state[key].shape)
            assert torch.equal(state[key], part), key
