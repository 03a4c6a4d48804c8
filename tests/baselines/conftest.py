from collections.abc import Callable

import pytest
import torch

from profl.bench.aggregation import Update
from profl.bench.method import LocalContext, Method, Task
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method

CLASSES = 10


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
    return ModelSpec("resnet18", width=4, classes=CLASSES)


@pytest.fixture
def make(model) -> Callable[..., Method]:
    """Make a method by its registered name."""

    def make(name: str, rounds: int = 10, seed: int = 3, **options) -> Method:
        return create_method(name, model, rounds, seed, options)

    return make


@pytest.fixture
def context() -> Callable[..., LocalContext]:
    """Make a device that holds examples of the given classes."""

    def context(classes=range(CLASSES)) -> LocalContext:
        held = torch.zeros(CLASSES, dtype=torch.bool)
        held[list(classes)] = True
        return LocalContext(torch.Generator(), held, examples=6)

    return context


@pytest.fixture
def batch() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Draw pictures and labels of the given classes."""

    def batch(seed: int = 0, classes=range(CLASSES)) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.tensor(list(classes))[torch.randint(len(classes), (6,), generator=generator)]
        return torch.randn(6, 3, 32, 32, generator=generator), labels

    return batch


@pytest.fixture
def train(context, batch) -> Callable[..., Update]:
    """Take one local step of a task from the method's global state; return the update."""

    def train(method: Method, task: Task, seed: int = 0, classes=range(CLASSES)) -> Update:
        with torch.device("meta"):
            module = task.build()
        module.to_empty(device="cpu")
        local = context(classes)
        task.load(module, method.global_state, local)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        task.loss(module, *batch(seed, classes)).backward()
        optimizer.step()
        return task.update(module, method.global_state, local)

    return train
