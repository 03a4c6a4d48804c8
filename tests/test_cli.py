"""The command line, as a user meets it."""

import json
import os
import re
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, metadata
from itertools import permutations
from pathlib import Path
from weakref import WeakSet

import pytest
import torch
from click.testing import CliRunner, Result

from profl.bench.cell import Cell, Recipe
from profl.bench.cli import main
from profl.bench.cli.options import Part
from profl.bench.doctor import EXTRAS, Check, Finding, _extra
from profl.bench.experiment import Experiment
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu.profile import known_gpus
from profl.bench.results import CellFolder
from profl.bench.results.folder import folder_of
from tests.conftest import unchecked

pytestmark = pytest.mark.usefixtures("commands_are_warm")

SMALL = """
gpu = "virtual:jetson-orin"
[grid]
method = ["fedavg", "heterofl"]
model = ["resnet18"]
width = [2]
dataset = ["digits"]
tier = ["40%", "100%"]
seed = [0]
[recipe]
rounds = 2
devices = 10
participants = 2
batch_size = 8
local_epochs = 1
"""


def profl(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.toml").write_text(SMALL)
    result = profl("sweep", "--config", folder / "small.toml", "--output", folder / "run", "--workers", 1)
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_a_sweep_leaves_figures_tables_and_a_closing_table(run: Path):
    report = run / "report"
    assert {path.suffix for path in report.iterdir()} == {".png", ".svg", ".csv", ".parquet", ".md", ".tex", ".html"}
    result = profl("report", run, "--output", run.parent / "elsewhere")
    assert result.exit_code == 0
    assert "heterofl" in result.output
    assert {path.name for path in (run.parent / "elsewhere").iterdir()} == {path.name for path in report.iterdir()}


def test_two_runs_are_compared_on_one_page(run: Path, tmp_path: Path):
    import shutil

    other = shutil.copytree(run, tmp_path / "other")
    result = profl("report", run, other)
    assert result.exit_code == 0
    assert result.output.split() == [str(other / "report" / "comparison.html")]
    assert "<h1" in (other / "report" / "comparison.html").read_text()


@pytest.mark.usefixtures("one_figure")
def test_a_second_sweep_repeats_nothing(run: Path):
    before = {path: path.read_bytes() for path in (run / "cells").rglob("*") if path.is_file()}
    result = profl("sweep", "--config", run.parent / "small.toml", "--output", run, "--workers", 1)
    assert result.exit_code == 0
    assert "3 cells" in result.output
    assert f"3 cells in {run}: 3 are done\n" in result.stderr
    assert {path: path.read_bytes() for path in (run / "cells").rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("one_figure")
def test_a_sweep_shows_methods_in_the_order_in_which_they_are_named(run: Path, tmp_path: Path):
    run = shutil.copytree(run, tmp_path / "run")
    words = ["sweep", "--config", tmp_path / "small.toml", "--output", run, "--workers", 1]
    (tmp_path / "small.toml").write_text(SMALL)
    for methods in (["heterofl", "fedavg"], ["fedavg", "heterofl"]):
        result = profl(*words, *(word for method in methods for word in ("--method", method)))
        assert result.exit_code == 0, result.output
        for text in ((run / "report" / "results.md").read_text(), result.stdout):
            assert re.findall(r"^(?:\| )?(fedavg|heterofl)\b", text, flags=re.MULTILINE)[:2] == methods


def test_a_cell_of_another_recipe_without_a_round_blocks_nothing(run: Path, tmp_path: Path):
    copy = shutil.copytree(run, tmp_path / "run")
    cell = CellFolder(next((copy / "cells").iterdir())).cell()
    other = replace(cell, recipe=replace(cell.recipe, rounds=9))
    folder_of(other, copy).begin(other.to_dict())  # as if interrupted while its memory was measured
    result = profl("sweep", "--config", run.parent / "small.toml", "--output", copy, "--workers", 1, "--cells", "1/1")
    assert result.exit_code == 0, result.output
    assert f"removed from {copy}: 1 cell of another recipe that had not finished a round" in result.stderr
    assert sorted(path.name for path in (copy / "cells").iterdir()) == sorted(
        path.name for path in (run / "cells").iterdir()
    )


def test_the_folder_follows_what_is_given(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    given = ("sweep", "--config", run.parent / "small.toml", "--workers", 1, "--cells", "9/9")  # there are three
    assert profl(*given).stderr.startswith("0 of the grid's 3 cells in results/run-small\n")
    assert profl(*given, "--width", 8).stderr.startswith("0 of the grid's 3 cells in results/run-small-width8\n")


@pytest.mark.usefixtures("one_figure")
def test_folders_that_are_no_cells_stop_neither_sweep_nor_report(run: Path, tmp_path: Path):
    copy = shutil.copytree(run, tmp_path / "run")
    cells = copy / "cells"
    lost, kept, _ = sorted(cells.iterdir())
    rows = (lost / "rounds.jsonl").read_bytes()
    (lost / "cell.json").rename(lost / "cell.json.partial")  # as if killed before its name was given
    shutil.copytree(kept, cells / f"{kept.name} (copy)")
    (cells / "fedavg-resnet18w9-digits-50-seed0-01234567").mkdir()  # killed before it was begun, and of another sweep
    (cells / ".ipynb_checkpoints").mkdir()
    report = profl("report", copy)
    assert report.exit_code == 0
    assert f"left out of {cells}: " in report.stderr
    assert "and 1 more, which are no cells of a sweep" in report.stderr
    result = profl("sweep", "--config", run.parent / "small.toml", "--output", copy, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert f"3 cells in {copy}: 2 are done, of the others 2 of 2 rounds\n" in result.stderr
    assert lost.name not in result.stderr.splitlines()[0]
    assert not (lost / "cell.json.partial").exists()
    assert (lost / "rounds.jsonl").read_bytes() == rows
    assert len((copy / "report" / "cells.csv").read_text().splitlines()) == 4


def test_a_part_of_the_grid_is_run_alone_and_tells_that_it_is_one(run: Path, tmp_path: Path):
    arguments = ("sweep", "--config", run.parent / "small.toml", "--output", tmp_path, "--workers", 1)
    result = profl(*arguments, "--cells", "2/2")
    assert result.exit_code == 0, result.output
    (alone,) = (path for path in (tmp_path / "cells").iterdir() if CellFolder(path).status == "done")
    same = [
        [{**row, "seconds": 0} for row in CellFolder(folder).rounds()] for folder in (alone, run / "cells" / alone.name)
    ]
    assert same[0] == same[1]
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
    assert f"1 of the grid's 3 cells in {tmp_path}\n" in result.stderr
    assert f"1 of the grid's 3 cells are done; when all are, draw them: profl report {tmp_path}" in result.stderr
    (listed,) = profl("runs", tmp_path).output.splitlines()[1:]
    assert listed.split()[:3] == ["stopped", "1/3", "2/6"]
    assert "1 of 3 cells are done." in profl("report", tmp_path, "--format", "png").output
    assert "1 of 3 cells are done. No result: fedavg" in (tmp_path / "report" / "results.md").read_text()
    shutil.copytree(run / "cells", tmp_path / "cells", dirs_exist_ok=True)
    whole = profl(*arguments, "--cells", "2/2")
    assert f"all 3 cells of the grid are done; draw them: profl report {tmp_path}\n" in whole.stderr


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 12])
def test_parts_together_are_the_whole_grid_once(parts: int):
    grid = list(range(10))
    taken = [grid[Part()(f"{number}/{parts}")] for number in range(1, parts + 1)]
    assert sorted(cell for part in taken for cell in part) == grid
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


@pytest.mark.usefixtures("one_figure")
def test_a_run_that_goes_on_with_other_instructions_says_so_and_reports_both(run: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (resumed,) = other.glob("cells/fedavg-*")
    (resumed / "summary.json").unlink()  # as if stopped after its first round
    first, _ = (resumed / "rounds.jsonl").read_text().splitlines(keepends=True)
    (resumed / "rounds.jsonl").write_text(first)
    experiment = Experiment.of(CellFolder(resumed).cell())
    state = {"round": 1, "method": experiment.method().state_dict(), "trained": {}}
    torch.save(state, resumed / "checkpoint.pt")
    before = unchecked((resumed / "environment.json").read_text())
    now = before["instructions"]
    then = {"avx2": "native", "native": "avx2"}[now]
    (resumed / "environment.json").write_text(json.dumps({**before, "instructions": then}))
    arguments = ("sweep", "--config", run.parent / "small.toml", "--output", other)
    result = profl(*arguments, "--workers", 1, "--json")
    assert result.exit_code == 0, result.output
    told, *_ = (json.loads(line) for line in result.stdout.splitlines())
    difference = f"instructions {then} and {now}"
    assert (told["event"], told["cell"]) == ("trained_otherwise", resumed.name)
    assert told["difference"].startswith(difference)
    assert [found["instructions"] for found in CellFolder(resumed).environments()] == [then, now]
    result = profl("report", other)
    assert f"{other} holds cells trained by different arithmetic ({difference}" in result.stderr
    page = (other / "report" / "index.html").read_text()
    assert {f"{one}, {two}" in page for one, two in permutations((then, now))} == {True, False}
    assert profl("report", run).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--preset", "huge"], "unknown preset 'huge'"),
        (
            ["sweep", "--preset", "smoke", "--method", "fedprox"],
            "unknown method 'fedprox': did you mean 'fedrolex'? Choose one of allsmall",
        ),
        (["sweep", "--preset", "smok"], "unknown preset 'smok': did you mean 'smoke'? Choose one of ablation"),
        (["sweep", "--preset", "smoke", "--method", "prolf"], "unknown method 'prolf': did you mean 'profl'? Choose"),
        (["sweep", "--preset", "smoke", "--dataset", "digit"], "unknown dataset 'digit': did you mean 'digits'?"),
        (["sweep", "--preset", "smoke", "--gpu", "h10"], "unknown GPU 'h10': did you mean 'virtual:h100'?"),
        (["sweep", "--preset", "smoke", "--model", "vgg99"], "unknown model 'vgg99'"),
        (["sweep", "--preset", "smoke", "--dataset", "imagenet"], "unknown dataset 'imagenet'"),
        (["sweep", "--preset", "smoke", "--tier", "a lot"], "tier 'a lot' is neither"),
        (["sweep", "--preset", "smoke", "--tier", "0MB"], "'0MB' is not above zero"),
        (["sweep", "--preset", "smoke", "--dataset", "imagefolder", "--data", "/none"], "/none"),
        (["sweep", "--preset", "smoke", "--data", "x"], "data is 'x', but digits comes with profl: leave data out"),
        (
            ["sweep", "--preset", "smoke", "--memory-only", "--gpu", "cuda"],
            "memory_only needs a virtual GPU, not 'cuda'",
        ),
        (
            ["sweep", "--preset", "smoke", "--partition", "ii"],
            "unknown partition 'ii': did you mean 'iid'? Write iid, ",
        ),
        (["sweep", "--preset", "smoke", "--rounds", "0"], "--rounds': '0' is no whole number from 1 to 1000000"),
        (
            ["sweep", "--preset", "smoke", "--gpu", "virtual:abacus", "--output", "x"],
            "unknown GPU 'virtual:abacus'",
        ),
        (
            ["sweep", "--preset", "smoke", "--address", "head:6379"],
            "--address is that of a Ray cluster: give --engine ray",
        ),
        (["sweep", "--preset", "smoke", "--engine", "ray", "--workers", "2"], "--workers is for --engine local"),
        (["sweep", "--preset", "smoke", "--engine", "flower"], "unknown 'flower': choose one of local, ray"),
        (["sweep", "--preset", "smoke", "--cells", "0/8"], "'0/8' is no part of a grid: give i/n with i from 1 to n"),
        (["sweep", "--preset", "smoke", "--cells", "9/8"], "'9/8' is no part of a grid"),
        (["sweep", "--preset", "smoke", "--cells", "half"], "'half' is no part of a grid"),
        (["sweep", "--config", "none.toml"], "none.toml cannot be read (there is none of this name): give a TOML file"),
        (["sweep", "--preset", "smoke", "--width", "0"], "--width': '0' is no whole number from 1 to 4096"),
        (["measure", "--model", "vgg99"], "unknown model 'vgg99'"),
        (["measure", "--method", "fedavg", "--model", "vgg99"], "Error: unknown model 'vgg99'"),
        (["fit", "--budget", "64MiB", "--method", "exclusive", "--model", "vgg99"], "Error: unknown model 'vgg99'"),
        (["measure", "--option", "profl.pace"], "option 'profl.pace' is no assignment"),
        (["measure", "--method", "fedavg", "--option", "profl.paces=2"], "'paces': did you mean 'pace'?"),
        (["measure", "--model", "resnet43"], "unknown model 'resnet43': did you mean 'resnet34'?"),
        (["measure", "--method", "fedavg", "--task", "ful model"], "'ful model': did you mean 'full model'?"),
        (["measure", "--method", "fedavg", "--task", "nap"], "unknown task 'nap': choose one of full model"),
        (["measure", "--method", "fedavg", "--gpu", "h10"], "unknown GPU 'h10'"),
        (["measure", "--method", "fedavg", "--batch-size", "0"], "--batch-size': '0' is no whole number from 1"),
        (["measure", "--method", "fedavg", "--width", "99999999"], "--width': '99999999' is no whole"),
        (["measure", "--method", "fedavg", "--against", "nowhere.json"], "nowhere.json"),
        (["measure", "--method", "fedavg", "--against", "virtual:abacus"], "unknown GPU 'virtual:abacus'"),
        (["fit", "--budget", "0MiB"], "'0MiB' is not above zero"),
        (["fit", "--budget", "64 parsecs"], "unknown unit 'parsecs'"),
        (["fit", "--budget", "1TiB"], "budget '1TiB' is more than virtual:h100 has"),
        (["fit", "--budget", "64MiB", "--method", "fedprox"], "unknown method 'fedprox'"),
        (["fit", "--budget", "64MiB", "--model", "vgg99"], "unknown model 'vgg99'"),
        (["fit", "--budget", "64MiB", "--dataset", "imagenet"], "unknown dataset 'imagenet'"),
        (["fit", "--budget", "64MiB", "--gpu", "h10"], "unknown GPU 'h10'"),
        (["fit", "--budget", "64MiB", "--batch-size", "0"], "--batch-size': '0' is no whole number from 1"),
        (["fit", "--budget", "64MiB", "--width", "0"], "--width': '0' is no whole number"),
        (["fit"], "Missing option '--budget'"),
        (["report", "nowhere"], "nowhere holds no results"),
        (["check", "--reference", "nowhere"], "no reference file in"),
    ],
)
def test_bad_input_ends_with_one_line_and_a_status(arguments: list[str], message: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = profl(*arguments)
    assert result.exit_code not in (0, 130)
    assert message in result.output.splitlines()[-1]
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_run_is_named_and_kept(run: Path, tmp_path: Path):
    import shutil

    copy = Path(shutil.copytree(run, tmp_path / "run"))
    victim = next((copy / "cells").iterdir()) / "summary.json"
    victim.write_text("{")
    for arguments in (["report", copy], ["sweep", "--config", run.parent / "small.toml", "--output", copy]):
        result = profl(*arguments)
        assert result.exit_code != 0
        assert "summary.json is not readable JSON" in result.output.splitlines()[-1]
    assert victim.read_text() == "{"


def test_two_recipes_in_one_run_are_refused_and_nothing_is_run(run: Path):
    before = sorted((run / "cells").iterdir())
    result = profl("sweep", "--config", run.parent / "small.toml", "--output", run, "--rounds", 3)
    assert result.exit_code != 0
    assert "would mix cells with rounds = 2 and 3" in result.output.splitlines()[-1]
    assert sorted((run / "cells").iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [["report", "results/default", "--output"], ["sweep", "--preset", "smoke", "--output"]],
    ids=lambda words: words[0],
)
def test_a_file_where_a_folder_is_needed_is_named(words: list[str], tmp_path: Path):
    (file := tmp_path / "here").write_text("a file")
    result = profl(*words, file)
    assert result.exit_code == 1
    assert re.fullmatch(
        rf"Error: {re.escape(str(file))}\S*: it is a file or lies in one, where a folder is needed: name another",
        result.output.splitlines()[-1],
    )
    assert file.read_text() == "a file"


def test_ctrl_c_at_any_moment_ends_with_130(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("profl.bench.presets.presets", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    result = profl("sweep")
    assert result.exit_code == 130
    assert result.output == "stopped\n"


@pytest.mark.parametrize("request_to_end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("ending_seconds", "said"), [(0.0, ""), (0.5, "stopping ...\n")])
def test_a_command_says_that_it_heard_to_stop_where_ending_takes_long(
    request_to_end: signal.Signals, ending_seconds: float, said: str, monkeypatch: pytest.MonkeyPatch
):
    def presets() -> None:
        try:
            signal.raise_signal(request_to_end)
        finally:
            time.sleep(ending_seconds)

    monkeypatch.setattr("profl.bench.presets.presets", presets)
    monkeypatch.setattr("profl.bench.cli.PATIENCE_SECONDS", 0.1)
    before = signal.signal(request_to_end, signal.default_int_handler)  # a job in the background ignores SIGINT
    try:
        result = profl("sweep")
        assert signal.getsignal(request_to_end) is signal.default_int_handler
    finally:
        signal.signal(request_to_end, before)
    assert (result.exit_code, result.output) == (130, f"{said}stopped\n")


def test_ctrl_c_is_not_lost_where_python_ignores_what_is_raised(monkeypatch: pytest.MonkeyPatch):
    class Interrupted(set[object]):
        def discard(self, item: object) -> None:
            signal.raise_signal(signal.SIGINT)

    class Referent: ...

    def presets() -> None:
        dies, weak = Referent(), WeakSet[Referent]()
        weak.add(dies)
        weak.data = Interrupted(weak.data)
        del dies
        time.sleep(10)

    monkeypatch.setattr("profl.bench.presets.presets", presets)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = profl("sweep")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.exit_code, result.output) == (130, "stopped\n")


SWEEP = ["sweep", "--config", "{config}", "--output", "{run}", "--workers", 1]


@pytest.mark.parametrize(
    ("arguments", "where", "told"),
    [
        (["report", "{run}"], "profl.bench.report.write_report", "the results are as they were, .* to draw it"),
        (
            ["report", "{run}", "{run}"],
            "profl.bench.report.write_comparison",
            "the results are as they were, .* to draw it",
        ),
        ([*SWEEP, "--dry-run"], "profl.bench.forecast.forecasts", "nothing was trained, .* to begin again"),
        (SWEEP, "profl.bench.sweep.run_sweep", "finished rounds are kept in {run}: run the same command to go on"),
        (SWEEP, "profl.bench.report.write_report", "the cells are kept in {run}, .*: 'profl report {run}' draws it"),
    ],
)
def test_ctrl_c_tells_what_is_kept_and_how_to_go_on(
    arguments: list[object], where: str, told: str, run: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    result = profl(*(str(argument).format(run=run, config=run.parent / "small.toml") for argument in arguments))
    assert result.exit_code == 130
    assert re.fullmatch("stopped; " + told.format(run=re.escape(str(run))), result.stderr.splitlines()[-1])


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("profl.bench.presets.presets", lambda: {}["nothing"])
    with pytest.raises(KeyError):
        profl("sweep")


def test_being_told_to_end_is_like_ctrl_c(monkeypatch: pytest.MonkeyPatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("profl.bench.presets.presets", lambda: os.kill(os.getpid(), signal.SIGTERM))
    result = profl("sweep")
    assert (result.exit_code, result.output) == (130, "stopped\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_saved_run_is_compared_with_a_measured_one(tmp_path: Path):
    saved = tmp_path / "card.json.gz"
    shape = ["measure", "--method", "profl", "--task", "grow 1", "--width", 2, "--batch-size", 4, "--dataset", "digits"]
    assert profl(*shape, "--gpu", "virtual:sm_90", "--save", saved).exit_code == 0
    same = profl(*shape, "--gpu", "virtual:sm_90", "--against", saved, "--json")
    assert same.exit_code == 0, same.output
    assert json.loads(same.output)["tasks"][0]["against"]["is_identical"] is True
    # Another architecture has another cuBLAS workspace.
    differing = profl(*shape, "--gpu", "virtual:sm_80", "--against", saved)
    assert differing.exit_code == 0, differing.output
    assert "is the first that differs" in differing.output
    other = profl(*shape[:-2], "--dataset", "cifar100", "--gpu", "virtual:sm_90", "--against", saved)
    assert other.exit_code == 1
    assert "dataset" in other.output.splitlines()[-1]


def test_where_a_virtual_gpu_cannot_run_its_memory_is_estimated_and_labelled(monkeypatch: pytest.MonkeyPatch):
    def no_compiler() -> None:
        raise GpuUnavailable("no C compiler")

    monkeypatch.setattr("profl.bench.memory.estimate.build", no_compiler)
    shape = ["measure", "--method", "fedavg", "--width", 2, "--batch-size", 4, "--gpu", "virtual:sm_90"]
    told = profl(*shape)
    assert told.exit_code == 0, told.output
    assert told.stderr.startswith("virtual:sm_90 cannot run here, its memory is estimated, not measured")
    assert len(told.stderr.splitlines()) == 1
    assert "not measured but estimated sm_90" in told.stdout
    (task,) = json.loads(profl(*shape, "--json").stdout)["tasks"]
    assert task["environment"]["gpu"] == "estimate:sm_90"
    assert task["caveats"][0].startswith("estimated without a GPU")


def test_measure_prints_exact_sums_as_json():
    result = profl("measure", "--method", "profl", "--width", 2, "--batch-size", 4, "--json")
    measured = json.loads(result.output)
    tasks = {entry["task"]: entry for entry in measured["tasks"]}
    assert list(tasks) == ["shrink 4", "map 4", "shrink 3", "map 3", "shrink 2", "map 2"] + [
        f"grow {block}" for block in (1, 2, 3, 4)
    ]
    for entry in tasks.values():
        assert sum(entry["categories_at_peak"].values()) == entry["peak_requested_bytes"]
        assert sum(portion["bytes"] for portion in entry["attribution"]) == entry["peak_requested_bytes"]
        assert entry["peak_requested_bytes"] <= entry["peak_allocated_bytes"] <= entry["peak_reserved_bytes"]


def test_measure_draws_a_table_timelines_and_snapshots(tmp_path: Path):
    common = ["measure", "--method", "allsmall", "--width", 4, "--batch-size", 4, "--task", "width 1/4"]
    folders = {kind: tmp_path / kind for kind in ("plot", "snapshot", "trace")}
    result = profl(*common, *(part for kind, folder in folders.items() for part in (f"--{kind}", folder)))
    assert result.exit_code == 0
    assert "virtual h100" in result.output
    assert [path.name for path in folders["plot"].iterdir()] == ["allsmall-width-1-4.png"]
    assert [path.name for path in folders["snapshot"].iterdir()] == ["allsmall-width-1-4.pickle"]
    (trace,) = folders["trace"].iterdir()
    assert json.loads(trace.read_text())["traceEvents"]
    assert re.search(r"allsmall, width 1/4: peak in step \d, backward in stages\S+ by \S+Backward0\n", result.output)


def test_measure_replays_other_allocator_settings():
    common = ["measure", "--method", "fedavg", "--width", 4, "--batch-size", 4, "--what-if", "expandable_segments:True"]
    (task,) = json.loads(profl(*common, "--what-if", "", "--json").output)["tasks"]
    assert task["reserved if "] == task["peak_reserved_bytes"]  # replayed under the settings it was measured with
    assert task["peak_allocated_bytes"] <= task["reserved if expandable_segments:True"] != task["peak_reserved_bytes"]
    table = profl(*common).output
    assert "reserved if expandable_segments:True" in table
    refused = profl("measure", "--method", "fedavg", "--what-if", "magic:1")
    assert refused.exit_code == 1
    assert "allocator setting 'magic' is unknown or not modelled" in refused.output


def test_lists_name_what_the_commands_take():
    assert "heterofl" in profl("list", "methods").output.split()
    assert "heterofl" in profl("list").output.replace(",", "").split()
    (t4,) = (line for line in profl("list", "gpus").output.splitlines() if line.startswith("virtual:t4 "))
    assert "sm_75" in t4
    assert "GiB" in t4
    everything = profl("list").output
    assert all(f"{kind}: " in everything for kind in ("methods", "models", "datasets", "gpus", "presets"))


def test_lists_as_json_say_what_lists_say():
    names = json.loads(profl("list", "--json").output)
    assert set(names) == {"methods", "models", "datasets", "gpus", "presets"}
    for kind, of_kind in names.items():
        assert [entry["name"] for entry in json.loads(profl("list", kind, "--json").output)] == of_kind
    gpus = {entry["name"]: entry for entry in json.loads(profl("list", "gpus", "--json").output)}
    assert gpus["virtual:t4"]["capability"] == [7, 5]
    assert gpus["virtual:t4"]["total_bytes"] > 14 * 2**30
    methods = {entry["name"]: entry for entry in json.loads(profl("list", "methods", "--json").output)}
    assert methods["fedavg"]["ignores_memory"]
    assert methods["heterofl"]["shrinks"]
    techniques = json.loads(profl("list", "techniques", "--json").output)
    assert {"name": "none", "setting": None, "about": "plain training"} in techniques
    deviations = json.loads(profl("list", "deviations", "--json").output)
    assert all(isinstance(entry["deviations"], list) for entry in deviations)
    refused = profl("list", "cards", "--json")
    assert refused.exit_code == 2
    assert "cards are Markdown" in refused.output


def test_doctor_tells_every_part_as_it_is_looked_at_and_counts_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    looked = []

    def checks():
        for part, remedy in (("[red]odd", None), ("virtual:t4", "install a C compiler"), ("last", None)):
            yield Check(part, lambda part=part, remedy=remedy: looked.append(part) or Finding(part, "so", remedy))
            assert looked[-1] == part  # before the next is asked for

    monkeypatch.setattr("profl.bench.doctor.examine", checks)
    result = profl("doctor")
    assert result.exit_code == 4
    assert result.stdout.splitlines() == [
        f"{'[red]odd':26}so",
        "virtual:t4                so: install a C compiler",
        f"{'last':26}so",
    ]
    assert result.stderr == "Error: 1 of these is missing or broken\n"


def test_doctor_tells_which_extras_there_are_and_how_to_get_the_others(monkeypatch: pytest.MonkeyPatch):
    offered = {name for name in metadata("profl").get_all("Provides-Extra") if name != "dev"}
    assert set(EXTRAS) == offered
    monkeypatch.setattr("profl.bench.doctor.version", lambda package: "9.8")
    assert all(re.match(r"[a-z-]+ 9\.8, for ", _extra(name, purpose)) for name, purpose in EXTRAS.items())

    def absent(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("profl.bench.doctor.version", absent)
    told = _extra("mlflow", EXTRAS["mlflow"])
    assert told == "not installed, --log-to mlflow needs mlflow-skinny: pip install 'profl[mlflow]'"


def test_doctor_tries_a_virtual_gpu_of_every_capability():
    result = profl("doctor")
    assert result.exit_code == 0, result.output
    assert "virtual h100" in result.output
    assert "virtual t4" in result.output
    assert all(gpu in result.output.split() for gpu in known_gpus())
    assert "3 stages" in next(line for line in result.output.splitlines() if "model vgg11_bn" in line)


def test_what_a_list_without_a_kind_leaves_out_is_said_in_its_help():
    help_text = " ".join(profl("list", "--help").output.split())
    shown = set(json.loads(profl("list", "--json").output))
    (kind,) = (one for one in main.commands["list"].params if one.name == "kind")
    left_out = [name for name in kind.type.choices if name not in shown]
    assert f"{', '.join(left_out[:-1])} and {left_out[-1]} are shown where they are asked for" in help_text


@pytest.mark.parametrize("option", ["--batch-size", "--rounds", "--width"])
@pytest.mark.parametrize("command", ["measure", "sweep"])
def test_the_bounds_of_an_option_are_those_of_the_cell(option: str, command: str):
    (kind,) = (one.type for one in main.commands[command].params if option in one.opts)
    field = option.strip("-").replace("-", "_")
    values = {"method": "fedavg", "model": "resnet18", "width": 8, "dataset": "digits", "tier": "50%", "seed": 0}
    for number, fits in ((kind.least - 1, False), (kind.least, True), (kind.most, True), (kind.most + 1, False)):
        given = {field: number} if field in values else {}
        recipe = Recipe if field in values else lambda number=number: Recipe(**{field: number})
        with nullcontext() if fits else pytest.raises(ValueError, match=field):
            Cell(**values | given, gpu="virtual:h100", recipe=recipe())


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_examples(command: str):
    assert "Example" in profl(command, "--help").output


def test_fit_names_tasks_and_their_largest_batches():
    asked = ["fit", "--method", "fedavg", "--width", 2, "--batch-size", 4, "--gpu", "virtual:jetson-orin"]
    asked += ["--budget", "64MiB", "--budget", "2MiB"]
    result = profl(*asked)
    assert result.exit_code == 0
    row = next(line.split() for line in result.stdout.splitlines() if "full model" in line)
    assert row[:5] == ["fedavg", "full", "model", "4+", "-"]
    assert "4+ ran, and none above was tried, as --batch-size 4 is the cap" in " ".join(result.stdout.split())
    found = json.loads(profl(*asked, "--json").stdout)
    (task,) = found.pop("tasks")
    assert found == {
        "model": "resnet18",
        "width": 2,
        "batch_size": 4,
        "dataset": "cifar10",
        "gpu": "virtual:jetson-orin",
    }
    assert task["fits"] == [
        {"budget_bytes": 64 * 2**20, "largest_batch": 4},
        {"budget_bytes": 2 * 2**20, "largest_batch": None},
    ]
    assert 2 * 2**20 < task["least_budget_bytes"] <= 64 * 2**20


@pytest.mark.parametrize("name", ["card.txt", "card", "folder.json"])
def test_a_file_that_could_not_be_read_back_is_refused_before_measuring(name: str, tmp_path: Path):
    (tmp_path / "folder.json").mkdir()
    words = ["measure", "--method", "fedavg", "--save", str(tmp_path / name)]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert f"'{tmp_path / name}' cannot be saved to: choose a file that ends in .json or .json.gz" in refused.output


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path: Path):
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(
        main, ["measure", "--method", "fedavg", "--save", str(tmp_path / "file" / "card.json")]
    )
    assert refused.exit_code == 1
    assert "file" in refused.output
    assert "MiB" not in refused.output
