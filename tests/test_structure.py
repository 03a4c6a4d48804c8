"""The arrows of docs/design.md: who may import whom, read from the sources, imports inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"profl": ROOT / "profl", "profl.bench": ROOT / "bench", "profl.baselines": ROOT / "baselines"}

# No module of the first reaches a module of the others, on whatever way.
NEVER = {
    "profl.bench.memory": ["profl.bench.method", "profl.bench.models", "profl.bench.fleet", "profl.bench.cell"],
    "profl.bench.method": ["profl.bench.fleet", "profl.bench.federation", "profl.bench.registry"],
    "profl.bench.models": ["profl.bench.method", "profl.bench.registry", "profl.bench.data"],
    "profl.bench.results": ["profl.bench.federation", "profl.bench.engine", "profl.bench.report"],
    "profl.bench.federation": ["profl.bench.engine", "profl.bench.sweep", "profl.bench.report"],
    "profl.bench.engine": ["profl.bench.sweep", "profl.bench.report", "profl.bench.cli"],
    "profl.bench.report": ["profl.bench.federation", "profl.bench.engine", "profl.bench.sweep", "profl.bench.cli"],
    "profl.baselines": ["profl.bench.fleet", "profl.bench.federation", "profl.bench.memory"],
    "profl.method": ["profl.bench.fleet", "profl.bench.federation", "profl.bench.memory", "profl.baselines"],
}


def sources() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if not {"bench", "baselines"} & set(path.relative_to(folder).parts):  # the links within profl
                parts = path.relative_to(folder).with_suffix("").parts
                yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def imports(path: Path, modules: Mapping[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # What is taken from a package may be a module of it.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in names]
        else:
            continue
        found |= {name for name in names if name in modules}
    return found


@pytest.fixture(scope="module")
def arrows() -> Mapping[str, set[str]]:
    modules = dict(sources())
    # The public face hands names on, to users alone.
    return {name: imports(path, modules) - {name, "profl"} for name, path in modules.items() if name != "profl"}


def inside(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def reached(arrows: Mapping[str, set[str]], room: str) -> set[str]:
    found: set[str] = set()
    coming = [name for name in arrows if inside(name, room)]
    assert coming, f"there is no {room}"
    while coming:
        name = coming.pop()
        if name not in found:
            found.add(name)
            coming += arrows[name]
    return found


def test_nothing_imports_in_a_circle(arrows: Mapping[str, set[str]]):
    assert len(arrows) > 100
    assert list(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("room", NEVER)
def test_no_arrow_points_back(arrows: Mapping[str, set[str]], room: str):
    everywhere = reached(arrows, room)
    back = [name for name in everywhere for other in NEVER[room] if inside(name, other)]
    assert not back
    assert all(any(inside(name, other) for name in arrows) for other in NEVER[room])


def test_memory_takes_nothing_but_errors_files_and_checks_from_the_bench(arrows: Mapping[str, set[str]]):
    outside = {name for name in reached(arrows, "profl.bench.memory") if not inside(name, "profl.bench.memory")}
    assert outside <= {"profl.bench", "profl.bench.errors", "profl.bench.files", "profl.bench.validation"}
