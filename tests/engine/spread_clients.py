"""Whether it pays to spread a round's clients over Ray actors: ``python -m tests.engine.spread_clients``.

A round trains ten devices: one after another in this process, or in an actor for each core, which has a federation
of its own, is sent the global state and sends its updates back. Both give the same updates; what is printed are median
seconds of a round of either kind, taken in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace
from typing import Any

from profl.bench.instructions import AVX2, choose

choose(AVX2)  # before torch is imported

# ruff: noqa: E402
import torch

from profl.bench.cell import Recipe
from profl.bench.data import load_dataset
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.method import Update
from tests.benchmarks.timing import seconds
from tests.conftest import small_cell


def federation(width: int, examples: int) -> Federation:
    recipe = Recipe(10**6, 1437 // examples, 10, partition="iid", batch_size=16, evaluate_every=10**6)
    cell = replace(small_cell(recipe=recipe), width=width)
    return Federation(Experiment.of(cell), load_dataset("digits"), {"full model": 1}, 1)


def train(fleet: Federation, devices: list[int], number: int) -> list[Update]:
    """Train some of a round's devices from the global state."""
    (task,), _ = fleet.choices(number)
    results = [fleet._train(task, device, number) for device in devices]
    return [result[0] for result in results if result]


class Client:
    """An actor: a federation that trains what it is told to."""

    def __init__(self, width: int, examples: int) -> None:
        torch.set_num_threads(1)
        self.fleet = federation(width, examples)

    def train(self, state: dict[str, torch.Tensor], devices: list[int], number: int) -> list[Update]:
        self.fleet.method.global_state = {name: value.clone() for name, value in state.items()}
        return train(self.fleet, devices, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    import ray

    torch.set_num_threads(1)
    cores = os.cpu_count() or 1
    ray.init(num_cpus=cores, log_to_driver=False, logging_level="ERROR", _system_config={"worker_niceness": 0})
    print("parameters,examples,cores,seconds_here,seconds_spread,times_faster")
    for width, examples in ((2, 16), (16, 16), (16, 140), (64, 16)):
        fleet = federation(width, examples)
        actors: list[Any] = [ray.remote(Client).remote(width, examples) for _ in range(cores)]
        devices = fleet.draw(list(range(fleet.recipe.devices)), 1)
        parts = [devices[place::cores] for place in range(cores)]

        def spread(
            fleet: Federation = fleet, actors: list[Any] = actors, parts: list[list[int]] = parts
        ) -> list[Update]:
            state = ray.put(dict(fleet.method.global_state))
            found = ray.get([actor.train.remote(state, part, 1) for actor, part in zip(actors, parts, strict=True)])
            return [update for part in found for update in part]

        here, there = train(fleet, [device for part in parts for device in part], 1), spread()
        assert all(
            torch.equal(one.state[name], other.state[name])
            for one, other in zip(here, there, strict=True)
            for name in one.state
        )
        times = [(seconds(lambda: train(fleet, devices, 1)), seconds(spread)) for _ in range(pairs)]  # noqa: B023
        alone, together = (statistics.median(column) for column in zip(*times, strict=True))
        parameters = sum(value.numel() for value in fleet.method.global_state.values())
        ratio = statistics.median(one / other for one, other in times)
        print(f"{parameters},{examples},{cores},{alone:.2f},{together:.2f},{ratio:.2f}", flush=True)
        for actor in actors:
            ray.kill(actor)
    ray.shutdown()


if __name__ == "__main__":
    main()
