"""Whole runs on the virtual GPU, for their memory alone: the real round loop, where nothing is computed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from click.testing import CliRunner

import profl.bench.federation
from profl.bench.cell import Cell
from profl.bench.cli import main
from profl.bench.config import Config, Grid, cells, read_config
from profl.bench.engine import InProcess, Job, LocalProcesses
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.held import HELD
from profl.bench.measuring import measure_tasks
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.usage import PEAK_STATISTICS, Usage, memory_usage
from profl.bench.report import closing_text, write_report
from profl.bench.report.figures.memory_by_round import curve
from profl.bench.report.held import what_stayed
from profl.bench.report.page.reproduce import configurations
from profl.bench.report.study import studies
from profl.bench.report.style import mebibytes
from profl.bench.results import CellFolder, read_run
from profl.bench.results.folder import folder_of
from tests.conftest import SMALL_RECIPE, small_cell, unchecked
from tests.sweeps import Silent, bits, sweep

ROUNDS = 12
RECIPE = replace(SMALL_RECIPE, rounds=ROUNDS, devices=30)  # three batches for each
LEAKED_BYTES = 1 << 20


def memory_cell(method: str, tier: str = "100%", **more: object) -> Cell:
    return small_cell(method, tier, **{"recipe": RECIPE, "memory_only": True, **more})


@contextmanager
def leaking(trainings: int | None) -> Iterator[None]:
    """Let every local training, or the first ones, keep a megabyte on the GPU."""
    kept: list[torch.Tensor] = []
    train = profl.bench.federation.train_locally

    def train_and_keep(*arguments, **named):
        if trainings is None or len(kept) < trainings:
            kept.append(torch.empty(LEAKED_BYTES, dtype=torch.uint8, device="cuda"))
        return train(*arguments, **named)

    with patch.object(profl.bench.federation, "train_locally", train_and_keep):
        yield
    kept.clear()


@dataclass(frozen=True)
class LeakingRounds:
    """A cell whose training leaks, as a program for the worker that has the virtual GPU."""

    job: Job
    trainings: int | None = None
    stop_after: int | None = None
    key: str = "leaking rounds"

    def run(self, device: torch.device, report: Callable[[object], None]) -> dict | None:
        folder = CellFolder(self.job.path)
        folder.begin(self.job.cell.to_dict())

        def on_round(row: dict) -> None:
            if row["round"] == self.stop_after:
                raise KeyboardInterrupt

        with leaking(self.trainings), suppress(KeyboardInterrupt):
            profl.bench.federation.run_cell(
                self.job.experiment, folder, self.job.least_budgets, self.job.full_model_bytes, on_round
            )
        return None if self.stop_after else folder.summary()


@dataclass(frozen=True)
class Reporting:
    """A program that reports once."""

    key: str = "reporting"

    def run(self, device: torch.device, report: Callable[[object], None]) -> None:
        report("here")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, prober: Prober) -> tuple[Path, list[Cell]]:
    """Two methods, run in this process's workers of two."""
    output = tmp_path_factory.mktemp("memory")
    todo = [memory_cell("profl"), memory_cell("heterofl")]
    listener = Silent()
    sweep(todo, output, LocalProcesses(2), prober, listener)
    assert set(listener.errors.values()) == {None}
    assert len(listener.rounds) == 2 * ROUNDS  # every round was reported across two processes
    return output, todo


def test_every_round_tells_the_memory_of_its_participants(swept: tuple[Path, list[Cell]], prober: Prober):
    output, todo = swept
    for cell in todo:
        measured = measure_tasks(Experiment.of(cell), prober)
        least, footprints = measured.least_budgets, measured.footprints
        budgets = set(cell.budgets(measured.full_model_bytes))
        rows = folder_of(cell, output).rounds()
        assert len(rows) == cell.recipe.rounds
        for row in rows:
            assert len(row["usages"]) == row["participants"] == RECIPE.participants
            assert row["held_bytes"] == 0
            assert row["peak_reserved_bytes"] == max(usage["peak_reserved_bytes"] for usage in row["usages"])
            for usage in row["usages"]:
                measured = footprints[usage["task"]].peak_requested_bytes
                # A device frees its batch before the next, and so never needs more than the measured step.
                assert 0.9 * measured <= usage["peak_requested_bytes"] <= measured
                assert usage["peak_requested_bytes"] <= usage["peak_allocated_bytes"] <= usage["peak_reserved_bytes"]
                assert usage["peak_reserved_bytes"] <= max(budgets)
                assert least[usage["task"]] <= max(budgets)


def test_the_peaks_of_a_round_are_the_most_of_any_participant(tmp_path: Path, prober: Prober):
    cell = memory_cell("heterofl", "20%..120%")
    sweep([cell], tmp_path, InProcess(), prober, Silent())
    rows = [row for row in folder_of(cell, tmp_path).rounds() if row["usages"]]
    for peak in PEAK_STATISTICS:
        assert all(row[peak] == max(usage[peak] for usage in row["usages"]) for row in rows)
        assert any(row[peak] > row["usages"][-1][peak] for row in rows)  # it is not that of the last


@dataclass(frozen=True)
class Dividing:
    """A program that leaves a gap in a divided block, and then gives everything back."""

    key: str = "dividing"

    def run(self, device: torch.device, report: Callable[[object], None]) -> Usage:
        with memory_usage(device) as usage:
            parts = [torch.empty(4 << 20, dtype=torch.uint8, device=device) for _ in range(3)]
            del parts[1]
            parts.clear()
        return usage


def test_what_lay_unused_counts_though_it_is_used_again(prober: Prober):
    usage = prober.run(Dividing(), "virtual:jetson-orin", lambda row: None)
    assert usage.peak_requested_bytes == usage.peak_allocated_bytes == 12 << 20
    assert usage.peak_reserved_bytes == 20 << 20  # what PyTorch asks for where less than 10 MiB is wanted
    assert usage.peak_fragmented_bytes == 16 << 20  # after the first part
    assert usage.held_bytes == 0


def test_nothing_is_claimed_about_accuracy(swept: tuple[Path, list[Cell]]):
    output, _ = swept
    run = read_run(output)
    assert run.rounds[["train_loss", "test_loss", "test_accuracy"]].isna().all(axis=None)
    assert run.cells[["final_accuracy", "best_accuracy", "best_round"]].isna().all(axis=None)
    assert run.cells["memory_only"].all()
    assert (run.cells[[*HELD]] == 0).all(axis=None)
    phases = run.rounds.loc[run.rounds["method"] == "profl", "phase"]
    assert phases.iloc[0] == "shrink 4/4"
    assert phases.iloc[-1] == "grow 4/4"


def test_the_report_shows_memory_and_no_accuracy(swept: tuple[Path, list[Cell]], tmp_path: Path):
    run = read_run(swept[0])
    written = {path.name for path in write_report(run, tmp_path)}
    assert {name for name in written if name.endswith(".png")} == {
        "memory_by_round.png",
        "peak_memory.png",
        "participation.png",
    }
    (study,) = studies(run)
    summary = closing_text(run)
    for method in ("profl", "heterofl"):
        most = curve(study, method, "100%")["peak_reserved_bytes"].max()
        assert f"{mebibytes(most)} MiB" in summary
    assert summary.count("nothing held") == 2
    again = tmp_path / "study.toml"
    again.write_text(configurations(run.records)["study.toml"])
    assert {cell.folder_name for cell in cells(read_config(again))} == {cell.folder_name for cell in swept[1]}
    page = (tmp_path / "index.html").read_text()
    assert "Nothing is held from round to round: no leak." in page
    assert "Accuracy" not in page


@pytest.mark.usefixtures("one_figure")
def test_trainings_that_ran_out_of_memory_are_told(swept: tuple[Path, list[Cell]], tmp_path: Path):
    output, todo = swept
    shutil.copytree(output, tmp_path / "run")
    profl, heterofl = (folder_of(cell, tmp_path / "run") for cell in todo)
    for folder, number in ((profl, 0), (heterofl, 3)):
        summary = unchecked((folder.path / "summary.json").read_text())
        assert summary["out_of_memory_trainings"] == 0
        (folder.path / "summary.json").write_text(json.dumps(summary | {"out_of_memory_trainings": number}))
    run = read_run(tmp_path / "run")
    (study,) = studies(run)
    sentence = "Ran out of memory in training, though admitted: heterofl at 100%, 3 times."
    assert study.out_of_memory == [sentence]
    assert sentence in closing_text(run)
    write_report(run, tmp_path / "report")
    assert sentence in (tmp_path / "report" / "index.html").read_text()


def test_the_number_of_workers_and_an_interruption_change_nothing(
    swept: tuple[Path, list[Cell]], tmp_path: Path, prober: Prober
):
    output, todo = swept
    cell = todo[1]

    class Interrupting(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            if row["round"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep([cell], tmp_path, InProcess(), prober, Interrupting())
    # The worker may have gone one round further before it found that nobody listens.
    sweep([cell], tmp_path, InProcess(), prober, Silent())
    assert bits([cell], tmp_path) == bits([cell], output)


LEAKY = memory_cell("exclusive", "unlimited")
PER_ROUND = LEAKED_BYTES * RECIPE.participants


def ready(path: Path, prober: Prober) -> Job:
    """Return the leaky cell, measured into a run's folder."""
    experiment, folder = Experiment.of(LEAKY), folder_of(LEAKY, path)
    needs = measure_tasks(experiment, prober)
    folder.path.mkdir(parents=True)
    folder.write_footprints(needs.entries(LEAKY))
    return Job(experiment, folder.path, needs.least_budgets, needs.full_model_bytes)


def held_by_round(path: Path) -> list[int]:
    return [row["held_bytes"] for row in folder_of(LEAKY, path).rounds()]


def test_a_leak_shows_as_a_slope(tmp_path: Path, prober: Prober):
    job = ready(tmp_path, prober)
    summary = prober.run(LeakingRounds(job), LEAKY.gpu, lambda row: None)
    assert held_by_round(tmp_path) == [PER_ROUND * number for number in range(1, ROUNDS + 1)]
    assert summary["held_bytes_per_round"] == pytest.approx(PER_ROUND)
    run = read_run(tmp_path)
    assert "up to 36 MiB held, growing in 100% of rounds, +3,145,728 B a round" in " ".join(closing_text(run).split())
    (study,) = studies(run)
    assert "is a leak): exclusive at unlimited up to 36 MiB held, growing in 100% of rounds" in what_stayed(study)


def test_a_leak_shows_as_the_same_slope_after_an_interruption(tmp_path: Path, prober: Prober):
    job = ready(tmp_path, prober)
    prober.run(LeakingRounds(job, stop_after=5), LEAKY.gpu, lambda row: None)
    with Prober() as own:  # another process, with nothing on its GPU
        summary = own.run(LeakingRounds(job), LEAKY.gpu, lambda row: None)
    anew = [*range(1, 6), *range(1, ROUNDS - 4)]
    assert held_by_round(tmp_path) == [PER_ROUND * number for number in anew]
    assert summary["held_bytes_per_round"] == pytest.approx(PER_ROUND)
    assert summary["most_held_bytes"] == PER_ROUND * (ROUNDS - 5)
    assert summary["held_growth_share"] == 1


def test_what_is_kept_once_is_held_but_no_leak(tmp_path: Path, prober: Prober):
    job = ready(tmp_path, prober)
    prober.run(LeakingRounds(job, trainings=1), LEAKY.gpu, lambda row: None)
    assert held_by_round(tmp_path) == [LEAKED_BYTES] * ROUNDS
    (study,) = studies(read_run(tmp_path))
    assert what_stayed(study).endswith(": exclusive at unlimited up to 1 MiB held, not growing.")


def test_when_nobody_reads_the_events_the_sweep_ends(tmp_path: Path):
    words = "sweep --preset smoke --method exclusive --tier 100% --rounds 300 --memory-only --json --workers 1"
    command = [str(Path(sys.executable).with_name("profl")), *words.split(), "--output", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sweep:
        assert json.loads(sweep.stdout.readline())["event"] == "measured"
        sweep.stdout.close()
        told = sweep.stderr.read()
    assert sweep.returncode == 130
    assert "finished rounds are kept" in told
    assert "Traceback" not in told
    (cell,) = (tmp_path / "run" / "cells").iterdir()
    assert CellFolder(cell).status == "stopped"
    assert not (cell / "error.txt").exists()


def test_an_error_of_whoever_listens_is_theirs(prober: Prober):
    def on_report(report: object) -> None:
        raise BrokenPipeError("nobody reads")

    with Prober() as own, pytest.raises(BrokenPipeError, match="nobody reads"):
        own.run(Reporting(), LEAKY.gpu, on_report)


def test_a_run_on_a_cpu_knows_no_gpu_memory():
    with memory_usage(torch.device("cpu")) as usage:
        torch.zeros(1000)
    assert usage.held_bytes is usage.peak_reserved_bytes is None


def test_it_is_a_run_of_its_own_kind(tmp_path: Path):
    trained = small_cell("fedavg")
    assert "memory_only" not in trained.to_dict()
    assert Cell.from_dict(trained.to_dict()) == trained
    for_memory = replace(trained, memory_only=True)
    assert Cell.from_dict(for_memory.to_dict()) == for_memory
    assert for_memory.folder_name != trained.folder_name


@pytest.mark.parametrize("gpu", ["cuda", "estimate:h100"])
def test_it_needs_a_virtual_gpu(gpu: str):
    grid = Grid(method=["fedavg"], model=["resnet18"], width=[2], dataset=["digits"], tier=["1GiB"], seed=[0])
    with pytest.raises(InputError, match=f"memory_only needs a virtual GPU, not '{gpu}'"):
        cells(Config(grid, gpu, memory_only=True))


@pytest.mark.usefixtures("commands_are_warm")
def test_the_command_writes_events_for_programs(tmp_path: Path):
    words = "sweep --preset smoke --method exclusive --tier 100% --rounds 2 --memory-only --json --workers 1"
    ran = CliRunner().invoke(main, [*words.split(), "--output", str(tmp_path / "run")])
    assert ran.exit_code == 0, ran.stderr
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [event["event"] for event in events] == ["measured", "round", "round", "finished"]
    assert {event["cell"] for event in events} == {folder.name for folder in (tmp_path / "run" / "cells").iterdir()}
    assert [event["round"] for event in events[1:3]] == [1, 2]
    assert events[1]["test_accuracy"] is None
    assert events[3]["peak_reserved_bytes"] == max(event["peak_reserved_bytes"] for event in events[1:3])
