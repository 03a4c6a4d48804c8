import random
from itertools import pairwise

import pytest
import torch

from profl.baselines.fedepth import SegmentsTask, decompositions, skip
from profl.bench.cell import Recipe
from profl.bench.conformance import RECIPE, loaded
from profl.bench.memory.workload import Unobserved
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.operations import operations_per_step
from profl.bench.training import TrainingWorkload, train_locally
from tests.oracles.fedepth import cuts, greedy, skipped
from tests.oracles.naive_mean import naive_owner_mean


def test_every_way_to_cut_is_offered_fewest_segments_first_and_the_longest_in_front(make):
    assert sorted(decompositions(5)) == sorted(cuts(5))
    keys = ["4", "3+1", "2+2", "1+3", "2+1+1", "1+2+1", "1+1+2", "1+1+1+1"]
    assert [task.key for task in make("fedepth").tasks()] == [f"segments {key}" for key in keys]


def test_the_first_that_fits_is_what_adding_stage_after_stage_while_memory_lasts_gives():
    draw = random.Random(0)
    for _ in range(300):
        costs = [draw.randint(1, 9) for _ in range(draw.randint(1, 6))]
        budget = draw.randint(1, 20)

        def fits(lengths, costs=costs, budget=budget):
            edges = [sum(lengths[:place]) for place in range(len(lengths) + 1)]
            return all(sum(costs[a:b]) <= budget for a, b in pairwise(edges))

        first = next(filter(fits, decompositions(len(costs))), None)
        assert first == greedy(costs, budget)


@pytest.mark.parametrize(("size", "stride", "channels"), [(8, 2, 7), (8, 4, 3), (6, 1, 4), (5, 2, 10)])
def test_the_skip_against_its_definition(size, stride, channels):
    features = torch.randn(2, 3, size, size)
    assert torch.equal(skip(features, stride, channels), torch.from_numpy(skipped(features.numpy(), stride, channels)))


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_a_segment_trains_itself_the_head_and_nothing_else(name, batch):
    model = ModelSpec(name, 4, 10)
    stages = len(model.skeleton().stages)
    task = SegmentsTask(model, (1, stages - 1))
    module = task.build()
    inputs, targets = batch()
    for segment, trained in enumerate(
        [{"stem", "stages.0", "head"}, {*(f"stages.{i}" for i in range(1, stages)), "head"}]
    ):
        module.zero_grad()
        task.enter(module, segment)
        task.loss(module, inputs, targets).backward()
        gets = {name for name, value in module.named_parameters() if value.grad is not None}
        assert gets == {n for n, _ in module.named_parameters() if any(n.startswith(f"{part}.") for part in trained)}


def test_in_one_segment_a_device_trains_as_in_fedavg_to_the_bit(make, train, model):
    method, fedavg = make("fedepth"), make("fedavg")
    ours, plain = train(method, method.tasks()[0]), train(fedavg, FullModel(model))
    assert ours.state.keys() == plain.state.keys()
    assert all(torch.equal(value, plain.state[name]) for name, value in ours.state.items())


def test_the_last_segment_sees_what_the_full_model_sees(make, batch, context, model):
    method = make("fedepth")
    module = loaded(method, task := SegmentsTask(model, (1, 2, 1)), context())
    full = model.build()
    full.load_state_dict(method.global_state)
    task.enter(module, 2)
    assert torch.equal(module(batch()[0]), full(batch()[0]))


def test_segments_train_one_after_another_each_for_all_epochs_with_momentum_of_its_own(make, model, context):
    # By hand: whatever has trained in a segment is what the next one finds.
    method, recipe = make("fedepth"), Recipe(batch_size=4, local_epochs=2)
    task = SegmentsTask(model, (3, 1))
    inputs, targets = torch.randn(6, 3, 32, 32), torch.arange(6)
    module = loaded(method, task, context())
    train_locally(task, module, inputs, targets, recipe, torch.Generator().manual_seed(0), augmented=False)
    expected, generator = loaded(method, task, context()), torch.Generator().manual_seed(0)
    for segment in (0, 1):
        task.enter(expected, segment)
        optimizer = torch.optim.SGD(
            expected.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        for _ in range(2):
            for some in torch.randperm(6, generator=generator).split(4):
                optimizer.zero_grad()
                task.loss(expected, inputs[some], targets[some]).backward()
                optimizer.step()
    for name, value in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def test_a_resident_module_begins_with_the_first_segment_again(make, context, model):
    method = make("fedepth")
    module = loaded(method, task := SegmentsTask(model, (1, 3)), context())
    task.enter(module, 1)
    task.load(module, method.global_state, context())
    assert module.segment == 0


@pytest.mark.parametrize("weighted", [True, False])
def test_the_mean_is_weighted_by_examples(weighted, make, train):
    method = make("fedepth", weighted_by_examples=weighted)
    updates = [train(method, task, seed) for seed, task in enumerate(method.tasks()[:3])]
    for update, examples in zip(updates, (1, 5, 2), strict=True):
        object.__setattr__(update, "examples", examples)
    name = "stages.1.0.bn1.bias"
    before = method.global_state[name].numpy().copy()
    method.aggregate(updates)
    copies = [update for update in updates for _ in range(update.examples if weighted else 1)]
    expected = naive_owner_mean(before, [(update.state[name].numpy(), [range(len(before))]) for update in copies])
    torch.testing.assert_close(method.global_state[name], torch.from_numpy(expected))


def test_a_measured_step_goes_through_all_segments_and_drops_the_momentum_of_each(model):
    task = SegmentsTask(model, (2, 1, 1))
    prepared = TrainingWorkload("fedepth", model, task, RECIPE).prepare(torch.device("cpu"))
    entered, enter = [], SegmentsTask.enter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SegmentsTask, "enter", lambda self, module, segment: (entered.append(segment), enter(self, module, segment))
        )
        prepared.step(Unobserved())
    assert entered == [0, 1, 2]
    assert not any(optimizer.state for optimizer in prepared.optimizer)


def test_operations_are_those_of_a_step_of_each_segment(model):
    parts = operations_per_step(SegmentsTask(model, (1, 1, 1, 1)), model, RECIPE)
    whole = operations_per_step(SegmentsTask(model, (4,)), model, RECIPE)
    assert whole == operations_per_step(FullModel(model), model, RECIPE)
    # Every stage is trained once, and those in front run forward again for each that is trained behind them.
    assert whole < parts < 3 * whole


def test_shorter_segments_need_less_memory(model, prober):
    def peak(lengths):
        step = TrainingWorkload("fedepth", model, SegmentsTask(model, lengths), RECIPE)
        footprint = prober.measure(step, "virtual:jetson-orin", least_budget=False)
        assert sum(footprint.categories_at_peak.values()) == footprint.peak_requested_bytes
        return footprint.peak_requested_bytes

    peaks = [peak(lengths) for lengths in ((4,), (2, 2), (1, 1, 1, 1))]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < peaks[0]
