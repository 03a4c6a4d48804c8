"""Run PyTorch's own tests of its memory on the virtual GPU: ``python -m tests.pytorch.run PATH/test_cuda.py``.

The file is the user's copy of test/test_cuda.py of PyTorch's repository, of the installed version; nothing of it is
kept here. It needs the packages expecttest and psutil. A table of the tests in `listed` is printed, each class of which
runs in a process of its own; the exit status is 1 if one fails that should not.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.pytorch.listed import MEMORY_TESTS, older_name

_HERE = Path(__file__).parent
_FROM_WORST = ("fails", "skipped", "passes")


class Outcome(NamedTuple):
    """What became of one test: ``passes``, ``fails``, or ``skipped``; the message; assertions that were passed over."""

    verdict: str
    message: str = ""
    passed_over: int = 0


def main() -> None:
    """Run the tests, print the table, and exit."""
    parser = argparse.ArgumentParser(prog="python -m tests.pytorch.run", description=__doc__)
    parser.add_argument("path", type=Path, help="your copy of PyTorch's test/test_cuda.py")
    parser.add_argument("--gpu", default="virtual:h100", help="which virtual GPU to run them on")
    options = parser.parse_args()
    if not options.path.is_file():
        sys.exit(f"{options.path} is no file: give the path of your copy of PyTorch's test/test_cuda.py")
    if missing := [name for name in ("expecttest", "psutil") if importlib.util.find_spec(name) is None]:
        sys.exit(f"PyTorch's tests need {' and '.join(missing)}: pip install {' '.join(missing)}")
    sys.exit(1 if print_table(options.path.resolve(), options.gpu) else 0)


def print_table(path: Path, gpu: str) -> list[str]:
    """Print a row for each listed test; return the names of those that fail and should not."""
    classes = {
        node.name: {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    verdicts: list[str] = []
    failing: list[str] = []
    print("| test | on the virtual GPU |\n|---|---|")
    for kind, tests in MEMORY_TESTS.items():
        name = kind if kind in classes else older_name(kind)
        present = {test: reason for test, reason in tests.items() if test in classes.get(name, ())}
        outcomes = _outcomes(path, gpu, name, [test for test, reason in present.items() if reason is None])
        for test, reason in present.items():
            outcome = Outcome("cannot", reason) if reason else outcomes.get(test, Outcome("fails", "it did not run"))
            verdicts.append(outcome.verdict)
            if outcome.verdict == "fails":
                failing.append(f"{name}.{test}")
            print(f"| {name}.{test} | {_told(outcome)} |", flush=True)
        if absent := len(tests) - len(present):
            print(f"{absent} listed tests of {name} are not in {path.name}", file=sys.stderr)
    counts = {verdict: verdicts.count(verdict) for verdict in ("passes", "fails", "skipped", "cannot")}
    print(
        f"\n{len(verdicts)} tests: {counts['passes']} pass, {counts['fails']} fail, {counts['skipped']} are skipped by "
        f"PyTorch, {counts['cannot']} cannot pass without a GPU"
    )
    return failing


def _told(outcome: Outcome) -> str:
    text = f"{outcome.verdict}: {outcome.message}" if outcome.message else outcome.verdict
    return f"{text}, {outcome.passed_over} assertions about numbers passed over" if outcome.passed_over else text


def _outcomes(path: Path, gpu: str, kind: str, tests: list[str]) -> dict[str, Outcome]:
    """Run some tests of one class in one process; the worst outcome of all parameters stands for a test."""
    if not tests:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        # An ini-file of its own keeps the settings of whatever project the file lies in away.
        Path(folder, "pytest.ini").write_text("[pytest]\nmarkers = serial\n", encoding="utf-8")
        selected = " or ".join(tests)
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-c", f"{folder}/pytest.ini", "-p", "tests.pytorch.plugin"),
                *("-p", "no:cacheprovider", "-p", "no:warnings", "-q", f"--junitxml={report}"),
                *(f"{path}::{kind}", "-k", selected),
            ],
            env={**os.environ, "PROFL_TEST_GPU": gpu, "PYTHONPATH": _python_path()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        cases = list(_cases(report)) if report.exists() else []
    outcomes: dict[str, Outcome] = {}
    for test in tests:
        itself = [outcome for name, outcome in cases if name == test]
        with_parameters = [outcome for name, outcome in cases if name.startswith(f"{test}_")]
        if ran := itself or with_parameters:
            outcomes[test] = min(ran, key=lambda outcome: _FROM_WORST.index(outcome.verdict))
    return outcomes


def _python_path() -> str:
    places = [str(_HERE / "start"), str(_HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(place for place in places if place)


def _cases(report: Path) -> Iterator[tuple[str, Outcome]]:
    for case in ElementTree.parse(report).iter("testcase"):
        counts = [int(found.get("value", 0)) for found in case.iter("property") if found.get("name") == "passed over"]
        verdict, message = "passes", ""
        for tag, named in (("skipped", "skipped"), ("failure", "fails"), ("error", "fails")):
            if (found := case.find(tag)) is not None:
                verdict, message = named, " ".join(found.get("message", "").split())[:120]
        yield case.get("name", ""), Outcome(verdict, message, sum(counts))


if __name__ == "__main__":
    main()
