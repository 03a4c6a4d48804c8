"""``profl fit``: what trains in a given memory."""

from __future__ import annotations

import json
from typing import Any

import click

from profl.bench.cli.imports import spare_imports
from profl.bench.cli.options import available, chosen_workloads, several, started_prober, task_options, tracked
from profl.bench.cli.own_step import arguments, check_own, fit_own, own_step, tell_batch, up_to
from profl.bench.cli.volume import quiet_option, verbose_option

OF_TASKS = ("method", "model", "width", "dataset", "data", "rounds", "option", "technique")
"""Options that choose tasks of methods."""


@click.command()
@own_step
@arguments
@several("--budget", "GPU memory to train in, such as 256MiB.", required=True)
@task_options("Methods whose tasks are tried.", None, "The largest batch to try.  [default: as large as fits]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@quiet_option
@verbose_option("Also say of each batch that is tried whether it ran.")
def fit(
    build: str | None,
    argument: tuple[str, ...],
    budget: tuple[str, ...],
    method: tuple[str, ...],
    model: str,
    width: int,
    batch_size: int | None,
    dataset: str,
    data: str | None,
    rounds: int,
    option: tuple[str, ...],
    technique: tuple[str, ...],
    gpu: str,
    as_json: bool,
) -> None:
    """Say which tasks of a method train in a given memory, and the largest batch of each.

    Every batch is run for ten steps under a real limit. The answer ran, and every larger batch that was tried
    failed: the next 8, powers of two and the largest to try. With FILE.py:FUNCTION (or PACKAGE.MODULE:FUNCTION) a
    step of your own: the function takes the device and batch_size.

    \b
    Examples:
      profl fit my_model.py:build --budget 512MiB --gpu t4
      profl fit --budget 256MiB --gpu virtual:jetson-orin
      profl fit --budget 64MiB --budget 256MiB --method profl --method heterofl --model resnet34
      profl fit --budget 256MiB --method fedavg --technique none --technique checkpoint
      profl fit --budget 2GiB --batch-size 64 --json > fit.json
    """
    check_own(build, argument, OF_TASKS)
    gpu = available(gpu)
    prober = started_prober(gpu)  # before the imports that take long
    from profl.bench.fit import BEGIN_BATCH, fit_table, fit_task, guarantee, read_budgets
    from profl.bench.terminal import Terminal

    spare_imports()
    budgets = read_budgets(budget, gpu)
    if build:
        fit_own(build, argument, gpu, prober, budgets, batch_size, as_json)
        return
    shape: dict[str, Any] = {"model": model, "width": width, "dataset": dataset, "gpu": gpu}
    wanted = chosen_workloads(method, option, technique, rounds, batch_size or BEGIN_BATCH, data=data, **shape)
    fits = []
    for workload in tracked(wanted, "trying batches"):  # a comprehension would keep the bar after Ctrl-C
        fits.append(fit_task(workload, batch_size, gpu, budgets, prober, tell_batch))
    if as_json:
        click.echo(json.dumps({**shape, "batch_size": batch_size, "tasks": [task.to_dict() for task in fits]}))
        return
    console = Terminal()
    console.print(f"{model} width {width}, {up_to(batch_size)} in the memory of {gpu}", highlight=False)
    console.print(fit_table(fits, budgets, batch_size))
    console.print(guarantee(fits, batch_size), highlight=False)
