"""Names of GPUs, and building the virtual one: what is missing must be said."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu import build as building
from profl.bench.memory.gpu.installation import find_installation
from profl.bench.memory.gpu.profile import ARCHITECTURES, WITH_KERNELS, known_gpus, resolve
from profl.bench.memory.process.probe import Prober
from tests.memory.workloads import Lookup

build = building.build.__wrapped__
BUILD_AND_PRINT = "from profl.bench.memory.gpu.build import build; print(build().driver)"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROFL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- memory ---


@dataclass(frozen=True)
class Taking:
    """A program that takes memory from the GPU past PyTorch; tells what is free after each amount, None: refused."""

    sizes: tuple[int, ...]
    key: str = "taking"

    def run(self, device: torch.device, report: Callable[[object], None]) -> list[int | None]:
        runtime, taken, free = ctypes.CDLL(None), [], []
        for size in self.sizes:
            pointer = ctypes.c_void_p()
            refused = runtime.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size))
            taken.append(pointer)
            free.append(None if refused else torch.cuda.mem_get_info(device)[0])
        for pointer in taken:
            runtime.cudaFree(pointer)
        return free


def test_memory_comes_in_pages_until_there_is_no_more(prober: Prober) -> None:
    gpu, page = resolve("virtual:t4"), 2 << 20
    assert gpu is not None
    total = gpu.total_bytes // page * page
    told = prober.run(Taking((1, page + 1, gpu.total_bytes - 2 * page, page)), "virtual:t4", lambda row: None)
    rest = gpu.total_bytes - 4 * page
    assert told == [gpu.total_bytes - page, gpu.total_bytes - 3 * page, None, rest]
    assert total > 4 * page


@dataclass(frozen=True)
class Pinning:
    """A program that pins memory of the host; tells which is pinned, and what registering and freeing twice gives."""

    key: str = "pinning"

    def run(self, device: torch.device, report: Callable[[object], None]) -> dict[str, object]:
        runtime, plain = ctypes.CDLL(None), torch.zeros(1000)
        pinned = plain.pin_memory()
        told: dict[str, object] = {
            "plain": plain.is_pinned(),
            "pinned": pinned.is_pinned(),
            "part": pinned[500:].is_pinned(),
            "made": torch.empty(3, pin_memory=True).is_pinned(),
            "device": torch.zeros(3, device=device).is_pinned(),
        }
        place = ctypes.c_void_p(plain.data_ptr())
        told["registered"] = runtime.cudaHostRegister(place, ctypes.c_size_t(4000), 0), plain.is_pinned()
        told["again"] = runtime.cudaHostRegister(place, ctypes.c_size_t(4000), 0)
        told["unregistered"] = runtime.cudaHostUnregister(place), plain.is_pinned()
        told["unregistered again"] = runtime.cudaHostUnregister(place)
        return told


def test_pinned_memory_is_pinned(prober: Prober) -> None:
    assert prober.run(Pinning(), "virtual:t4", lambda row: None) == {
        "plain": False,
        "pinned": True,
        "part": True,
        "made": True,
        "device": False,
        "registered": (0, True),
        "again": 712,
        "unregistered": (0, False),
        "unregistered again": 713,
    }


# --- names ---


def test_cuda_is_the_physical_gpu() -> None:
    assert resolve("cuda") is None


@pytest.mark.parametrize("name", [name for name in known_gpus() if name != "cuda"])
def test_every_known_virtual_gpu_is_complete(name: str) -> None:
    gpu = resolve(name)
    assert gpu is not None
    assert gpu.name == name.replace(":", " ")
    assert gpu.cudnn_workspaces
    assert json.loads(gpu.cudnn_device)["totalGlobalMem"] == gpu.total_bytes > 4 << 30
    assert (7, 5) <= gpu.capability <= (9, 0)


def test_any_compute_capability_is_a_gpu_without_workspaces() -> None:
    gpu = resolve("virtual:sm_120")
    assert gpu is not None
    assert (gpu.name, gpu.capability, gpu.cudnn_workspaces) == ("virtual sm_120", (12, 0), False)


def test_the_kernels_are_those_that_pytorch_was_compiled_with() -> None:
    assert [f"sm_{architecture}" for architecture in WITH_KERNELS] == torch._C._cuda_getArchFlags().split()
    for architecture in ARCHITECTURES:
        gpu = resolve(f"virtual:sm_{architecture}")
        assert gpu is not None
        assert gpu.kernel_architecture in WITH_KERNELS
        assert gpu.kernel_architecture <= architecture
    boards = {"t4": 75, "l4": 86, "jetson-orin": 86, "h200": 90}
    assert {name: getattr(resolve(f"virtual:{name}"), "kernel_architecture", None) for name in boards} == boards


@pytest.mark.parametrize("gpu", ["virtual:sm_87", "virtual:sm_89", "virtual:sm_103", "virtual:sm_121"])
def test_a_gpu_that_runs_the_kernels_of_another_sorts(gpu: str, prober: Prober) -> None:
    prober.measure(Lookup(), gpu, least_budget=False)


@pytest.mark.parametrize("name", ["h100", "virtual:b52", "virtual:sm_35", "cuda:1", "", "virtual:../profiles/h100"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(GpuUnavailable, match=r"unknown GPU '.*virtual:a100, virtual:h100.*virtual:sm_XX"):
        resolve(name)


# --- what is missing ---


def pretend_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, cuda: str | None) -> None:
    """Let a folder with nothing but a version stand for the installed PyTorch."""
    (folder / "torch").mkdir()
    (folder / "torch" / "version.py").write_text(f"__version__ = '9.9'\ncuda = {cuda!r}\n")
    spec = ModuleSpec("torch", None, origin=str(folder / "torch" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)


def test_a_cpu_only_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(tmp_path, monkeypatch, cuda=None)
    with pytest.raises(GpuUnavailable, match=r"PyTorch 9\.9 is built without CUDA.*pip install torch"):
        build()


def test_another_cuda_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(tmp_path, monkeypatch, cuda="12.6")
    with pytest.raises(GpuUnavailable, match=r"is built for CUDA 12\.6, a virtual GPU needs the CUDA 13 build"):
        build()


def test_a_missing_header_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(tmp_path, monkeypatch, cuda="13.0")
    with pytest.raises(GpuUnavailable, match=r"cu13/include/cuda\.h is missing: install PyTorch with pip"):
        build()


def test_no_torch_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(GpuUnavailable, match="PyTorch is not installed"):
        build()


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(GpuUnavailable, match="needs Linux, this is darwin: run in a Linux container"):
        build()


@pytest.mark.usefixtures("empty_cache")
def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GpuUnavailable, match="needs a C compiler: install gcc or clang"):
        build()


@pytest.mark.usefixtures("empty_cache")
def test_a_compiler_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O3")
    with pytest.raises(GpuUnavailable, match="CC='no-such-compiler -O3' does not exist"):
        build()


@pytest.mark.usefixtures("empty_cache")
def test_no_binutils(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc")
    assert compiler
    (tmp_path / "cc").symlink_to(compiler)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GpuUnavailable, match="needs the tool nm: install binutils"):
        build()


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc --no-such-option")
    with pytest.raises(GpuUnavailable, match=r"building the virtual GPU failed: (.|\n)*no-such-option"):
        build()
    assert list(empty_cache.iterdir()) == []


# --- the cache ---


def test_a_built_library_is_used_again(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build()
    assert built.driver.parent.parent == empty_cache
    assert sorted(path.name for path in built.driver.parent.iterdir()) == [
        "libcuda.so.1",
        "libnvidia-ml.so.1",
        "sha256",
    ]
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build() == built


def test_builds_at_the_same_time_agree(empty_cache: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    racers = [
        subprocess.Popen([sys.executable, "-c", BUILD_AND_PRINT], stdout=subprocess.PIPE, text=True, env=variables)
        for _ in range(2)
    ]
    drivers = {racer.communicate()[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(drivers) == 1
    assert [path.name for path in empty_cache.iterdir()] == [Path(drivers.pop()).parent.name]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is then built for one process, and gone with it."""
    (tmp_path / "file").write_text("not a folder")
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PROFL_CACHE": str(tmp_path / "file" / "cache"),
    }
    program = f"{BUILD_AND_PRINT}; print(build().driver.is_file())"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=variables, check=True
    )
    driver, was_there = finished.stdout.split()
    assert was_there == "True"
    assert not Path(driver).exists()


def test_every_function_that_pytorch_imports_is_answered(empty_cache: Path) -> None:
    """The built library defines them all: hand-written, or generated."""
    wanted = {
        name
        for name in building._symbols("--undefined-only", find_installation().libraries)
        if building._ANSWERED.fullmatch(name)
    }
    assert {"cudaMalloc", "cublasSgemm_v2", "cudnnBackendExecute"} <= wanted
    assert "cuFileRead" not in wanted
    defined = subprocess.run(["nm", "-D", "--defined-only", build().driver], capture_output=True, text=True, check=True)
    assert wanted <= {line.split()[-1] for line in defined.stdout.splitlines()}


def test_what_nobody_wrote_fails_where_an_answer_is_read() -> None:
    source = building._remaining(
        {"cublasSgemm_v2", "cudnnGetRNNWeightSpaceSize", "cudaGraphAddNode", "cublasGetVectorAsync"}
    )
    assert source.splitlines()[1:] == [
        'int cublasGetVectorAsync(void) { return refuse("cublasGetVectorAsync", 15); }',
        "int cublasSgemm_v2(void) { return 0; }",
        'int cudaGraphAddNode(void) { return refuse("cudaGraphAddNode", 801); }',
        'int cudnnGetRNNWeightSpaceSize(void) { return refuse("cudnnGetRNNWeightSpaceSize", 3000); }',
    ]
