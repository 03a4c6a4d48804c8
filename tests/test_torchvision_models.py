"""torchvision's classifiers as staged models: where they are cut, that nothing else changes, and what is refused."""

import pytest
import torch
import torchvision
from torch import nn

from profl.bench.cell import Recipe
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.memory.workload import Unobserved
from profl.bench.models import ModelSpec
from profl.bench.models.from_torchvision import find_cuts
from profl.bench.models.normalisation import batchnorms
from profl.bench.registry import create_method
from profl.bench.training import TrainingWorkload
from tests.conftest import shown, small_cell

SMALL = {"shufflenet_v2_x0_5": 24, "squeezenet1_1": 64, "mnasnet0_5": 8, "regnet_y_400mf": 32}
"""Quick classifiers of four families, each with the channels that go into its first stage."""


def spec(name):
    return ModelSpec(f"torchvision:{name}", SMALL.get(name.partition(":")[0], 64), 10)


def test_a_resnet_is_cut_where_the_staged_one_is():
    cuts = find_cuts("resnet18", 64)
    assert cuts.nodes == ("relu", "layer1_1", "layer2_1", "layer3_1", "layer4_1")
    assert cuts.channels == (64, 64, 128, 256, 512)
    assert cuts.sides == (32, 16, 8, 4, 2)
    ours, theirs = ModelSpec("resnet18", 64, 10).skeleton(), spec("resnet18").skeleton()
    counts = [[sum(p.numel() for p in stage.parameters()) for stage in model.stages] for model in (ours, theirs)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", sorted(SMALL))
def test_cut_it_computes_what_it_does_whole(name):
    torch.manual_seed(0)
    model = spec(name).build().eval()
    whole = torchvision.models.get_model(name, num_classes=10).eval()
    for value, wanted in zip(model.state_dict().values(), whole.state_dict().values(), strict=True):
        assert value.shape == wanted.shape
        wanted.copy_(value)
    pictures = torch.randn(2, *model.input_shape)
    with torch.inference_mode():
        enlarged = nn.functional.interpolate(pictures, size=64, mode="bilinear")
        torch.testing.assert_close(model(pictures), whole(enlarged))
        features = model.stem(pictures)
        for stage, channels in zip(model.stages, model.stage_channels[1:], strict=True):
            features = stage(features)
            assert features.shape[1] == channels


def test_a_skeleton_draws_nothing():
    before = torch.get_rng_state()
    find_cuts.cache_clear()
    spec("regnet_y_400mf").skeleton()
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_drops_out_and_another_normalisation_may_be_asked_for():
    model = spec("mnasnet0_5:group").skeleton()
    assert not [part for part in model.modules() if isinstance(part, nn.Dropout | nn.BatchNorm2d)]
    assert len(batchnorms(spec("mnasnet0_5").skeleton())) == 52


@pytest.mark.parametrize("method", ["fedavg", "profl", "depthfl", "inclusivefl"])
def test_methods_that_narrow_nothing_train_it(method):
    model = spec("shufflenet_v2_x0_5")
    made = create_method(method, model, 20, seed=0)
    recipe = Recipe(rounds=20, batch_size=1)  # as the last batch of an epoch may be
    for task in (made.tasks()[0], made.all_tasks()[-1]):
        TrainingWorkload(method, model, task, recipe).prepare(torch.device("cpu")).step(Unobserved())
    assert shown(made).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("torchvision:resnet05", 64, "unknown classifier of torchvision 'resnet05': did you mean 'resnet50'"),
        ("torchvision:mnasnet0_5", 64, "model 'torchvision:mnasnet0_5' has one width, 8, not 64"),
        ("torchvision:mnasnet0_5@many", 8, "has pictures of side 'many': give pixels from 32 to 1024, as in @224"),
        ("torchvision:vit_b_16", 64, "'vit_b_16' takes no pictures of side 64: choose another side"),
        ("torchvision:swin_t", 64, "'swin_t' cannot be cut into stages: its features are no pictures"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(name, width, message):
    with pytest.raises(InputError, match=message):
        Experiment.of(small_cell("fedavg", model=name, width=width))


@pytest.mark.parametrize("method", ["heterofl", "allsmall"])
def test_a_method_that_narrows_networks_is_refused(method):
    with pytest.raises(InputError, match="model 'torchvision:mnasnet0_5' has one width: choose methods that narrow no"):
        create_method(method, spec("mnasnet0_5"), 20, seed=0)


def test_the_side_of_pictures_is_part_of_the_name():
    model = ModelSpec("torchvision:shufflenet_v2_x0_5@96", 24, 10).skeleton()
    assert find_cuts("shufflenet_v2_x0_5", 96).sides == (24, 12, 6, 3)
    assert model.stem[0].size == (96, 96)
    assert model(torch.empty(2, *model.input_shape, device="meta")).shape == (2, 10)
