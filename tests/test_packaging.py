"""What installing the package brings: one import name, everything in it, and a plugin that leaves others in peace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

import profl

ROOT = Path(__file__).parents[1]
SHIPPED = ("profl", "bench", "baselines", "pyproject.toml", "README.md", "LICENSE")

# A user's own modules under the names of our folders; either way they must be what the user's tests import.
AS_MODULES = {"bench.py": "MINE = True\n", "baselines.py": "MINE = True\n"}
AS_PACKAGES = {"bench/__init__.py": "MINE = True\n", "baselines/__init__.py": "MINE = True\n"}
USERS_TEST = """
import baselines
import bench
import pytest


@pytest.mark.peak_memory("20MiB")
def test_marked():
    pass


def test_own_modules(pytestconfig):
    assert bench.MINE and baselines.MINE
    assert pytestconfig.pluginmanager.has_plugin("profl")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, links and all."""
    copy = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=copy, check=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own, which finds torch and the like in the one that runs."""
    environment = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    others = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    (site / "others.pth").write_text("\n".join(others))
    before = set(os.listdir(site))
    python = environment / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    gained = set(os.listdir(site)) - before
    assert {name for name in gained if not name.endswith(".dist-info")} == {"profl"}
    assert len(gained) == 2
    return environment


def run(environment: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    ours = ("PYTHON", "COV_", "COVERAGE")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    first = str(environment / "bin" / command[0])
    return subprocess.run([first, *command[1:]], cwd=cwd, env=variables, capture_output=True, text=True)


def test_the_wheel_holds_every_file_under_one_name(wheel: Path):
    with ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    tree = {
        str(Path(folder, name).relative_to(ROOT))
        for folder, _, names in os.walk(ROOT / "profl", followlinks=True)
        for name in names
        if "__pycache__" not in folder
    }
    assert shipped == tree
    assert {"profl/py.typed", "profl/bench/presets/smoke.toml", "profl/baselines/heterofl.py"} <= shipped


@pytest.mark.parametrize("module", ["bench", "baselines"])
def test_the_folders_names_stay_free(fresh: Path, tmp_path: Path, module: str):
    failed = run(fresh, "python", "-c", f"import {module}", cwd=tmp_path)
    assert f"No module named '{module}'" in failed.stderr
    assert run(fresh, "python", "-c", f"import profl.{module}", cwd=tmp_path).returncode == 0


def test_the_installed_command_answers(fresh: Path, tmp_path: Path):
    assert run(fresh, "profl", "--version", cwd=tmp_path).stdout.startswith("profl, version ")
    assert "heterofl" in run(fresh, "profl", "list", "methods", cwd=tmp_path).stdout
    assert run(fresh, "python", "-m", "profl", "--version", cwd=tmp_path).stdout.startswith("profl, version ")


@pytest.mark.parametrize("own", [AS_MODULES, AS_PACKAGES], ids=["modules", "packages"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_project_with_modules_of_these_names(fresh: Path, tmp_path: Path, own: Mapping[str, str], bare: bool):
    settings = 'pythonpath = ["."]\n' if bare else ""  # bare pytest does not put the folder on the path by itself
    files = {"pyproject.toml": f"[tool.pytest.ini_options]\n{settings}", "test_own.py": USERS_TEST, **own}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    python = ("python", "-P") if bare else ("python",)
    result = run(fresh, *python, "-m", "pytest", "--strict-markers", "-p", "no:cacheprovider", cwd=tmp_path)
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    assert "marked peak_memory, but nothing was measured" in result.stdout  # so the plugin is at work


def test_no_module_is_imported_twice():
    bare = [name for name in sys.modules if name.partition(".")[0] in ("bench", "baselines")]
    assert not bare


def test_the_public_face_is_whole():
    for name in profl.__all__:
        value = getattr(profl, name)
        assert value.__doc__, name
        assert value.__module__.startswith("profl."), name
    assert set(profl.__all__) <= set(dir(profl))
    with pytest.raises(AttributeError, match="no attribute 'mesure'"):
        profl.mesure  # noqa: B018


def test_type_checkers_see_the_same_face():
    told = re.findall(r"^    from profl\.\S+ import (\w+) as \1$", Path(profl.__file__).read_text(), re.MULTILINE)
    assert sorted(told) == profl.__all__


def test_importing_the_package_imports_nothing_else():
    code = "import sys, profl; print(*(name for name in sys.modules if name.startswith(('profl', 'torch', 'numpy'))))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["profl"]
