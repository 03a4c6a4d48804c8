"""A sweep's configuration: its cells, and what is refused before any work."""

from dataclasses import replace
from pathlib import Path

import pytest

from profl.bench.config import Grid, cells, experiments, override, read_config, read_options
from profl.bench.errors import InputError
from profl.bench.fleet import UNLIMITED
from profl.bench.presets import presets
from profl.bench.registry import methods
from profl.bench.results.run import check_one_recipe
from tests.conftest import SMALL_RECIPE
from tests.sweeps import CONFIG, GRID

FILE = """
gpu = 'cuda'
grid = {method = ['profl'], model = ['resnet18'], width = [2], dataset = ['digits'], tier = ['1MB'], seed = [0]}
"""


def test_the_short_look_at_everything_names_every_method_that_comes_along():
    chosen = read_config(presets()["smoke"])
    ours = [name for name, point in methods().items() if point.value.startswith("profl.")]
    assert sorted(chosen.grid.method) == sorted(ours)
    assert len(experiments(chosen)) == len(ours)  # a cell each, with rounds enough for every schedule


def test_a_method_that_ignores_memory_gets_one_cell():
    todo = cells(CONFIG)
    assert [(cell.method, cell.tier) for cell in todo] == [
        ("fedavg", UNLIMITED),
        ("exclusive", "50%"),
        ("exclusive", "100%"),
        ("heterofl", "50%"),
        ("heterofl", "100%"),
    ]


@pytest.mark.parametrize(
    ("axis", "value"),
    [
        ("method", "fedprox"),
        ("model", "resnet999"),
        ("dataset", "mnist2"),
        ("tier", "lots"),
        ("tier", "0MB"),
    ],
)
def test_bad_names_are_refused_before_any_work(axis: str, value: str):
    with pytest.raises(InputError, match=value):
        experiments(replace(CONFIG, grid=Grid(**{**GRID, "method": ["heterofl"], axis: [value]})))


def test_options_of_a_method_that_is_not_run_are_checked_too():
    with pytest.raises(InputError, match="options of method 'profl': pace cannot be"):
        cells(replace(CONFIG, options={"profl": {"pace": [1]}}))


def test_a_learning_rate_is_that_of_its_methods_cells_alone():
    todo = cells(replace(CONFIG, learning_rates={"heterofl": 0.3}))
    assert {(cell.method, cell.recipe.learning_rate) for cell in todo} == {
        ("fedavg", 0.05),
        ("exclusive", 0.05),
        ("heterofl", 0.3),
    }
    check_one_recipe(Path("run"), todo)
    with pytest.raises(InputError, match=r"would mix cells with learning rate of heterofl = 0\.3 and 0\.05"):
        check_one_recipe(Path("run"), [*todo, *cells(CONFIG)])


def test_a_learning_rate_of_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="unknown method 'prolf': did you mean 'profl'"):
        cells(replace(CONFIG, learning_rates={"prolf": 0.3}))


def test_unknown_options_are_refused():
    with pytest.raises(InputError, match="method 'heterofl' has no option 'speed': choose one of"):
        cells(replace(CONFIG, options={"heterofl": {"speed": 1}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu = ", "is not TOML"),
        ("gpu = 'cuda'", r"study\.toml: grid is missing"),
        ("gpu = 'cuda'\ngrid = {method = ['profl']}", "grid.model, .*, grid.tier, grid.seed are missing"),
        (FILE + "colour = 1", "unknown key 'colour': choose one of grid, gpu, data"),
        (FILE.replace("{m", "{shape = [1], m"), "unknown key 'grid.shape': choose one of method, model, width"),
        (FILE.replace("tier", "teir"), r"unknown key 'grid.teir': did you mean 'tier'\? Choose one of method, model"),
        (FILE + "recipe = {epochs = 1}", "unknown key 'recipe.epochs'"),
        (FILE.replace("method = ['profl']", "method = []"), "grid.method cannot be"),
        (FILE.replace("method = ['profl']", "method = 'profl'"), "grid.method cannot be 'profl'"),
        (FILE.replace("width = [2]", "width = [2.0]"), r"grid.width.0 cannot be 2\.0"),
        (FILE + "recipe = []", "recipe cannot be"),
        (FILE + "recipe = {learning_rate = inf}", "recipe.learning_rate cannot be inf"),
        (FILE + "learning_rates = {profl = 0}", "learning_rates.profl cannot be 0"),
        (FILE + "learning_rates = 0.1", r"learning_rates cannot be 0\.1"),
        (FILE + "options = 5", "options cannot be 5"),
        (FILE + "options = {exclusive = 5}", "options.exclusive cannot be 5"),
        ("grid = 5", "grid cannot be 5"),
        (FILE.replace("seed = [0]", "seed = [99999999999999999999]"), "grid.seed.0 cannot be 99999999999999999999"),
        (FILE.replace("width = [2]", "width = [1000000]"), "grid.width.0 cannot be 1000000"),
        (FILE + "recipe = {devices = 100000000}", "recipe.devices cannot be 100000000"),
        (FILE + "recipe = {learning_rate = 1e308}", r"recipe.learning_rate cannot be 1e\+308"),
    ],
)
def test_a_bad_file_is_refused(text: str, message: str, tmp_path: Path):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_gives_cells(name: str):
    assert experiments(read_config(presets()[name]))


def test_given_values_replace_those_of_the_file():
    changed = override(CONFIG, {"tier": ("75%",), "seed": ()}, gpu="virtual:t4", data=None, rounds=7, batch_size=None)
    assert changed.grid.tier == ["75%"]
    assert changed.grid.seed == [0]
    assert changed.gpu == "virtual:t4"
    assert changed.recipe.rounds == 7
    assert changed.recipe.batch_size == SMALL_RECIPE.batch_size


def test_options_are_read_as_toml_or_as_bare_words():
    given = ["profl.pace=equal", 'profl.frozen_batchnorm = "eval"', "profl.shrinking=false", "heterofl.rates=[1, 0.5]"]
    assert read_options(given) == {
        "profl": {"pace": "equal", "frozen_batchnorm": "eval", "shrinking": False},
        "heterofl": {"rates": [1, 0.5]},
    }


@pytest.mark.parametrize("text", ["pace=equal", "profl.pace", "profl.=equal", ".pace=equal", "profl.pace=", "=", ""])
def test_an_option_that_is_no_assignment_is_refused(text: str):
    with pytest.raises(InputError, match=r"is no assignment: write METHOD\.NAME=VALUE"):
        read_options([text])


def test_a_number_too_long_to_read_is_a_text_that_the_method_refuses():
    digits = "9" * 5000
    assert read_options([f"profl.min_rounds={digits}"]) == {"profl": {"min_rounds": digits}}


def test_an_option_is_given_once():
    with pytest.raises(InputError, match=r"option 'profl\.pace' is given twice"):
        read_options(["profl.pace=equal", "profl.pace=parameters"])


def test_given_options_join_those_of_the_file():
    file = replace(CONFIG, options={"profl": {"pace": "equal", "min_rounds": 2}, "heterofl": {"scaler": False}})
    changed = override(file, {}, {"profl": {"pace": "parameters"}})
    assert changed.options == {"profl": {"pace": "parameters", "min_rounds": 2}, "heterofl": {"scaler": False}}
