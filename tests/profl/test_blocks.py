import pickle

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from profl.bench.errors import InputError
from profl.bench.method import initial_state
from profl.bench.models import ModelSpec
from profl.blocks import BlockModel, basic_layer, block_parameters
from profl.growing import GrowTask
from profl.method import ProFL
from profl.options import ProFLOptions
from profl.shrinking import MapTask, ShrinkTask
from profl.warming import WarmUpTask
from tests.oracles import parameter_counts, progressive

MODES = ("train", "eval")
PAPER = ModelSpec("resnet18", 64, 10)


def scalars(parameters):
    return sum(parameter.numel() for parameter in parameters)


def trainable(module):
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def every_task(spec, mode="train", stand_in="bare"):
    options = ProFLOptions(frozen_batchnorm=mode, stand_in=stand_in, map_learning_rate=0.05, warm_up_rounds=1)
    return ProFL(spec, rounds=50, seed=0, options=options).all_tasks()


def server_state(spec, stand_in="bare"):
    """Initial values of every tensor that any task loads."""
    state = ProFL(spec, rounds=50, seed=0, options=ProFLOptions(stand_in=stand_in)).global_state
    heads = {name: value for name, value in state.items() if name.startswith("head")}
    return state | {name.replace("head", "teacher_head"): value for name, value in heads.items()}


def on_meta(task):
    with torch.device("meta"):
        return task.build()


@pytest.fixture
def saved():
    """Returns ``saved(function)``: shapes of all tensors that calling the function saves for backward."""

    def record(function):
        shapes = []
        with saved_tensors_hooks(lambda tensor: shapes.append(tuple(tensor.shape)), lambda _: None):
            function()
        return shapes

    return record


@pytest.mark.parametrize("name", progressive.STAGES)
def test_blocks_have_the_published_parameters(name):
    blocks = [sum(block.values()) for block in block_parameters(ModelSpec(name, 64, 10))]
    first, *others = progressive.STAGES[name]
    assert blocks == [first + progressive.STEM, *others]


def test_vgg_has_three_blocks():
    blocks = [sum(block.values()) for block in block_parameters(ModelSpec("vgg11_bn", 64, 10))]
    stem, *stages = parameter_counts.vgg_parts((1, 1, 2, 4), 64)
    assert blocks == [stem + stages[0], *stages[1:]]


def test_blocks_and_head_make_up_the_model(tiny):
    names = [name for block in block_parameters(tiny) for name in block]
    model = dict(tiny.build().named_parameters())
    assert len(names) == len(set(names))
    assert set(model) - set(names) == {"head.2.weight", "head.2.bias"}


@pytest.mark.parametrize(("stage", "parameters"), progressive.BASIC_LAYERS.items())
def test_a_basic_layer_is_one_bare_convolution(stage, parameters):
    model = PAPER.build()
    layer = model.stand_in(stage)
    assert type(layer) is nn.Conv2d
    assert (layer.kernel_size, layer.stride, layer.padding, layer.bias) == ((3, 3), (2, 2), (1, 1), None)
    assert scalars(layer.parameters()) == parameters


def test_vggs_basic_layer_pools_like_the_block_it_replaces():
    convolution, pooling = ModelSpec("vgg11_bn", 64, 10).build().stand_in(2)
    assert (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (1, 1), (1, 1))
    assert scalars(convolution.parameters()) == 9 * 256 * 512
    features = torch.randn(2, 3, 8, 8)
    twice = nn.MaxPool2d(2)  # as in the block
    assert torch.equal(pooling(features), twice(twice(features)))


@pytest.mark.parametrize("kind", ["bare", "normalised"])
@pytest.mark.parametrize("name", ["tiny", "resnet18", "vgg11_bn"])
def test_a_basic_layer_makes_the_shape_of_its_stage(name, kind):
    model = ModelSpec(name, 3, 4).build()
    # Of a single example, as the last batch of an epoch may be: a VGG's last pooling leaves one pixel of it.
    features = model.stem(torch.randn(1, 3, 32, 32))
    for stage, module in enumerate(model.stages):
        assert basic_layer(model, stage, kind)(features).shape == module(features).shape
        features = module(features)


def test_a_normalised_basic_layer_is_the_bare_one_and_more():
    torch.manual_seed(1)
    bare = PAPER.build().stand_in(1)
    torch.manual_seed(1)
    convolution, norm, activation = basic_layer(PAPER.build(), 1, "normalised")
    assert torch.equal(bare.weight, convolution.weight)
    assert (type(norm), norm.num_features, type(activation)) == (nn.BatchNorm2d, 128, nn.ReLU)


def test_a_vggs_normalised_basic_layer_pools_last():
    (convolution, norm, activation), pooling = basic_layer(ModelSpec("vgg11_bn", 64, 10).build(), 2, "normalised")
    kinds = [type(part) for part in (convolution, norm, activation, pooling)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]


def test_a_stand_in_without_a_convolution_cannot_be_normalised(tiny):
    model = tiny.build()
    model.stand_in = lambda stage: nn.Linear(3, 3)
    assert isinstance(basic_layer(model, 1, "bare"), nn.Linear)
    with pytest.raises(InputError, match=r"stage 1 of StagedModel, which has no convolution: choose .* = bare"):
        basic_layer(model, 1, "normalised")


def test_initial_values_of_basic_layers_keep_the_scale_of_features():
    model = ModelSpec("resnet18", 32, 10).build()
    features = torch.randn(4, 32, 16, 16)
    scaled = model.stand_in(1)(features)
    # Kaiming fan-out: variance 2 / (9 * out), over 9 * out / 2 inputs (fewer at the border).
    assert scaled[..., 1:, 1:].std().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_growing_trains_the_published_number_of_parameters(block):
    module = on_meta(GrowTask(PAPER, block))
    assert scalars(trainable(module).values()) == progressive.TRAINABLE[block - 1]
    if block == 4:
        assert scalars(module.parameters()) == progressive.FULL


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "vgg11_bn", "tiny"])
def test_shrinking_a_block_has_the_module_of_growing_it(name):
    spec = ModelSpec(name, 8, 4)
    for task in every_task(spec):
        if isinstance(task, ShrinkTask):
            shrunk, grown = on_meta(task), on_meta(GrowTask(spec, task.block))
            assert [(name, value.shape) for name, value in shrunk.state_dict().items()] == [
                (name, value.shape) for name, value in grown.state_dict().items()
            ]
            assert list(trainable(shrunk)) == list(trainable(grown))


@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_a_device_holds_no_later_block(block):
    module = on_meta(GrowTask(PAPER, block))
    held = {".".join(name.split(".")[:2]) for name in module.state_dict()}
    expected = {"stem.0", "stem.1", "head.2"} | {f"stages.{stage}" for stage in range(block)}
    assert held == expected | {f"proxies.{stage}" for stage in range(block, 4)}


@pytest.mark.parametrize(
    ("name", "mode"),
    [("resnet18", "train"), ("resnet34", "eval"), ("vgg11_bn", "train"), ("tiny", "eval")],
)
def test_tasks_are_values_with_keys_of_their_own(name, mode):
    spec = ModelSpec(name, 8, 4)
    tasks = every_task(spec, mode)
    assert len({task.key for task in tasks}) == len(tasks)
    assert pickle.loads(pickle.dumps(tasks)) == tasks
    modules = [on_meta(task) for task in tasks]
    assert all(value.is_meta for module in modules for value in module.state_dict().values())
    assert all(part.training for module in modules for part in module.modules()) == (mode == "train")


def test_kinds_that_differ_in_memory_differ_in_key(tiny):
    kinds = [("train", "bare"), ("eval", "bare"), ("train", "normalised"), ("eval", "normalised")]
    keys = [task.key for kind in kinds for task in every_task(tiny, *kind)]
    assert len(set(keys)) == len(keys)
    assert {"grow 2", "warm up 2", "map 2 normalised", "grow 2 normalised frozen eval"} < set(keys)


@pytest.mark.parametrize(
    ("task", "statistics"),
    [
        # BatchNorm channels with running statistics that move: 5 layers a stage (stem and layer1: 5 of 64).
        (GrowTask(PAPER, 1), 5 * 64),
        (GrowTask(PAPER, 2), 5 * (64 + 128)),
        (GrowTask(PAPER, 3), 5 * (64 + 128 + 256)),
        (GrowTask(PAPER, 4), 5 * (64 + 128 + 256 + 512)),
        (GrowTask(PAPER, 2, "eval"), 5 * 128),
        (GrowTask(PAPER, 4, "eval"), 5 * 512),
        (ShrinkTask(PAPER, 3), 5 * (64 + 128 + 256)),
        (MapTask(PAPER, 4), 5 * (64 + 128 + 256 + 512)),
        (MapTask(PAPER, 2), 5 * (64 + 128)),
        (MapTask(PAPER, 2, "eval"), 0),
    ],
)
def test_upload_counts(task, statistics, local):
    mapped = {4: 1_179_648 + 5_130, 3: 294_912, 2: 73_728}
    parameters = mapped[task.block] if isinstance(task, MapTask) else progressive.TRAINABLE[task.block - 1]
    update = task.update(on_meta(task), {}, local)
    floats = [value for value in update.state.values() if value.is_floating_point()]
    counters = [name for name in update.state if name.endswith("num_batches_tracked")]
    assert scalars(floats) == parameters + 2 * statistics
    assert update.uploaded_bytes == 4 * scalars(floats) + 8 * len(counters)
    assert len(floats) + len(counters) == len(update.state)


@pytest.mark.parametrize(
    ("name", "mode", "stand_in"),
    [
        *(pytest.param(name, mode, "bare") for name in ("resnet18", "vgg11_bn", "tiny") for mode in MODES),
        ("vgg11_bn", "train", "normalised"),
        ("tiny", "eval", "normalised"),
    ],
)
def test_local_training_changes_what_is_uploaded_and_nothing_else(name, mode, stand_in, batch, train):
    spec = ModelSpec(name, 2, 4)
    start = server_state(spec, stand_in)
    for task in every_task(spec, mode, stand_in):
        before = {name: value.clone() for name, value in start.items()}
        update, module = train(task, start, *batch(size=32))
        after = module.state_dict()
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert changed == set(update.state), task.key
        assert all(torch.equal(value, after[name]) for name, value in update.state.items())
        assert all(torch.equal(value, before[name]) for name, value in start.items())


@pytest.mark.parametrize(("mode", "stand_in"), [("train", "bare"), ("eval", "bare"), ("train", "normalised")])
def test_only_trained_parameters_have_gradients(tiny, mode, stand_in, batch, train):
    expected = {
        "grow 1": {"stem", "stages.0", "proxies.1", "proxies.2", "head.2"},
        "grow 2": {"stages.1", "proxies.2", "head.2"},
        "grow 3": {"stages.2", "head.2"},
        "shrink 3": {"stages.2", "head.2"},
        "map 3": {"proxies.2", "head.2"},
        "shrink 2": {"stages.1", "proxies.2", "head.2"},
        "map 2": {"proxies.1"},
        "warm up 2": {"stages.1"},
        "warm up 3": {"stages.2"},
    }
    start = server_state(tiny, stand_in)
    for task in every_task(tiny, mode, stand_in):
        _, module = train(task, start, *batch(), steps=1)
        gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
        moved = {name for name, gradient in gradients.items() if gradient.any()}
        parts = {".".join(name.split(".")[: 1 if name.startswith("stem") else 2]) for name in moved}
        assert parts == expected[f"{task.kind} {task.block}"]
        assert moved == set(gradients) == set(trainable(module))


@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_growing_gradients_match_plain_autograd(block, batch):
    spec = ModelSpec("resnet18", 2, 4)
    method = ProFL(spec, rounds=50, seed=3, options=ProFLOptions())
    inputs, targets = batch(size=16)
    task = GrowTask(spec, block)
    module = task.build()
    module.load_state_dict({name: method.global_state[name] for name in module.state_dict()})
    task.loss(module, inputs, targets).backward()

    plain = spec.build()
    plain.load_state_dict(initial_state(spec, 3))
    state = {name: value.requires_grad_() for name, value in method.global_state.items() if "proxies" in name}
    logits = progressive.growing_logits(plain, state, block, inputs)
    nn.functional.cross_entropy(logits, targets).backward()
    everything = state | dict(plain.named_parameters())
    for name, parameter in trainable(module).items():
        torch.testing.assert_close(parameter.grad, everything[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("block", [2, 3, 4])
def test_a_frozen_prefix_saves_nothing(block, batch, saved):
    spec = ModelSpec("resnet18", 2, 4)
    inputs, targets = batch(size=16)
    task = GrowTask(spec, block)
    module = task.build()
    with torch.no_grad():
        features = module.stem(inputs)
        for stage in module.stages[: block - 1]:
            features = stage(features)

    def active_part_alone():
        outputs = module.stages[block - 1](features)
        for proxy in module.proxies.values():
            outputs = proxy(outputs)
        nn.functional.cross_entropy(module.head(outputs), targets)

    def unfrozen():
        nn.functional.cross_entropy(BlockModel(spec, block, frozen=0)(inputs), targets)

    inputs.requires_grad_()  # so that only no_grad keeps the frozen blocks out of autograd's graph
    by_task = saved(lambda: task.loss(module, inputs, targets))
    assert by_task == saved(active_part_alone)
    assert len(by_task) < len(saved(unfrozen))


@pytest.mark.parametrize("block", [2, 3, 4])
def test_mapping_saves_for_the_student_alone(block, batch, saved):
    spec = ModelSpec("resnet18", 2, 4)
    inputs, targets = batch(size=16)
    task = MapTask(spec, block)
    module = task.build()
    teacher = torch.zeros(6, 4)
    with torch.no_grad():
        features = module.stem(inputs)
        for stage in module.stages[: block - 1]:
            features = stage(features)

    def student_alone():
        outputs = features
        for proxy in module.proxies.values():
            outputs = proxy(outputs)
        nn.functional.mse_loss(module.head(outputs), teacher)

    inputs.requires_grad_()  # so that only no_grad keeps the frozen blocks out of autograd's graph
    by_task = saved(lambda: task.loss(module, inputs, targets))
    assert by_task == saved(student_alone)
    assert by_task


@pytest.mark.parametrize("block", [2, 4])
def test_warming_up_saves_for_the_block_alone(block, batch, saved):
    spec = ModelSpec("resnet18", 2, 4)
    inputs, targets = batch(size=16)
    task = WarmUpTask(spec, block)
    module = task.build()
    with torch.no_grad():
        features = module.stem(inputs)
        for stage in module.stages[: block - 1]:
            features = stage(features)
        wanted = module.proxies[str(block - 1)](features)

    inputs.requires_grad_()  # so that only no_grad keeps the frozen blocks out of autograd's graph
    by_task = saved(lambda: task.loss(module, inputs, targets))
    assert by_task == saved(lambda: nn.functional.mse_loss(module.stages[block - 1](features), wanted))
    assert by_task


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_of_frozen_blocks_survives_evaluation(tiny, mode):
    module = GrowTask(tiny, 2, mode).build()
    module.eval()
    assert not any(part.training for part in module.modules())
    module.train()
    frozen = [*module.stem.modules(), *module.stages[0].modules()]
    assert {part.training for part in frozen} == {mode == "train"}
    assert all(part.training for part in module.stages[1].modules())
    assert module.head.training
