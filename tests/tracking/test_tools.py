"""The tools themselves, offline: every round is in a cell's run once, however often the sweep is stopped."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from profl.bench.cli.sweep import TOOLS
from profl.bench.engine import Outcome
from profl.bench.errors import InputError
from profl.bench.results.folder import CellFolder, folder_of
from profl.bench.terminal import Terminal
from profl.bench.tracking import TRACKERS, Tracking, trackers
from tests.conftest import small_cell
from tests.sweeps import Silent

CELL = small_cell("heterofl", "80%")
TASK = "width 1/2 $x_1$ = 100%\\'\"<b>"
SUMMARY = {"last_five_accuracy": 0.5, "final_accuracy": 0.4, "participation_share": 1.0, "peak_reserved_bytes": None}


def row(number: int) -> dict[str, Any]:
    """Return a round as it is on disk; the odd ones were not tested."""
    tested = 0.1 * number if number % 2 == 0 else None
    counts = {"tasks": {TASK: 2}, "diagnostics": {}, "participants": 2, "eligible_devices": 2, "seconds": 0.5}
    losses = {"train_loss": 1 / number, "test_loss": None, "test_accuracy": tested, "operations": 7}
    shares = {"devices_out_share": 0.0, "data_out_share": 0.0, "classes_out_share": 0.0}
    return {"round": number, "phase": "train", **counts, **losses, **shares, "uploaded_bytes": 1, "downloaded_bytes": 1}


def begun(run: Path) -> CellFolder:
    folder = folder_of(CELL, run)
    if not folder.path.exists():
        folder.begin(CELL.to_dict())
        folder.enter({}, 0)
    return folder


def sweep(run: Path, tool: str, numbers: Sequence[int], outcome: Outcome | None = None) -> str:
    """Let a sweep run these rounds of the cell, and end it or be stopped; return what it said."""
    said, folder = io.StringIO(), begun(run)
    with Tracking(Silent(), trackers([tool], run), run, Terminal(file=said, width=1000)) as told:
        for number in numbers:
            folder.append_round(row(number), {"round": number})
            told.round(CELL, row(number))
        if outcome:
            told.finished(CELL, outcome)
    return said.getvalue()


def needed(tool: str) -> None:
    pytest.importorskip(tool, reason=f"pip install 'profl[{tool}]'")


def test_the_command_offers_the_tools_there_are():
    assert tuple(TRACKERS) == TOOLS


def test_a_tool_that_is_not_installed_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("profl.bench.tracking.choosing.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--log-to wandb needs the package wandb: pip install 'profl\[wandb\]'"):
        trackers(["wandb"], tmp_path)


def test_tensorboard_has_every_round_once(tmp_path: Path):
    needed("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert sweep(tmp_path, "tensorboard", [1, 2]) == ""
    begun(tmp_path).append_round(row(3), {"round": 3})  # killed before it was told of
    assert sweep(tmp_path, "tensorboard", [4], Outcome(SUMMARY)) == ""
    found = EventAccumulator(str(tmp_path / "tensorboard" / CELL.folder_name))
    found.Reload()
    losses = found.Scalars("train_loss")
    assert [it.step for it in losses] == [1, 2, 3, 4]
    assert [it.value for it in losses] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert [it.step for it in found.Scalars("test_accuracy")] == [2, 4]
    assert [(it.step, it.value) for it in found.Scalars("summary/last_five_accuracy")] == [(4, 0.5)]
    assert "summary/peak_reserved_bytes" not in found.Tags()["scalars"]  # unknown is missing
    (task,) = (tag for tag in found.Tags()["scalars"] if tag.startswith("tasks/width 1/2 _x_1_"))
    assert [it.step for it in found.Scalars(task)] == [1, 2, 3, 4]
    (text,) = found.Tensors("cell/text_summary")
    assert json.loads(text.tensor_proto.string_val[0]) == CELL.to_dict()


def test_every_tool_says_where_its_runs_are_and_how_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "a run"
    assert TRACKERS["tensorboard"](run).place() == (
        f"in {run}/tensorboard, shown by: tensorboard --logdir '{run}/tensorboard'"
    )
    assert TRACKERS["mlflow"](run).place() == (
        f"experiment a run in {run}/mlflow, shown by: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri "
        f"'{run}/mlflow'"
    )
    assert f"wandb sync '{run}/wandb'/offline-run-*" in TRACKERS["wandb"](run).place()
    for uri, place in {
        "https://host:5000": "experiment a run in https://host:5000",
        "sqlite:///x": "experiment a run in sqlite:///x, shown by: mlflow ui --backend-store-uri sqlite:///x",
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert TRACKERS["mlflow"](run).place() == place


def test_mlflow_has_every_round_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needed("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient(str(tmp_path / "mlflow"))

    def found() -> Any:
        (run,) = client.search_runs([client.get_experiment_by_name(tmp_path.name).experiment_id])
        return run

    assert sweep(tmp_path, "mlflow", [1, 2]) == ""
    assert found().info.status == "KILLED"
    begun(tmp_path).append_round(row(3), {"round": 3})
    assert sweep(tmp_path, "mlflow", [4], Outcome(SUMMARY)) == ""
    run = found()
    assert (run.info.status, run.info.run_name) == ("FINISHED", CELL.folder_name)
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(it.step, it.value) for it in history] == [(number, 1 / number) for number in (1, 2, 3, 4)]
    assert run.data.metrics["summary/last_five_accuracy"] == 0.5
    assert run.data.params["recipe.rounds"] == str(CELL.recipe.rounds)
    assert run.data.params["tier"] == "80%"


def test_mlflow_says_why_a_cell_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needed("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    assert sweep(tmp_path, "mlflow", [], Outcome(error="it broke")) == ""
    client = MlflowClient(str(tmp_path / "mlflow"))
    (run,) = client.search_runs([client.get_experiment_by_name(tmp_path.name).experiment_id])
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "it broke")


def test_wandb_has_every_round_once_in_the_last_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needed("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for numbers, outcome in (([1, 2], None), ([3, 4], Outcome(SUMMARY))):
        assert sweep(tmp_path, "wandb", numbers, outcome) == ""
        folder = max((tmp_path / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
        ids.append(folder.name.rpartition("-")[2])
    assert ids[0] == ids[1]
    assert history(folder) == [(number, 1 / number) for number in (1, 2, 3, 4)]


def history(folder: Path) -> list[tuple[int, float]]:
    """Return step and training loss of every row in a run's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for data in logged(next(folder.glob("*.wandb")).read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            rows.append((json.loads(items["_step"]), json.loads(items["train_loss"])))
    return rows


def logged(log: bytes) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format: blocks of 32 KiB, in them checksum, length, kind and part of one."""
    at, record = 7, b""  # behind the file's own head
    while at + 7 <= len(log):
        if 2**15 - at % 2**15 < 7:  # no room for a head: the rest of the block is empty
            at += 2**15 - at % 2**15
            continue
        size, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        record += log[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""
