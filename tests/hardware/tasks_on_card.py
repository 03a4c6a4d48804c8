"""The methods' tasks on a physical card beside the virtual GPU that stands for it, from a survey of both.

On a machine with a card, for an H100,

    profl survey methods --batch-size 64 --gpu cuda --gpu virtual:h100 --output survey.csv
    python -m tests.hardware.tasks_on_card survey.csv --output mine.csv

measures every task and joins its two rows. `results/card/h100-tasks.csv` is such a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from profl.bench.memory.gpu.profile import PHYSICAL
from profl.bench.survey.methods import TABLE

TASK = ["method", "task", "model", "width", "batch_size", "technique"]
MEASURED = ["peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "least_budget_bytes"]
COLUMNS = [*TASK, *(f"{where}_{name}" for where in ("card", "virtual") for name in MEASURED)]


def joined(surveys: Iterable[Path]) -> pd.DataFrame:
    """Return the tasks that surveys have measured on the card and on a virtual GPU, with `COLUMNS`; bytes, or missing.

    Raises
    ------
    InputError
        If a file is no survey of methods.
    """
    rows = TABLE.frame(row for path in surveys for row in TABLE.read(path) if row["failure"] is None)
    on_card = rows["gpu"] == PHYSICAL
    card, virtual = (rows[where].set_index(TASK)[MEASURED] for where in (on_card, ~on_card))
    both = card.add_prefix("card_").join(virtual.add_prefix("virtual_"), how="inner")
    return both.reset_index().sort_values(TASK, ignore_index=True)[COLUMNS]


def main() -> None:
    """Parse the command line, join, and say how many are equal."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hardware.tasks_on_card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("surveys", type=Path, nargs="+", metavar="SURVEY", help="what profl survey methods has written")
    parser.add_argument("--output", type=Path, default=Path("tasks.csv"), help="the table")
    options = parser.parse_args()
    table = joined(options.surveys)
    if table.empty:
        parser.exit(1, "Error: no task there was measured both on a card and on a virtual GPU\n")
    table.to_csv(options.output, index=False)
    equal = (table["card_peak_requested_bytes"] == table["virtual_peak_requested_bytes"]).sum()
    print(f"{len(table)} tasks, {equal} of them with the card's requested peak: {options.output}")


if __name__ == "__main__":
    main()
