"""Nodes of a Ray cluster are killed in mid-sweep at random moments; what comes out must be the bits of one process.

``python -m tests.engine.kill_nodes`` runs the same sweep again and again on a cluster of this machine, kills a node in
each and puts another in its place; it prints a line for each and fails if any differs.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from profl.bench.instructions import AVX2, choose

choose(AVX2)  # before torch is imported

# ruff: noqa: E402
from profl.bench.cell import Cell
from profl.bench.engine import InProcess, RayCluster
from profl.bench.memory.process.probe import Prober
from tests.conftest import SMALL_RECIPE, small_cell
from tests.engine.ray_nodes import SMALL_NODE, nodes
from tests.sweeps import Silent, bits, sweep

ROUNDS = 6
TODO = [
    small_cell(method, tier, recipe=replace(SMALL_RECIPE, rounds=ROUNDS, evaluate_every=3))
    for method, tier in (("fedavg", "unlimited"), ("heterofl", "50%"), ("depthfl", "60%"))
]


class Lost(logging.Handler):
    """Counts the cells that are told to be lost."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


class Killer(Silent):
    """Kills one node of a cluster, a moment after so many rounds."""

    def __init__(self, cluster: Any, after_rounds: int, delay_seconds: float, chosen: random.Random) -> None:
        super().__init__()
        self.cluster, self.after_rounds, self.delay_seconds, self.chosen = cluster, after_rounds, delay_seconds, chosen
        self.thread = threading.Thread(target=self._kill)
        self._count()

    def round(self, cell: Cell, row: dict) -> None:
        super().round(cell, row)
        self._count()

    def _count(self) -> None:
        if len(self.rounds) == self.after_rounds:
            self.thread.start()

    def _kill(self) -> None:
        time.sleep(self.delay_seconds)
        node = self.chosen.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.node_id))
        self.cluster.remove_node(node, allow_graceful=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the nodes")
    chosen = parser.parse_args()
    draw = random.Random(chosen.seed)
    wrong, lost = 0, Lost()
    logging.getLogger("profl.bench.engine.ray_cluster").addHandler(lost)
    with tempfile.TemporaryDirectory() as folder, Prober() as prober, nodes(chosen.nodes) as cluster:
        here = Path(folder) / "here"
        sweep(TODO, here, InProcess(), prober, Silent())
        print("kill,nodes,cells,after_rounds,delay_seconds,started_again,identical", flush=True)
        for kill in range(1, chosen.kills + 1):
            run, before = Path(folder) / str(kill), lost.count
            killer = Killer(cluster, draw.randrange(len(TODO) * ROUNDS), draw.uniform(0, 1), draw)
            sweep(TODO, run, RayCluster(cluster.address), prober, killer)
            killer.thread.join()
            cluster.add_node(**SMALL_NODE)
            same = bits(TODO, run) == bits(TODO, here) and set(killer.errors.values()) == {None}
            wrong += not same
            where = f"{kill},{chosen.nodes},{len(TODO)},{killer.after_rounds},{killer.delay_seconds:.2f}"
            print(f"{where},{lost.count - before},{'yes' if same else 'NO'}", flush=True)
    print(f"{chosen.kills} kills, {chosen.kills - wrong} identical, {wrong} not")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
