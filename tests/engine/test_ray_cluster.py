"""A sweep on a Ray cluster gives the bits of one process, also where a node is killed or Ctrl-C is pressed."""

from __future__ import annotations

import ast
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import profl.bench
from profl.bench.cell import Cell
from profl.bench.engine import InProcess, Job, RayCluster
from profl.bench.engine.needs import PROCESS_BYTES
from profl.bench.engine.ray_cluster import _RemoteCell
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.memory.process.probe import Prober
from profl.bench.results.folder import folder_of
from tests.conftest import SMALL_RECIPE, small_cell
from tests.engine.ray_nodes import SMALL_NODE, cell_processes, nodes
from tests.sweeps import Silent, bits, sweep

LONG = [small_cell(seed=seed, recipe=replace(SMALL_RECIPE, rounds=12)) for seed in range(2)]
TODO = [*LONG, small_cell("heterofl", "50%", recipe=replace(SMALL_RECIPE, rounds=2))]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, prober: Prober) -> Path:
    """The same cells, run by one process."""
    folder = tmp_path_factory.mktemp("here")
    sweep(TODO, folder, InProcess(), prober, Silent())
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="no Ray: pip install 'profl[ray]'")
    with nodes(2) as cluster:
        yield cluster


class Impatient(Silent):
    """Presses Ctrl-C when a cell's third round is over."""

    def round(self, cell: Cell, row: dict) -> None:
        super().round(cell, row)
        if row["round"] == 3:
            raise KeyboardInterrupt


def folders_on_nodes() -> set[Path]:
    """Return where the last of the cells lies or was left on a node; Ctrl-C comes before it begins."""
    return set(Path(tempfile.gettempdir()).glob(f"profl-*/{TODO[-1].folder_name}"))


def test_nodes_give_the_bits_of_one_process_also_after_ctrl_c(tmp_path: Path, prober: Prober, cluster: Any, here: Path):
    before, stopped = folders_on_nodes(), Impatient()
    with pytest.raises(KeyboardInterrupt):
        sweep(TODO, tmp_path, RayCluster(cluster.address), prober, stopped)
    assert cell_processes() == {}
    kept = {cell.folder_name: len(folder_of(cell, tmp_path).rounds()) for cell in TODO}
    assert all(rounds >= len([name for name, _ in stopped.rounds if name == cell]) for cell, rounds in kept.items())
    assert {folder_of(cell, tmp_path).status for cell in LONG} <= {"stopped", "waiting"}

    class Watch(Silent):
        held_bytes = 0

        def round(self, cell: Cell, row: dict) -> None:
            super().round(cell, row)
            self.held_bytes = max([self.held_bytes, *cell_processes().values()])  # none if it has just ended

    rest = Watch()
    sweep(TODO, tmp_path, RayCluster(cluster.address), prober, rest)
    assert set(rest.errors.values()) == {None}
    assert len(rest.rounds) == 26 - sum(kept.values())
    assert PROCESS_BYTES / 2 < rest.held_bytes < PROCESS_BYTES  # less than any of the cells asked for
    assert bits(TODO, tmp_path) == bits(TODO, here)
    for cell in TODO:
        one, other = folder_of(cell, here), folder_of(cell, tmp_path)
        assert one.environments() == other.environments()
        assert {path.name for path in one.path.iterdir()} == {path.name for path in other.path.iterdir()}
        assert {**one.summary(), "seconds": 0} == {**other.summary(), "seconds": 0}
    assert folders_on_nodes() == before


def test_the_cells_of_a_killed_node_go_on_elsewhere(
    tmp_path: Path,
    prober: Prober,
    cluster: Any,
    here: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    class Killer(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            super().round(cell, row)
            if len({name for name, _ in self.rounds}) == 2 and len(cluster.worker_nodes) == 2:
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    listener = Killer()
    with caplog.at_level(logging.WARNING):
        sweep(LONG, tmp_path, RayCluster(cluster.address), prober, listener)
    assert bits(LONG, tmp_path) == bits(LONG, here)
    assert sorted(listener.rounds) == sorted((cell.folder_name, number) for cell in LONG for number in range(1, 13))
    attempts = [{row["attempt"] for row in folder_of(cell, tmp_path).rounds()} for cell in LONG]
    assert sorted(map(len, attempts)) == [1, 2]  # one of the two was lost, and none of its rounds
    assert [record.message for record in caplog.records if "goes on elsewhere" in record.message]
    assert capfd.readouterr().out == ""  # events go there


def test_a_cell_that_no_node_can_hold_is_refused(
    tmp_path: Path, prober: Prober, cluster: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("profl.bench.engine.ray_cluster.memory_bytes", lambda job: SMALL_NODE["memory"] + 2**30)
    with pytest.raises(InputError, match=r"no node of the Ray cluster has the core, 3 GiB of memory that fedavg-"):
        sweep(LONG, tmp_path, RayCluster(cluster.address), prober, Silent())
    assert [folder_of(cell, tmp_path).status for cell in LONG] == ["waiting"] * 2


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:1", "Connection refused"), ("head", "give HOST:PORT"), ("ray://head:10001", "give HOST:PORT")],
)
def test_where_no_cluster_is_nothing_begins(address: str, why: str):
    pytest.importorskip("ray", reason="no Ray: pip install 'profl[ray]'")
    with pytest.raises(InputError, match=f"no Ray cluster at {address} .*{why}"):
        RayCluster(address)


def test_a_cell_that_is_lost_again_and_again_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = folder_of(LONG[0], tmp_path)
    folder.begin(LONG[0].to_dict())
    cell = _RemoteCell(Job(Experiment.of(LONG[0]), folder.path, {"full model": 1}, 1))
    started: list[int] = []
    monkeypatch.setattr("profl.bench.engine.ray_cluster.STARTS", 3)
    monkeypatch.setattr(_RemoteCell, "_send", lambda self: started.append(self._fruitless_starts))
    assert cell.begin() is None
    assert [cell.start_again() for _ in range(2)] == [None, None]
    outcome = cell.start_again()
    assert outcome is not None
    assert str(outcome.error).startswith("lost with its node or process 3 times without one more finished round")
    assert started == [1, 2, 3]
    cell.release()
    assert folder.status == "failed"


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("profl.bench.engine.ray_cluster.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package ray: pip install 'profl\[ray\]'"):
        RayCluster()


def test_ray_is_imported_where_it_is_used_alone():
    for path in Path(profl.bench.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "ray"], path
