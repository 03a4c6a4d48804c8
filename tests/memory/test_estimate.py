"""Estimated footprints against those of the virtual GPU, and what an estimate refuses or says of itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from profl.bench.memory import BuiltStep, measure
from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from profl.bench.memory.estimate import best_available, device
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.gpu.build import build
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.workload import Prepared, Workload
from tests.memory import steps_as_written, steps_by_field
from tests.memory.built_steps import transformer
from tests.memory.estimated_steps import STEPS, attending
from tests.memory.training_steps import Layer, Recipe, Torchvision
from tests.memory.workloads import Convolution, Faulty, Linear, ResNet18

pytestmark = pytest.mark.covers_children

WITHOUT_WORKSPACES, WITH_WORKSPACES = "sm_90", "h100"

BOUND = 0.01

NO_KERNEL = r"No available kernel\. Aborting execution\."


@dataclass(frozen=True)
class Classifier:
    """A classifier of torchvision for small pictures."""

    name: str
    batch_size: int = 16
    optimizer: str = "momentum"

    @property
    def key(self) -> str:
        return repr(self)

    def prepare(self, device: torch.device) -> Prepared:
        import torchvision

        module = torchvision.models.get_model(self.name, num_classes=10).to(device)
        inputs = torch.zeros(self.batch_size, 3, 32, 32, device=device)
        return Recipe(self.optimizer).train(module, inputs, lambda inputs: module(inputs).logsumexp(1).sum())


@dataclass(frozen=True)
class Norms:
    """Words through every kind of normalisation, with AdamW, dropout and autocast."""

    @property
    def key(self) -> str:
        return repr(self)

    def prepare(self, device: torch.device) -> Prepared:
        module = nn.Sequential(
            nn.Embedding(5000, 256),
            nn.LayerNorm(256),
            nn.Linear(256, 256),
            nn.Dropout(0.1),
            nn.Unflatten(1, (16, 16)),
            nn.Flatten(2, 3),
            nn.GroupNorm(4, 16),
        ).to(device)
        words = torch.zeros(64, 256, dtype=torch.int64, device=device)
        return Recipe("adamw", autocast="bfloat16").train(module, words, lambda words: module(words).float().sum())


@dataclass(frozen=True)
class Doing:
    """A linear layer whose loss is made by the function of this name below."""

    deed: str

    @property
    def key(self) -> str:
        return f"doing {self.deed}"

    def prepare(self, device: torch.device) -> Prepared:
        module = nn.Linear(8, 8).to(device)
        return Recipe().train(
            module, torch.zeros(4, 8, device=device), lambda inputs: globals()[self.deed](module(inputs))
        )


def mask(outputs: Tensor) -> Tensor:
    return outputs[outputs > 0].sum()


def read(outputs: Tensor) -> Tensor:
    assert outputs.sum().item() == 0
    assert outputs.detach().cpu().count_nonzero() == 0
    return outputs.sum()


def capture(outputs: Tensor) -> Tensor:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        return outputs.sum()


def make_callables(outputs: Tensor) -> Tensor:
    torch.cuda.make_graphed_callables(nn.Linear(8, 8).to(outputs.device), (outputs.detach(),))
    return outputs.sum()


def pin(outputs: Tensor) -> Tensor:
    return outputs.sum() + torch.zeros(3).pin_memory().sum().item()


def make_pinned(outputs: Tensor) -> Tensor:
    return outputs.sum() + torch.zeros(3, pin_memory=True).sum().item()


def recur(outputs: Tensor) -> Tensor:
    return nn.LSTM(8, 8).to(outputs.device)(outputs[None])[0].sum()


def recur_by_gates(outputs: Tensor) -> Tensor:
    return nn.GRU(8, 8).to(outputs.device)(outputs[None])[0].sum()


def recur_simply(outputs: Tensor) -> Tensor:
    return nn.RNN(8, 8, nonlinearity="relu").to(outputs.device)(outputs[None])[0].sum()


def differentiate_samples(outputs: Tensor) -> Tensor:
    return outputs.sum() + torch.func.vmap(torch.func.grad(torch.sum))(outputs.detach()).sum()


def differentiate_by_function(outputs: Tensor) -> Tensor:
    return outputs.sum() + torch.func.jacrev(torch.sum)(outputs.detach()).sum()


def thin_out(outputs: Tensor) -> Tensor:
    return outputs.sum() + outputs.detach().to_sparse().sum()


def look_up(outputs: Tensor) -> Tensor:
    words = torch.zeros(3, dtype=torch.int64, device=outputs.device)
    return outputs.sum() + nn.Embedding(5, 2, sparse=True).to(outputs.device)(words).sum()


def time(outputs: Tensor) -> Tensor:
    torch.cuda.Event(enable_timing=True).record()
    return outputs.sum()


REFUSED = {
    "capture": ("captures a CUDA graph", "measure it on virtual:NAME"),
    "make_callables": ("captures a CUDA graph", "measure it on virtual:NAME"),
    "pin": ("pins memory", "leave pin_memory out"),
    "make_pinned": ("pins memory", "leave pin_memory out"),
    "recur": (r"recurrent network of cuDNN \(lstm\)", "torch.backends.cudnn.flags(enabled=False)"),
    "recur_by_gates": (r"recurrent network of cuDNN \(gru\)", "torch.backends.cudnn.flags(enabled=False)"),
    "recur_simply": (r"recurrent network of cuDNN \(rnn_relu\)", "torch.backends.cudnn.flags(enabled=False)"),
    "differentiate_samples": (r"by torch\.func", "loss.backward()"),
    "differentiate_by_function": (r"by torch\.func", "loss.backward()"),
    "thin_out": ("does not say how large", "virtual:NAME"),
    "look_up": ("layout torch.sparse_coo", "virtual:NAME"),
    "time": ("asks CUDA", "virtual:NAME"),
}


def stay_without_cuda(outputs: Tensor) -> Tensor:
    assert outputs.is_cuda
    assert outputs.device == torch.device("cuda", 0)
    assert not torch.cuda.is_initialized()
    assert not torch.cuda.is_available()
    return outputs.sum()


def both(prober: Prober, workload: Workload, gpu: str) -> tuple[Footprint, Footprint]:
    virtual, estimated = (
        prober.measure(workload, f"{kind}:{gpu}", least_budget=False) for kind in ("virtual", "estimate")
    )
    return virtual, estimated


def errors(virtual: Footprint, estimated: Footprint) -> dict[str, float]:
    """Return by how much each peak is off, as a share."""
    names = ("peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes")
    return {name: getattr(estimated, name) / getattr(virtual, name) - 1 for name in names}


# --- how near ---


@pytest.mark.parametrize(
    "workload",
    [
        Linear(),
        ResNet18(batch_size=32),
        ResNet18(batch_size=8, channels_last=True, frozen_stages=2),
        Classifier("resnet34"),
        Classifier("mobilenet_v3_small", optimizer="adam fused"),
        Torchvision("resnet18", Recipe("adamw", autocast="float16", scaled=True)),
        Torchvision("resnet18", Recipe(autocast="bfloat16"), checkpointed=True),
    ],
    ids=repr,
)
def test_an_estimate_is_exact_where_every_kernel_is_known(prober: Prober, workload: Workload) -> None:
    virtual, estimated = both(prober, workload, WITHOUT_WORKSPACES)
    assert errors(virtual, estimated) == pytest.approx(dict.fromkeys(errors(virtual, estimated), 0.0), abs=1e-4)
    assert estimated.categories_at_peak == virtual.categories_at_peak
    assert estimated.peak_activation_bytes == pytest.approx(virtual.peak_activation_bytes, rel=1e-3)
    assert [stage.name for stage in estimated.stages] == [stage.name for stage in virtual.stages]
    assert estimated.peak_position is not None
    assert virtual.peak_position is not None
    assert estimated.peak_position.module == virtual.peak_position.module


@pytest.mark.parametrize(
    "workload",
    [
        Torchvision("vit_b_16"),
        Torchvision("vit_b_32", Recipe("adamw", autocast="bfloat16")),
        Layer("transformer"),
        Layer("embedding, many words"),
        Norms(),
    ],
    ids=repr,
)
def test_an_estimate_is_near_where_kernels_take_scratch_memory(prober: Prober, workload: Workload) -> None:
    found = errors(*both(prober, workload, WITHOUT_WORKSPACES))
    assert abs(found["peak_requested_bytes"]) <= BOUND
    assert abs(found["peak_allocated_bytes"]) <= BOUND


@pytest.mark.parametrize("gpu", ["t4", "a100", "sm_90"])
@pytest.mark.parametrize("name", STEPS)
def test_kernels_take_what_they_take_on_the_virtual_gpu(prober: Prober, name: str, gpu: str) -> None:
    virtual, estimated = both(prober, BuiltStep(STEPS[name]), gpu)
    assert errors(virtual, estimated)["peak_requested_bytes"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("workload", [ResNet18(batch_size=64), Classifier("resnet34")], ids=repr)
def test_an_estimate_leaves_out_the_workspaces_of_convolutions(prober: Prober, workload: Workload) -> None:
    virtual, estimated = both(prober, workload, WITH_WORKSPACES)
    assert -0.1 <= errors(virtual, estimated)["peak_requested_bytes"] <= BOUND
    assert estimated.caveats[0].endswith("the workspaces of cuDNN's convolutions are left out")


def test_workspaces_are_all_that_an_estimate_of_small_convolutions_lacks(prober: Prober) -> None:
    step = BuiltStep(steps_by_field.detection)
    without, with_them = (errors(*both(prober, step, gpu)) for gpu in (WITHOUT_WORKSPACES, WITH_WORKSPACES))
    assert without["peak_requested_bytes"] == 0
    assert with_them["peak_requested_bytes"] == pytest.approx(-0.20, abs=0.005)


def test_the_workspace_of_cublas_is_that_of_the_architecture(prober: Prober) -> None:
    estimated = prober.measure(Linear(), "estimate:t4", least_budget=False)
    assert estimated.categories_at_peak["workspace"] == 2 * 8_519_680


def test_a_step_of_ones_own_is_estimated_too(prober: Prober) -> None:
    virtual = prober.measure(BuiltStep(transformer), "virtual:sm_90", least_budget=False)
    estimated = measure(transformer, "estimate:sm_90")
    assert abs(errors(virtual, estimated)["peak_requested_bytes"]) <= BOUND
    assert estimated.timeline is not None


# --- budgets ---


def test_the_least_budget_is_near_and_enough(prober: Prober) -> None:
    workload = ResNet18(batch_size=32)
    virtual, estimated = (
        prober.measure(workload, f"{kind}:sm_90").least_budget_bytes for kind in ("virtual", "estimate")
    )
    assert virtual is not None
    assert estimated is not None
    assert abs(estimated / virtual - 1) <= BOUND
    assert prober.fits(workload, "estimate:sm_90", estimated)
    assert not prober.fits(workload, "estimate:sm_90", estimated - (2 << 20))


# --- what it says of itself ---


def test_an_estimate_says_so(prober: Prober) -> None:
    _, estimated = both(prober, Linear(), WITH_WORKSPACES)
    assert estimated.environment.gpu == "estimate:h100"
    assert estimated.environment.device_name == "estimated h100"
    (caveat,) = estimated.caveats
    assert caveat.startswith("estimated without a GPU: ")
    assert caveat.endswith("within 3% of those on the virtual GPU, reserved bytes and least budgets within 18%")


def test_two_estimates_are_equal(prober: Prober) -> None:
    first = prober.measure(Convolution(), "estimate:h100", timeline=True)
    prober._footprints.clear()
    assert prober.measure(Convolution(), "estimate:h100", timeline=True) == first


def test_no_gpu_is_touched(prober: Prober) -> None:
    prober.measure(Doing("stay_without_cuda"), "estimate:h100", least_budget=False)


def test_numbers_read_are_zero_and_told_with_the_place(prober: Prober) -> None:
    _, *reads = prober.measure(Doing("read"), "estimate:h100", least_budget=False).caveats
    assert len(reads) == 2
    assert all(
        "reads numbers from the GPU, which are all zero in an estimate (at test_estimate.py:" in read for read in reads
    )


def test_a_snapshot_can_be_replayed(prober: Prober, tmp_path: Path) -> None:
    import pickle

    from profl.bench.memory.replay.allocator import recorded_trace, replay

    estimated = prober.measure(Linear(), "estimate:h100", least_budget=False, snapshot=tmp_path / "log")
    traces = pickle.loads((tmp_path / "log").read_bytes())["device_traces"]
    assert replay(recorded_trace(traces)).peak_reserved_bytes == estimated.peak_reserved_bytes


@pytest.mark.parametrize("name", ["leaking once", "leaking every step", "stepping in backward"])
def test_what_stays_is_told_as_on_the_virtual_gpu(prober: Prober, name: str) -> None:
    build = steps_as_written.STEPS[name]
    virtual, estimated = (
        prober.measure(BuiltStep(build), f"{kind}:t4", least_budget=True) for kind in ("virtual", "estimate")
    )
    told = estimated.caveats[1:]
    assert told == virtual.caveats
    assert any("leaves " in caveat for caveat in told)
    assert estimated.peak_requested_bytes == virtual.peak_requested_bytes
    assert estimated.least_budget_bytes is None


def test_what_stays_does_not_keep_a_budget_from_being_tried(prober: Prober) -> None:
    assert prober.fits(Faulty("keeps a tensor"), "estimate:h100", 1 << 30)


# --- what it refuses ---


def test_a_shape_that_depends_on_values_is_refused_by_name(prober: Prober) -> None:
    with pytest.raises(MeasurementFailed, match=r"doing mask cannot be estimated: what aten\.\w+\.\w+ returns"):
        prober.measure(Doing("mask"), "estimate:h100")


def test_more_than_the_gpu_is_refused(prober: Prober) -> None:
    with pytest.raises(OutOfMemory, match=r"needs more than the \d+ bytes of estimated h100"):
        prober.measure(Faulty("is larger than the GPU"), "estimate:h100")


@pytest.mark.parametrize("deed", REFUSED)
def test_what_needs_a_driver_is_refused_in_a_line(prober: Prober, deed: str) -> None:
    named, remedy = REFUSED[deed]
    with pytest.raises(MeasurementFailed, match=named) as refused:
        prober.measure(Doing(deed), "estimate:h100")
    message = str(refused.value)
    assert message.startswith(f"doing {deed} cannot be estimated: ")
    assert remedy in message
    assert "\n" not in message
    assert "CUDA error" not in message
    prober.measure(Linear(), "estimate:h100", least_budget=False)  # nothing stays refused


@pytest.mark.parametrize("kernel", ["FLASH_ATTENTION", "CUDNN_ATTENTION"])
def test_attention_by_a_kernel_that_does_not_take_its_numbers_is_refused_as_on_a_gpu(
    prober: Prober, kernel: str
) -> None:
    step = BuiltStep(partial(attending, dtype=torch.float32, kernel=kernel))
    with pytest.raises(MeasurementFailed, match=NO_KERNEL):
        prober.measure(step, "virtual:h100")
    with pytest.raises(MeasurementFailed, match=rf"cannot be estimated: .*torch\.float32 \({NO_KERNEL}\)") as refused:
        prober.measure(step, "estimate:h100")
    assert "\n" not in str(refused.value)


def test_a_recurrent_network_of_pytorchs_own_is_estimated(prober: Prober) -> None:
    virtual, estimated = both(prober, Layer("lstm"), WITHOUT_WORKSPACES)
    assert abs(errors(virtual, estimated)["peak_requested_bytes"]) <= BOUND


def test_an_error_of_the_workload_comes_back(prober: Prober) -> None:
    with pytest.raises(MeasurementFailed, match="ZeroDivisionError: of my own making"):
        prober.measure(Faulty("raises"), "estimate:h100")


# --- where a virtual GPU cannot run ---


@pytest.fixture
def nothing_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("PROFL_CACHE", str(tmp_path))
    build.cache_clear()
    yield
    build.cache_clear()


def test_what_can_be_had_is_taken() -> None:
    assert best_available("virtual:h100") == ("virtual:h100", None)
    assert best_available("cuda") == ("cuda", None)
    assert best_available("estimate:t4") == ("estimate:t4", None)


@pytest.mark.usefixtures("nothing_built")
def test_without_a_compiler_there_is_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    gpu, notice = best_available("virtual:t4")
    assert gpu == "estimate:t4"
    assert notice is not None
    assert "estimated, not measured (estimate:t4): the C compiler CC='no-such-compiler' does not exist" in notice
    assert "\n" not in notice


@pytest.mark.usefixtures("nothing_built")
def test_elsewhere_than_on_linux_there_is_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    gpu, notice = best_available("virtual:sm_90")
    assert gpu == "estimate:sm_90"
    assert notice is not None
    assert "needs Linux, this is darwin" in notice


@pytest.mark.parametrize("gpu", ["estimate:abacus", "estimate:sm_99", "estimate:"])
def test_an_unknown_gpu_lists_the_known_ones(prober: Prober, gpu: str) -> None:
    with pytest.raises(GpuUnavailable, match=rf"unknown GPU '{gpu}': choose one of cuda, .*estimate:NAME"):
        prober.fits(Linear(), gpu, 1 << 30)


# --- without CUDA ---

WITHOUT_CUDA = """
import ctypes, torch
from profl.bench.memory.estimate import device, estimating
from profl.bench.memory.gpu.profile import resolve
from tests.memory import steps_as_written, steps_by_field
from tests.memory.built_steps import transformer
from tests.memory.estimated_steps import STEPS
from profl.bench.memory import BuiltStep

guards = (ctypes.c_void_p * 2).in_dll(ctypes.CDLL(torch._C.__file__), device._DEVICE_GUARDS)
assert guards[1]
guards[1] = None
step, gpu = BuiltStep(transformer), "estimate:sm_90"
options = {"gpu": gpu, "steps": 3, "least_budget": True, "timeline": False, "snapshot": None}
footprint = estimating.estimate_workload(step, resolve(gpu), **options)
print(footprint.peak_requested_bytes, footprint.peak_reserved_bytes, footprint.least_budget_bytes)
"""


def test_a_pytorch_that_knows_no_cuda_devices_estimates_the_same(prober: Prober) -> None:
    """As the CPU-only builds, whose autograd finds nobody who switches to a device of CUDA."""
    ran = subprocess.run([sys.executable, "-c", WITHOUT_CUDA], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    expected = prober.measure(BuiltStep(transformer), "estimate:sm_90")
    sizes = (expected.peak_requested_bytes, expected.peak_reserved_bytes, expected.least_budget_bytes)
    assert tuple(map(int, ran.stdout.split())) == sizes


def test_a_pytorch_without_a_table_of_guards_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_DEVICE_GUARDS", "no_such_table")
    with pytest.raises(GpuUnavailable, match="cannot be used for estimates, which need Linux or macOS"):
        device._lend_device_guard.__wrapped__()
