"""Labels keep apart, and keep to their points."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from profl.bench.report.labels import Label, apart, label_ends, label_points
from profl.bench.report.style import house_style


def test_numbers_with_room_stay_where_they_are():
    assert apart([3.0, 1.0, 9.0], gap=1, low=0, high=10) == [3.0, 1.0, 9.0]


def test_a_heap_spreads_evenly_around_its_mean_in_the_order_given():
    assert apart([5.0, 5.0, 5.0], gap=1, low=0, high=10) == [4.0, 5.0, 6.0]


def test_a_heap_at_the_edge_moves_inside():
    assert apart([9.9, 10.0], gap=1, low=0, high=10) == [9.0, 10.0]


@given(st.lists(st.floats(-5, 15), min_size=1, max_size=30))
def test_numbers_end_apart_inside_and_in_order(wanted: list[float]):
    gap = min(1.0, 10 / max(1, len(wanted) - 1))
    moved = apart(wanted, 1.0, 0, 10)
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    ranked = [moved[place] for place in order]
    assert all(later - earlier >= gap - 1e-9 for earlier, later in pairwise(ranked))
    assert ranked[0] >= -1e-9
    assert ranked[-1] <= 10 + 1e-9


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with house_style():
        yield


def panel() -> Axes:
    figure = Figure(figsize=(5, 3))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(0, 100), ylim=(0, 100))
    return axes


def boxes(axes: Axes) -> dict[str, Bbox]:
    """Return the boxes of the texts, without joining lines."""
    axes.figure.draw_without_rendering()
    return {text.get_text(): Text.get_window_extent(text) for text in axes.texts}


def overlapping(found: dict[str, Bbox]) -> list[tuple[str, str]]:
    # Lines of text may touch: descenders of one, ascenders of the next.
    pairs = combinations(found, 2)
    return [(one, other) for one, other in pairs if found[one].padded(-1).overlaps(found[other].padded(-1))]


@pytest.mark.parametrize("gap", [0, 1, 4, 9])
def test_labels_of_points_do_not_cover_each_other_nor_leave_the_panel(gap: int):
    axes = panel()
    label_points(axes, [Label(97 - gap * i, 95 - gap * (i % 3), f"method{i}", "black") for i in range(7)])
    found = boxes(axes)
    assert overlapping(found) == []
    frame = axes.get_window_extent().padded(1)
    assert all(frame.containsx(box.x1) and frame.contains(box.x0, box.y0) for box in found.values())


def test_points_in_a_heap_are_named_from_the_top():
    axes = panel()
    label_points(axes, [Label(50, 50, "low", "black"), Label(50, 54, "high", "black")])
    found = boxes(axes)
    assert found["high"].y0 >= found["low"].y1 - 3
    assert found["high"].x0 == pytest.approx(found["low"].x0, abs=2)


def test_labels_at_line_ends_do_not_cover_each_other():
    axes = panel()
    label_ends(axes, [Label(60, 90 - 0.1 * i, f"method{i}", "black") for i in range(7)], column=70)
    assert overlapping(boxes(axes)) == []
