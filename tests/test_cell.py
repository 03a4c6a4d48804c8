"""Cells and recipes: values are checked before any work, and name their folder."""

import json

import pytest

from bench.cell import Cell, Recipe
from bench.errors import InputError
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
        ("momentum", -0.1),
        ("weight_decay", "much"),
        ("participants", 101),
    ],
)
def test_a_bad_recipe_names_the_setting_and_the_value(setting: str, value: object):
    with pytest.raises(InputError, match=rf"{setting} = "):
        Recipe(**{setting: value})


def test_zero_momentum_and_weight_decay_are_fine():
    assert Recipe(momentum=0, weight_decay=0.0).momentum == 0


@pytest.mark.parametrize(("setting", "value"), [("width", 0), ("width", 1.5), ("seed", "one")])
def test_a_bad_cell_names_the_setting(setting: str, value: object):
    with pytest.raises(InputError, match=setting):
        small_cell(**{setting: value})


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
    ]
    names = [cell.folder_name for cell in cells]
    assert len(set(names)) == len(cells)
    assert names[1].startswith("fedavg-resnet18w2-digits-50-seed0-")
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in names)
