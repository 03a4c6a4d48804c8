"""The bytes of many training steps are PyTorch's own, and those of the documents' table."""

from __future__ import annotations

from pathlib import Path

import pytest

from profl.bench.memory import Prober
from tests.memory.table_of_steps import HEADING, STEPS, row

TABLE = (Path(__file__).parents[2] / "docs" / "trust.md").read_text().partition(HEADING + "\n")[2].partition("\n\n")[0]
FARTHEST = 0.03
"""As a share; more is a defect of the estimates."""


@pytest.mark.parametrize("name", STEPS)
def test_the_bytes_are_pytorchs_own_and_those_of_the_table(prober: Prober, name: str) -> None:
    found = row(prober, name)
    assert found.measured == found.own
    assert found.line in TABLE.splitlines()
    if found.estimated_bytes is not None:
        assert found.estimated_bytes == pytest.approx(found.own[0], rel=FARTHEST)


def test_the_table_has_no_other_rows() -> None:
    assert len(TABLE.splitlines()) == len(STEPS)
