"""The program that compares a card with the virtual GPU runs, and the committed numbers are of its form."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from profl.bench.errors import InputError
from profl.bench.memory import Prober
from profl.bench.survey.measuring import measured
from profl.bench.survey.methods import TABLE, entries
from profl.bench.survey.table import PEAKS
from tests.hardware import convolutions_on_card, tasks_on_card
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


@pytest.mark.parametrize("card", ["h100", "h200"])
def test_the_committed_numbers_are_of_steps_that_can_be_run(card: str) -> None:
    found = pd.read_csv(CARD / f"{card}-steps.csv")
    assert list(found.columns) == COLUMNS
    assert found["step"].is_unique
    assert set(found["step"]) <= set(STEPS)
    assert (found.drop(columns="step") > 0).all(axis=None)


def test_the_tasks_of_a_survey_of_card_and_virtual_gpu_are_joined(
    prober: Prober, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = entries(["allsmall"], ["resnet18"], 2, (4,), ["virtual:sm_90", "virtual:h100"], ["none"])
    surveyed = [measured(entry, TABLE, prober) for entry in wanted if not entry.searched]
    failed = {**surveyed[0], "failure": "out of order"} | dict.fromkeys(PEAKS)
    TABLE.write([*surveyed[1:], failed], tmp_path / "survey.csv")
    monkeypatch.setattr(tasks_on_card, "PHYSICAL", "virtual:sm_90")  # for want of a card
    found = tasks_on_card.joined([tmp_path / "survey.csv"])
    assert list(found.columns) == tasks_on_card.COLUMNS
    assert set(found["task"]) == {entry.task.key for entry in wanted} - {failed["task"]}
    there = {(row["task"], row["gpu"]): row["peak_requested_bytes"] for row in surveyed}
    for row in found.to_dict("records"):
        assert row["card_peak_requested_bytes"] == there[row["task"], "virtual:sm_90"]
        assert row["virtual_peak_requested_bytes"] == there[row["task"], "virtual:h100"]
    assert found["card_least_budget_bytes"].isna().all()


def test_the_committed_tasks_are_of_that_form_and_none_stands_twice() -> None:
    found = pd.read_csv(CARD / "h100-tasks.csv")
    assert list(found.columns) == tasks_on_card.COLUMNS
    assert not found.duplicated(tasks_on_card.TASK).any()
    peaks = found.filter(like="_peak_")
    assert (peaks > 0).all(axis=None)
    for where in ("card", "virtual"):
        sizes = [found[f"{where}_peak_{name}_bytes"] for name in ("requested", "allocated", "reserved")]
        assert (sizes[0] <= sizes[1]).all()
        assert (sizes[1] <= sizes[2]).all()


def test_single_convolutions_are_compared_by_the_pass(prober: Prober) -> None:
    passes = [(32, 64, 16, 64, 3, 1, 1, 1, way) for way in ("", "input", "weight")]
    shapes = pd.DataFrame(passes, columns=convolutions_on_card.SHAPE)
    found = convolutions_on_card.compared(prober, shapes, "virtual:t4", "virtual:h100")
    assert list(found.columns) == convolutions_on_card.COLUMNS
    assert list(found["gradient_of"]) == ["", "input", "weight"]
    assert (found[["card_workspace_bytes", "virtual_workspace_bytes"]] >= 0).all(axis=None)
    without = convolutions_on_card.compared(prober, shapes, "virtual:t4", "virtual:t4")
    assert list(without["card_workspace_bytes"]) == list(without["virtual_workspace_bytes"])
    assert list(found["card_workspace_bytes"]) == list(without["card_workspace_bytes"])
    assert (found["card_workspace_bytes"] != found["virtual_workspace_bytes"]).any()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("", "No columns"),
        ("examples,channels\n1,2\n", "size"),
        (",".join(convolutions_on_card.SHAPE) + "\n", "gradient_of must be"),
        (",".join(convolutions_on_card.SHAPE) + "\n1,2,3,4,5,1,0,1,weights\n", "gradient_of must be"),
        (",".join(convolutions_on_card.SHAPE) + "\n1,x,3,4,5,1,0,1,weight\n", "x"),
    ],
)
def test_what_is_no_table_of_convolutions_is_refused_in_a_line(tmp_path: Path, text: str | None, told: str) -> None:
    path = tmp_path / "shapes.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=told) as refused:
        convolutions_on_card.read(path)
    assert str(path) in str(refused.value)


def test_a_comparison_without_a_card_says_so_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["x", str(CARD / "h100-convolutions.csv"), "--gpu", "virtual:nothing"])
    with pytest.raises(SystemExit, match="1"):
        convolutions_on_card.main()
    assert capsys.readouterr().err.startswith("Error: ")
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "missing.csv")])
    with pytest.raises(SystemExit, match="1"):
        tasks_on_card.main()
    assert capsys.readouterr().err == "Error: no task there was measured both on a card and on a virtual GPU\n"


@pytest.mark.parametrize("card", ["h100", "h200"])
def test_the_committed_convolutions_stand_once_each(card: str) -> None:
    found = convolutions_on_card.read(CARD / f"{card}-convolutions.csv")
    assert list(found.columns) == convolutions_on_card.COLUMNS
    assert not found.duplicated(convolutions_on_card.SHAPE).any()
    assert set(found["gradient_of"]) == {"", "input", "weight"}
    assert (found.filter(like="_bytes") >= 0).all(axis=None)


def test_the_committed_plans_are_of_the_same_convolutions() -> None:
    plans = convolutions_on_card.read(CARD / "h100-plans.csv")
    found = convolutions_on_card.read(CARD / "h100-convolutions.csv")
    assert plans[convolutions_on_card.SHAPE].equals(found[convolutions_on_card.SHAPE])
    asked = plans["groups"] == 1  # cuDNN; what has groups is run by PyTorch's own kernels
    assert (plans["handle_workspace_bytes"] == found["card_workspace_bytes"])[asked].all()
    assert (plans["no_driver_workspace_bytes"] == found["virtual_workspace_bytes"])[asked].all()
