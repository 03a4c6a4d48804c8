"""What a round costs beside its training, here and in Flower: ``python -m tests.benchmarks.against_flower``.

FedAvg, all devices in every round, one after another on one core, trained by the very same function, whose seconds are
taken off: what is left is drawing, loading the global state, averaging, and in Flower its messages through Ray. Neither
tests or writes anything. Needs ``pip install 'flwr[simulation]'``, best in an environment of its own. Nothing here is a
test: seconds are those of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

from profl.bench.instructions import AVX2, choose

choose(AVX2)  # before torch is imported

# ruff: noqa: E402
import torch

from profl.bench import federation as rounds
from profl.bench.cell import Recipe
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.randomness import torch_generator
from profl.bench.training import train_locally
from tests.benchmarks.growth import NEVER, made_up
from tests.conftest import small_cell

DEVICES = 10
EXAMPLES = 2


def experiment(width: int) -> Experiment:
    recipe = Recipe(NEVER, DEVICES, DEVICES, partition="iid", batch_size=16, evaluate_every=NEVER)
    return Experiment.of(replace(small_cell(recipe=recipe), width=width))


@contextmanager
def timed_training() -> Iterator[list[float]]:
    """Collect the seconds of every local training of a federation."""
    took: list[float] = []

    def timed(*arguments: Any) -> float:
        began = time.perf_counter()
        loss = train_locally(*arguments)
        took.append(time.perf_counter() - began)
        return loss

    rounds.train_locally = timed  # type: ignore[assignment]
    try:
        yield took
    finally:
        rounds.train_locally = train_locally


def ours(width: int, count: int) -> list[float]:
    """Return, for every round but the first, the seconds beside training of one device."""
    fleet = Federation(experiment(width), made_up(DEVICES * EXAMPLES), {"full model": 1}, 1)
    beside = []
    with timed_training() as took:
        for number in range(1, count + 2):
            took.clear()
            began = time.perf_counter()
            fleet.run_round(number)
            beside.append((time.perf_counter() - began - sum(took)) / DEVICES)
    return beside[1:]


def flowers(width: int, count: int) -> list[float]:
    """Return the same of Flower's simulation, whose clients keep their module from round to round."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    kept: dict[int, Any] = {}

    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        if not kept:
            one = experiment(width)
            task = one.method().tasks()[0]
            kept[0] = one, task, task.build(), made_up(EXAMPLES)
        one, task, module, data = kept[0]
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        generator = torch_generator(one.cell.seed, "local", int(message.content["config"]["server-round"]), 0)
        began = time.perf_counter()
        recipe, technique = one.cell.recipe, one.technique
        train_locally(task, module, data.train_inputs, data.train_targets, recipe, generator, False, technique)
        metrics = MetricRecord({"num-examples": EXAMPLES, "seconds": time.perf_counter() - began})
        return Message(RecordDict({"arrays": ArrayRecord(module.state_dict()), "metrics": metrics}), reply_to=message)

    client, server = ClientApp(), ServerApp()
    client.train()(train)
    marks: list[float] = []
    training: list[float] = []

    class Timed(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            replies = list(replies)
            training.append(sum(float(reply.content["metrics"]["seconds"]) for reply in replies))
            return super().aggregate_train(server_round, replies)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        state = ArrayRecord(experiment(width).method().global_state)
        strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=DEVICES)
        strategy.start(
            grid=grid,
            initial_arrays=state,
            num_rounds=count + 1,
            evaluate_fn=lambda number, arrays: marks.append(time.perf_counter()),
        )

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    backend = {"init_args": {"num_cpus": 1}, "client_resources": resources}
    run_simulation(server_app=server, client_app=client, num_supernodes=DEVICES, backend_config=backend)
    spans = [after - before for before, after in pairwise(marks)]
    return [(span - trained) / DEVICES for span, trained in zip(spans, training, strict=True)][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each that count; one more is run before them")
    count = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("parameters,seconds_beside_training_here,in_flower,times")
    for width in (2, 16, 64):
        parameters = sum(value.numel() for value in experiment(width).method().global_state.values())
        here, there = (statistics.median(run(width, count)) for run in (ours, flowers))
        print(f"{parameters},{here:.4f},{there:.4f},{there / here:.1f}", flush=True)


if __name__ == "__main__":
    main()
