"""In the dark a colour is still taken for itself: hue and order of lightness stay, and all stand out from the card."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from profl.bench.memory.plot import CATEGORY_COLOURS
from profl.bench.report.looks import looks
from profl.bench.report.page.dark import CARD, dark_rules, in_the_dark, oklab
from profl.bench.report.style import GREY, PALE
from tests.report.conftest import METHODS

BLACK = "#000000"
DEFAULT = [look.colour for look in looks(METHODS, ["fedavg"]).values()]
MANY = looks([*METHODS, *(f"method {number:02}" for number in range(18)), "bound 1", "bound 2"], ["bound 1", "bound 2"])


def apart(one: str, other: str) -> float:
    return float(np.linalg.norm(oklab(one) - oklab(other)))


def contrast(one: str, other: str) -> float:
    """As the web's accessibility guidelines define it, 1 to 21."""
    bright = []
    for colour in (one, other):
        parts = np.array(to_rgb(colour))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        bright.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(bright) + 0.05) / (min(bright) + 0.05)


@pytest.mark.parametrize("palette", [DEFAULT, [*CATEGORY_COLOURS.values()]], ids=["methods", "categories"])
def test_the_dark_colour_is_nearer_to_its_light_one_than_to_any_other(palette: list[str]):
    coloured = [colour for colour in palette if colour != BLACK]  # black is ink, and must turn over
    for colour, other in permutations(coloured, 2):
        assert apart(in_the_dark(colour), colour) < apart(in_the_dark(colour), other), (colour, other)
    for one, other in combinations(palette, 2):
        assert apart(in_the_dark(one), in_the_dark(other)) > 0.1, (one, other)


def test_of_many_methods_hue_and_order_of_lightness_stay():
    colours = [look.colour for look in MANY.values() if look.colour != BLACK]
    order = sorted(colours, key=lambda colour: oklab(colour)[0])
    lightness = [oklab(in_the_dark(colour))[0] for colour in order]
    assert all(later - earlier > -0.005 for earlier, later in pairwise(lightness))
    for colour in colours:
        light, dark = oklab(colour)[1:], oklab(in_the_dark(colour))[1:]
        turned = light[0] * dark[1] - light[1] * dark[0]
        assert abs(turned) <= 0.03 * max(1e-2, np.linalg.norm(light) * np.linalg.norm(dark)), colour
    assert len({in_the_dark(colour) for colour in colours}) == len(colours)


def test_all_stand_out_from_the_card():
    for look in MANY.values():
        assert contrast(in_the_dark(look.colour), CARD) >= 3, look.colour
        assert contrast(in_the_dark(to_hex(look.ink)), CARD) >= 4, look.colour  # names
    for colour in CATEGORY_COLOURS.values():
        assert contrast(in_the_dark(colour), CARD) >= 3, colour
    for text in (BLACK, "#222222", "#444444", GREY):
        assert contrast(in_the_dark(text), CARD) >= 4.5, text


def test_paper_becomes_the_card_and_rules_stay_faint():
    assert in_the_dark("#ffffff") == CARD
    assert 1.1 < contrast(in_the_dark("#ebebeb"), CARD) < contrast(in_the_dark(PALE), CARD) < 2


def test_every_colour_of_a_picture_gets_a_rule_and_no_other():
    picture = '<path style="fill: #0072b2; stroke: #ffffff"/><rect fill="#ffffff"/><path style="fill: none"/>'
    rules = dark_rules([picture, picture]).splitlines()
    assert rules == [
        f'[style*="fill: #0072b2"], [fill="#0072b2"] {{ fill: {in_the_dark("#0072b2")} !important; }}',
        f'[style*="fill: #ffffff"], [fill="#ffffff"] {{ fill: {CARD} !important; }}',
        f'[style*="stroke: #ffffff"], [stroke="#ffffff"] {{ stroke: {CARD} !important; }}',
    ]
