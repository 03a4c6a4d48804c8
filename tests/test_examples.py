"""The examples, run as their readers run them: in a folder of their own, by the commands that the documents give."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def copied(folder: Path) -> Path:
    """Copy the examples into ``folder``, as somebody has them who tries them."""
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return copied(tmp_path)


def python(desk: Path, *arguments: str, status: int = 0) -> str:
    """Run Python in ``desk`` and return what it prints; what is installed into ``desk/site`` can be imported."""
    ours = [str(desk / "site"), str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, ours))}
    done = subprocess.run([sys.executable, *arguments], cwd=desk, env=variables, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def profl(desk: Path, *arguments: str) -> str:
    return python(desk, "-c", "from profl.bench.cli import main; main()", *arguments)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk on which method and network are installed; the method has been trained on the pictures, as one of ours."""
    desk = copied(tmp_path_factory.mktemp("desk"))
    install = ["--no-deps", "--no-build-isolation", "--no-index", "--target", "site"]
    packages = ["./examples/own_method", "./examples/own_network", "./examples/rolling_window"]
    python(desk, "-m", "pip", "install", "--quiet", *install, *packages)
    python(desk, "examples/own_dataset/draw_pictures.py", "pictures")
    methods = ["--method", "exclusive", "--method", "topheavy"]
    profl(desk, "sweep", "--config", "examples/own_dataset/study.toml", *methods, "--output", "run", "--workers", "1")
    return desk


def cell_of(desk: Path, method: str) -> Path:
    (cell,) = (desk / "run" / "cells").glob(f"{method}-*")
    return cell


def summary_of(desk: Path, method: str) -> dict:
    return json.loads((cell_of(desk, method) / "summary.json").read_text())


def test_a_method_of_ones_own_is_installed_measured_and_trained(swept: Path):
    rows = json.loads((cell_of(swept, "topheavy") / "footprints.json").read_text())
    assert [row["task"] for row in rows] == ["last 3", "last 2", "last 1"]
    momentum = [row["categories_at_peak"]["optimizer state"] for row in rows]
    assert momentum[0] > momentum[1] > momentum[2] > 0  # the fewer stages train, the less there is
    trained, ours = summary_of(swept, "topheavy"), summary_of(swept, "exclusive")
    assert trained["participation_share"] > ours["participation_share"]
    assert 0 <= trained["final_accuracy"] <= 1


def test_the_suite_for_methods_passes_on_those_that_are_installed(swept: Path):
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:cov"]
    methods = ["--profl-method", "topheavy", "--profl-method", "rolling"]
    # All of it runs on FedRolex in tests/test_conformance.py.
    printed = python(swept, "-m", "pytest", *quiet, *methods, "-k", "vgg11_bn and (tasks or trains or loading)")
    assert re.search(r"^1[0-9] passed", printed.splitlines()[-1])


def test_a_network_of_ones_own_is_measured_with_every_kind_of_method(swept: Path):
    methods = ["--method", "heterofl", "--method", "profl", "--method", "topheavy"]
    shape = ["--model", "smallnet", "--width", "8", "--batch-size", "8", "--gpu", "virtual:jetson-orin"]
    measured = json.loads(profl(swept, "measure", *methods, *shape, "--json"))
    tasks = {(row["method"], row["task"]): row for row in measured["tasks"]}
    parameters = tasks["heterofl", "subnetwork 1"]["parameter_bytes"]
    assert parameters > tasks["heterofl", "subnetwork 1/2 scaled"]["parameter_bytes"]
    assert tasks["profl", "grow 2"]["parameter_bytes"] == parameters  # its last step holds the whole network
    assert {task for method, task in tasks if method == "topheavy"} == {"last 3", "last 2", "last 1"}


def test_a_step_of_ones_own_is_measured_and_the_categories_sum_to_the_peak(desk: Path):
    printed = python(desk, "examples/own_model.py").splitlines()
    peak = float(printed[0].split()[0])
    parts = [float(found[1]) for line in printed if (found := re.match(r" +([\d.]+) MiB  ", line))]
    assert len(parts) == 8
    assert sum(parts) == pytest.approx(peak, abs=0.05 * len(parts))  # each is rounded to 0.1
    assert (desk / "memory.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((desk / "memory.json").read_text())["traceEvents"]


def test_the_guard_passes_and_fails_when_a_step_needs_more(desk: Path):
    guard = desk / "examples" / "test_memory.py"
    (desk / "examples" / "test_tight.py").write_text(guard.read_text().replace("42MiB", "41MiB"))
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    done = python(desk, "-m", "pytest", *quiet, "examples", status=1)
    assert "1 failed, 1 passed" in done
    assert "above the limit of 41.00 MiB: own_model.build on virtual jetson-orin" in done


def test_a_folder_of_pictures_is_trained_on(swept: Path):
    assert len(list((swept / "pictures").rglob("*.png"))) == 100
    summary = summary_of(swept, "exclusive")
    assert 0 < summary["participation_share"] < 1  # memory decides who trains
    assert summary["final_accuracy"] > 0.5  # which is chance: there are two classes


def test_the_study_of_the_documents_is_a_grid_of_eighteen_cells():
    from profl.bench.config import cells, read_config

    found = cells(read_config(EXAMPLES / "my-study.toml"))
    assert len(found) == 3 * 2 * 3
    assert {cell.options.get("pace") for cell in found if cell.method == "profl"} == {"equal"}
