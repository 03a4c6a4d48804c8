"""What a snapshot tells as one HTML file that needs no other and no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from profl.bench.files import replacing
from profl.bench.memory.snapshot.drawing import timeline_png
from profl.bench.memory.snapshot.history import TracedHistory
from profl.bench.memory.snapshot.snapshot import Snapshot
from profl.bench.memory.snapshot.summary import DeviceSummary
from profl.bench.memory.snapshot.tables import heading, mib, remarks


def write_page(
    snapshot: Snapshot, histories: Sequence[TracedHistory], summaries: Sequence[DeviceSummary], path: Path
) -> None:
    """Write the page to ``path``; every text of the snapshot is escaped."""
    images = [base64.b64encode(timeline_png(snapshot, history)).decode() for history in histories]
    text = _template().render(
        title=snapshot.name,
        settings=snapshot.settings,
        devices=[
            {"summary": device, "heading": heading(device), "remarks": list(remarks(device)), "image": image}
            for device, image in zip(summaries, images, strict=True)
        ],
        mib=mib,
    )
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@cache
def _template() -> Template:
    loader = PackageLoader("profl.bench.memory.snapshot")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")
