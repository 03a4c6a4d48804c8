"""Runs side by side: what differs, the largest first; what is missing is said, never counted as zero."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from profl.bench.errors import InputError
from profl.bench.report.comparison import (
    accuracy_differences,
    footprint_differences,
    run_names,
    setting_differences,
    write_comparison,
)
from profl.bench.results import Run, mean_of_last_tests, read_run
from tests.conftest import unchecked
from tests.report.browser import browser, requested, resize
from tests.report.conftest import MIB, TASKS, write_cell

Change = Callable[[str, Any], Any]


def change(run: Path, name: str, edit: Change) -> None:
    """Edit a file of every cell."""
    for path in run.glob(f"cells/*/{name}"):
        path.write_text(json.dumps(edit(path.parent.name, unchecked(path.read_text()))))


def newer(_: str, entries: list[dict]) -> list[dict]:
    """Two tasks grow, another keeps its peak but moves bytes between categories, a fourth is gone."""
    for entry in entries:
        entry["environment"]["torch"] = "2.12"
        added = {"grow 1": 8 * MIB, "grow 2": MIB}.get(entry["task"], 0)
        entry["categories_at_peak"]["workspace"] += added
        entry["peak_requested_bytes"] += added
        if entry["task"] == "grow 3":
            entry["categories_at_peak"]["activations"] -= 64
            entry["categories_at_peak"]["temporaries"] += 64
    return [entry for entry in entries if entry["task"] != "shrink 4"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A run of profl and heterofl in two tiers, and the same with other bytes, versions and one accuracy."""
    folder = tmp_path_factory.mktemp("pair")
    for method in ("profl", "heterofl"):
        for tier in ("50%", "75%"):
            write_cell(folder / "old", method, tier, rounds=2)
    shutil.copytree(folder / "old", folder / "new")
    change(folder / "new", "footprints.json", newer)
    change(folder / "new", "environment.json", lambda _, values: {**values, "commit": "<abc>"})
    (worse,) = folder.glob("new/cells/profl-resnet18w16-digits-50-*")
    summary = unchecked((worse / "summary.json").read_text())
    rows = [unchecked(line) for line in (worse / "rounds.jsonl").read_text().splitlines()]
    rows[-1]["test_accuracy"] = summary["final_accuracy"] = summary["final_accuracy"] - 0.04
    tested = [row["test_accuracy"] for row in rows if row["test_accuracy"] is not None]
    summary["last_five_accuracy"] = mean_of_last_tests(tested)
    (worse / "summary.json").write_text(json.dumps(summary))
    (worse / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [read_run(folder / "old"), read_run(folder / "new")]


def test_memory_differs_by_bytes_and_share_the_missing_and_the_largest_first(pair: list[Run]):
    table = footprint_differences(pair)
    peaks = table.loc[table["quantity"] == "peak requested"]
    assert peaks["task"].tolist()[:3] == ["shrink 4", "grow 1", "grow 2"]
    first = peaks.set_index("task").loc["grow 1"]
    old = pair[0].footprints.set_index("task")["peak_requested_bytes"]["grow 1"]
    assert (first["old"], first["new"], first["new difference"]) == (old, old + 8 * MIB, 8 * MIB)
    assert first["new change"] == pytest.approx(8 * MIB / old)
    gone = peaks.set_index("task").loc["shrink 4"]
    assert gone["old"] > 0
    assert all(math.isnan(gone[name]) for name in ("new", "new difference", "new change"))
    assert len(peaks) == len(TASKS["profl"]) + len(TASKS["heterofl"])


def test_accuracy_differs_where_it_does(pair: list[Run]):
    table = accuracy_differences(pair).set_index(["method", "tier"])
    assert table["new difference"].iloc[0] == pytest.approx(-0.02)
    assert table.index[0] == ("profl", "50%")
    assert (table["new difference"].iloc[1:] == 0).all()


def test_settings_differ_in_versions_and_the_missing_is_missing(pair: list[Run]):
    table = setting_differences(pair).set_index(["group", "setting"])
    assert tuple(table.loc[("memory", "torch")]) == ("2.11", "2.12")
    commit = table.loc[("training", "commit")]
    assert math.isnan(commit["old"])
    assert commit["new"] == "<abc>"
    assert tuple(table.loc[("recipe", "devices")]) == ("20", "20")


def test_another_gpu_compares_but_a_second_one_is_told_apart(pair: list[Run], tmp_path: Path):
    def on_h100(_: str, values: Any) -> Any:
        for entry in values:
            entry["gpu"] = "virtual:h100"
        return values

    shutil.copytree(pair[0].path, tmp_path / "h100")
    change(tmp_path / "h100", "footprints.json", on_h100)
    other = read_run(tmp_path / "h100")
    table = footprint_differences([pair[0], other])
    assert "gpu" not in table
    assert (table["h100 difference"].dropna() == 0).all()
    first = next((tmp_path / "h100").glob("cells/heterofl-*50*/footprints.json"))
    first.write_text(first.read_text().replace("virtual:h100", "virtual:t4"))
    table = footprint_differences([pair[0], read_run(tmp_path / "h100")])
    assert set(table["gpu"]) == {"virtual:jetson-orin", "virtual:h100", "virtual:t4"}
    assert table["h100 difference"].isna().all()


def test_three_runs_compare_with_the_first(pair: list[Run], tmp_path: Path):
    shutil.copytree(pair[0].path, tmp_path / "third")
    third = read_run(tmp_path / "third")
    table = footprint_differences([*pair, third])
    row = table.loc[(table["quantity"] == "peak requested") & (table["task"] == "grow 1")].iloc[0]
    assert row["new difference"] == 8 * MIB
    assert row["third difference"] == 0
    text = write_comparison([*pair, third], tmp_path / "page.html").read_text()
    assert "new, third against old" in text


def test_runs_are_named_by_their_folders_or_by_their_paths(pair: list[Run], tmp_path: Path):
    assert run_names(pair) == ["old", "new"]
    shutil.copytree(pair[0].path, tmp_path / "old")
    twin = read_run(tmp_path / "old")
    assert run_names([pair[0], twin]) == [str(pair[0].path), str(twin.path)]


def test_too_few_runs_are_refused(pair: list[Run], tmp_path: Path):
    with pytest.raises(InputError, match="name at least two"):
        write_comparison(pair[:1], tmp_path / "page.html")
    with pytest.raises(InputError, match=r"old is named twice"):
        write_comparison([pair[0], pair[0]], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_run_that_has_measured_nothing_compares(pair: list[Run], tmp_path: Path):
    shutil.copytree(pair[0].path, tmp_path / "empty")
    for name in ("footprints.json", "rounds.jsonl", "summary.json"):
        for path in tmp_path.glob(f"empty/cells/*/{name}"):
            path.unlink()
    empty = read_run(tmp_path / "empty")
    assert footprint_differences([pair[0], empty])["empty difference"].isna().all()
    count = len(TASKS["profl"]) + len(TASKS["heterofl"])
    text = write_comparison([empty, pair[0]], tmp_path / "page.html").read_text()
    assert count == len(pair[0].footprints)
    assert "The runs share no measured task." in text
    assert "need other memory" not in text


def test_runs_with_nothing_in_common_say_so_first(pair: list[Run], tmp_path: Path):
    write_cell(tmp_path / "other", "depthfl", "20%", rounds=2, model="vgg11")
    text = write_comparison([pair[0], read_run(tmp_path / "other")], tmp_path / "page.html").read_text()
    content = text[text.index("<main") :]
    assert content.index("Nothing to compare") < content.index("In short")
    why = "they have no method (heterofl, profl against depthfl) and no model (resnet18 against vgg11)"
    assert f"The runs share no measured task: {why} and no task" in content
    assert "The runs share no finished pair of method and tier: they have no method" in content
    assert "memory-table" not in content
    assert "accuracy-table" not in content
    assert " of 0 " not in content


def test_equal_runs_say_so(pair: list[Run], tmp_path: Path):
    shutil.copytree(pair[0].path, tmp_path / "again")
    text = write_comparison([pair[0], read_run(tmp_path / "again")], tmp_path / "page.html").read_text()
    assert "Every task needs the same memory in every run, to the byte." in text
    assert "Surroundings and recipes are the same in every run." in text
    assert "0 of 4 pairs" in text


# in a browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, pair: list[Run]) -> Iterator[Any]:
    page = write_comparison(pair, tmp_path_factory.mktemp("comparison") / "page.html")
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        driver.get(page.as_uri())
        yield driver


def rows(driver: Any, name: str) -> list[list[str]]:
    script = (
        "return [...document.getElementById(arguments[0]).closest('table').querySelectorAll('tbody tr:not(.group)')]"
        ".map(row => [...row.cells].map(cell => cell.innerText.replace(/\\s+/g, ' ').trim()))"
    )
    return driver.execute_script(script, name)


def test_the_page_shows_differences_and_leaves_equal_tasks_out(driver: Any, pair: list[Run]):
    found = rows(driver, "memory-table")
    assert [row[0] for row in found] == ["profl, shrink 4", "profl, grow 1", "profl, grow 2", "profl, grow 3"]
    by_task = {row[0]: row for row in found}
    assert by_task["profl, shrink 4"][2] == "?"
    assert "+8 MiB (+7.6 %)" in by_task["profl, grow 1"][2]
    assert by_task["profl, grow 1"][-1].startswith("workspace +8 MiB")
    assert "the same" in by_task["profl, grow 3"][2]
    assert by_task["profl, grow 3"][-1].startswith("activations -64 B")
    assert rows(driver, "settings-table") == [["torch", "2.11", "2.12"], ["commit", "missing", "<abc>"]]


def test_the_page_shows_accuracy_in_points(driver: Any):
    found = {row[0]: row[1:] for row in rows(driver, "accuracy-table")}
    assert found["profl"][0].startswith("-2.0 old 92.1 % new 90.1 %")
    assert found["heterofl"][0].startswith("same")


def test_the_page_loads_nothing_and_does_not_complain(driver: Any):
    driver.refresh()
    assert {url.split(":")[0] for url in requested(driver)} <= {"file", "data"}
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 1920])
def test_the_page_fits(driver: Any, width: int):
    resize(driver, width)
    driver.execute_script("document.querySelectorAll('details').forEach(it => { it.open = true })")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
