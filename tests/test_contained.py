"""A method that is plugged in and behaves badly hurts its own cell alone, and is named."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from profl.bench.contained import contained
from profl.bench.engine import Job, Outcome, run_job
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.method import FullModel
from profl.bench.registry import method_class
from profl.bench.results import CellFolder
from tests.conftest import SMALL_RECIPE, plug_in, small_cell

RECIPE = replace(SMALL_RECIPE, rounds=2, devices=120, participants=1, evaluate_every=2)
TEXT = """
import random, sys, numpy, torch
from profl.baselines.fedavg import FedAvg
{top}
class Mine(FedAvg):
    def __init__(self, *arguments):
        {made}
        super().__init__(*arguments)
    def aggregate(self, updates):
        {aggregated}
        super().aggregate(updates)
    def state_dict(self):
        return {{**super().state_dict(), "own": {kept}}}
"""
Write = Callable[..., None]


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    """Returns ``mine(made=..., ...)``: plug in a method ``mine`` with these lines in it."""

    def write(**lines: str) -> None:
        text = TEXT.format(**{"top": "", "made": "pass", "aggregated": "pass", "kept": "1", **lines})
        (tmp_path / "plugged.py").write_text(text)
        monkeypatch.delitem(sys.modules, "plugged", raising=False)
        plug_in(monkeypatch, "profl.methods", "mine", "plugged:Mine")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # else a text of the same length and second is taken for it
    return write


def run(method: str, folder: Path) -> Outcome:
    """Run a short cell without measuring it."""
    experiment = Experiment.of(small_cell(method, recipe=RECIPE))
    path = folder / "cells" / experiment.cell.folder_name
    CellFolder(path).begin(experiment.cell.to_dict())
    return run_job(Job(experiment, path, {task.key: 1 for task in experiment.tasks}, 1), lambda row: None)


@dataclass(frozen=True)
class Unnameable(FullModel):
    """Has a key no longer."""

    raised: type[BaseException]

    @property
    def key(self) -> str:
        raise self.raised("no key here")


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit])
def test_a_task_that_fails_to_say_its_key_ends_its_cell_alone(tmp_path: Path, raised: type[BaseException]):
    experiment = Experiment.of(small_cell("fedavg", recipe=RECIPE))
    folder = CellFolder(tmp_path / experiment.cell.folder_name)
    folder.begin(experiment.cell.to_dict())
    broken = replace(experiment, tasks=(Unnameable(experiment.model, raised),))
    outcome = run_job(Job(broken, folder.path, {"full model": 1}, 1, {"full model": 2}), lambda row: None)
    assert "no key here" in str(outcome.error)
    assert folder.status == "failed"


def losses(folder: Path) -> list[tuple[float, float]]:
    (path,) = (folder / "cells").glob("fedavg-*")
    return [(row["train_loss"], row["test_loss"]) for row in CellFolder(path).rounds()]


BAD = {
    "sys.exit(3)": "method 'mine' ends the process, with 3: let it raise an error that says why",
    "raise LookupError('no\\nluck')": "LookupError: no",
    "torch.set_default_dtype(torch.float64)": "changes PyTorch's default dtype from torch.float32 to torch.float64",
    "torch.set_num_threads(7)": "changes PyTorch's number of threads from 1 to 7 for all",
    "torch.set_default_device('meta')": "changes PyTorch's default device from cpu to meta",
    "torch.set_grad_enabled(False)": "changes PyTorch's gradients from True to False",
}


def test_what_a_method_does_wrong_is_named_and_changes_no_other_cell(mine: Write, tmp_path: Path, capfd):
    assert run("fedavg", tmp_path / "before").error is None
    drawn = torch.get_rng_state()
    for number, (line, message) in enumerate(BAD.items()):
        mine(aggregated=line)
        outcome = run("mine", tmp_path / str(number))
        assert message in str(outcome.error)
        assert "\n" not in str(outcome.error)
    mine(kept="{'tensor': object()}")
    assert "method.own.tensor of the checkpoint is of type object" in str(run("mine", tmp_path / "kept").error)
    mine(aggregated="print('said'); random.seed(0); numpy.random.seed(0); torch.manual_seed(0)")
    outcome = run("mine", tmp_path / "fine")
    assert outcome.error is None
    assert torch.equal(torch.get_rng_state(), drawn)
    assert run("fedavg", tmp_path / "after").error is None
    assert losses(tmp_path / "after") == losses(tmp_path / "before")
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("said") == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"made": "raise LookupError('no luck')"}, "fails before any work: LookupError: no luck"),
        ({"made": "sys.exit()"}, "ends the process, with None"),
        ({"made": "torch.set_default_dtype(torch.float64)"}, "changes PyTorch's default dtype"),
        (
            {"top": "torch.set_default_dtype(torch.float64)"},
            r"method 'mine' \(plugged:Mine\) changes PyTorch's default",
        ),
        ({"top": "sys.exit(3)"}, "cannot be imported: it exits with 3"),
    ],
)
def test_what_goes_wrong_before_any_work_is_one_line(mine: Write, lines: dict, message: str):
    mine(**lines)
    with pytest.raises(InputError, match=message) as refused:
        Experiment.of(small_cell("mine", recipe=RECIPE))
    assert "\n" not in str(refused.value)
    assert torch.get_default_dtype() == torch.float32


def test_what_was_imported_elsewhere_does_not_reach_a_cell(tmp_path: Path):
    """A worker imports a plug-in as it is handed a job, before anybody looks."""
    assert run("fedavg", tmp_path / "before").error is None
    torch.set_default_dtype(torch.float64)
    try:
        assert run("fedavg", tmp_path / "after").error is None
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert losses(tmp_path / "after") == losses(tmp_path / "before")


def test_the_package_that_a_method_came_from_is_recorded(tmp_path: Path):
    run("fedavg", tmp_path)
    (path,) = (tmp_path / "cells").iterdir()
    (environment,) = CellFolder(path).environments()
    assert environment["method_package"].startswith("profl ")
    assert environment["method_package"].endswith(f"({method_class('fedavg').__module__}:FedAvg)")
    assert environment["model_package"].startswith("profl ")


def test_an_error_is_passed_on_unless_what_was_changed_may_have_caused_it():
    def fail(dtype: torch.dtype) -> None:
        torch.set_default_dtype(dtype)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), contained("x"):
        fail(torch.float32)
    with pytest.raises(InputError, match="x changes PyTorch's default dtype") as changed, contained("x"):
        fail(torch.float64)
    assert isinstance(changed.value.__cause__, ZeroDivisionError)
    assert torch.get_default_dtype() == torch.float32
