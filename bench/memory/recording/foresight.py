"""The least budget from few trials: what happens in the others, the model of the allocator tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from profl.bench.errors import InputError
from profl.bench.memory.recording.budget import budgets_to_try, least_budget_bytes
from profl.bench.memory.replay.script import Log, Script, Unforeseen
from profl.bench.memory.replay.settings import AllocatorSettings


class Trial(NamedTuple):
    """Whether the workload ran under a limit, and what the allocator logged meanwhile."""

    fits: bool
    log: Log


def foreseen_least_budget_bytes(
    run: Callable[[int], Trial], peak_reserved_bytes: int, total_bytes: int, settings: AllocatorSettings
) -> int | None:
    """Return what `least_budget_bytes` does.

    Really run are the reserved peak, the answer, the step below it, and every budget between of which the script does
    not know what is asked for in place of refused blocks, the lowest first as it teaches most. Each trial must go as
    foreseen, event for event of the allocator; once one does not, all budgets are really run.

    Parameters
    ----------
    run
        Runs the workload in a budget in bytes, on a GPU whose allocator begins with nothing.
    peak_reserved_bytes, total_bytes
        As `least_budget_bytes` takes them.
    settings
        Those of the allocator.
    """
    ran: dict[int, bool] = {}

    def attempt(budget_bytes: int) -> Trial:
        trial = run(budget_bytes)
        ran[budget_bytes] = trial.fits
        return trial

    def really_fits(budget_bytes: int) -> bool:
        return ran[budget_bytes] if budget_bytes in ran else attempt(budget_bytes).fits

    # Far below the answer, where nobody would look, a workload may fail otherwise than by lack of memory.
    with suppress(Unforeseen, InputError, RuntimeError):
        budgets, start = budgets_to_try(peak_reserved_bytes, total_bytes)
        trials = {budgets[start]: attempt(budgets[start])}
        if any(entry["action"] == "oom" for entry in trials[budgets[start]].log):
            trials[total_bytes] = attempt(total_bytes)
        script = Script(trials[max(trials)].log, settings)
        for budget_bytes, trial in trials.items():
            script.learn(budget_bytes, *trial)
        while True:
            due, answer = _next_trial(script, ran, peak_reserved_bytes, total_bytes)
            if due is None:
                return answer
            script.learn(due, *attempt(due))
    return least_budget_bytes(really_fits, peak_reserved_bytes, total_bytes)


def _next_trial(
    script: Script, ran: Mapping[int, bool], peak_reserved_bytes: int, total_bytes: int
) -> tuple[int | None, int | None]:
    """Return the next budget to run, None if no more are due, and the answer as it looks now."""
    asked: dict[int, bool] = {}
    uncertain: list[int] = []

    def fits(budget_bytes: int) -> bool:
        if budget_bytes in ran:
            asked[budget_bytes] = ran[budget_bytes]
        else:
            forecast = script.forecast(budget_bytes)
            asked[budget_bytes] = forecast.fits
            if forecast.unknown:
                uncertain.append(budget_bytes)
        return asked[budget_bytes]

    answer = least_budget_bytes(fits, peak_reserved_bytes, total_bytes)
    below = max((budget for budget in asked if answer is None or budget < answer), default=None)
    due = (budget for budget in (answer, below, *sorted(uncertain)) if budget is not None and budget not in ran)
    return next(due, None), answer
