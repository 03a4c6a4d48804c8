"""A three-stage network that trains in a millisecond, and one device's local training by hand."""

import pytest
import torch
from torch import nn

from profl.bench.method import LocalContext, RoundSummary
from profl.bench.models import ModelSpec, StagedModel, global_average_head
from tests.conftest import plug_in

CLASSES = 4


def stage(into, out, stride):
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def tiny_network(spec):
    channels = [spec.channels(multiple) for multiple in (1, 1, 2, 4)]
    stages = [stage(channels[i], channels[i + 1], (1, 2, 2)[i]) for i in range(3)]
    head = global_average_head(channels[-1], spec.classes)
    return StagedModel(stage(3, channels[0], 2), stages, head, channels, (1, 2, 2))


@pytest.fixture(scope="package", autouse=True)
def _registered():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        plug_in(patch, "profl.models", "tiny", f"{__name__}:{tiny_network.__name__}")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny():
    return ModelSpec("tiny", 3, CLASSES)


@pytest.fixture(scope="session")
def batch():
    """Returns ``batch(number)``: inputs (6, 3, 8, 8) and targets, the same for the same number."""

    def make(number=0, size=8):
        generator = torch.Generator().manual_seed(number)
        targets = torch.randint(0, CLASSES, (6,), generator=generator)
        return torch.randn(6, 3, size, size, generator=generator) + targets.view(-1, 1, 1, 1), targets

    return make


@pytest.fixture(scope="session")
def local():
    return LocalContext(torch.Generator(), torch.ones(CLASSES, dtype=torch.bool), examples=6)


@pytest.fixture(scope="session")
def train(local):
    """Returns ``train(task, global_state, inputs, targets)``: the update and the module after local SGD."""

    def one_device(task, global_state, inputs, targets, learning_rate=0.05, steps=2):
        module = task.build()
        task.load(module, global_state, local)
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trainable, task.learning_rate or learning_rate, 0.9, weight_decay=5e-4)
        for _ in range(steps):
            optimizer.zero_grad()
            task.loss(module, inputs, targets).backward()
            optimizer.step()
        return task.update(module, global_state, local), module

    return one_device


@pytest.fixture(scope="session")
def play(train, batch):
    """Returns ``play(method, rounds)``: run rounds with two devices each, yielding every round's phase."""

    def rounds_of(method, rounds):
        for number in rounds:
            (task,) = method.tasks()
            phase = method.phase
            batches = [batch(2 * number), batch(2 * number + 1)]
            method.aggregate([train(task, method.global_state, *data)[0] for data in batches])
            method.finish_round(RoundSummary(number, participants=2, train_loss=1.0))
            yield phase

    return rounds_of
