"""Least budgets with plans kept: a row of the table of docs/trust.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.memory.kept_plans import TASKS

TRUST = Path(__file__).parents[2] / "docs" / "trust.md"


def test_a_row_is_printed_again() -> None:
    """The cheapest one; in a process of its own, as the virtual GPU must come before torch."""
    task = ("jetson-orin", "profl", "map 2")
    assert task in TASKS
    gpu, *row = task
    program = f"from tests.memory.kept_plans import print_rows; print_rows({gpu!r}, [{tuple(row)!r}])"
    (line,) = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[:-1]
    assert line in TRUST.read_text(encoding="utf-8").splitlines()
