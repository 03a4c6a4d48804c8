"""Who is best: a contest of the rivals, without the ideals."""

from __future__ import annotations

from profl.bench.report.study import Study


def best_methods(study: Study) -> dict[str, list[str]]:
    """Return by tier the methods of the highest mean final accuracy: several if equal, none if unknown."""
    accuracy = study.spreads("final_accuracy")
    best: dict[str, list[str]] = {}
    for tier in study.tiers:
        rivals = [name for name in study.rivals if not study.idle(name, tier)]
        known = {name: accuracy[name, tier].mean for name in rivals if accuracy[name, tier].known}
        best[tier] = [name for name, mean in known.items() if mean == max(known.values())]
    return best


def winners(study: Study) -> str:
    """Say who is the most accurate in every tier."""
    accuracy = study.spreads("final_accuracy")
    best = best_methods(study)
    named = [
        f"{', '.join(best[tier])} ({accuracy[best[tier][0], tier].percent()}) at {tier}"
        for tier in study.tiers
        if best[tier]
    ]
    return f"Most accurate: {', '.join(named)}." if named else "No result yet."
