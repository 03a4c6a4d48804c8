"""Training steps of a stranger: no observer, a script of one's own, code that already runs on a GPU."""

from __future__ import annotations

import doctest
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import pytest

from profl.bench.memory import BuiltStep, Footprint, MeasurementFailed, Prober, measure
from profl.bench.memory.errors import UnusableStep
from tests.memory import built_steps
from tests.memory.built_steps import RecordedInPlace
from tests.memory.workloads import Linear

GPU = "virtual:t4"


def measured(prober: Prober, workload: object, **options: object) -> Footprint:
    return prober.measure(workload, GPU, least_budget=False, **options)


def linear(device: object) -> built_steps.Built:
    """The step of `Linear`, without its observer."""
    import torch
    from torch.nn import functional

    prepared = Linear().prepare(device)
    inputs, targets = prepared.inputs

    def step() -> None:
        loss = functional.cross_entropy(prepared.module(inputs), targets)
        loss.backward()
        prepared.optimizer.step()
        prepared.optimizer.zero_grad()

    assert isinstance(prepared.optimizer, torch.optim.SGD)
    return prepared.module, prepared.optimizer, {"features": inputs, "targets": [targets]}, step


def test_phases_found_by_hooks_are_those_that_a_step_tells(prober: Prober) -> None:
    told, found = (measured(prober, step, timeline=True) for step in (Linear(), BuiltStep(linear)))
    # A step tells of its end after its gradients are gone, hooks when the optimizer is done.
    assert replace(found, timeline=None) == replace(told, key="tests.memory.test_api.linear", timeline=None)
    assert told.timeline is not None
    assert found.timeline is not None
    assert found.timeline.live_bytes == told.timeline.live_bytes
    assert [name for _, name in found.timeline.phases] == [name for _, name in told.timeline.phases]


def forgetful(device: object) -> built_steps.Built:
    """Stays on the CPU, whatever it is given."""
    return linear("cpu")


def test_a_step_that_stays_on_the_cpu_is_told(prober: Prober) -> None:
    footprint = measured(prober, BuiltStep(forgetful))
    assert footprint.peak_requested_bytes == 0
    assert footprint.caveats == (
        "nothing was asked of the GPU: build modules and examples on the device that is given",
    )


def idle(device: object) -> built_steps.Built:
    """Builds what others train, and trains nothing."""
    return (*linear(device)[:3], lambda: None)


def test_a_step_that_does_nothing_is_told(prober: Prober) -> None:
    footprint = measured(prober, BuiltStep(idle))
    assert footprint.peak_requested_bytes > 0
    assert footprint.caveats == ("no step asked the GPU for memory: does it train, and there?",)
    assert measured(prober, BuiltStep(linear)).caveats == ()


def test_a_step_may_end_after_forward(prober: Prober) -> None:
    footprint = measured(prober, BuiltStep(built_steps.forward_only), timeline=True)
    assert footprint.timeline is not None
    assert [name for _, name in footprint.timeline.phases] == ["prepare", "between", *["forward", "between"] * 3]
    assert footprint.peak_position is not None
    assert footprint.peak_position.phase == "forward"


def test_keys_name_function_and_arguments() -> None:
    assert BuiltStep(built_steps.chain).key == "tests.memory.built_steps.chain"
    assert BuiltStep(partial(built_steps.chain, passes=3)).key == "tests.memory.built_steps.chain(passes=3)"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("three", "a tuple of 3"),
        ("a list", "a list of Sequential and SGD and dict and function"),
        ("nothing", "None"),
        ("a generator", "an object of type generator"),
        ("swapped", "an object of type SGD as module, which is an nn.Module or a list of them"),
        ("mixed modules", "a list of Sequential and str as module"),
        ("a name", "an object of type str as optimizer, which is one of torch.optim's or a list of them"),
        ("no optimizer", "None as optimizer"),
        ("a step that ran", "None as step, which is a function without arguments"),
        ("a step that yields", "a generator or coroutine as step, which would run nothing when it is called"),
        ("a step to await", "a generator or coroutine as step, which would run nothing when it is called"),
        ("a step of one batch", "a step that lacks arguments, which is called without any"),
    ],
)
def test_a_function_that_returns_something_else_is_refused(what: str, told: str) -> None:
    import torch

    with pytest.raises(UnusableStep) as refused:
        BuiltStep(partial(built_steps.returning, what=what)).prepare(torch.device("cpu"))
    (line,) = str(refused.value).splitlines()
    assert f"returning(what={what!r}) returned {told}" in line
    assert line.endswith(": it must return (module, optimizer, inputs, step)")


def test_what_a_step_has_done_wrong_is_told_by_the_worker(prober: Prober) -> None:
    with pytest.raises(UnusableStep, match=r"returned None: it must return \(module, optimizer, inputs, step\)$"):
        measured(prober, BuiltStep(partial(built_steps.returning, what="nothing")))
    with pytest.raises(MeasurementFailed, match=r"numbers calls backward on a loss of several numbers: make it one"):
        measured(prober, BuiltStep(built_steps.loss_of_many_numbers))


def test_what_a_virtual_gpu_cannot_play_is_told(prober: Prober) -> None:
    assert measured(prober, BuiltStep(built_steps.chain)).caveats == ()
    (caveat,) = measured(prober, BuiltStep(built_steps.reads_a_number)).caveats
    assert "built_steps.py" in caveat
    assert "loss.item()" in caveat
    assert measured(prober, Linear()).caveats == ()


def test_a_step_of_a_running_program(prober: Prober, tmp_path: Path) -> None:
    """What lived before is there, the momentum of the first steps is known, and nothing needs a worker."""
    assert prober.fits(RecordedInPlace(built_steps.chain, tmp_path), GPU, 1 << 30)

    frame = pd.read_csv(tmp_path / "frame.csv")
    of_whole = measured(prober, BuiltStep(built_steps.chain))
    by_category = frame.groupby("category")["bytes"].sum().to_dict()
    assert by_category == {name: size for name, size in of_whole.categories_at_peak.items() if size}
    by_module = frame.groupby(["category", "module"])["bytes"].sum()
    assert by_module["optimizer state", "2"] == by_module["parameters", "2"] == 4 * 256 * 128
    assert int((tmp_path / "allocated").read_text()) == of_whole.peak_allocated_bytes
    assert {"segments", "device_traces"} <= set(pickle.loads((tmp_path / "snapshot.pickle").read_bytes()))
    names = [event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
    assert names.count("forward") == names.count("backward") == names.count("optimizer") == names.count("step 1") == 1
    assert "use measure on a virtual one" in (tmp_path / "error").read_text()


# --- scripts ---


def run_script(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "my_script.py").write_text(text)
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, "my_script.py"], cwd=folder, env=variables, capture_output=True, text=True)


def test_the_example_of_the_documentation_runs_as_a_script(tmp_path: Path) -> None:
    examples = doctest.DocTestParser().get_examples(measure.__doc__ or "")
    done = run_script("".join(example.source for example in examples), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == examples[-1].want
    assert (tmp_path / "memory.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "memory.json").read_text())["traceEvents"]


def test_a_script_that_measures_when_it_is_imported_is_told_so(tmp_path: Path) -> None:
    script = (
        "from profl.bench.memory import measure\n"
        "from tests.memory.built_steps import chain\n"
        "def build(device):\n"
        "    return chain(device)\n"
        f"measure(build, {GPU!r})\n"
    )
    done = run_script(script, tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"\S+MeasurementFailed: the script starts a measurement whenever it is imported, .*: "
        "start it behind: if __name__ == '__main__'",
        done.stderr.splitlines()[-1],
    )


def within_a_function() -> Callable[..., object]:
    def build(device: object) -> None: ...

    return build


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda device: None, r"\S+<lambda> cannot be sent .*: define it at the top of a module or script, not as a l"),
        (within_a_function(), r"\S+<locals>\.build cannot be sent .*: define it at the top of a module or script, not"),
        (
            partial(linear, lambda: None),
            r"\S+linear\(<.*>\) cannot be sent .*: define it .*, not as a lambda or inside",
        ),
        (partial(linear, Lock()), r"\S+linear\(<.*>\) cannot be sent .*: give it only values that can be pickled$"),
    ],
)
def test_what_cannot_be_sent_to_another_process_is_told_with_the_remedy(build: Any, told: str) -> None:
    with pytest.raises(MeasurementFailed, match=told) as raised:
        measure(build, GPU)
    assert "\n" not in str(raised.value)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot measure 3: give a function that takes the device"):
        measure(3, GPU)  # type: ignore[arg-type]
