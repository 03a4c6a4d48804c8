"""Studies made of frames alone, for tests that need no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from profl.bench.report.axis import AXES
from profl.bench.report.study import Study

ROUNDS = 10
MEGABYTE = 10**6


def study_of(
    scores: Mapping[str, Sequence[float]],
    tiers: Sequence[str] = ("50%",),
    costs: Mapping[str, float] | None = None,
    **more: Any,
) -> Study:
    """Return a study in which every test of a method's seed found its score, and a round cost a number of operations.

    Parameters
    ----------
    scores
        By method: one per seed.
    costs
        By method: operations of a round, 1 by default; 0: nobody trained.
    more
        Fields of the study in place of the usual ones.
    """
    cells, rounds = [], []
    for (method, found), tier in product(scores.items(), tiers):
        cost = (costs or {}).get(method, 1)
        for seed, score in enumerate(found):
            name = f"{method} {tier} {seed}"
            cell = {"cell": name, "status": "done", "method": method, "tier": tier, "seed": seed, "rounds": ROUNDS}
            figures = {"last_five_accuracy": score, "participation_share": float(cost > 0), "memory_only": False}
            cell |= {"out_of_memory_trainings": None, "operations": cost * ROUNDS}
            cell |= dict.fromkeys(("uploaded_bytes", "downloaded_bytes"), MEGABYTE * ROUNDS)
            place = {"model": "net", "width": 4, "dataset": "digits", "gpu": "virtual:t4"}
            cells.append(
                {**cell, **figures, **place, "bare_method": cell["method"], "mean_device_budget_bytes": MEGABYTE}
            )
            rounds += [
                {
                    **{"cell": name, "method": method, "tier": tier, "round": number, "phase": "train"},
                    **{"test_accuracy": score, "participants": 3 * (cost > 0), "operations": cost},
                    **{"uploaded_bytes": MEGABYTE, "downloaded_bytes": MEGABYTE, "gradient_norm": 1.0},
                    "diagnostics": {},
                }
                for number in range(1, ROUNDS + 1)
            ]
    usual: dict[str, Any] = {
        **{"model": "net", "width": "4", "dataset": "digits", "gpu": "virtual:t4"},
        **{"cells": pd.DataFrame(cells), "rounds": pd.DataFrame(rounds), "footprints": pd.DataFrame()},
        **{"mixed": frozenset(), "chance": 0.1, "ideals": (), "highlight": "base", "versus": "base"},
        **{"axis": AXES["rounds"], "measured_as": None, "held_out_share": 0},
        "of_rounds": ROUNDS,
    }
    return Study(**{**usual, **more})
