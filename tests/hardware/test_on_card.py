"""The program that compares a card with the virtual GPU runs, and the committed numbers are of its form."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from profl.bench.memory import Prober
from tests.hardware.on_card import COLUMNS, STEPS, compare

CARD = Path(__file__).parents[2] / "results" / "card"


def test_steps_are_compared_and_a_step_that_fails_is_told(
    prober: Prober, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEPS, "broken", None)
    path = tmp_path / "card.csv"
    compare(prober, "virtual:t4", "virtual:h100", ["broken", "averaged", "sparse rows, SGD"], path)
    found = pd.read_csv(path)
    assert list(found.columns) == COLUMNS
    assert list(found["step"]) == ["averaged", "sparse rows, SGD"]
    workspace = found["virtual_requested_bytes"] - found["card_requested_bytes"]
    assert list(workspace) == [50_069_504, 0]  # cuBLAS takes more on an H100; one step multiplies no matrices
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["broken", "averaged", "sparse rows, SGD"]
    assert told[0].endswith("TypeError: 'NoneType' object is not callable")
    assert told[2] == "sparse rows, SGD: equal"


def test_the_committed_numbers_are_of_steps_that_can_be_run() -> None:
    found = pd.read_csv(CARD / "h100-steps.csv")
    assert list(found.columns) == COLUMNS
    assert found["step"].is_unique
    assert set(found["step"]) <= set(STEPS)
    assert (found.drop(columns="step") > 0).all(axis=None)
