"""What a run cost: operations of local training, and bytes sent and received, by method and tier."""

from __future__ import annotations

from profl.bench.report.axis import AXES
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.study import Study


def costs_grid(study: Study) -> Grid:
    """Return the costs of a run of every method and tier, the mean over its finished seeds."""
    spent = study.spreads("operations")
    sent, received = study.spreads("uploaded_bytes"), study.spreads("downloaded_bytes")

    def entry(method: str, tier: str) -> Entry:
        pair = method, tier
        if study.idle(*pair):
            return Entry("nobody can train")
        traffic = f"{AXES['bytes'].told(sent[pair].mean)} up, {AXES['bytes'].told(received[pair].mean)} down"
        return Entry(AXES["operations"].told(spent[pair].mean), (traffic,))

    rows = [GridRow(study.label(method), [entry(method, tier) for tier in study.tiers]) for method in study.methods]
    note = (
        "Floating-point operations of all devices' local training, and the bytes that they sent up and were sent down,"
        f" in the whole run{f', mean of {study.of_seeds}' if study.seeds > 1 else ''}."
    )
    return Grid("Cost of a run, by memory tier", "method", study.tiers, {"": rows}, note)
