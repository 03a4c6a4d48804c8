"""What a run's folder is called where nobody names it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from profl.bench.config import override, read_config
from profl.bench.presets import preset
from profl.bench.run_name import run_name

BASE = read_config(preset("default"))


def name(options: dict[str, dict[str, Any]] | None = None, **given: Any) -> str:
    grid = {axis: given.pop(axis) for axis in ("method", "width", "tier", "seed", "technique") if axis in given}
    return run_name("default", BASE, override(BASE, grid, options, **given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "default"),
        ({"seed": [0, 1, 2], "rounds": BASE.recipe.rounds, "gpu": BASE.gpu}, "default"),  # as it is anyway
        ({"width": [8]}, "default-width8"),
        ({"method": ["profl", "heterofl"], "rounds": 9}, "default-method-profl+heterofl-rounds9"),
        ({"gpu": "virtual:t4", "memory_only": True}, "default-gpu-t4-memory"),
        ({"memory_only": True}, "default-memory"),
        ({"options": {"profl": {"pace": "equal"}}}, "default-profl.pace-equal"),
    ],
)
def test_what_is_given_can_be_read_in_the_name(given: dict[str, Any], expected: str):
    assert name(**given) == expected


HARD: list[dict[str, Any]] = [
    {"tier": ["50%"]},
    {"tier": ["50"]},
    {"tier": ["50%", "60%"]},
    {"tier": ["60%", "50%"]},
    {"tier": ["5..100MB"]},
    {"method": ["../../x"]},
    {"method": ["a-b"]},
    {"method": ["a b\n$(rm)"]},
    {"method": ["a", "b"]},
    {"method": ["a+b"]},
    {"data": "/home/me/pictures"},
    {"data": "/home/me/pic/tures"},
    {"seed": list(range(100))},
    {"seed": list(range(101))},
    {"technique": ["checkpoint+micro-batch:4"]},
    {"gpu": "estimate:t4"},
    {"partition": "dirichlet:0.5"},
    {"options": {"profl": {"pace": "équal"}}},
]


def test_names_differ_and_are_good_for_a_folder_whatever_is_given():
    names = [name(**given) for given in HARD]
    assert len({*names, name(), name(width=[8])}) == len(HARD) + 2
    for one in names:
        assert re.fullmatch(r"default-[A-Za-z0-9._+-]{1,70}", one)
    assert names == [name(**given) for given in HARD]


def test_a_name_of_more_than_letters_keeps_its_hash():
    """Whoever has a run under a name of this version finds it again with the next."""
    assert name(tier=["50%"]) == "default-tier50-94fe8555"
