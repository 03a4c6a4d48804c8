from collections.abc import Callable
from functools import partial

import pytest
import torch

from profl.bench import conformance
from profl.bench.aggregation import Update
from profl.bench.method import LocalContext, Method
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method


@pytest.fixture(autouse=True)
def quiet_torch():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def model() -> ModelSpec:
    return ModelSpec("resnet18", width=4, classes=conformance.CLASSES)


@pytest.fixture
def make(model) -> Callable[..., Method]:
    """Make a method by its registered name."""

    def make(name: str, rounds: int = 10, seed: int = 3, **options) -> Method:
        return create_method(name, model, rounds, seed, options)

    return make


@pytest.fixture
def context() -> Callable[..., LocalContext]:
    """Make a device that holds examples of the given classes."""
    return conformance.device


@pytest.fixture
def batch(model) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Draw pictures and labels of the given classes."""
    return partial(conformance.batch, model)


@pytest.fixture
def train() -> Callable[..., Update]:
    """Take one local step of a task from the method's global state; return the update."""
    return conformance.train
