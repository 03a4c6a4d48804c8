"""Runs found, looked at, removed, and cells of another recipe that never had a result."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from profl.bench.cell import Cell
from profl.bench.cli import main
from profl.bench.cli.runs import _confirmed
from profl.bench.errors import InputError
from profl.bench.results.folder import CellFolder, folder_of
from profl.bench.results.runs import at_work, find_runs, make_way, overview, remove
from tests.conftest import SMALL_RECIPE, small_cell
from tests.results.conftest import row


def begin(run: Path, cell: Cell, rounds: int = 0) -> CellFolder:
    """Begin a cell as a sweep does, with rounds of a quarter of an hour."""
    folder = folder_of(cell, run)
    folder.begin(cell.to_dict())
    for number in range(1, rounds + 1):
        folder.append_round(row(number, seconds=900), {"round": number})
    return folder


def profl(*arguments: object, typed: str = "") -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, arguments)], input=typed, catch_exceptions=False)


def test_a_run_is_told_by_its_cells(tmp_path: Path):
    run = tmp_path / "deep" / "run"
    begin(run, small_cell(seed=0), rounds=6)
    begin(run, small_cell(seed=1))
    (run / "report").mkdir()
    (run / "report" / "page.html").write_bytes(b"x" * 100_000)
    one = overview(run)
    assert (one.state, one.cells, one.done, one.rounds, one.of_rounds, one.hours) == ("stopped", 2, 0, 6, 20, 1.5)
    assert 100_000 <= one.disk_bytes < 400_000
    assert one.changed == pytest.approx((run / "cells").stat().st_mtime, abs=60)
    folder_of(small_cell(seed=1), run).fail("Traceback\nValueError: no")
    assert overview(run).state == "failed"
    with folder_of(small_cell(seed=0), run).lock():
        assert overview(run).state == "running"
    with at_work(run):
        assert overview(run).state == "running"
    assert overview(run).state == "failed"


def test_damage_is_told_of_one_run_and_stops_no_list(tmp_path: Path):
    cell = begin(tmp_path / "[red]bad\x1b[31m", small_cell(), rounds=1)
    begin(tmp_path / "good", small_cell(), rounds=2)
    (cell.path / "rounds.jsonl").write_text("{}\n")
    told = profl(tmp_path)
    assert told.exit_code == 0
    heading, first, second, damage = told.output.splitlines()
    assert heading.split() == ["state", "cells", "rounds", "time", "disk", "changed", "run"]
    assert first.split()[:4] == ["damaged", "?", "?", "?"]
    assert first.endswith("[red]bad\N{REPLACEMENT CHARACTER}[31m")
    assert second.split()[:5] == ["stopped", "0/1", "2/10", "30", "min"]
    assert f"delete {cell.path}".replace("\x1b", "\N{REPLACEMENT CHARACTER}") in damage
    assert [json.loads(line)["state"] for line in profl(tmp_path, "--json").output.splitlines()] == [
        "damaged",
        "stopped",
    ]
    assert json.loads(profl(tmp_path / "good", "--json").output)["rounds"] == 2


def test_runs_are_found_below_and_links_are_not_followed(tmp_path: Path):
    for name in ("b", "a/inner", "a", ".hidden"):
        begin(tmp_path / name, small_cell())
    (tmp_path / "biology" / "cells" / "mitosis").mkdir(parents=True)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert find_runs(tmp_path) == [tmp_path / name for name in ("a", "a/inner", "b")]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]
    with pytest.raises(InputError, match="there is no folder"):
        find_runs(tmp_path / "c")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder"):
        find_runs(tmp_path / "file")


def test_the_last_changed_comes_first(tmp_path: Path):
    for name, seconds in (("a", 3000), ("b", 5000), ("c", 4000)):
        folder = begin(tmp_path / name, small_cell(), rounds=1)
        for path in folder.path.iterdir():
            os.utime(path, (seconds, seconds))
    (tmp_path / "d" / "cells" / small_cell().folder_name).mkdir(parents=True)  # killed before anything was written
    (tmp_path / "a" / "notes.md").write_text("mine")  # no part of the run
    listed = [line.split()[-1] for line in profl(tmp_path).output.splitlines()[1:]]
    assert listed == [str(tmp_path / name) for name in "bcad"]
    assert [json.loads(line)["path"] for line in profl(tmp_path, "--json").output.splitlines()] == listed


def test_without_folders_it_is_those_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "no folder results here" in profl().stderr
    begin(Path("results/run-default"), small_cell())
    assert profl().output.splitlines()[1].endswith("results/run-default")
    assert profl("list").output == profl().output


def test_removing_asks_and_leaves_what_is_no_part_of_a_run(tmp_path: Path):
    run = tmp_path / "run"
    begin(run, small_cell())
    (run / "cells" / "fedavg-resnet18w2-digits-unlimited-seed9-01234567").mkdir()  # killed before it was begun
    begin(other := tmp_path / "other", small_cell())
    (run / "report").mkdir()
    (run / "cells" / "my copies").mkdir()
    for notes in ("notes.md", "cells/my copies/notes.md", "report/page.html"):
        (run / notes).write_text("mine")
    no = profl("rm", run, other, typed="n\n")
    assert no.exit_code == 0
    assert no.stderr.endswith("nothing is removed\n")
    nobody = profl("rm", run, typed="")
    assert nobody.exit_code == 2
    assert nobody.stderr.endswith(
        "Error: nobody answers, and nothing is removed: give --yes to remove without a question\n"
    )
    assert "remove these 2 runs for good?" in no.stderr
    assert f"{run}: stopped, 0/1 cells, 0/10 rounds" in no.stderr
    assert len(find_runs(tmp_path)) == 2
    yes = profl("rm", run, other, typed="y\n")
    assert yes.exit_code == 0
    assert not other.exists()
    assert [str(path.relative_to(run)) for path in sorted(run.rglob("*.*"))] == ["cells/my copies/notes.md", "notes.md"]
    assert f"kept in {run}: {run}/cells/my copies/notes.md, {run}/notes.md, no part of a run" in yes.stderr


def test_ctrl_c_at_the_question_is_no_answer(monkeypatch: pytest.MonkeyPatch):
    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.termui.visible_prompt_func", interrupted)
    with pytest.raises(KeyboardInterrupt, match="nothing is removed"):
        _confirmed("remove it?")


@pytest.mark.parametrize("case", ["missing", "none", "above", "link", "cells are a link", "locked", "at work"])
def test_what_is_no_run_or_is_run_now_is_not_removed(case: str, tmp_path: Path):
    run = tmp_path / "results" / "run"
    cell = begin(run, small_cell(), rounds=1)
    named, message = {
        "missing": (tmp_path / "nope", "there is no folder"),
        "none": (cell.path, "is no run, nothing is removed"),
        "above": (tmp_path / "results", "is no run, but holds 1: name one of them, such as"),
        "link": (tmp_path / "link", f"a link: name the folder that it leads to, {run}"),
        "cells are a link": (tmp_path / "half", "holds, a link"),
    }.get(case, (run, "just now: end it first"))
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "cells").symlink_to(run / "cells")
    begin(other := tmp_path / "other", small_cell())
    if case == "locked":
        with cell.lock():
            told = profl("rm", "--yes", other, named)
    elif case == "at work":
        with at_work(run):
            told = profl("rm", "--yes", other, named)
    else:
        told = profl("rm", "--yes", other, named)
    assert told.exit_code != 0
    assert message in told.stderr
    assert len(cell.rounds()) == 1
    assert other.is_dir()  # all are looked at before any is removed


def test_what_git_knows_is_not_removed(tmp_path: Path):
    cell = begin(tmp_path / "run", small_cell())
    git = ["git", "-C", str(tmp_path)]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except FileNotFoundError:
        pytest.skip("no git here")
    subprocess.run([*git, "add", str(cell.path / "cell.json")], check=True)
    with pytest.raises(InputError, match="committed: 'git rm -r"):
        remove(tmp_path / "run")
    subprocess.run([*git, "reset", "-q"], check=False)
    subprocess.run([*git, "rm", "-rq", "--cached", "."], check=False)
    assert remove(tmp_path / "run") == []
    assert not (tmp_path / "run").exists()


def test_a_sweep_does_not_begin_in_a_run_that_is_being_removed(tmp_path: Path):
    import fcntl

    begin(run := tmp_path / "run", small_cell())
    folder = os.open(run, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="is being removed just now"), at_work(run):
        pass
    os.close(folder)
    with at_work(run), at_work(run), pytest.raises(InputError, match="a sweep is at"):
        remove(run)
    with at_work(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()  # nothing was put into it


LONGER = replace(SMALL_RECIPE, rounds=20)


def test_cells_that_never_had_a_result_make_way_for_another_recipe(tmp_path: Path):
    waiting = begin(tmp_path, small_cell(seed=1))
    begin(tmp_path, small_cell(seed=2)).fail("ValueError: no such option")
    alike = begin(tmp_path, small_cell(seed=3, recipe=LONGER))
    running = begin(tmp_path, small_cell(seed=4))
    todo = [small_cell(seed=0, recipe=LONGER)]
    with running.lock():
        assert len(make_way(tmp_path, todo)) == 2
    assert not waiting.path.exists()
    assert {folder.name for folder in (tmp_path / "cells").iterdir()} == {alike.path.name, running.path.name}


def test_a_cell_that_is_to_be_run_counts_and_nothing_of_one_that_was_is_touched(tmp_path: Path):
    cells = [small_cell(seed=seed) for seed in range(3)]
    begun = begin(tmp_path, cells[0], rounds=2)
    before = {path: path.read_bytes() for path in begun.path.iterdir()}
    for cell in cells[:2]:
        folder_of(cell, tmp_path).announce(cell.to_dict())
    at_it = folder_of(cells[2], tmp_path)
    at_it.path.mkdir()
    with at_it.lock():
        at_it.announce(cells[2].to_dict())
    assert not at_it.begun
    assert {path: path.read_bytes() for path in begun.path.iterdir()} == before
    one = overview(tmp_path)
    assert (one.state, one.cells, one.rounds, one.of_rounds) == ("stopped", 2, 2, 20)


def test_what_only_waits_is_removed_and_nothing_that_was_begun(tmp_path: Path):
    stopped = begin(tmp_path, small_cell(), rounds=2)
    never = [small_cell(seed=seed) for seed in range(1, 3)]
    for cell in never:
        folder_of(cell, tmp_path).announce(cell.to_dict())
    with folder_of(never[0], tmp_path).lock():
        assert "a sweep is at" in profl("rm", "--waiting", tmp_path).stderr
    assert overview(tmp_path).cells == 3
    removed = profl("rm", "--waiting", tmp_path)
    assert removed.exit_code == 0
    names = ", ".join(sorted(cell.folder_name for cell in never))
    assert f"removed 2 cells that were never begun: {names}" in removed.stderr
    assert [folder.name for folder in (tmp_path / "cells").iterdir()] == [stopped.path.name]
    assert "no cell waits" in profl("rm", "--waiting", tmp_path).stderr


def test_a_damaged_cell_is_told_and_not_removed(tmp_path: Path):
    damaged = begin(tmp_path, small_cell(seed=1))
    (damaged.path / "cell.json").write_text("{")
    with pytest.raises(InputError, match=r"cell\.json is not readable JSON"):
        make_way(tmp_path, [small_cell(seed=0, recipe=LONGER)])
    assert damaged.path.is_dir()


def test_cells_with_a_round_are_never_removed_nor_those_beside_them(tmp_path: Path):
    kept = begin(tmp_path, small_cell(seed=0), rounds=1)
    beside = begin(tmp_path, small_cell(seed=1))
    with pytest.raises(InputError, match="would mix cells with rounds = 10 and 20"):
        make_way(tmp_path, [small_cell(seed=2, recipe=LONGER)])
    assert kept.path.is_dir()
    assert beside.path.is_dir()
