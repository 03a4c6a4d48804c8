"""The virtual GPU's libraries: built by any compiler, into any cache, with nothing in them that need not be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu import build as building
from profl.bench.memory.gpu.installation import find_installation
from profl.bench.memory.process.probe import probe
from tests.memory.workloads import Linear

build = building.build.__wrapped__


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROFL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- the compiler ---


@pytest.mark.parametrize("command", [" ", '"', "cc 'unfinished", "/"])
@pytest.mark.usefixtures("empty_cache")
def test_what_is_no_compiler_is_named_in_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", command)
    with pytest.raises(GpuUnavailable) as error:
        build()
    assert f"CC={command!r}" in str(error.value)
    assert str(error.value).endswith(": correct or unset the variable CC")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("empty_cache")
def test_no_source_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most functions answer without looking at what they are asked, so unused parameters are none."""
    monkeypatch.setenv("CC", "cc -Wall -Wextra -Werror -Wno-unused-parameter")
    assert build().driver.is_file()


# --- the cache ---


@pytest.mark.parametrize("damage", ["cut short", "removed", "unmarked"])
def test_a_damaged_entry_is_built_again(empty_cache: Path, damage: str) -> None:
    built = build()
    whole = built.driver.read_bytes()
    match damage:
        case "cut short":
            built.driver.write_bytes(whole[: len(whole) // 2])
        case "removed":
            built.management.unlink()
        case "unmarked":
            (built.driver.parent / "sha256").unlink()
    assert build() == built
    assert len(built.driver.read_bytes()) == len(whole)
    assert built.management.is_file()
    assert len(list(empty_cache.iterdir())) == 1


@pytest.mark.usefixtures("empty_cache")
def test_another_pytorch_gets_libraries_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = find_installation()
    copied = tmp_path / "libcudnn.so.9"
    shutil.copy(installation.cudnn, copied)
    folders = [build().driver.parent]
    for other in (replace(installation, version="9.9"), replace(installation, cudnn=copied)):
        monkeypatch.setattr(building, "find_installation", lambda other=other: other)
        folders.append(build().driver.parent)
    os.utime(copied, ns=(0, 0))  # the same version, installed again
    folders.append(build().driver.parent)
    assert len(set(folders)) == 4
    assert all((folder / "libcuda.so.1").is_file() for folder in folders)


def test_no_folder_to_build_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PROFL_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(GpuUnavailable, match=r"neither in .*file/cache \(Not a directory\).*the variable PROFL_CACHE"):
        build()


# --- what is in the libraries ---


def exported(library: Path) -> set[str]:
    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in listing.stdout.splitlines()}


def test_nothing_is_exported_that_nobody_looks_for(empty_cache: Path) -> None:
    built = build()
    imported = building._symbols("--undefined-only", find_installation().libraries)
    wanted = {name for name in imported if building._ANSWERED.fullmatch(name)}
    assert exported(built.driver) == wanted | building._LOOKED_UP
    assert all(name.startswith("nvml") for name in exported(built.management))


# --- a worker ---


def test_two_virtual_gpus_at_the_same_time() -> None:
    gpus = ["virtual:t4", "virtual:sm_90"]
    with ThreadPoolExecutor(2) as threads:
        small, large = threads.map(lambda gpu: probe(Linear(), gpu, least_budget=False), gpus)
    assert (small.environment.device_name, large.environment.device_name) == ("virtual t4", "virtual sm_90")
    assert large.environment.total_bytes > 4 * small.environment.total_bytes
    assert large.categories_at_peak["workspace"] == 2 * (32 << 20) > small.categories_at_peak["workspace"] > 0


SANITIZED = """
from profl.bench.memory.gpu.build import build
from profl.bench.memory.gpu.driver import Setup, load
from profl.bench.memory.gpu.installation import find_installation
from profl.bench.memory.gpu.profile import resolve
from profl.bench.memory.gpu.unmodelled import unmodelled

load(Setup(resolve("virtual:sm_90"), build(), find_installation().cudnn))
import torch
from profl.bench.memory.recording.measurement import measure_workload
from tests.memory.training_steps import Layer

device = torch.device("cuda", 0)
torch.cuda.init()
options = dict(steps=3, least_budget=False, timeline=False, snapshot=None)
print(measure_workload(Layer("transformer"), "virtual:sm_90", device, **options).peak_requested_bytes)
print(torch.zeros(3, 4, device=device)[:, ::2].tolist(), unmodelled())
"""


def test_a_measured_step_runs_clean_under_address_sanitizer(empty_cache: Path) -> None:
    """And under that for undefined behaviour.

    Left out are leaks, of which Python and PyTorch have plenty by design, and cuDNN's own code, which cannot be
    loaded beside the sanitizer: it takes no library that is bound deeply.
    """
    # The sanitizer comes first in a process, and looks there for C++ exceptions, which PyTorch brings later.
    preloaded = [
        subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    if not all(Path(library).is_absolute() for library in preloaded):
        pytest.skip("the compiler has no address sanitizer")
    variables = {
        **os.environ,
        "CC": "cc -g -fsanitize=address,undefined -fno-sanitize-recover=undefined",
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    # Built first by itself: the compiler must not run with the sanitizer loaded.
    unloaded = {name: value for name, value in variables.items() if name != "LD_PRELOAD"}
    program = "from profl.bench.memory.gpu.build import build; build()"
    subprocess.run([sys.executable, "-c", program], env=unloaded, check=True)
    finished = subprocess.run([sys.executable, "-c", SANITIZED], capture_output=True, text=True, env=variables)
    assert finished.returncode == 0, finished.stderr[:3000]
    peak_bytes, read = finished.stdout.splitlines()
    assert int(peak_bytes) > 2 * (32 << 20)
    assert read.startswith("[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]] ('reads numbers")
