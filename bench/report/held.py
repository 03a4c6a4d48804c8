"""What stayed on the GPU from round to round, in words."""

from __future__ import annotations

from profl.bench.held import HELD, NOTHING_HELD, describe_held
from profl.bench.report.study import Study


def held(study: Study, method: str, tier: str) -> str:
    """Say what stayed on the GPU from round to round, in the worst of the seeds."""
    return describe_held(*(study.most(name)[method, tier] for name in HELD))


def what_stayed(study: Study) -> str:
    """Say what stayed on the GPU from round to round, in all that was run."""
    told = {(method, tier): held(study, method, tier) for method in study.methods for tier in study.tiers}
    known = {pair: text for pair, text in told.items() if study.spreads(HELD[0])[pair].known}
    holding = [
        f"{study.called(method)} at {tier} {text}" for (method, tier), text in known.items() if text != NOTHING_HELD
    ]
    if holding:
        return f"Still allocated after a round (what grows in most rounds is a leak): {'; '.join(holding)}."
    if known:
        return "Nothing is held from round to round: no leak."
    return "Whether anything is held from round to round is not known yet."
