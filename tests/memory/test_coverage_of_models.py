"""What trains on a virtual GPU, and what it says of that which does not.

A small choice by default; ``PROFL_TEST_MODELS=all pytest tests/memory/test_coverage_of_models.py`` trains every
classifier of torchvision.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torchvision

from profl.bench.memory.process.probe import Prober
from tests.memory.training_steps import (
    HARMLESS,
    LAYERS,
    OPTIMIZERS,
    READS,
    RECURRENT,
    REFUSED,
    TIMES,
    Layer,
    Recipe,
    Torchvision,
)

GENERIC, WITH_WORKSPACES = "virtual:sm_90", "virtual:h100"
BFLOAT16 = Recipe(autocast="bfloat16")
SCALED = Recipe("adam fused", autocast="float16", scaled=True)

# The smallest of every family.
# fmt: off
CHOICE = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t",
    "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2",
]
# fmt: on
MODELS = torchvision.models.list_models(torchvision.models) if os.environ.get("PROFL_TEST_MODELS") == "all" else CHOICE


def trains(prober: Prober, workload: Torchvision | Layer, gpu: str = WITH_WORKSPACES) -> bool:
    """Measure a step; a footprint is only made if its categories add up to the allocator's peak."""
    footprint = prober.measure(workload, gpu, least_budget=False)
    return footprint.parameter_bytes > 0 and footprint.peak_activation_bytes > 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gpu", [GENERIC, WITH_WORKSPACES] if MODELS is not CHOICE else [WITH_WORKSPACES])
def test_every_classifier_of_torchvision(prober: Prober, name: str, gpu: str) -> None:
    assert trains(prober, Torchvision(name), gpu)


def test_the_choice_has_every_family() -> None:
    assert set(CHOICE) <= set(torchvision.models.list_models(torchvision.models))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(prober: Prober, optimizer: str) -> None:
    assert trains(prober, Layer("layer norm", Recipe(optimizer)))


@pytest.mark.parametrize(
    "workload",
    [
        Torchvision("resnet18", BFLOAT16),
        Torchvision("resnet18", SCALED),
        Torchvision("resnet18", Recipe(micro_batches=3)),
        Torchvision("resnet18", channels_last=True),
        Torchvision("resnet18", BFLOAT16, channels_last=True),
        Torchvision("resnet18", frozen_children=5),
        Torchvision("resnet18", frozen_children=5, frozen_in_eval_mode=True),
        Torchvision("resnet18", checkpointed=True),
        Torchvision("swin_t", SCALED),
        Torchvision("vit_b_32", BFLOAT16),
    ],
    ids=str,
)
def test_ways_to_train(prober: Prober, workload: Torchvision) -> None:
    assert trains(prober, workload)


def test_activation_checkpointing_saves_activations(prober: Prober) -> None:
    plain, checkpointed = (
        prober.measure(Torchvision("resnet18", batch_size=8, checkpointed=on), GENERIC, least_budget=False)
        for on in (False, True)
    )
    assert checkpointed.peak_activation_bytes < 0.8 * plain.peak_activation_bytes


ONLY_HALF = {"attention flash", "attention cudnn"}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers(prober: Prober, layer: str) -> None:
    assert trains(prober, Layer(layer, BFLOAT16 if layer in ONLY_HALF else Recipe()))


# --- what is told ---

PROGRAM = """
import json, sys
from profl.bench.memory.gpu.build import build
from profl.bench.memory.gpu.driver import Setup, load
from profl.bench.memory.gpu.installation import find_installation
from profl.bench.memory.gpu.profile import resolve
from profl.bench.memory.gpu.unmodelled import unmodelled

load(Setup(resolve("virtual:h100"), build(), find_installation().cudnn))
from tests.memory import training_steps as steps

refused = {name: deed for name, (_, deed) in steps.REFUSED.items()}
deeds = {**steps.READS, **steps.TIMES, **steps.RECURRENT, **steps.HARMLESS, **refused}
told = {name: (steps.play(deed), unmodelled()) for name, deed in deeds.items()}
scaled = steps.Recipe(autocast="float16", scaled=True)
told["scaled"] = steps.play(lambda outputs: outputs.float().sum(), scaled), unmodelled()
told["again"] = "", unmodelled()
json.dump(told, sys.stdout)
"""

Told = dict[str, tuple[str, list[str]]]


@pytest.fixture(scope="module")
def told() -> Told:
    """The error and what is told, of every questionable step: all in one process with a virtual GPU."""
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("deed", READS)
def test_a_step_that_reads_from_the_gpu_is_told(told: Told, deed: str) -> None:
    error, sentences = told[deed]
    assert not error
    assert sentences[0].startswith("reads numbers from the GPU, which are all zero on a virtual one (at training_steps")


def test_a_read_is_told_with_the_line_of_code(told: Told) -> None:
    (sentence,) = told["item"][1]
    assert "outputs.sum().item()" in sentence


def test_a_read_in_autograds_thread_has_no_line(told: Told) -> None:
    assert any("(in a backward pass)" in sentence for sentence in told["exponential"][1])


@pytest.mark.parametrize("deed", TIMES)
def test_a_step_that_depends_on_time_is_told(told: Told, deed: str) -> None:
    error, sentences = told[deed]
    assert not error
    assert any(sentence.startswith("measures time on the GPU") for sentence in sentences)


@pytest.mark.parametrize("deed", RECURRENT)
def test_a_recurrent_layer_of_cudnn_is_told(told: Told, deed: str) -> None:
    error, sentences = told[deed]
    assert not error
    start = "runs a recurrent layer of cuDNN, whose reserve and workspace are known from one H100 with cuDNN 9.19 ("
    assert {sentence.removeprefix(start)[:3] for sentence in sentences} == {"at ", "in "}


@pytest.mark.parametrize("deed", REFUSED)
def test_what_is_not_modelled_fails_and_is_named(told: Told, deed: str) -> None:
    error, sentences = told[deed]
    function, _ = REFUSED[deed]
    assert error
    assert any(sentence.startswith(f"calls {function}, which the virtual GPU refuses (") for sentence in sentences)


def test_what_cudnn_refuses_is_told_its_remedy(told: Told) -> None:
    error, _ = told["alignment"]
    assert "is not modelled by the virtual GPU: leave cuDNN out with torch.backends.cudnn.flags(enabled=False)" in error


@pytest.mark.parametrize("deed", [*HARMLESS, "scaled", "again"])
def test_nothing_is_told_of_a_step_that_is_modelled(told: Told, deed: str) -> None:
    assert told[deed] == ["", []]
