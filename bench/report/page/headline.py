"""What a page says first: what was run, what came out, and what its words mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from profl.bench.memory.gpu.profile import ESTIMATE
from profl.bench.report.differences import paired
from profl.bench.report.ranking import best_methods
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.spread import INTERVAL, Spread
from profl.bench.report.study import Study, bytes_of
from profl.bench.report.style import mebibytes

WORDS = {
    "ProFL": "the method that this suite is named after (KDD 2025): devices train a model block by block, so that each"
    " needs less memory. A method is a way of training together; a task is what one device trains in one round.",
    "virtual GPU": "PyTorch's real CUDA code and real allocator over a stub driver that computes nothing: the bytes are"
    " those of a GPU, and none is needed. What trains, trains on a processor.",
    "tier": "how much memory the devices have: all the same, or, in a mixed fleet, each its own. A percentage is a"
    " share of what the full model needs.",
    "least budget": "the smallest memory in which training steps of a task really ran (or would run, where memory is"
    " estimated). A device can train a task if it has at least that.",
    "score": f"{SCORE_NAME}, and of that the mean over the seeds.",
    "told apart": f"of two methods: the {INTERVAL} of their difference, seed by seed, leaves out zero. What is not told"
    " apart may still differ: these seeds do not show it.",
    "ideal": "a method that ignores memory: a bound, not a rival.",
}
"""What must be known to read a page, in the order in which the words come."""


class Outcome(NamedTuple):
    """What came out in a tier: its name and memory, and sentences."""

    tier: str
    sentences: Sequence[str]


def what_was_run(study: Study) -> str:
    """Say in a few sentences what was run, and what decided who could train."""
    ideals = f" beside {_counted(len(study.ideals), 'ideal')} ({study.listed(study.ideals)})" if study.ideals else ""
    methods = _counted(len(study.rivals), "method") + ideals
    training = "went through" if study.memory_only else "trained"
    network = f"{study.model} (width {study.width}) on {study.dataset}"
    rounds = f"{training} {network} for {study.cells['rounds'].max()} rounds"
    tiers = _counted(len(study.tiers), "memory tier")
    estimated = study.gpu.startswith(ESTIMATE)
    gpu = study.gpu.removeprefix(ESTIMATE)
    board = f"a virtual GPU ({gpu.removeprefix('virtual:')})" if gpu.startswith("virtual:") else gpu
    how = f"estimated, not measured, for {board}" if estimated else f"measured on {board}"
    scale = f" of {study.measured_as}" if study.measured_as else ""
    computed = " Nothing was computed: there is memory to compare, and no accuracy." if study.memory_only else ""
    missing = f" {study.completeness}" if study.completeness else ""
    return (
        f"{methods} {rounds}, with {study.of_seeds}, in {tiers}. Which device can train what was decided by the memory"
        f"{scale}, {how}.{computed}{missing}"
    )


def memory_needed(study: Study) -> str:
    """Say which tasks have the lowest and the highest least budget; empty if none is known."""
    found = [
        (bytes_of(entry, "least_budget_bytes"), f"{study.called(method)}, {task}")
        for method, tasks in study.tasks
        for task, entry in tasks
    ]
    known = [pair for pair in found if math.isfinite(pair[0])]
    if not known:
        return ""
    (low, cheapest), (high, dearest) = min(known), max(known)
    full = study.cells["full_model_least_budget_bytes"].max()
    beside = f" The full model needs {mebibytes(full)} MiB." if math.isfinite(full) else ""
    return f"Least budgets go from {mebibytes(low)} MiB ({cheapest}) to {mebibytes(high)} MiB ({dearest}).{beside}"


def what_came_out(study: Study) -> list[Outcome]:
    """Say tier by tier who has the highest mean, who is told apart from it and who is not; empty without accuracy."""
    if study.memory_only:
        return []
    best = best_methods(study)
    return [Outcome(study.tier_label(tier, between=", "), _sentences(study, tier, best[tier])) for tier in study.tiers]


def _sentences(study: Study, tier: str, best: Sequence[str]) -> list[str]:
    values, spreads = study.values(SCORE), study.spreads(SCORE)
    idle = [name for name in study.rivals if study.idle(name, tier)]
    nobody = [f"Nobody can train: {study.listed(idle)}."] * bool(idle)
    known = [name for name in study.rivals if name not in idle and spreads[name, tier].known]
    if not known:
        return [*nobody, *["No result yet."] * (len(idle) < len(study.rivals))]
    if not best:
        means = sorted(known, key=lambda name: -spreads[name, tier].mean)
        told = ", ".join(f"{study.called(name)} {spreads[name, tier].percent()}" for name in means)
        none = "; none is called better" if len(means) > 1 else ""
        return [f"Scores: {told}. How far they may be off is not known{none}.", *nobody]
    first, *alike = best
    here = {name: values[name, tier] for name in known}
    behind = [(name, _lead(here[first], here[name])) for name in known if name not in best]
    said = [f"Highest mean score: {study.called(first)}, {_with_interval(spreads[first, tier])}."]
    if alike:
        named = ", ".join(f"{study.called(name)} {spreads[name, tier].percent()}" for name in alike)
        said.append(f"Not told apart from it: {named}.")
    if behind:
        named = ", ".join(f"{study.called(name)} by {lead}" for name, lead in behind)
        said.append(f"Told apart, and behind: {named} points.")
    return [*said, *nobody]


def _lead(first: pd.Series, other: pd.Series) -> str:
    lead = paired(first, other).times(100)
    return f"{lead.mean:.1f} [{lead.low:.1f} to {lead.high:.1f}]"


def _with_interval(spread: Spread) -> str:
    return f"{spread.percent()} [{spread.span}]"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
