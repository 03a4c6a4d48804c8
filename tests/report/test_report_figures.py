"""Figures show what was run, say what is missing, and are the same bytes every time."""

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from profl.bench.errors import InputError
from profl.bench.memory.plot import CATEGORY_COLOURS
from profl.bench.memory.workload import CATEGORIES
from profl.bench.report import figures, write_report
from profl.bench.report.appearance import Appearance
from profl.bench.report.coincidence import coincident
from profl.bench.report.far_below import lowest_shown
from profl.bench.report.figure import ReportFigure
from profl.bench.report.figures import FIGURES
from profl.bench.report.figures.accuracy_by_tier import in_rows
from profl.bench.report.figures.accuracy_memory_cost import (
    LARGEST,
    Point,
    front_of,
    pareto_front,
    points,
    round_sizes,
)
from profl.bench.report.figures.learning_curves import curve
from profl.bench.report.grid import Grid, by_method
from profl.bench.report.looks import in_order, looks
from profl.bench.report.ranking import best_methods
from profl.bench.report.schedule import Step, schedule
from profl.bench.report.score import SCORE
from profl.bench.report.spread import UNKNOWN, Spread
from profl.bench.report.study import Study, studies
from profl.bench.report.style import PALE, WIDTHS, Sheet, mebibytes, page
from profl.bench.results import Run, peak_column, read_run
from tests.report.conftest import FULL, METHODS, MIB, TIERS, write_cell
from tests.report.drawing import NAMED, draw


@pytest.fixture(scope="module")
def study(run: Run) -> Study:
    (only,) = studies(run)
    return only


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """One tier without troubles, whose fleet all can train in."""
    path = tmp_path_factory.mktemp("seeds")
    for method in METHODS:
        for seed in range(3):
            write_cell(path, method, "50%" if method != "fedavg" else "20%", seed, rounds=12)
    (only,) = studies(read_run(path))
    return only


@pytest.fixture(scope="module")
def drawn(study: Study) -> dict[str, Figure]:
    """Every figure of the run: drawing takes long, and most tests only look."""
    return {name: draw(name, study) for name in NAMED}


def texts(figure: Figure) -> list[str]:
    parts = [part for panel in figure.axes for part in (*panel.texts, panel.title)]
    return [text.get_text() for text in [*parts, *figure.texts]]


def notes(figure: Figure) -> str:
    return " ".join(" ".join(texts(figure)).split())


# what is written


@pytest.mark.no_cover
def test_a_report_has_every_figure_and_table_and_the_same_bytes_each_time(tmp_path: Path):
    for method, tier in (("fedavg", "35%"), ("profl", "35%"), ("profl", "50%")):
        write_cell(tmp_path, method, tier, rounds=6)
    first = write_report(read_run(tmp_path))
    names = ("cells", "rounds", "footprints", "differences", "budgets")
    tables = {f"{name}.{kind}" for name in names for kind in ("csv", "parquet")}
    figures = {f"{name}.{kind}" for name in set(NAMED) - {"memory_by_round"} for kind in ("png", "svg")}
    latex = {f"{name}.tex" for name in ("accuracy", "differences", "budgets", "costs")}
    assert {path.name for path in first} == tables | figures | latex | {"results.md", "index.html"}
    assert {path.parent for path in first} == {tmp_path / "report"}
    for one, other in zip(first, write_report(read_run(tmp_path), tmp_path / "again"), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_two_models_have_their_own_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("profl.bench.report.figures.FIGURES", (NAMED["participation"],))
    monkeypatch.setattr("profl.bench.report.writing.write_page", lambda run, folder, _: folder / "index.html")
    write_cell(tmp_path, "profl", "50%", rounds=4)
    write_cell(tmp_path, "profl", "50%", rounds=4, model="vit")
    names = {path.name for path in write_report(read_run(tmp_path))}
    assert "participation-resnet18-16-digits-virtual-jetson-orin.png" in names
    assert "participation-vit-16-digits-virtual-jetson-orin.png" in names


def test_no_run_no_report(tmp_path: Path):
    with pytest.raises(InputError, match="holds no results"):
        write_report(read_run(tmp_path))


# all figures


@pytest.mark.parametrize("name", NAMED)
def test_headings_say_model_dataset_and_where_memory_was_measured(drawn: dict[str, Figure], name: str):
    heading = "\n".join(texts(drawn[name]))
    assert "resnet18 (width 16) on digits · memory measured on: virtual jetson-orin" in heading


@pytest.mark.no_cover
@pytest.mark.parametrize("name", NAMED)
def test_nothing_is_cut_off_and_no_text_is_small(drawn: dict[str, Figure], name: str):
    figure = drawn[name]
    page = figure.bbox.padded(1)
    shown = [*figure.texts, *(text for panel in figure.axes for text in panel.texts)]
    shown += [text for panel in figure.axes for text in (panel.title, panel.xaxis.label, panel.yaxis.label)]
    (panel, *_) = figure.axes
    low, high = sorted(panel.get_ylim())
    shown += [text for text in panel.get_yticklabels() if low <= text.get_position()[1] <= high]
    for text in shown:
        box = Text.get_window_extent(text)
        if text.get_visible() and text.get_text():
            assert page.contains(box.x0, box.y0), text
            assert page.contains(box.x1, box.y1), text
            assert text.get_fontsize() >= 9, text


@pytest.mark.parametrize("name", ["accuracy_by_tier", "accuracy_memory_cost"])
def test_direct_labels_do_not_cover_each_other(drawn: dict[str, Figure], name: str):
    for panel in drawn[name].axes:
        # Lines of text may touch: descenders of one, ascenders of the next.
        boxes = [Text.get_window_extent(text).padded(-2) for text in panel.texts]
        for (label, box), (other, other_box) in combinations(zip(panel.texts, boxes, strict=True), 2):
            assert not box.overlaps(other_box), (label, other)


@pytest.mark.parametrize("name", ["accuracy_by_tier", "accuracy_memory_cost", "participation", "learning_curves"])
def test_missing_results_are_named(drawn: dict[str, Figure], name: str):
    failed, stopped = (f"({status} after 10 of 30 rounds)" for status in ("failed", "stopped"))
    for missing in ("allsmall at 50% (waiting)", f"depthfl at 75% {failed}", f"inclusivefl at 100..500MiB {stopped}"):
        assert missing in notes(drawn[name])


def test_a_run_without_any_result_can_be_drawn(make_run: Callable[..., Run]):
    waiting = {"method": "profl", "tier": "50%", "status": "waiting", "rounds": 2}
    failed = {"method": "fedavg", "tier": "20%", "status": "failed", "rounds": 2}
    (study,) = studies(make_run(waiting, failed))
    for name in ("accuracy_by_tier", "accuracy_memory_cost", "learning_curves"):
        assert "no result yet" in texts(draw(name, study)), name
    assert texts(draw("participation", study)).count("?") == 2
    draw("peak_memory", study)


def test_a_run_that_measured_nothing_can_be_drawn(run: Run):
    (study,) = studies(replace(run, footprints=pd.DataFrame()))
    assert texts(draw("peak_memory", study))[0] == "no result yet"


def test_tiers_run_from_poor_to_rich_after_mixed_fleets_and_methods_in_display_order(study: Study):
    assert study.mixed == {"100..500MiB"}
    assert study.tiers == ["100..500MiB", "20%", "35%", "50%", "75%"]
    expected = ["fedavg", "profl", "allsmall", "depthfl", "exclusive", "heterofl", "inclusivefl"]
    assert study.methods == expected == in_order(METHODS, ["fedavg"], "profl")


def test_methods_differ_in_colour_and_marker_also_if_unknown():
    ideals = ["fedavg", "oracle"]
    found = looks([*METHODS, "zeta", "moon", "scaffold", "oracle"], ideals)
    assert len({look.colour for look in found.values()}) == 11
    assert len({look.marker for look in found.values()}) == 11
    assert all(found[name] == looks([name], ideals)[name] for name in METHODS)
    assert [name for name, look in found.items() if look.dashes == "--"] == ideals


def test_numbers_of_bytes_have_three_digits_and_unknown_is_not_zero():
    sizes = [0.5, 9.994, 9.995, 99.94, 99.95, 1234]
    assert [mebibytes(size * MIB) for size in sizes] == ["0.50", "9.99", "10.0", "99.9", "100", "1,234"]
    assert mebibytes(math.nan) == "?"


# one figure each


def row_texts(study: Study, figure: Figure, tier: str) -> dict[str, list[str]]:
    """Return what is written in or beside the row of every method in the panel of a tier."""
    panel = figure.axes[study.tiers.index(tier)]
    at = defaultdict(list)
    for text in panel.texts:
        at[round(getattr(text, "xy", text.get_position())[1])].append(text.get_text())
    return {method: at[row] for row, method in enumerate(in_rows(study))}


def test_every_tier_is_a_panel_with_the_same_rows_and_the_means_beside_them(study: Study, drawn: dict[str, Figure]):
    figure = drawn["accuracy_by_tier"]
    heads = [panel.get_title(loc="left") for panel in figure.axes]
    assert heads[:2] == ["100..500MiB\nmixed fleet, mean 290 MiB", "20%\neach device 52.8 MiB"]
    assert len(heads) == len(TIERS)
    names = [name.get_text() for name in figure.axes[0].get_yticklabels()]
    assert names == [study.label(method) for method in in_rows(study)]
    scores = study.spreads(SCORE)
    for tier in study.tiers:
        for method, written in row_texts(study, figure, tier).items():
            mean = scores[method, tier].mean
            idle, unknown = study.idle(method, tier), math.isnan(mean)
            assert written == ["nobody can train" if idle else "no result yet" if unknown else f"{100 * mean:.1f}"]


def test_rows_go_by_the_first_tier_ideals_above_and_who_trained_nobody_below(study: Study):
    order = in_rows(study)
    assert order[0] == "fedavg"
    first = [study.spreads(SCORE)[method, study.tiers[0]].mean for method in order[1:]]
    known = [mean for mean in first if not math.isnan(mean)]
    assert first[: len(known)] == sorted(known, reverse=True)
    assert set(order) == set(study.methods)
    chosen = replace(study, appearance=Appearance(order=("heterofl", "profl")))
    assert in_rows(chosen)[:2] == ["heterofl", "profl"]


def test_bold_numbers_are_the_best_of_a_panel_and_with_one_seed_none(study: Study, three_seeds: Study):
    def bold_numbers(shown: Study) -> list[str]:
        panels = draw("accuracy_by_tier", shown).axes
        return [text.get_text() for panel in panels for text in panel.texts if text.get_fontweight() == "bold"]

    scores, (best,) = three_seeds.spreads(SCORE), best_methods(three_seeds).values()
    assert sorted(bold_numbers(three_seeds)) == sorted(f"{100 * scores[name, '50%'].mean:.1f}" for name in best)
    assert bold_numbers(study) == []


def dotted(figure: Figure) -> list[list[float]]:
    return [list(line.get_ydata()) for panel in figure.axes for line in panel.lines if line.get_linestyle() == ":"]


@pytest.mark.parametrize("name", ["accuracy_memory_cost", "learning_curves"])
def test_chance_is_marked_if_the_number_of_classes_is_known(study: Study, drawn: dict[str, Figure], name: str):
    far = name != "learning_curves"  # which begin at chance
    for chance, in_view in ((0.1, not far), (0.6, True)):
        figure = drawn[name] if chance == study.chance else draw(name, replace(study, chance=chance))
        line = "Dotted line" if in_view else "Below the axis"
        assert f"{line}: chance, {100 * chance:.1f} %." in notes(figure)
        assert dotted(figure) == [[100 * chance] * 2] * len(figure.axes) * in_view
        for panel in figure.axes:
            assert in_view == (panel.get_ylim()[0] <= 100 * chance)
    unknown = draw(name, replace(study, chance=math.nan))
    assert "chance" not in notes(unknown)
    assert dotted(unknown) == []


def test_whom_nobody_could_train_for_is_hollow_and_does_not_stretch_the_axis(study: Study, drawn: dict[str, Figure]):
    figure = drawn["accuracy_by_tier"]
    idle = [pair for pair in study.spreads(SCORE) if study.idle(*pair)]
    dots = [line for panel in figure.axes for line in panel.lines if line.get_markerfacecolor() == "white"]
    assert len(dots) == len(idle) == 8
    assert figure.axes[0].get_xlim()[0] > 50  # not down to the untrained network's 10 %
    assert "Hollow: no device could train" in notes(figure)
    assert "Below the axis: chance, 10.0 %." in notes(figure)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Twenty-two contenders, one of a long name, of which four take steps."""
    path, draw = tmp_path_factory.mktemp("crowd"), random.Random(0)
    names = [*METHODS, "exclusive with checkpoint+micro-batch:4", *(f"method{place}" for place in range(14))]
    for place, name in enumerate(names):
        like = None if name in METHODS else "profl" if place > 18 else "heterofl"
        for tier in ("50%", "100..500MiB")[: 1 if name == "fedavg" else 2]:
            write_cell(path, name, tier, rounds=14, like=like, trained_to=round(draw.uniform(0.5, 0.9), 3))
    (only,) = studies(read_run(path))
    return only


def test_in_a_crowd_all_are_told_apart(crowd: Study):
    assert len(crowd.methods) == 22
    assert len({(look.colour, look.marker) for look in crowd.looks.values()}) == 22
    assert len({look.colour for look in crowd.looks.values()}) == 22


@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["accuracy_by_tier", "accuracy_memory_cost", "learning_curves", "participation"])
def test_in_a_crowd_no_text_covers_another_and_nothing_is_cut_off(crowd: Study, name: str):
    figure = draw(name, crowd)
    page = figure.bbox.padded(1)
    for panel in figure.axes:
        low, high = sorted(panel.get_ylim())
        marks = [*panel.texts, *(text for text in panel.get_yticklabels() if low <= text.get_position()[1] <= high)]
        boxes = [Text.get_window_extent(text).padded(-2) for text in marks if text.get_text()]
        assert all(page.contains(*corner) for box in boxes for corner in (box.min, box.max))
        for text in panel.texts:
            box = Text.get_window_extent(text).padded(-2)
            others = [other for other in panel.texts if other is not text]
            assert not any(box.overlaps(Text.get_window_extent(other).padded(-2)) for other in others), text
        low, high = panel.get_xlim()
        assert all(low < x < high for line in panel.lines if line.get_marker() != "None" for x in line.get_xdata())


def test_seeds_show_their_mean_and_interval(make_run: Callable[..., Run]):
    run = make_run(*({"method": "profl", "tier": "50%", "seed": seed, "rounds": 4} for seed in range(3)))
    (study,) = studies(run)
    spread = study.spreads(SCORE)["profl", "50%"]
    (panel,) = draw("accuracy_by_tier", study).axes
    (interval,) = (line for line in panel.lines if line.get_marker() == "|")
    low, high = interval.get_xdata()
    assert (low, high) == pytest.approx((100 * spread.low, 100 * spread.high))
    assert spread.low < min(run.cells[SCORE]) < max(run.cells[SCORE]) < spread.high  # 4.3 standard errors
    assert "Mean and 95 % t-interval of 3 seeds." in notes(draw("accuracy_by_tier", study))


def test_the_pareto_front_holds_what_is_told_apart_from_all_that_is_cheaper():
    results = {
        **{"cheap": (1, 70), "worse": (2, 60), "hardly": (2, 71), "dear": (3, 90), "alike": (3, 89)},
        **{"beaten": (3, 80), "wasteful": (4, 91)},
    }
    points = [Point(method, *place) for method, place in results.items()]

    def better(one: str, other: str) -> bool:
        return results[one][1] > results[other][1] + 2

    assert [point.method for point in pareto_front(points, better)] == ["cheap", "alike", "dear"]
    assert pareto_front([], better) == []


def sure(mean: float) -> Spread:
    return Spread(mean, mean - 0.01, mean + 0.01)


@pytest.mark.parametrize(
    ("scores", "lowest"),
    [
        ([], math.nan),
        ([UNKNOWN], math.nan),
        ([sure(0.23)], 0.23),
        ([sure(0.23), *map(sure, (0.93, 0.95))], 0.23),  # one of three is not few
        ([sure(0.23), *map(sure, (0.91, 0.92, 0.95))], 0.91),
        ([UNKNOWN, sure(0.95), sure(0.23), sure(0.92), sure(0.91)], 0.91),
        ([*map(sure, (0.22, 0.23)), *map(sure, (0.91, 0.92, 0.93, 0.95))], 0.22),  # two of six are not few
        ([*map(sure, (0.22, 0.23)), *map(sure, (0.9, 0.91, 0.92, 0.93, 0.94, 0.95))], 0.9),
        ([sure(0.88), *map(sure, (0.95, 0.95, 0.95, 0.95))], 0.88),  # an axis has room for seven points
        ([sure(0.23), *map(sure, (0.6, 0.7, 0.8, 0.95))], 0.23),  # the others are as far apart
        ([Spread(0.23, 0, 0.91), *map(sure, (0.91, 0.92, 0.95))], 0.23),  # it may be one of them
        ([sure(0.23), Spread(0.91, 0.1, 1), *map(sure, (0.92, 0.95))], 0.23),
        ([Spread(mean, math.nan, math.nan) for mean in (0.23, 0.91, 0.92, 0.95)], 0.91),  # of one seed
    ],
)
def test_an_axis_of_scores_reaches_down_to_all_but_few_that_lie_far_below(scores: list[Spread], lowest: float):
    assert lowest_shown(scores) == pytest.approx(lowest, nan_ok=True)


def test_who_lies_far_below_all_others_stands_at_the_end_of_the_axis_with_the_score(three_seeds: Study):
    last = three_seeds.rivals[-1]
    scores = (0.9 + 0.05 * three_seeds.cells[SCORE]).where(three_seeds.cells["method"] != last, 0.151)
    lost = replace(three_seeds, cells=three_seeds.cells.assign(**{SCORE: scores}))
    figure = draw("accuracy_memory_cost", lost)
    assert any(text.get_text() == f"{last}: 15" for panel in figure.axes for text in panel.texts)
    assert all(panel.get_ylim()[0] > 15.1 for panel in figure.axes)
    assert "Triangle at the foot: far below all others" in notes(figure)

    figure = draw("accuracy_by_tier", lost)
    (panel,) = figure.axes
    assert panel.get_xlim()[0] > 15.1
    assert set(row_texts(lost, figure, lost.tiers[0])[last]) == {"15.1", "\N{LEFTWARDS ARROW}"}
    assert sum(text.get_text() == "\N{LEFTWARDS ARROW}" for text in panel.texts) == 1
    assert "\N{LEFTWARDS ARROW}: far below all others." in notes(figure)


def test_accuracy_memory_cost_says_whom_it_cannot_show(drawn: dict[str, Figure]):
    said = notes(drawn["accuracy_memory_cost"])
    assert "as no device could train: profl, depthfl, exclusive, inclusivefl at 20%" in said
    assert "as their memory is unknown: exclusive at 75%" in said


def circles(panel: Axes) -> dict[tuple[float, float], list[float]]:
    """Return the areas of the circles of a panel, by where they lie."""
    found = defaultdict(list)
    for drawn in panel.collections:
        if isinstance(drawn, PathCollection):
            ((x, y),), (area,) = drawn.get_offsets(), drawn.get_sizes()
            found[float(x), float(y)].append(float(area))
    return found


def test_the_area_of_a_circle_is_the_operations_of_the_run(study: Study, drawn: dict[str, Figure]):
    figure = drawn["accuracy_memory_cost"]
    for panel, tier in zip(figure.axes, study.tiers, strict=True):
        found, expected = circles(panel), defaultdict(list)
        for point in points(study, tier):
            expected[point.x, point.y].append(LARGEST**2 * point.operations / (30 * 4e9))
        assert found.keys() == expected.keys()
        assert all(sorted(found[place]) == pytest.approx(sorted(expected[place])) for place in found)
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.texts]
    assert named == ["20 × 10⁹ operations", "50 × 10⁹ operations", "100 × 10⁹ operations"]


def test_what_was_not_counted_has_a_dot_and_no_circle(study: Study):
    uncounted = replace(study, cells=study.cells.assign(operations=math.nan))
    figure = draw("accuracy_memory_cost", uncounted)
    assert not any(circles(panel) for panel in figure.axes)
    assert not figure.legends
    assert "A dot without a circle: its operations were not counted." in notes(figure)
    groups = NAMED["accuracy_memory_cost"].grid(uncounted).groups
    assert {row.entries[2].text for rows in groups.values() for row in rows} == {"?"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.2e9, 2.46e11, [2e9, 2e10, 2e11]), (3, 4, [0.5, 1, 2]), (1, 1, [0.2, 0.5, 1]), (7, 7e3, [10, 200, 5000])],
)
def test_three_round_sizes_end_below_what_cost_most(low: float, high: float, expected: list[float]):
    assert round_sizes(low, high) == pytest.approx(expected)


def test_memory_begins_at_zero_or_above_and_every_point_is_named(study: Study, drawn: dict[str, Figure]):
    for panel, tier in zip(drawn["accuracy_memory_cost"].axes, study.tiers, strict=True):
        assert panel.get_xlim()[0] >= 0
        found = points(study, tier)
        assert sorted(text.get_text() for text in panel.texts) == sorted(study.label(point.method) for point in found)
        assert max(point.x for point in found) < min(text.get_position()[0] for text in panel.texts)


def bold(panel: Axes) -> set[str]:
    return {text.get_text() for text in panel.texts if text.get_fontweight() == "bold"}


def test_the_pareto_front_is_bold_without_the_ideal(three_seeds: Study):
    (panel,) = draw("accuracy_memory_cost", three_seeds).axes
    assert bold(panel) == {"heterofl", "profl"}


def test_with_one_seed_nothing_is_on_a_front(study: Study, drawn: dict[str, Figure]):
    figure = drawn["accuracy_memory_cost"]
    assert not any(bold(panel) for panel in figure.axes)
    assert not any(line.get_color() == PALE and len(line.get_xdata()) for panel in figure.axes for line in panel.lines)
    assert not any(front_of(study, tier) for tier in study.tiers)
    assert "One seed: how far a result may be off is not known" in notes(figure)
    groups = NAMED["accuracy_memory_cost"].grid(study).groups
    entries = {row.entries[-1].text for rows in groups.values() for row in rows}
    assert entries == {"?"}


def test_what_learned_nothing_is_not_on_the_front(three_seeds: Study):
    assert three_seeds.learned_accuracy == pytest.approx(1 / 7)  # odds of 1 to 6, those of chance are 1 to 9
    assert [point.method for point in front_of(three_seeds, "50%")] == ["heterofl", "profl"]
    cheapest = three_seeds.cells["method"].isin(["allsmall", "heterofl"])
    lost = three_seeds.cells.assign(**{SCORE: three_seeds.cells[SCORE].mask(cheapest, 0.14)})
    assert [point.method for point in front_of(replace(three_seeds, cells=lost), "50%")] == ["inclusivefl", "profl"]
    assert "Below 14.3 % nothing was learned" in notes(draw("accuracy_memory_cost", replace(three_seeds, cells=lost)))
    hopeful = replace(three_seeds, cells=lost, chance=math.nan)
    expected = ["allsmall", "heterofl", "inclusivefl", "profl"]  # the first two are equal
    assert [point.method for point in front_of(hopeful, "50%")] == expected


def test_bars_have_the_length_of_the_measured_peak(drawn: dict[str, Figure]):
    figure = drawn["peak_memory"]
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    row = names.index("profl") + 1
    assert names[row] == "shrink 4, grow 4"
    bars = [bar for bar in axes.patches if round(bar.get_y() + bar.get_height() / 2) == row]
    peak = int(0.45 * FULL * 0.93)
    assert sum(bar.get_width() for bar in bars) * MIB == pytest.approx(peak, abs=1)
    *others, workspace = bars
    colours = [to_hex(bar.get_facecolor()).upper() for bar in others]
    assert colours == [colour for name, colour in CATEGORY_COLOURS.items() if name != "workspace"]
    assert workspace.get_hatch()  # at the end, to be taken off
    assert to_hex(workspace.get_edgecolor()).upper() == CATEGORY_COLOURS["workspace"]
    beside = [text.get_text() for text in axes.texts if getattr(text, "xy", (0, 0))[1] == row]
    assert beside == [mebibytes(peak), mebibytes(peak - int(0.06 * peak)), mebibytes(0.45 * FULL)]


def test_tasks_that_look_alike_have_one_bar_that_names_them_all(study: Study, drawn: dict[str, Figure]):
    (axes,) = drawn["peak_memory"].axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:2] == ["fedavg", "width 1.0"]
    assert names.count("heterofl") == names.count("exclusive") == 0  # all their tasks are named elsewhere
    said = " ".join(text.get_text() for text in axes.texts).replace("\N{NO-BREAK SPACE}", " ")
    assert "= allsmall width 1.0, exclusive width 1.0, heterofl width 1.0, inclusivefl depth 4" in said
    groups = NAMED["peak_memory"].grid(study).groups
    assert sum(map(len, groups.values())) == len(study.footprints)  # the table has them all
    shared = {name for line in (*names, said) for name in METHODS if name in line}
    assert shared == set(METHODS)
    other = study.footprints["least_budget_bytes"].where(study.footprints["method"] != "exclusive", 7 * MIB)
    apart = draw("peak_memory", replace(study, footprints=study.footprints.assign(least_budget_bytes=other)))
    assert "exclusive" in [label.get_text() for label in apart.axes[0].get_yticklabels()]


def test_a_byte_that_no_number_shows_does_not_part_two_bars(study: Study, drawn: dict[str, Figure]):
    parts = {peak_column("buffers"): study.footprints[peak_column("buffers")].add(study.footprints.index)}
    nearly = draw("peak_memory", replace(study, footprints=study.footprints.assign(**parts)))
    rows = [[name.get_text() for name in figure.axes[0].get_yticklabels()] for figure in (nearly, drawn["peak_memory"])]
    assert rows[0] == rows[1]


def test_a_least_budget_nobody_searched_for_has_no_tick(study: Study):
    unknown = replace(study, footprints=study.footprints.assign(least_budget_bytes=None))
    (axes,) = draw("peak_memory", unknown).axes
    assert len(axes.lines) == 1  # the full model's
    bars = {(bar.get_y(), bar.get_height()) for bar in axes.patches}
    assert [text.get_text() for text in axes.texts].count("?") == len(bars) > 10


def test_every_category_of_memory_has_a_colour_of_its_own():
    assert set(CATEGORY_COLOURS) == set(CATEGORIES)
    assert len(set(CATEGORY_COLOURS.values())) == len(CATEGORIES)


def test_participation_writes_every_share_and_marks_the_unknown(study: Study, drawn: dict[str, Figure]):
    figure = drawn["participation"]
    written = [text.get_text() for text in figure.axes[0].texts]
    assert len(written) == len(METHODS) * len(TIERS)
    assert written.count("?") == 3
    first = len(METHODS) * study.tiers.index("20%")
    assert written[first : first + 6] == ["100%", "0%", "100%", "0%", "0%", "7%"]


def panel_of(study: Study, figure: Figure, method: str, tier: str) -> Axes:
    return figure.axes[study.methods.index(method) * len(study.tiers) + study.tiers.index(tier)]


def test_curves_leave_out_rounds_without_a_test(drawn: dict[str, Figure]):
    figure = drawn["learning_curves"]
    first = figure.axes[0].lines[0]
    assert list(first.get_xdata()) == [1, *range(2, 31, 2)]
    assert not any(math.isnan(value) for value in first.get_ydata())


def test_every_method_has_its_own_curve_before_all_others_in_grey(study: Study, drawn: dict[str, Figure]):
    figure = drawn["learning_curves"]
    assert len(figure.axes) == len(METHODS) * len(TIERS)
    for method in ("fedavg", "profl"):
        panel = panel_of(study, figure, method, "50%")
        own = [line for line in panel.lines if line.get_linestyle() != ":" and len(line.get_xdata())]
        assert {line.get_color() for line in own} == {study.looks[method].colour}
        assert [list(line.get_ydata()) for line in own] == [list(100 * curve(study, method, "50%")["mean"])]
        (behind,) = (lines for lines in panel.collections if isinstance(lines, LineCollection))
        begun = [other for other in study.methods if other != method and len(curve(study, other, "50%"))]
        assert len(behind.get_segments()) == len(begun)
        assert {to_hex(colour).upper() for colour in behind.get_colors()} == {PALE}
    rows = [figure.axes[place * len(TIERS)].get_title(loc="left") for place in range(len(METHODS))]
    assert rows == [study.label(method) for method in study.methods]


def test_intervals_are_bands_whatever_the_number_of_methods(three_seeds: Study):
    figure = draw("learning_curves", three_seeds)
    assert "with its interval as a band" in notes(figure)
    for method, panel in zip(three_seeds.methods, figure.axes, strict=True):
        (band,) = (shape for shape in panel.collections if isinstance(shape, PolyCollection))
        heights = [y for _, y in band.get_paths()[0].vertices]
        found = curve(three_seeds, method, "50%")
        assert (min(heights), max(heights)) == pytest.approx((100 * found["low"].min(), 100 * found["high"].max()))


def test_curves_coincide_if_they_are_nowhere_far_apart():
    flat = pd.Series([10.0, 10.0], index=[1, 2])
    curves = {"a": flat, "b": flat.add([0, 1.9]), "far": flat.add([0, 2.1]), "shorter": flat[:1], "none": flat[:0]}
    assert coincident(curves, within=2) == [["a", "b"]]
    assert coincident({"none": flat[:0], "nothing": flat[:0]}, within=2) == []


def test_steps_of_a_schedule_are_drawn_where_the_phase_changes(study: Study, drawn: dict[str, Figure]):
    steps = schedule(study, "profl", "50%")
    assert [step.phase for step in steps][:4] == ["shrink 4/4", "shrink 3/4", "shrink 2/4", "grow 1/4"]
    assert schedule(study, "fedavg", "50%") == []
    panel = panel_of(study, drawn["learning_curves"], "profl", "50%")
    strip = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in panel.patches]
    starts = [step.round - 0.5 for step in steps]
    assert strip == list(zip(starts, [*starts[1:], 30.5], strict=True))
    low, high = panel.get_ylim()
    tested = (study.rounds["test_accuracy"].min() * 100 - low) / (high - low)
    assert all(bar.get_y() + bar.get_height() < tested for bar in panel.patches)  # shares of the panel's height
    assert [text.get_text() for text in panel.texts] == ["shrink", "grow"]


def test_only_panels_with_steps_have_room_for_them_and_a_point_is_as_high_in_all(
    drawn: dict[str, Figure], three_seeds: Study
):
    for figure in (drawn["learning_curves"], draw("learning_curves", three_seeds)):
        stepping = [bool(panel.patches) for panel in figure.axes]
        assert 0 < sum(stepping) < len(stepping)
        spans = [high - low for low, high in (panel.get_ylim() for panel in figure.axes)]
        heights = [panel.get_position().height / span for panel, span in zip(figure.axes, spans, strict=True)]
        assert heights == pytest.approx([heights[0]] * len(heights), rel=0.01)
        assert len({(steps, round(span, 6)) for steps, span in zip(stepping, spans, strict=True)}) == 2
        assert min(span for span, steps in zip(spans, stepping, strict=True) if steps) > min(spans)


def test_a_narrow_sheet_has_movement_above_slope(study: Study):
    narrow = draw("effective_movement", replace(study, sheet=Sheet(WIDTHS["column"])))
    movement, slope = narrow.axes
    assert movement.get_ylabel() == "effective movement"
    assert movement.get_position().y0 > slope.get_position().y1
    assert movement.get_position().x0 == slope.get_position().x0


def test_convergence_is_drawn_step_by_step_on_a_logarithmic_axis(study: Study, drawn: dict[str, Figure]):
    panel = drawn["convergence"].axes[study.tiers.index("50%")]
    assert panel.get_yscale() == "log"
    colours = {name: look.colour for name, look in study.looks.items()}
    lines = {name: [line for line in panel.lines if line.get_color() == colour] for name, colour in colours.items()}
    assert len(lines["fedavg"]) == 1
    assert len(lines["profl"]) == len(schedule(study, "profl", "50%")) == 7
    assert all(len(line.get_xdata()) < 5 for line in lines["profl"])
    assert not lines["exclusive"]  # nobody trained
    assert [text.get_text() for text in panel.texts] == ["shrink", "grow"]
    low = panel.get_ylim()[0]
    assert all(min(line.get_ydata()) > 2 * low for line in panel.lines)  # above the strips


def test_convergence_says_where_the_norm_falls(study: Study):
    figure = NAMED["convergence"]
    rising = study.rounds["gradient_norm"].where(study.rounds["method"] != "heterofl", study.rounds["round"])
    said = figure.sentence(replace(study, rounds=study.rounds.assign(gradient_norm=rising)))
    assert "profl in 28 of 28" in said  # seven steps in four tiers
    assert "heterofl in 0 of 5" in said
    rows = {row.head: row.entries for row in figure.grid(study).groups["profl"]}
    assert next(iter(rows)) == "shrink 4/4"
    assert rows["grow 4/4"][study.tiers.index("50%")].more == ("falls in 1 of 1",)
    assert rows["grow 4/4"][study.tiers.index("20%")].text == "?"


def test_a_norm_of_zero_is_left_out(study: Study):
    zero = replace(study, rounds=study.rounds.assign(gradient_norm=0.0))
    assert "no result yet" in texts(draw("convergence", zero))


def test_effective_movement_is_drawn_with_where_the_rule_would_freeze(study: Study, drawn: dict[str, Figure]):
    figure = drawn["effective_movement"]
    assert len(figure.axes) == 2
    assert figure.axes[0].get_title(loc="left") == ", ".join(study.tiers)
    assert "One row for several tiers: all their steps are the same." in notes(figure)
    odd = study.rounds["cell"].isin(study.cells_of("profl", "35%")["cell"]) & (study.rounds["round"] == 30)
    known = [
        {**found, "effective_movement": 0.9} if here else found
        for found, here in zip(study.rounds["diagnostics"], odd, strict=True)
    ]
    apart = draw("effective_movement", replace(study, rounds=study.rounds.assign(diagnostics=known)))
    assert len(apart.axes) == 4
    heads = [panel.get_title(loc="left") for panel in apart.axes[::2]]
    assert heads[0] == "100..500MiB, 20%, 50%, 75%"
    assert heads[1].startswith("35% ")
    movement, slope = figure.axes[:2]
    steps = schedule(study, "profl", study.tiers[0])
    marks = [line.get_xdata()[0] for line in movement.lines if line.get_marker() == "v"]
    lengths = [later.round - step.round for step, later in pairwise([*steps, replaced(steps[-1], 31)])]
    assert marks == [step.round + 3 for step, length in zip(steps, lengths, strict=True) if length >= 4]
    curves = [line for line in movement.lines if line.get_marker() != "v"]
    assert len(curves) == len(steps)
    assert len(slope.lines) == len(curves) + len(marks) + 1  # and zero
    assert [text.get_text() for text in figure.legends[0].texts] == ["profl", "would freeze"]


def replaced(step: Step, number: int) -> Step:
    return step._replace(round=number)


def test_the_table_of_movement_counts_the_rounds_of_the_step(study: Study):
    never = study.rounds["diagnostics"].map(lambda found: {**found, "would_freeze": 0.0} if found else found)
    for changed, first in ((study, "4 of 4"), (replace(study, rounds=study.rounds.assign(diagnostics=never)), "never")):
        rows = {row.head: row.entries for row in NAMED["effective_movement"].grid(changed).groups["profl"]}
        assert any(entry.text.startswith(first) for entries in rows.values() for entry in entries)
    assert "profl in 0 of 35" in NAMED["effective_movement"].sentence(changed)
    # Steps without a rule do not count, and are named.
    pairs = zip(changed.rounds["phase"], changed.rounds["diagnostics"], strict=True)
    ruled = [{} if phase == "grow 1/4" else found for phase, found in pairs]
    apart = replace(changed, rounds=changed.rounds.assign(diagnostics=ruled))
    said = NAMED["effective_movement"].sentence(apart)
    assert "profl in 0 of 30" in said
    assert said.endswith("Not counted, as no movement is known of them: 5 of profl (grow 1/4).")


def test_of_a_run_too_short_for_the_rule_nothing_is_drawn_and_for_its_slope_a_panel_says_so(study: Study):
    unknown = [dict.fromkeys(found, math.nan) for found in study.rounds["diagnostics"]]
    short = replace(study, rounds=study.rounds.assign(diagnostics=unknown))
    assert "effective_movement" not in {figure.name for figure in figures.figures_of(short)}
    levels = [{**found, "movement_slope": math.nan} if found else found for found in study.rounds["diagnostics"]]
    movement, slope = draw("effective_movement", replace(study, rounds=study.rounds.assign(diagnostics=levels))).axes
    said = "no step of as many rounds as the rule takes"
    assert said not in [text.get_text() for text in movement.texts]
    assert said in [text.get_text() for text in slope.texts]


def test_scores_of_fewer_tests_than_five_say_so(study: Study):
    assert not study.few_tests
    two = study.rounds.groupby("cell")["test_accuracy"].transform(
        lambda tests: tests.where(tests[::-1].notna().cumsum() <= 2)
    )
    few = replace(study, rounds=study.rounds.assign(test_accuracy=two))
    assert few.few_tests == ["All scores are of fewer than 5 tests: the mean of 2."]
    assert few.few_tests[0] in few.notes
    one_cell = study.rounds["cell"] == study.cells_of("profl", "50%")["cell"].iloc[0]
    mixed = replace(study, rounds=study.rounds.assign(test_accuracy=two.where(one_cell, study.rounds["test_accuracy"])))
    assert mixed.few_tests[0].startswith("1 of ")


def test_figures_of_what_was_not_recorded_are_left_out(study: Study):
    silent = study.rounds.assign(gradient_norm=math.nan, diagnostics=[{} for _ in study.rounds.index])
    names = {figure.name for figure in figures.figures_of(replace(study, rounds=silent))}
    assert names == {*NAMED} - {"memory_by_round", "convergence", "effective_movement"}
    others = study.rounds.assign(diagnostics=[{"temperature": 1.0} for _ in study.rounds.index])
    assert "effective_movement" not in {shown.name for shown in figures.figures_of(replace(study, rounds=others))}


# a figure of one's own


def test_a_figure_is_one_record(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch):
    def draw(study: Study) -> Figure:
        figure = page(2, "Traffic", study.training_setting)
        figure.subplots().bar(study.methods, [1] * len(study.methods))
        return figure

    def grid(study: Study) -> Grid:
        return by_method(study, "data_out_share", "Examples out of reach", 0)

    own = ReportFigure("traffic", "What was sent", draw, lambda study: "A megabyte a round.", grid)
    hidden = replace(own, name="hidden", shown=lambda study: study.seeds > 1)
    monkeypatch.setattr("profl.bench.report.figures.FIGURES", (own, hidden))
    run = make_run({"method": "profl", "tier": "50%", "rounds": 2})
    written = {path.name: path for path in write_report(run)}
    assert {name for name in written if name.endswith(("png", "svg"))} == {"traffic.png", "traffic.svg"}
    text = written["index.html"].read_text()
    assert 'id="traffic"' in text
    assert 'aria-label="What was sent. A megabyte a round."' in text
    assert "Examples out of reach" in text


def test_every_figure_has_a_file_named_after_it():
    folder = Path(figures.__file__).parent
    assert {f"{name}.py" for name in NAMED} == {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert len(NAMED) == len(FIGURES)
