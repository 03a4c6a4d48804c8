"""Names to things, and options of the right type."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from profl.bench import plugins
from profl.bench.errors import InputError
from profl.bench.models import ModelSpec
from profl.bench.models.registry import model_builder
from profl.bench.registry import create_method, method_class
from tests.conftest import plug_in

MODEL = ModelSpec("resnet18", 2, 10)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("fedavg", {"speed": 1}, "method 'fedavg' has no option 'speed': it has none$"),
        (
            "heterofl",
            {"scalar": 1},
            r"method 'heterofl' has no option 'scalar': did you mean 'scaler'\? Choose one of max",
        ),
        ("heterofl", {"scaler": "perhaps"}, "options of method 'heterofl': scaler cannot be 'perhaps'"),
        ("heterofl", {"rates": [2]}, "rates"),
        ("depthfl", {"ramp_rounds": "2"}, "ramp_rounds cannot be '2'"),
        ("profl", {"shrink_share": 7}, "shrink_share"),
        ("profl", {"pace": "slow"}, "pace cannot be 'slow'"),
    ],
)
def test_bad_options_are_named(method: str, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        create_method(method, MODEL, 20, 0, options)


def test_options_reach_the_method():
    assert create_method("heterofl", MODEL, 20, 0, {"scaler": False}).options.scaler is False
    assert len(create_method("allsmall", MODEL, 20, 0, {"rates": ["1", "1/2"]}).all_tasks()) == 2


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match="unknown method 'sgd': choose one of allsmall, cocofl, decomfl, depthfl"):
        method_class("sgd")
    with pytest.raises(InputError, match=r"unknown model 'lenet': choose one of .*resnet18, resnet34"):
        model_builder("lenet")


def test_a_plugged_in_name_that_is_no_method_is_refused(monkeypatch: pytest.MonkeyPatch):
    plug_in(monkeypatch, "profl.methods", "mine", "profl.bench.models:ModelSpec")
    with pytest.raises(InputError, match="not a subclass"):
        method_class("mine")


BROKEN = [
    ("class Mine(", r"cannot be imported: .*'\(' was never closed"),
    ("import nothing_like_this", "cannot be imported: No module named 'nothing_like_this'"),
    ("import sys; sys.exit(3)", "cannot be imported: it exits with 3"),
    ("Yours = 1", "cannot be imported: module 'plugged' has no attribute 'Mine'"),
]


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Returns ``plugged(group, text)``: plug in ``plugged:Mine`` as ``mine``, from a module with this text."""

    def write(group: str, text: str) -> None:
        (tmp_path / "plugged.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "plugged", raising=False)
        plug_in(monkeypatch, group, "mine", "plugged:Mine")

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *BROKEN,
        (
            "from profl.bench.method import Method\nclass Mine(Method): ...",
            "does not define all_tasks, tasks",
        ),
        (
            "from profl.baselines.fedavg import FedAvg\nclass Mine(FedAvg):\n    Options = dict",
            "has Options that are no dataclass: make them a frozen one",
        ),
    ],
)
def test_a_plugged_in_method_that_is_broken_is_named(text: str, message: str, plugged):
    plugged("profl.methods", text)
    with pytest.raises(InputError, match=rf"method 'mine' \(plugged:Mine\) {message}"):
        method_class("mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *BROKEN,
        ("Mine = 3", "cannot be called with a profl.bench.models.ModelSpec"),
        (
            "from torch.nn import Identity as Mine",
            "builds an instance of Identity, not of profl.bench.models.StagedModel",
        ),
    ],
)
def test_a_plugged_in_model_that_is_broken_is_named(text: str, message: str, plugged):
    plugged("profl.models", text)
    with pytest.raises(InputError, match=rf"model 'mine' \(plugged:Mine\) {message}") as refused:
        ModelSpec("mine", 2, 10).build()
    assert "\n" not in str(refused.value)


def test_a_name_that_two_packages_offer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for package, value in (("ours", "one:Method"), ("theirs", "two:Method"), ("theirs again", "two:Method")):
        metadata = tmp_path / f"{package.replace(' ', '_')}-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: {package}\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[profl.methods]\nshared = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (plugins.installed, plugins._offers):
        cached.cache_clear()
    try:
        with pytest.raises(InputError, match=r"'shared' is offered by ours \(one:Method\) and theirs"):
            method_class("shared")
    finally:
        monkeypatch.undo()
        for cached in (plugins.installed, plugins._offers):
            cached.cache_clear()
