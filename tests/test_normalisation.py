"""A model's normalisation: what it replaces, what it keeps, and that nothing of a model's other names changes."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from profl.bench.cli import main
from profl.bench.data import load_dataset
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.measuring import workloads
from profl.bench.method import initial_state
from profl.bench.models import ModelSpec
from profl.bench.models.normalisation import batchnorms, keep_statistics
from profl.bench.registry import create_method, methods
from profl.bench.training import recalibrate_batchnorm
from tests.conftest import SMALL_RECIPE, shown, small_cell

KINDS = ("group", "static")
RECIPE = replace(SMALL_RECIPE, participants=1, evaluate_every=1)


def group_norms(module):
    return [part for part in module.modules() if isinstance(part, nn.GroupNorm)]


@pytest.mark.parametrize("kind", KINDS)
def test_all_start_from_the_same_values_whatever_normalises(kind):
    batch = initial_state(ModelSpec("resnet18", 4, 10), seed=1)
    other = initial_state(ModelSpec(f"resnet18:{kind}", 4, 10), seed=1)
    assert {name for name in batch if name not in other} == {
        name for name in batch if "running" in name or "num_batches" in name
    }
    assert all(torch.equal(value, batch[name]) for name, value in other.items())


def test_group_norm_does_not_see_the_rest_of_the_batch():
    model = ModelSpec("mobilenet_v2:group", 8, 10).build()
    assert len(group_norms(model)) == 52
    assert not batchnorms(model)
    pictures = torch.randn(3, *model.input_shape)
    with torch.inference_mode():
        torch.testing.assert_close(model(pictures)[:1], model(pictures[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "rate", "groups"),
    [(64, Fraction(1), 4), (64, Fraction(1, 2), 2), (24, Fraction(1), 2), (17, Fraction(1), 17)],
)
def test_a_group_has_16_channels_or_the_most_below_that_divide(width, rate, groups):
    (norm, *_) = group_norms(ModelSpec("resnet18:group", width, 10, rate).skeleton())
    assert (norm.num_groups, norm.num_channels) == (groups, width * rate)


def test_a_narrow_networks_groups_are_the_leading_ones():
    wide, narrow = (group_norms(ModelSpec("vgg11_bn:group", 32, 10, rate).build())[0] for rate in (1, Fraction(1, 2)))
    features = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(wide(features)[:, :16], narrow(features[:, :16]))


def test_static_normalises_by_the_batch_in_tests_too_until_statistics_are_estimated():
    model = ModelSpec("resnet10_stride2:static", 4, 10).build().eval()
    norms = batchnorms(model)
    assert not any(norm.track_running_stats or norm.running_mean is not None for norm in norms)
    pictures = torch.randn(8, *model.input_shape)
    with torch.inference_mode():
        assert not torch.allclose(model(pictures)[:4], model(pictures[:4]), atol=1e-4)
        plain = ModelSpec("resnet10_stride2", 4, 10).build()
        plain.load_state_dict(model.state_dict(), strict=False)
        for network in (model, plain):
            recalibrate_batchnorm(network, pictures, batch_size=4)
        assert torch.equal(model.eval()(pictures), plain.eval()(pictures))


def test_a_batchnorm_that_keeps_statistics_is_reset():
    norm = nn.BatchNorm2d(3)
    norm(torch.randn(4, 3, 2, 2))
    keep_statistics(norm)
    assert not norm.running_mean.any()
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", sorted(methods()))
def test_every_layer_of_every_task_has_the_models_normalisation(method, kind):
    model = ModelSpec(f"resnet10_stride2:{kind}", 4, 10)
    made = create_method(method, model, 20, seed=0)
    for task in made.all_tasks():
        with torch.device("meta"):
            norms = batchnorms(task.build())
        assert bool(norms) == (kind == "static")
        assert not any(norm.track_running_stats for norm in norms)
    assert shown(made).eval()(torch.zeros(2, *model.skeleton().input_shape)).shape == (2, 10)


def test_what_stands_in_for_a_block_is_normalised_alike():
    made = create_method("profl", ModelSpec("resnet18:group", 4, 10), 20, seed=0, options={"stand_in": "normalised"})
    grow = next(task for task in made.all_tasks() if task.key == "grow 1 normalised")
    assert len(group_norms(grow.build().proxies)) == 3


@pytest.mark.parametrize(("model", "raw"), [("resnet10_stride2:group", True), ("resnet10_stride2:static", False)])
def test_a_round_is_tested_with_statistics_only_where_there_are_any(model, raw):
    experiment = Experiment.of(small_cell("fedavg", model=model, width=2, recipe=RECIPE))
    row = Federation(experiment, load_dataset("digits"), dict.fromkeys(workloads(experiment), 1), 1).run_round(1)
    assert 0 <= row["test_accuracy"] <= 1
    assert (row["raw_test_accuracy"] == row["raw_test_accuracy"]) == raw


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18:grup", "unknown normalisation 'grup': did you mean 'group'"),
        ("resnet18:batch", "unknown normalisation 'batch': choose one of group, static"),
        ("vit:group", "model 'vit' has no BatchNorm: leave ':group' out"),
        ("resnet8:group", "unknown model 'resnet8'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(name, message):
    with pytest.raises(InputError, match=message):
        Experiment.of(small_cell("fedavg", model=name))


def test_the_command_line_takes_it():
    words = ["measure", "--method", "fedavg", "--width", "2", "--batch-size", "2", "--gpu", "virtual:jetson-orin"]
    assert "resnet18:group width 2" in CliRunner().invoke(main, [*words, "--model", "resnet18:group"]).output
    refused = CliRunner().invoke(main, [*words, "--model", "resnet18:grup"])
    assert (refused.exit_code, "unknown normalisation 'grup'" in refused.output) == (1, True)
