"""Cells and recipes: values are checked before any work, and name their folder."""

import json

import pytest

from profl.bench.cell import Cell, MeasuredAs, Recipe
from profl.bench.errors import InputError
from profl.bench.validation import checked
from tests.conftest import small_cell


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rounds", 0),
        ("rounds", 1.5),
        ("batch_size", -1),
        ("participants", True),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", -0.1),
        ("weight_decay", "0.1"),
        ("participants", 101),
        ("held_out_share", 1),
        ("held_out_share", -0.1),
    ],
)
def test_a_bad_recipe_names_the_setting_and_the_value(setting: str, value: object):
    with pytest.raises(InputError, match=rf"^study: {setting} "):
        checked(Recipe, {setting: value}, "study")


def test_zero_momentum_and_weight_decay_are_fine():
    assert Recipe(momentum=0, weight_decay=0.0).momentum == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("width", 0),
        ("width", 1.0),
        ("seed", "one"),
        ("seed", -1),
        ("tier", 5),
        ("options", 5),
        ("recipe", []),
        ("x", 1),
    ],
)
def test_a_bad_cell_names_the_setting(setting: str, value: object):
    with pytest.raises(InputError, match=setting):
        Cell.from_dict({**small_cell().to_dict(), setting: value})


def test_a_missing_value_and_an_unknown_one_are_named():
    values = small_cell().to_dict()
    with pytest.raises(InputError, match=r"^cell: gpu is missing$"):
        Cell.from_dict({name: value for name, value in values.items() if name != "gpu"})
    with pytest.raises(InputError, match=r"unknown key 'recipe.epochs': choose one of rounds, devices"):
        Cell.from_dict({**values, "recipe": {"epochs": 1}})


def test_listed_budgets_are_kept_whatever_becomes_of_the_file():
    cell = small_cell(tier="fleet.txt", listed_budgets=[5, 7])
    assert cell.budgets(full_model_bytes=100) == [5, 7]
    assert cell.folder_name != small_cell(tier="fleet.txt", listed_budgets=[5, 8]).folder_name


def test_a_cell_survives_json():
    cell = small_cell(options={"shrinking": False})
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


def test_folders_are_readable_and_differ_with_everything_that_decides_the_result():
    cells = [
        small_cell(),
        small_cell(tier="50%"),
        small_cell(tier="50..60MB"),
        small_cell(seed=1),
        small_cell(options={"a": 1}),
        small_cell(gpu="virtual:h100"),
        small_cell(recipe=Recipe(rounds=11)),
        small_cell(recipe=Recipe(held_out_share=0.1)),
    ]
    names = [cell.folder_name for cell in cells]
    assert len(set(names)) == len(cells)
    assert names[1].startswith("fedavg-resnet18w2-digits-50-seed0-")
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in names)


def test_a_cell_that_is_measured_at_its_own_scale_has_the_name_it_always_had():
    cell = small_cell(tier="50%")
    assert cell.folder_name == "fedavg-resnet18w2-digits-50-seed0-ce8009e9"
    assert cell.as_measured is cell
    assert cell.measured_scale is None


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({"width": 64, "batch_size": 64}, "resnet18 width 64, batch 64"),
        ({"width": 8}, "resnet18 width 8, batch 16"),
        ({"model": "vgg11_bn"}, "vgg11_bn width 2, batch 16"),
    ],
)
def test_what_is_not_said_of_the_measured_scale_is_that_of_training(given: dict, scale: str):
    cell = small_cell(measured_as=MeasuredAs(**given))
    assert cell.measured_scale == scale
    measured = cell.as_measured
    assert measured.measured_as is None
    assert f"{measured.model} width {measured.width}, batch {measured.recipe.batch_size}" == scale
    assert (measured.seed, measured.tier, measured.recipe.rounds) == (cell.seed, cell.tier, cell.recipe.rounds)
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    assert cell.folder_name != small_cell().folder_name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "measured_as is empty: give model, width or batch_size"),
        ({"width": 0}, "width cannot be 0"),
        ({"depth": 1}, "depth"),
    ],
)
def test_a_measured_scale_that_cannot_be_used_is_refused(values: dict, message: str):
    with pytest.raises(InputError, match=message):
        checked(MeasuredAs, values, "study")
