"""Who is better, as far as the seeds tell: a contest of the rivals, without the ideals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pandas as pd

from profl.bench.report.differences import paired
from profl.bench.report.score import SCORE
from profl.bench.report.spread import over_seeds
from profl.bench.report.study import Study


def best_methods(study: Study) -> dict[str, list[str]]:
    """Return by tier the rivals of which none is told apart from the one of the highest mean score, that one first.

    None where nothing is known, and none where the highest was run with one seed.
    """
    scores = study.values(SCORE)
    best: dict[str, list[str]] = {}
    for tier in study.tiers:
        here = {name: scores[name, tier] for name in study.rivals if not study.idle(name, tier)}
        first, *others = by_mean(here) or [""]
        certain = bool(first) and over_seeds(here[first].to_list()).has_interval
        alike = [name for name in others if not paired(here[first], here[name]).told_apart]
        best[tier] = [first, *alike] if certain else []
    return best


def by_mean(values: Mapping[str, pd.Series]) -> list[str]:
    """Return the methods of which something is known, the highest mean first; of equals, in the order given."""
    known = {name: float(found.mean()) for name, found in values.items() if len(found)}
    return sorted(known, key=lambda name: -known[name])


def winners(study: Study) -> str:
    """Say who is the most accurate in every tier, and who is not told apart from it."""
    scores, best = study.spreads(SCORE), best_methods(study)
    named = []
    for tier in study.tiers:
        first, *alike = best[tier] or [""]
        if first:
            others = f", not told apart from {study.listed(alike)}" if alike else ""
            named.append(f"{study.called(first)} ({scores[first, tier].percent()}){others} at {tier}")
    if named:
        return f"Highest mean score: {'; '.join(named)}."
    known = any(spread.known for spread in scores.values())
    return study.certainty if known else "No result yet."


def chain(values: Mapping[str, pd.Series]) -> str:
    """Return methods and mean shares in percent, the highest first: ``>`` if told apart from the next, else a comma."""
    names = by_mean(values)
    texts = [f"{name} {100 * values[name].mean():.1f}" for name in names]
    links = [" > " if paired(values[name], values[lower]).told_apart else ", " for name, lower in pairwise(names)]
    return "".join(text + link for text, link in zip(texts, [*links, ""], strict=False))
