"""A short cell whose losses are committed to the bit; made again, after a change that is meant to alter them, by

python -m tests.golden_cell > tests/golden_cell.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from profl.bench.instructions import AVX2, choose

COMMITTED = Path(__file__).with_suffix(".json")


def main() -> None:
    if notice := choose(AVX2):
        sys.exit(notice)
    from dataclasses import replace

    from profl.bench.engine import Job, LocalProcesses
    from profl.bench.experiment import Experiment
    from profl.bench.results import CellFolder
    from tests.conftest import SMALL_RECIPE, small_cell
    from tests.sweeps import Silent

    recipe = replace(SMALL_RECIPE, rounds=3, devices=40, evaluate_every=1)  # batches of 16 and of other sizes
    experiment = Experiment.of(small_cell(width=8, recipe=recipe))
    with tempfile.TemporaryDirectory() as scratch:
        folder = CellFolder(Path(scratch) / "cells" / experiment.cell.folder_name)
        folder.begin(experiment.cell.to_dict())
        # In a worker, which has its instructions from here. Memory is not measured: every device holds every task.
        budgets = {task.key: 1 for task in experiment.tasks}
        listener = Silent()
        LocalProcesses(1).run([Job(experiment, folder.path, budgets, 1)], listener)
        assert set(listener.errors.values()) == {None}, listener.errors
        (environment,) = folder.environments()
        rows = folder.rounds()
    losses = [{name: row[name].hex() for name in ("train_loss", "test_loss")} for row in rows]
    print(json.dumps({"rounds": losses, "environment": environment}, indent=1))


if __name__ == "__main__":
    main()
