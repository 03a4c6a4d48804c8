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


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with a copy of the examples, as somebody has who tries them."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return tmp_path


def python(desk: Path, *arguments: str, status: int = 0) -> str:
    """Run Python in ``desk`` and return what it prints; what is installed into ``desk/site`` can be imported."""
    ours = [str(desk / "site"), str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, ours))}
    done = subprocess.run([sys.executable, *arguments], cwd=desk, env=variables, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def profl(desk: Path, *arguments: str) -> str:
    return python(desk, "-c", "from profl.bench.cli import main; main()", *arguments)


def summaries(run: Path) -> dict[str, dict]:
    """Return the summaries of a run's cells, by method."""
    return {
        json.loads((cell / "cell.json").read_text())["method"]: json.loads((cell / "summary.json").read_text())
        for cell in (run / "cells").iterdir()
    }


def test_a_method_of_ones_own_is_installed_measured_and_trained(desk: Path):
    install = ["--no-deps", "--no-build-isolation", "--no-index", "--target", "site", "./examples/own_method"]
    python(desk, "-m", "pip", "install", "--quiet", *install)
    shape = ["--method", "topheavy", "--tier", "100%", "--width", "2", "--rounds", "2", "--seed", "0"]
    profl(desk, "sweep", "--preset", "smoke", *shape, "--output", "run", "--workers", "1")
    (cell,) = (desk / "run" / "cells").iterdir()
    tasks = {row["task"]: row for row in json.loads((cell / "footprints.json").read_text())}
    assert list(tasks) == ["last 3", "last 2", "last 1"]
    gradients = [tasks[f"last {count}"]["categories_at_peak"]["optimizer state"] for count in (3, 2, 1)]
    assert gradients == sorted(gradients, reverse=True)  # the fewer stages train, the less momentum there is
    summary = summaries(desk / "run")["topheavy"]
    assert summary["participation_share"] == 1
    assert 0 <= summary["final_accuracy"] <= 1


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


def test_a_folder_of_pictures_is_trained_on(desk: Path):
    python(desk, "examples/own_dataset/draw_pictures.py", "pictures")
    assert len(list((desk / "pictures").rglob("*.png"))) == 100
    profl(desk, "sweep", "--config", "examples/own_dataset/study.toml", "--output", "run", "--workers", "1")
    summary = summaries(desk / "run")["exclusive"]
    assert 0 < summary["participation_share"] < 1  # memory decides who trains
    assert summary["final_accuracy"] > 0.5  # which is chance: there are two classes


def test_the_study_of_the_documents_is_a_grid_of_eighteen_cells():
    from profl.bench.config import cells, read_config

    found = cells(read_config(EXAMPLES / "my-study.toml"))
    assert len(found) == 3 * 2 * 3
    assert {cell.options.get("pace") for cell in found if cell.method == "profl"} == {"equal"}
