"""Training with the same instructions everywhere: chosen in time or said why not, and the same bits as committed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from profl.bench.environment import arithmetic, differences, mixture, training_environment
from profl.bench.instructions import AVX2, NATIVE, VARIABLES, are_set, choose, has_avx2, processor_model
from tests.golden_cell import COMMITTED

pytestmark = pytest.mark.covers_children

ROOT = Path(__file__).parents[1]
LISTED = "processor\t: 0\nmodel name\t: Counter 3\nflags\t\t: fpu {flags} rdseed\n\nprocessor\t: 1\nflags\t\t: none\n"


@pytest.mark.skipif(not has_avx2(), reason="this processor has no AVX2")
def test_a_short_cell_gives_the_committed_bits():
    done = subprocess.run([sys.executable, "-m", "tests.golden_cell"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made, committed = json.loads(done.stdout), json.loads(COMMITTED.read_text())
    assert made["environment"]["instructions"] == AVX2
    assert made["rounds"] == committed["rounds"], differences(committed["environment"], made["environment"])
    assert len({row["test_loss"] for row in made["rounds"]}) == len(made["rounds"]) > 1  # it does train


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts another processor in place, with torch not yet imported."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch")

    def be(machine: str = "x86_64", flags: str | None = "avx avx2 fma") -> None:
        def read_text(path: Path) -> str:
            assert str(path) == "/proc/cpuinfo"
            if flags is None:
                raise FileNotFoundError(path)
            return LISTED.format(flags=flags)

        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr(Path, "read_text", read_text)

    before = dict(os.environ)
    yield be
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def test_instructions_are_chosen_for_this_process_and_those_it_starts(processor):
    processor()
    assert processor_model() == "Counter 3"
    assert not are_set()
    assert choose(AVX2) is None
    assert {name: os.environ[name] for name in VARIABLES} == VARIABLES
    sys.modules["torch"] = torch
    assert choose(AVX2) is None  # again, as they are in force


def test_native_leaves_the_users_variables_alone(processor):
    processor()
    os.environ["MKL_CBWR"] = "AVX"
    assert choose(NATIVE) is None
    assert {name: os.environ.get(name) for name in VARIABLES} == {**dict.fromkeys(VARIABLES), "MKL_CBWR": "AVX"}
    assert choose(AVX2) is None
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"


@pytest.mark.parametrize(
    ("machine", "flags", "named"),
    [
        ("x86_64", "avx", "Counter 3"),
        ("x86_64", "avx avx2", "Counter 3"),  # the kernels need FMA too
        ("x86_64", "avx avx2x fma", "Counter 3"),
        ("x86_64", None, "x86_64"),
        ("aarch64", None, "aarch64"),
        ("aarch64", "avx2 fma", "Counter 3"),
    ],
)
def test_a_processor_without_them_trains_natively_and_says_so(processor, machine: str, flags: str | None, named: str):
    processor(machine, flags)
    assert f"no AVX2 on this processor ({named}): training is native" in str(choose(AVX2))
    assert not os.environ.keys() & VARIABLES.keys()


def test_torch_that_is_imported_already_trains_natively_and_says_so(processor):
    processor()
    sys.modules["torch"] = torch
    assert "torch was imported before" in str(choose(AVX2))
    assert not os.environ.keys() & VARIABLES.keys()


def test_the_environment_says_what_is_in_force_and_not_what_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    for capability, instructions in (("AVX2", AVX2), ("AVX512", NATIVE), ("DEFAULT", NATIVE)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda told=capability: told)
        found = training_environment()
        assert (found["cpu_capability"], found["instructions"]) == (capability, instructions)
        assert (found["onednn_max_cpu_isa"], found["mkl_cbwr"]) == ("AVX2", "COMPATIBLE")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.delenv("MKL_CBWR")
    assert training_environment()["instructions"] == NATIVE
    assert training_environment()["mkl_cbwr"] == "not set"


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch is built without MKL")
def test_the_environment_names_libraries_and_processor():
    found = training_environment()
    assert found["blas"] == "mkl"
    assert found["processor_model"] == processor_model() != ""
    assert all(found[name][0].isdigit() and "." in found[name] for name in ("mkl", "onednn"))
    assert json.loads(json.dumps(found)) == found


SAME = {"instructions": AVX2, "torch": "2.14", "processor_model": "Counter 3", "platform": "A", "cores": 2}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({}, ""),
        ({"processor_model": "Counter 4", "platform": "B", "cores": 64}, ""),
        ({"torch": "2.15"}, "torch 2.14 and 2.15"),
        ({"torch": "2.15", "mkl": "1"}, "torch 2.14 and 2.15, and 1 more"),
        ({"instructions": NATIVE}, "instructions avx2 and native"),
    ],
)
def test_what_decides_the_bits_is_told_apart(other: dict, told: str):
    assert mixture([SAME, SAME, {**SAME, **other}]) == told
    assert arithmetic(SAME).keys() <= arithmetic({**SAME, **other}).keys()


def test_natively_the_processor_decides_and_what_an_old_run_does_not_tell_is_unknown():
    native = {**SAME, "instructions": NATIVE}
    assert differences(native, {**native, "processor_model": "Counter 4"}) == [
        "processor model Counter 3 and Counter 4"
    ]
    assert mixture([{"torch": "2.14"}, {"torch": "2.14", "instructions": AVX2}]) == "instructions unknown and avx2"
    assert mixture([{"torch": "2.14"}] * 2) == mixture([]) == ""
