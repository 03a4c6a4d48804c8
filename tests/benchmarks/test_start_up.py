"""How long a person waits for the command line, as a ratio to Python's own start; in pytest-benchmark's extra_info."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.timing import paired

MAIN = "from profl.bench.cli import main; main(prog_name='profl')"
STARTS = {
    "import profl": ["import profl"],
    "profl --help": [MAIN, "--help"],
    "profl measure --help": [MAIN, "measure", "--help"],
    "profl list": [MAIN, "list"],
}


def run_python(*arguments: str) -> None:
    subprocess.run([sys.executable, "-c", *arguments], stdout=subprocess.DEVNULL, check=True)


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("name", STARTS)
def test_start_up(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark.extra_info["ratio_to_python"] = paired(
        lambda: run_python(*STARTS[name]), lambda: run_python("pass"), pairs=10
    )
    benchmark.pedantic(run_python, args=STARTS[name], rounds=5)


@pytest.mark.parametrize(
    ("words", "not_yet"),
    [
        (["measure", "--method", "fedavg"], "torch"),
        (["measure", "examples/own_model.py:build"], "torch"),
        (["fit", "--budget", "1MiB"], "torch"),
        (["sweep", "--preset", "smoke", "--output", "/nowhere"], "pandas"),
        (["tune", "--preset", "smoke", "--output", "/nowhere"], "pandas"),
    ],
    ids=lambda words: words if isinstance(words, str) else " ".join(words),
)
def test_measuring_starts_its_process_before_the_imports_that_take_long(words: list[str], not_yet: str) -> None:
    """Both import, a second and more, and side by side where there are two cores."""
    stopped = (
        "import sys\n"
        "from profl.bench.memory.process.probe import Prober\n"
        f"Prober.start = lambda self, gpu: sys.exit(40 + ('{not_yet}' in sys.modules))\n"
    )
    ended = subprocess.run([sys.executable, "-c", stopped + MAIN, *words], check=False)
    assert ended.returncode == 40


def test_what_there_is_to_measure_is_known_without_pytorchs_compiler() -> None:
    """It takes a second to import, and nothing is asked of the process that measures before."""
    known = (
        "import sys\n"
        "from profl.bench.cell import Cell, Recipe\n"
        "from profl.bench.experiment import Experiment\n"
        "from profl.bench.registry import methods\n"
        "for method in set(methods()) - {'slt'}:\n"  # which runs the network to know its tasks
        "    cell = Cell(method, 'resnet18', 8, 'digits', 'unlimited', 0, 'virtual:sm_90', recipe=Recipe(20))\n"
        "    assert Experiment.of(cell).measured_tasks\n"
        "    assert 'torch._dynamo' not in sys.modules, method\n"
    )
    run_python(known)


@pytest.mark.parametrize(
    "words",
    [
        ["measure", "--method", "fedavg"],
        ["measure", "step.py:build"],
        ["fit", "--budget", "1MiB"],
        ["sweep", "--preset", "smoke"],
        ["report", "results/default"],
        ["check"],
    ],
    ids=" ".join,
)
def test_commands_end_without_searching_all_that_torch_brought(words: list[str]) -> None:
    """Python does so several times as it ends, unless what was imported is frozen by then."""
    stopped = "import gc, os, sys; gc.freeze = lambda: os._exit(40 + ('torch' in sys.modules))\n"
    ended = subprocess.run([sys.executable, "-c", stopped + MAIN, *words], stdout=subprocess.DEVNULL, check=False)
    assert ended.returncode == 41
