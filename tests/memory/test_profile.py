"""What is known of the virtual GPUs: complete, sourced, and what a worker sees."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import torch

from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu.profile import ARCHITECTURES, Profile, known_gpus, profiles, resolve
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.workload import Prepared
from tests.memory.workloads import Convolution, Linear

# What cuDNN's JSON says beside the board: a name, the driver and how it is used.
USE = {"deviceName", "driverVer", "cudaDeviceId", "pciDeviceId", "isTccDriver", "supportCoopLaunch"}
MIB = 1 << 20


@dataclass(frozen=True)
class SeenAs:
    """A small step that only begins if PyTorch's device has these properties."""

    name: str
    total_bytes: int
    capability: tuple[int, int]
    multiprocessors: int

    @property
    def key(self) -> str:
        return repr(self)

    def prepare(self, device: torch.device) -> Prepared:
        seen = torch.cuda.get_device_properties(device)
        shape = (seen.total_memory, (seen.major, seen.minor), seen.multi_processor_count)
        assert (seen.name, *shape) == (self.name, self.total_bytes, self.capability, self.multiprocessors)
        return Linear().prepare(device)


def named(name: str) -> Profile:
    return next(profile for profile in profiles() if profile.name == name)


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
def test_every_field_has_a_source_or_is_said_to_have_none(profile: Profile) -> None:
    described = json.loads(profile.gpu.cudnn_device).keys() - USE
    sourced = [field for fields in profile.sources.values() for field in fields]
    assert sorted([*sourced, *profile.unconfirmed]) == sorted(described)
    assert all(urlsplit(address).netloc for address in profile.sources)
    assert profile.note or not profile.unconfirmed


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
def test_the_memory_is_what_its_figure_claims(profile: Profile) -> None:
    assert profile.memory_figure in ("driver", "driver, whole MiB", "nominal")
    if profile.memory_figure != "driver":
        assert profile.gpu.total_bytes % MIB == 0
    if profile.memory_figure == "nominal":
        assert profile.gpu.total_bytes % (1024 * MIB) == 0
        assert profile.note


def test_profiles_are_the_known_virtual_gpus() -> None:
    assert ["cuda", *(profile.name for profile in profiles())] == known_gpus()


def test_two_names_of_one_board_differ_in_name_only() -> None:
    short, long = named("virtual:a100").gpu, named("virtual:a100-40").gpu
    assert (short.name, long.name) == ("virtual a100", "virtual a100-40")
    assert short.cudnn_device == long.cudnn_device
    assert short.total_bytes == long.total_bytes


def test_architectures_are_those_that_this_pytorch_has_code_for() -> None:
    """Code for X.Y runs on X.Z for Z of Y and above."""
    built = [divmod(int(flag.removeprefix("sm_")), 10) for flag in torch._C._cuda_getArchFlags().split()]
    for architecture in ARCHITECTURES:
        major, minor = divmod(architecture, 10)
        assert any(major == of and minor >= since for of, since in built), architecture
    assert {10 * major + minor for major, minor in built} <= set(ARCHITECTURES)


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
def test_every_board_has_one_of_the_architectures(profile: Profile) -> None:
    major, minor = profile.gpu.capability
    assert 10 * major + minor in ARCHITECTURES


@pytest.mark.parametrize("name", ["virtual:sm_70", "virtual:sm_110", "virtual:sm_99"])
def test_an_unsupported_architecture_lists_the_supported_ones(name: str) -> None:
    with pytest.raises(GpuUnavailable, match=rf"unknown GPU '{name}'.*sm_XX with XX one of 75, 80, .*, 121$"):
        resolve(name)


def test_a_board_that_cuda_has_dropped_says_so() -> None:
    with pytest.raises(GpuUnavailable, match=r"no GPU 'virtual:v100': its compute capability 7\.0 .* virtual:t4"):
        resolve("virtual:v100")
    assert "virtual:v100" not in known_gpus()


# The least and the greatest capability, and one between; a worker takes seconds to start.
@pytest.mark.parametrize(
    ("name", "cublas_workspace_bytes"),
    [
        ("virtual:t4", 8_519_680),
        ("virtual:l4", 8_519_680),
        ("virtual:h200", 33_554_432),
    ],
)
def test_a_worker_sees_the_board_and_cudnn_plans_for_it(name: str, cublas_workspace_bytes: int) -> None:
    gpu = named(name).gpu
    seen_as = SeenAs(gpu.name, gpu.total_bytes, gpu.capability, gpu.multiprocessors)
    with Prober() as prober:
        linear = prober.measure(seen_as, name, least_budget=False)
        convolution = prober.measure(Convolution(), name, least_budget=False)

    assert linear.environment.device_name == gpu.name
    assert linear.categories_at_peak["workspace"] == 2 * cublas_workspace_bytes  # forward's and backward's thread
    assert convolution.categories_at_peak["workspace"] > 0


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("virtual:h1000", "virtual:h100"),
        ("estimate:jetson-orin-nanoo", "estimate:jetson-orin-nano"),
        ("h100", "virtual:h100"),
        ("H100", "virtual:h100"),
        ("virtal:h100", "virtual:h100"),
        ("virtual:cuda", "cuda"),
        ("CUDA", "cuda"),
    ],
)
def test_a_misspelt_gpu_suggests_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(GpuUnavailable, match=rf"unknown GPU '{name}': did you mean '{meant}'\? Choose one of cuda, "):
        resolve(name)


@pytest.mark.parametrize("name", ["virtual:abacus", "virtual:", "", ":"])
def test_a_gpu_like_no_other_suggests_none(name: str) -> None:
    with pytest.raises(GpuUnavailable, match=rf"unknown GPU '{name}': choose one of cuda, "):
        resolve(name)
