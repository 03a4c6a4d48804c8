"""Measured runs in a file: what is written is read back, and nothing else is."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profl.bench.errors import InputError
from profl.bench.memory.comparison import run_file
from profl.bench.memory.comparison.against import Comparison
from profl.bench.memory.comparison.measured_run import MeasuredRun, measure_run
from profl.bench.memory.comparison.run_file import find_run, read_runs, write_runs
from profl.bench.memory.comparison.side import BlockEvent
from profl.bench.memory.process.probe import Prober
from tests.memory.test_footprint import ATTRIBUTED, MIB
from tests.memory.workloads import Linear

RUN = MeasuredRun(
    {"method": "fedavg", "task": "full model", "batch_size": 64, "alpha": 0.5, "frozen": True, "data": None},
    replace(ATTRIBUTED, timeline=None, nvml_used_bytes=500 * MIB),
    (
        BlockEvent("alloc", 2 * MIB, 0, 0, "prepare", None, None),
        BlockEvent("alloc", 6 * MIB, 1, 1, "forward", "body.1", "conv2d"),
        BlockEvent("free", 6 * MIB, 1, 1, "backward", "body.1", "conv2d"),
    ),
)
OTHER = replace(RUN, workload={**RUN.workload, "task": "block 1", "batch_size": 32})

Values = dict[str, Any]


@pytest.fixture
def values(tmp_path: Path) -> Values:
    write_runs(tmp_path / "run.json", [RUN])
    content: Values = json.loads((tmp_path / "run.json").read_text())
    return content


def refusal(path: Path, content: Values | bytes) -> str:
    """Return the one line that says why a file is refused."""
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError) as caught:
        read_runs(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize("name", ["run.json", "new/folder/run.json", "run.json.gz"])
def test_what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    write_runs(tmp_path / name, [RUN, OTHER])
    assert read_runs(tmp_path / name) == [RUN, OTHER]


def test_gz_is_gzip_and_the_same_runs_are_the_same_bytes(tmp_path: Path) -> None:
    first, again, plain = (tmp_path / name for name in ("first.json.gz", "again.json.gz", "plain.json"))
    for path in (first, again, plain):
        write_runs(path, [RUN])
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4)  # no time of writing
    assert gzip.decompress(first.read_bytes()) == plain.read_bytes()


def test_a_run_without_events(tmp_path: Path) -> None:
    empty = replace(
        RUN.footprint,
        peak_requested_bytes=0,
        categories_at_peak=dict.fromkeys(RUN.footprint.categories_at_peak, 0),
        attribution=(),
    )
    write_runs(tmp_path / "run.json", [MeasuredRun({}, empty, ())])
    assert read_runs(tmp_path / "run.json") == [MeasuredRun({}, empty, ())]


def test_a_measured_run_compares_with_its_file(prober: Prober, tmp_path: Path) -> None:
    run = measure_run(prober, Linear(), "virtual:t4", {"features": 1024}, least_budget=False)
    write_runs(tmp_path / "run.json.gz", [run])
    (read,) = read_runs(tmp_path / "run.json.gz")
    assert read.events == run.events
    assert Comparison(run, read).is_identical
    assert Comparison(run, read).divergence is None


# --- files that are refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", " is no JSON (Expecting value"),
        (b'{"format": "profl measured runs", ', " is no JSON (Expecting property name"),
        (b"\xff\xfe\x00", " is no JSON ("),
        (pickle.dumps({"format": "profl measured runs"}), " is no JSON ("),
        (b"[" * 100_000, " is no JSON ("),
        (b"[]", " holds no measured runs: write such a file with 'profl measure --save FILE'"),
        (b'{"environment": {}, "metrics": {}}', " holds no measured runs: "),
        (b'{"format": "profl measured runs"}', ": version, runs are missing"),
        (b'{"format": "profl measured runs", "version": 1, "runs": []}', ": runs cannot be []"),
    ],
    ids=["empty", "cut", "not text", "pickle", "nested", "list", "reference", "no version", "no runs"],
)
def test_other_files(content: bytes, reason: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / "run.json", content).startswith(reason)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json is missing: name a file that 'profl measure --save FILE' wrote"):
        read_runs(tmp_path / "run.json")


def test_a_small_file_that_becomes_a_large_one(tmp_path: Path) -> None:
    bomb = gzip.compress(b"[" + b"[]," * 3_000_000)
    most = 100 * len(bomb) + 2**20
    assert refusal(tmp_path / "run.json.gz", bomb) == f" holds more than {most} bytes: save fewer tasks at a time"
    many = b"[" + b"[]," * 2_000_000
    assert refusal(tmp_path / "run.json", many).startswith(" holds more than 2000000 lists and tables")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(InputError, match=r"run\.json is no plain file"):
        read_runs(tmp_path / "run.json")


@pytest.mark.parametrize("change", [lambda packed: packed[:40], lambda packed: b"{}"], ids=["cut", "not gzip"])
def test_a_damaged_archive(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "run.json.gz"
    write_runs(path, [RUN])
    assert refusal(path, change(path.read_bytes())).endswith("have it sent again")


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_file, "LARGEST_FILE_BYTES", 10_000)
    bomb = gzip.compress(b" " * 10_001)
    assert refusal(tmp_path / "run.json.gz", bomb) == " holds more than 10000 bytes: save fewer tasks at a time"


def test_a_newer_version(values: Values, tmp_path: Path) -> None:
    values |= {"version": 2, "runs": "another form"}
    assert refusal(tmp_path / "run.json", values) == " has version 2, newer than 1 which is read here: update profl"


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("footprint", "peak_reserved_bytes"), "1", ": runs.0.footprint.peak_reserved_bytes cannot be '1'"),
        (("footprint", "peak_reserved_bytes"), 1.5, ": runs.0.footprint.peak_reserved_bytes cannot be 1.5"),
        (("footprint", "peak_requested_bytes"), MIB, "sum to 8388608 bytes, the peak is 1048576"),
        (("footprint", "categories_at_peak"), {"activations": 8 * MIB}, ": the footprint's categories are not param"),
        (("footprint", "caveats"), ["\x1b[2J"], " holds control characters"),
        (("footprint", "caveats"), ["\u202egpj.exe"], " holds control characters"),
        (("footprint", "caveats"), ["\ud800"], " holds control characters"),
        (("footprint", "nvml_used_bytes"), -1, " holds a number that is no size or count: -1"),
        (("footprint", "least_budget_bytes"), 10**400, f" holds a number that is no size or count: 1{'0' * 24}..."),
        (
            ("footprint", "peak_reserved_bytes"),
            1,
            "each peak holds the one before it, but the footprint's are requested",
        ),
        (("footprint", "steps"), 0, ": the events do not belong to 0 steps"),
        (("events", "step"), [0, 1, 5], ": the events do not belong to 1 steps"),
        (("events", "phase"), ["prepare", "forward", "nonsense"], ": runs.0.events.phase.2 cannot be 'nonsense'"),
        (("events", "operator"), [None, "conv2d", "relu"], ": event 2 names another module or operator than the alloc"),
        (("events", "module"), [None, "body.1", "head"], ": event 2 names another module or operator than the alloc"),
        (("workload", "\x07"), 1, " holds control characters"),
        (("workload", "recipe"), {}, ": runs.0.workload.recipe."),
        (("events", "action"), ["alloc", "alloc"], ": the columns of events differ in length: action 2, bytes 3"),
        (("events", "action"), ["alloc", "alloc", "leak"], ": runs.0.events.action.2 cannot be 'leak'"),
        (("events", "bytes"), [2 * MIB, 6 * MIB, -6], " holds a number that is no size or count: -6"),
        (("events", "bytes"), [2 * MIB, 6 * MIB, 6], ": event 2 frees 6 bytes of block 1, not allocated so"),
        (("events", "bytes"), [MIB, 6 * MIB, 6 * MIB], ": the events reach 7340032 bytes, the footprint 8388608"),
        (("events", "block"), [0, 1, 2], ": event 2 frees 6291456 bytes of block 2, not allocated so"),
        (("events", "block"), [0, 2, 2], ": event 1 allocates block 2, but block 1 comes next"),
        (
            ("events", "action"),
            ["free", "alloc", "alloc"],
            ": event 0 frees 2097152 bytes of block 0, not allocated so",
        ),
    ],
)
def test_a_wrong_value_is_named(
    place: tuple[str, str], value: Any, reason: str, values: Values, tmp_path: Path
) -> None:
    part, name = place
    values["runs"][0][part][name] = value
    assert reason in refusal(tmp_path / "run.json", values)


def test_true_is_no_version(values: Values, tmp_path: Path) -> None:
    assert refusal(tmp_path / "run.json", {**values, "version": True}) == ": version cannot be True"


def test_a_value_of_a_later_reader_is_ignored(values: Values, tmp_path: Path) -> None:
    values["runs"][0]["footprint"]["colour"] = "red"
    values["runs"][0]["events"]["seconds"] = [0, 1, 2]
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert read_runs(tmp_path / "run.json") == [RUN]


def test_a_missing_value_is_named(values: Values, tmp_path: Path) -> None:
    del values["runs"][0]["events"]["phase"]
    assert refusal(tmp_path / "run.json", values) == ": runs.0.events.phase is missing"


# --- the run of a workload -----------------------------------------------------------------------------------------


def test_the_run_of_the_same_workload_is_found() -> None:
    assert find_run([RUN, OTHER], OTHER.workload, "run.json") is OTHER


def test_a_workload_that_no_run_has_names_the_nearest() -> None:
    wanted = {**OTHER.workload, "batch_size": 16}
    with pytest.raises(InputError) as caught:
        find_run([RUN, OTHER], wanted, "run.json")
    assert str(caught.value) == (
        "run.json holds no run of this workload, at best one with batch_size 32 instead of 16: choose the same"
    )
