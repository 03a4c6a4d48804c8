"""Workloads measured in worker processes on a virtual GPU."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober, _Worker, probe
from profl.bench.memory.recording.budget import GRANULE_BYTES
from profl.bench.memory.workload import CATEGORIES
from tests.memory.workloads import Convolution, Faulty, FreshBatches, Linear, Renewed, ResNet18

pytestmark = pytest.mark.covers_children

GPU = "virtual:sm_90"
WITH_WORKSPACES = "virtual:h100"


def unbudgeted(prober: Prober, workload: object, gpu: str = GPU, **options: object) -> Footprint:
    return prober.measure(workload, gpu, least_budget=False, **options)


# --- what a footprint says ---


def test_every_byte_of_a_linear_layer_is_accounted_for(prober: Prober) -> None:
    footprint = unbudgeted(prober, Linear(1024, 256), timeline=True)

    parameter_bytes = 4 * (10 * 1024 + 10)
    assert footprint.parameter_bytes == parameter_bytes
    at_peak = footprint.categories_at_peak
    assert at_peak["parameters"] == at_peak["optimizer state"] == parameter_bytes
    assert at_peak["buffers"] == 4 * 100
    assert at_peak["inputs"] == 4 * 256 * 1024 + 8 * 256
    assert footprint.timeline is not None
    gradients = footprint.timeline.live_bytes["gradients"]
    assert max(gradients) == parameter_bytes
    assert gradients[-1] == 0
    sums = [sum(moment) for moment in zip(*footprint.timeline.live_bytes.values(), strict=True)]
    assert max(sums) == footprint.peak_requested_bytes
    assert tuple(at_peak) == tuple(footprint.timeline.live_bytes) == CATEGORIES


def test_activations_have_a_peak_of_their_own(prober: Prober) -> None:
    footprint = unbudgeted(prober, Linear(4096, 1024), timeline=True)
    activations = footprint.kept_timeline.live_bytes["activations"]
    assert footprint.peak_activation_bytes == max(activations) > footprint.categories_at_peak["activations"]


def test_parameters_that_move_stay_parameters(prober: Prober) -> None:
    footprint = unbudgeted(prober, Renewed(), timeline=True)
    parameters = footprint.kept_timeline.live_bytes["parameters"]
    assert footprint.parameter_bytes == 4 * (10 * 1024 + 10)
    assert parameters[-1] == footprint.parameter_bytes
    assert footprint.categories_at_peak["parameters"] == footprint.parameter_bytes


def test_a_batch_that_comes_between_steps_is_input(prober: Prober) -> None:
    footprint = unbudgeted(prober, FreshBatches(), timeline=True)
    batch_bytes = 4 * FreshBatches.features * FreshBatches.batch_size
    assert footprint.categories_at_peak["inputs"] == batch_bytes
    assert ("between", "inputs", batch_bytes) in {
        (each.phase, each.category, each.bytes) for each in footprint.attribution
    }


def test_frozen_stages_have_no_gradients_and_keep_no_activations(prober: Prober) -> None:
    full, half = (unbudgeted(prober, ResNet18(frozen_stages=stages)) for stages in (0, 2))
    trained_bytes = 4 * (2_099_712 + 8_393_728 + 5_130)

    assert half.parameter_bytes == full.parameter_bytes
    assert half.categories_at_peak["parameters"] == full.categories_at_peak["parameters"]
    assert half.categories_at_peak["optimizer state"] == trained_bytes
    assert half.categories_at_peak["gradients"] <= trained_bytes
    assert half.peak_activation_bytes < full.peak_activation_bytes / 2


def test_the_largest_blocks_at_the_peak_are_named(prober: Prober) -> None:
    blocks = unbudgeted(prober, Linear(1024, 256)).largest_blocks
    assert [(block.bytes, block.category) for block in blocks[:3]] == [
        (32 << 20, "workspace"),
        (32 << 20, "workspace"),
        (4 * 256 * 1024, "inputs"),
    ]


def test_a_footprint_says_that_it_is_virtual(prober: Prober) -> None:
    footprint = unbudgeted(prober, Linear())
    assert footprint.environment.is_virtual
    assert footprint.environment.device_name == "virtual sm_90"
    assert footprint.environment.gpu == GPU
    assert footprint.environment.torch == torch.__version__
    assert footprint.nvml_used_bytes is None


def test_a_snapshot_is_what_the_memory_viewer_reads(prober: Prober, tmp_path: Path) -> None:
    unbudgeted(prober, Linear(), snapshot=tmp_path / "linear.pickle")
    snapshot = pickle.loads((tmp_path / "linear.pickle").read_bytes())
    assert {"segments", "device_traces", "allocator_settings"} <= set(snapshot)
    assert any(event["action"] == "alloc" for event in snapshot["device_traces"][0])


def test_momentum_is_there_from_the_second_step_on(prober: Prober) -> None:
    one, two = (unbudgeted(prober, Convolution(), steps=steps) for steps in (1, 2))
    assert one.categories_at_peak["optimizer state"] == 0
    assert two.categories_at_peak["optimizer state"] == two.parameter_bytes


# --- the same numbers, always ---


def test_a_used_worker_measures_what_a_fresh_one_does(prober: Prober) -> None:
    """Also after running out of memory, when cuDNN has taken plans with less workspace."""
    fresh = probe(Convolution(), WITH_WORKSPACES)
    used = replace(unbudgeted(prober, ResNet18(), WITH_WORKSPACES), timeline=None)
    assert not prober.fits(Convolution(), WITH_WORKSPACES, fresh.peak_allocated_bytes // 2)
    assert prober.fits(Convolution(), WITH_WORKSPACES, fresh.least_budget_bytes)
    with pytest.raises(OutOfMemory):
        unbudgeted(prober, Faulty("is larger than the GPU"), WITH_WORKSPACES)

    prober._footprints.clear()
    assert prober.measure(Convolution(), WITH_WORKSPACES) == fresh
    assert unbudgeted(prober, ResNet18(), WITH_WORKSPACES) == used


def test_what_a_worker_met_first_changes_nothing() -> None:
    """One that has only known plans for little memory is asked for those of plenty, and one the other way round."""
    fresh = probe(Convolution(), WITH_WORKSPACES)
    assert fresh.least_budget_bytes is not None
    with Prober() as own:
        assert own.fits(Convolution(), WITH_WORKSPACES, fresh.least_budget_bytes)
        assert own.measure(Convolution(), WITH_WORKSPACES) == fresh


def test_equal_keys_are_measured_once(prober: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    first = unbudgeted(prober, Linear())
    monkeypatch.setattr(_Worker, "ask", lambda *_: pytest.fail("measured again"))
    assert unbudgeted(prober, Linear()) is first


def test_while_the_other_process_measures_this_one_is_free_for_something_else(prober: Prober) -> None:
    options = {"least_budget": False}
    assert next(prober.measuring(Linear(32, 8), GPU, **options)) is None
    unbudgeted(prober, Linear(32, 8))
    with pytest.raises(StopIteration):  # nothing is measured twice
        next(prober.measuring(Linear(32, 8), GPU, **options))
    left = prober.measuring(Linear(32, 16), GPU, **options)
    next(left)
    for ask in (prober.measure, partial(prober.fits, budget_bytes=2**20)):
        with pytest.raises(RuntimeError, match=f"{GPU} is asked for something in a pause"):
            ask(Linear(64, 16), GPU)
    left.close()
    again = unbudgeted(prober, Linear(64, 16))  # and not the answer that nobody waited for
    assert again.parameter_bytes == 4 * (10 * 64 + 10)


# --- budgets ---


@pytest.mark.parametrize("workload", [ResNet18(), Linear()], ids=repr)
def test_the_least_budget_is_enough_and_a_granule_less_is_not(prober: Prober, workload: object) -> None:
    least_bytes = prober.measure(workload, GPU).least_budget_bytes
    assert least_bytes is not None
    assert prober.fits(workload, GPU, least_bytes)
    assert not prober.fits(workload, GPU, least_bytes - GRANULE_BYTES)
    assert not prober.fits(workload, GPU, least_bytes - 1)


def test_cudnn_trades_workspace_for_memory(prober: Prober) -> None:
    """Short of memory a convolution takes a plan with less workspace: it runs below its usual peak."""
    footprint = prober.measure(Convolution(), WITH_WORKSPACES)
    assert footprint.categories_at_peak["workspace"] > 2 * (32 << 20) / 2
    assert footprint.least_budget_bytes < footprint.peak_allocated_bytes


# --- what goes wrong ---


def test_a_dying_worker_is_replaced(prober: Prober) -> None:
    with pytest.raises(MeasurementFailed, match=r"died with status -9: (.|\n)*these are my last words"):
        unbudgeted(prober, Faulty("dies"))
    assert prober.fits(Linear(), GPU, 1 << 30)
    with pytest.raises(
        MeasurementFailed, match="died with status -9: it was killed, as happens where this machine's own"
    ):
        unbudgeted(prober, Faulty("dies without a word"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"at memory/workloads.py:\d+ prepare:\n(.|\n)*ZeroDivisionError: of my own making"),
        (
            "cannot be loaded",
            r"ModuleNotFoundError: No module named 'elsewhere'\): define it in a module that can",
        ),
        ("exits", r"called sys.exit\(3\), which a measurement cannot: let it raise an error"),
        ("exits as it is loaded", r"called sys.exit\('loaded'\), which"),
        ("does not tell", "stopped telling its observer in the phase 'forward'"),
        ("is larger than the GPU", "needs more than the 85029158912 bytes of virtual sm_90"),
    ],
)
def test_an_error_of_the_workload_comes_back_and_the_worker_lives_on(prober: Prober, fault: str, message: str) -> None:
    assert prober.fits(Linear(), GPU, 1 << 30)
    before = prober._workers[GPU]
    with pytest.raises(MeasurementFailed, match=message):
        unbudgeted(prober, Faulty(fault))
    assert prober.fits(Linear(), GPU, 1 << 30)
    assert prober._workers[GPU] is before


def test_what_a_workload_leaves_behind_is_not_measured_next(prober: Prober) -> None:
    clean = unbudgeted(prober, Linear())
    worker = prober._workers[GPU]
    keeping = unbudgeted(prober, Faulty("keeps a tensor"))
    (caveat,) = keeping.caveats
    assert "leaves 4000 bytes on the GPU" in caveat
    assert "no more with every step: 4000 of buffers of (step)" in caveat
    assert keeping.peak_requested_bytes == unbudgeted(prober, Linear()).peak_requested_bytes + 4000
    assert prober._workers.get(GPU) is not worker
    prober._footprints.clear()
    assert unbudgeted(prober, Linear()) == clean


def test_a_workload_must_be_picklable(prober: Prober) -> None:
    class Local(Linear):
        pass

    with pytest.raises(MeasurementFailed, match=r"cannot be sent to the worker .*Local.*: define it at the top"):
        unbudgeted(prober, Local())


def test_steps_must_be_positive(prober: Prober) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        unbudgeted(prober, Linear(), steps=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_named_with_the_remedy(prober: Prober) -> None:
    with pytest.raises(GpuUnavailable, match="no NVIDIA GPU and driver on this machine: choose a virtual GPU"):
        unbudgeted(prober, Linear(), "cuda")


# --- nothing stays behind ---


def test_an_interrupted_question_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[_Worker] = []

    def interrupt(worker: _Worker, *_: object) -> None:
        asked.append(worker)
        raise KeyboardInterrupt

    monkeypatch.setattr(_Worker, "ask", interrupt)
    with Prober() as prober:
        with pytest.raises(KeyboardInterrupt):
            prober.fits(Linear(), GPU, 1 << 30)
        assert asked[0]._process.poll() is not None
        assert prober._workers == {}


def test_an_error_does_not_wait_for_what_was_started_ahead() -> None:
    prober = Prober()
    prober.start(GPU)
    ahead = prober._workers[GPU]._process
    with pytest.raises(KeyError), prober:
        raise KeyError
    assert ahead.returncode == -signal.SIGKILL


def test_the_worker_that_was_started_ahead_is_the_one_that_measures(prober: Prober) -> None:
    prober.start(GPU)
    ahead = prober._workers[GPU]
    assert prober.fits(Linear(), GPU, 1 << 30)
    prober.start(GPU)
    assert prober._workers[GPU] is ahead


def test_a_worker_dies_with_its_parent() -> None:
    program = (
        "from profl.bench.memory.process.probe import _Worker; import time;"
        f"print(_Worker({GPU!r})._process.pid, flush=True); time.sleep(60)"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=variables)
    assert parent.stdout is not None
    worker = Path("/proc", parent.stdout.readline().strip())
    assert worker.is_dir()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(process: Path) -> bool:
    """Whether the process is more than a record that nobody has collected."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("request_to_end", [signal.SIGINT, signal.SIGTERM])
def test_what_asks_the_whole_group_to_end_is_the_parents_to_decide(
    prober: Prober, request_to_end: signal.Signals
) -> None:
    before = unbudgeted(prober, Linear(512))
    worker = prober._workers[GPU]._process
    worker.send_signal(request_to_end)
    assert unbudgeted(prober, Linear(513)).peak_requested_bytes > before.peak_requested_bytes
    assert prober._workers[GPU]._process is worker
