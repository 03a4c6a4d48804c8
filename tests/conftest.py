"""Shared by all tests: instructions, one torch thread, one warm prober, and a recipe small enough for seconds."""

from __future__ import annotations

from profl.bench.instructions import AVX2, choose

choose(AVX2)  # before torch is imported: what is trained here is then what the command trains, on every machine

# ruff: noqa: E402
import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from hypothesis import settings

import profl.bench.memory.process.probe
from profl.bench.cell import Cell, Recipe
from profl.bench.memory.process.probe import Prober
from profl.bench.method import Method, Task, filled
from profl.bench.plugins import installed

# The same examples every time, so that what passed once passes again.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# Devices hold 15 or 16 pictures: one batch each, and hardly any shape that the CPU kernels have not seen.
SMALL_RECIPE = Recipe(
    rounds=10, devices=90, participants=3, partition="iid", batch_size=16, local_epochs=1, evaluate_every=5
)


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_frozen() -> Iterator[None]:
    """Let garbage be found again that was there as a command spared its imports."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _children_without_coverage(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start child processes without coverage, which takes two thirds more time, unless the module's tests are about
    what runs in them."""
    with pytest.MonkeyPatch.context() as patch:
        if not _covers_children(request):
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


def _covers_children(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("covers_children") is not None


@pytest.fixture(scope="session")
def _warm_prober() -> Iterator[Prober]:
    with Prober() as prober:
        yield prober


@pytest.fixture(scope="module")
def prober(request: pytest.FixtureRequest, _warm_prober: Prober) -> Iterator[Prober]:
    """The one warm prober of all modules; of one that covers what its workers run, a prober of its own."""
    if _covers_children(request):
        with Prober() as own:
            yield own
    else:
        yield _warm_prober


@pytest.fixture(scope="module")
def commands_are_warm(prober: Prober) -> Iterator[None]:
    """Let commands run in this process measure in its warm workers, anew each time, rather than start their own."""

    def warm() -> AbstractContextManager[Prober]:
        prober._footprints.clear()
        return nullcontext(prober)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profl.bench.memory.process.probe, "Prober", warm)
        yield


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reports draw one figure, which is enough to see what they write."""
    from profl.bench.report.figures import participation  # and matplotlib with it

    monkeypatch.setattr("profl.bench.report.figures.FIGURES", (participation.FIGURE,))


def small_cell(method: str = "fedavg", tier: str = "unlimited", **more: object) -> Cell:
    """Return a cell of a very narrow ResNet18 on digits."""
    values = {"model": "resnet18", "width": 2, "dataset": "digits", "seed": 0, "gpu": "virtual:jetson-orin"}
    return Cell(method=method, tier=tier, **{**values, "recipe": SMALL_RECIPE, **more})


def unchecked(text: str) -> Any:
    """Return what a JSON text says, without checksums: as whoever edits a result by hand leaves it."""
    return json.loads(text, object_hook=lambda value: {name: value[name] for name in value if name != "checksum"})


def plug_in(patch: pytest.MonkeyPatch, group: str, name: str, value: str) -> None:
    """Add an entry point ``name = "value"`` to those installed, as if another package offered it."""
    patch.setitem(installed(group), name, EntryPoint(name, value, group))  # type: ignore[arg-type]


def shown(method: Method, number: int = 0) -> torch.nn.Module:
    """Return a network that the method would have tested, by default the most complete, with its values."""
    return filled(method.tested_networks()[number].build, method.global_state)


def settle(method: Method, trainable: Sequence[Task]) -> None:
    """Tell the method that the whole fleet can train these tasks, and nobody another."""
    keys = {task.key for task in trainable}
    method.settle({task.key: 7 * (task.key in keys) for task in method.all_tasks()})
