"""What ignores memory is an ideal, whatever its name: drawn apart, labelled, left out of every contest."""

import ast
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from profl.bench.cli.report import report
from profl.bench.errors import InputError
from profl.bench.fleet import UNLIMITED
from profl.bench.registry import methods
from profl.bench.report import closing_text, write_comparison, write_report
from profl.bench.report import study as study_module
from profl.bench.report.figures.accuracy_memory_cost import front_of
from profl.bench.report.looks import NAMESAKE
from profl.bench.report.page.grids import summary
from profl.bench.report.page.reproduce import configurations
from profl.bench.report.ranking import best_methods, winners
from profl.bench.report.score import SCORE
from profl.bench.report.study import Study, studies
from profl.bench.report.view import View
from profl.bench.results import Run, read_run
from tests.report.conftest import write_cell
from tests.report.drawing import draw

TIERS = ("50%", "75%")
RIVALS = ("heterofl", "exclusive", "plugin")
SEEDS = 2


def write(path: Path, *ideals: str) -> Run:
    """Write rivals in two tiers, and ideals that beat them all."""
    for ideal, seed in product(ideals, range(SEEDS)):
        write_cell(path, ideal, "50%", seed, rounds=4, like="fedavg")
    for rival in RIVALS:
        for tier, seed in product(TIERS, range(SEEDS)):
            write_cell(path, rival, tier, seed, rounds=4, like="allsmall" if rival == "plugin" else rival)
    return read_run(path)


@pytest.fixture(scope="module", params=[["oracle"], ["fedavg", "oracle"]], ids=" and ".join)
def ideals(request: pytest.FixtureRequest) -> list[str]:
    """A plug-in's ideal, alone and beside the one that comes with the package."""
    return request.param


@pytest.fixture(scope="module")
def run(ideals: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write(tmp_path_factory.mktemp("ideals"), *ideals)


@pytest.fixture(scope="module")
def study(run: Run) -> Study:
    (only,) = studies(run)
    return only


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in [*figure.texts, *(text for panel in figure.axes for text in panel.texts)]]


def test_what_ran_without_a_limit_beside_others_is_an_ideal(study: Study, ideals: list[str]):
    assert list(study.ideals) == ideals
    assert study.methods == [*ideals, *sorted(RIVALS)]
    assert study.rivals == sorted(RIVALS)
    assert all(len(study.cells_of(ideal, tier)) == SEEDS for ideal in ideals for tier in TIERS)
    assert study.tiers == list(TIERS)


def test_an_ideal_is_never_best_nor_on_the_front(study: Study, run: Run, ideals: list[str]):
    for tier in TIERS:
        accuracy = {method: study.spreads(SCORE)[method, tier].mean for method in study.methods}
        assert max(accuracy, key=accuracy.__getitem__) in ideals
        assert set(best_methods(study)[tier]) <= set(RIVALS)
        assert {point.method for point in front_of(study, tier)} <= set(RIVALS)
        assert front_of(study, tier)
    assert not any(ideal in winners(study) for ideal in ideals)
    for row in summary(study).groups[""]:
        assert not (row.head.endswith(" (ideal)") and any(entry.best for entry in row.entries))


def test_every_figure_of_results_labels_the_ideals(study: Study, ideals: list[str]):
    by_tier, by_budget = draw("accuracy_by_tier", study), draw("accuracy_memory_cost", study)
    labels = [f"{ideal} (ideal)" for ideal in ideals]
    rows = [text.get_text() for text in by_tier.axes[0].get_yticklabels()]
    assert [text for text in rows if text.endswith("(ideal)")] == rows[: len(labels)] == labels
    curves = [panel.get_title(loc="left") for panel in draw("learning_curves", study).axes[:: len(TIERS)]]
    columns = [text.get_text() for text in draw("participation", study).axes[0].get_xticklabels()]
    assert curves == columns == [*labels, *sorted(RIVALS)]
    bold = {text.get_text() for panel in by_budget.axes for text in panel.texts if text.get_fontweight() == "bold"}
    assert bold <= set(RIVALS)
    said = " ".join(" ".join(texts(by_budget)).split())
    assert f"({' and '.join(ideals)} aside)" in said
    are = "are ideal bounds" if len(ideals) > 1 else "is an ideal bound"
    assert f"{' and '.join(ideals)} {are}: every device trains, whatever its memory." in said


def test_ideals_are_grey_and_dashed_and_differ_from_each_other(study: Study, ideals: list[str]):
    apart = [study.looks[ideal] for ideal in ideals]
    assert all(max(to_rgb(look.colour)) == min(to_rgb(look.colour)) for look in apart)
    assert all(look.dashes == "--" for look in apart)
    assert all(study.looks[rival].dashes == "-" for rival in RIVALS)
    assert len({look.colour for look in study.looks.values()}) == len(study.methods)
    assert len({look.marker for look in study.looks.values()}) == len(study.methods)
    lines = [line for panel in draw("learning_curves", study).axes for line in panel.lines]
    dashed = {line.get_color() for line in lines if line.get_linestyle() == "--"}
    assert dashed == {look.colour for look in apart}


def test_the_closing_table_and_the_page_label_them_and_star_others(run: Run, study: Study, ideals: list[str]):
    text = closing_text(run)
    table = text.partition("Difference in score")[0].partition("Order of the methods")[0]
    assert table.count("(ideal)") == len(ideals)
    assert f"* the highest mean of its tier, and what is not told apart from it ({' and '.join(ideals)} aside)." in text
    assert all("*" not in line for line in text.splitlines() if line.strip().startswith(tuple(ideals)))
    heads = [row.head for row in summary(study).groups[""]]
    assert heads == [*(f"{ideal} (ideal)" for ideal in ideals), *sorted(RIVALS)]
    page = next(path for path in write_report(run) if path.suffix == ".html").read_text()
    assert f"★ the highest mean of its tier, and what is not told apart from it ({' and '.join(ideals)} aside)." in page
    for ideal in ideals:
        assert page.count(f"{ideal} (ideal)") >= 4  # the summary, and the tables of three figures


def test_without_a_limit_anywhere_all_are_rivals(tmp_path: Path):
    for method, seed in product(("oracle", "plugin"), range(SEEDS)):
        write_cell(tmp_path, method, "50%", seed, rounds=2, like="fedavg")
    (study,) = studies(read_run(tmp_path))
    assert study.ideals == ()
    assert study.tiers == [UNLIMITED]
    assert {tier: set(best) for tier, best in best_methods(study).items()} == {UNLIMITED: {"oracle", "plugin"}}
    assert "aside" not in closing_text(read_run(tmp_path))


def test_a_rival_may_also_run_without_a_limit(tmp_path: Path):
    write_cell(tmp_path, "oracle", "50%", rounds=2, like="fedavg")
    write_cell(tmp_path, "plugin", "50%", rounds=2, like="fedavg")
    write_cell(tmp_path, "plugin", "50%", rounds=2, like="allsmall")
    run = read_run(tmp_path)
    (study,) = studies(run)
    assert (study.ideals, study.rivals) == (("oracle",), ["plugin"])
    assert study.tiers == ["50%", UNLIMITED]
    for tier in study.tiers:
        assert len(study.cells_of("oracle", tier)) == len(study.cells_of("plugin", tier)) == 1
    (toml,) = configurations(run.records).values()
    assert 'tier = ["50%", "unlimited"]' in toml


# the highlight


def test_the_package_itself_is_highlighted_unless_another_is(make_run: Callable[..., Run]):
    run = make_run(*({"method": method, "tier": "50%", "rounds": 2} for method in ("fedavg", "exclusive", NAMESAKE)))
    bold = {}
    for chosen in (None, "exclusive"):
        (study,) = studies(run, View(chosen))
        labels = draw("accuracy_by_tier", study).axes[0].get_yticklabels()
        bold[study.methods[1]] = [label.get_text() for label in labels if label.get_fontweight() == "bold"]
    assert bold == {NAMESAKE: [NAMESAKE], "exclusive": ["exclusive"]}
    looks = [next(studies(run, View(chosen))).looks for chosen in (NAMESAKE, "exclusive")]
    assert looks[0] == looks[1]  # colours stay


def test_what_was_not_run_cannot_be_highlighted_and_nothing_is_written(run: Run, tmp_path: Path):
    message = r"method 'profl' was not run, so it cannot be highlighted: choose one of exclusive, "
    with pytest.raises(InputError, match=message):
        write_report(run, tmp_path / "report", View("profl"))
    assert not (tmp_path / "report").exists()
    with pytest.raises(InputError, match="unknown method 'nobody'"):
        write_comparison([run, write(tmp_path / "other")], tmp_path / "page.html", highlight="nobody")


@pytest.mark.usefixtures("one_figure")
def test_the_command_highlights(run: Run, tmp_path: Path):
    result = CliRunner().invoke(report, [str(run.path), "--output", str(tmp_path), "--highlight", "plugin"])
    assert result.exit_code == 0, result.output
    lines = [line.split()[0] for line in result.output.splitlines() if line.strip()]
    assert lines.index("plugin") < lines.index("exclusive") < lines.index("heterofl")
    page = (tmp_path / "index.html").read_text()
    assert page.index(">plugin</th>") < page.index(">exclusive</th>")


# names


def test_the_bench_names_no_method():
    bench = Path(study_module.__file__).parents[1]
    names = set(methods()) - {NAMESAKE}  # which is also the name of the package
    assert len(names) > 5
    sources = sorted(bench.rglob("*.py"))
    assert len(sources) > 50
    for source in sources:
        constants = (node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant))
        assert not names & {value for value in constants if isinstance(value, str)}, source
    for source in (bench / "report").rglob("*.py"):
        for line in source.read_text().splitlines():
            assert f'"{NAMESAKE}"' not in line or "hashsalt" in line, source
