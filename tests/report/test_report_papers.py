"""What a paper asks of a report: some methods, called and coloured as it wishes, on a sheet of its width."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from matplotlib.text import Text

from profl.bench.cli import main
from profl.bench.errors import InputError
from profl.bench.report import View, write_report
from profl.bench.report.appearance import Appearance, read_appearance, read_labels
from profl.bench.report.axis import AXES
from profl.bench.report.budgets import budgets_grid, budgets_of
from profl.bench.report.contenders import contenders, only
from profl.bench.report.figures import figures_of, participation
from profl.bench.report.markdown import accuracy_grid, markdown
from profl.bench.report.study import Study, studies
from profl.bench.report.style import NARROWEST, WIDTHS, Sheet, house_style, save
from profl.bench.results import Run, read_run
from tests.report.conftest import METHODS, beyond_the_sheet, write_cell
from tests.report.small_studies import study_of
from tests.report.test_report_names import NAMES

COLUMN = Sheet(WIDTHS["column"], bare=True, formats=("pdf",))


def profl(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    return result.exit_code, result.output


def drawn(study: Study) -> dict[str, Figure]:
    """Return every figure of a study by name, as it is written."""
    with house_style(study.sheet):
        figures = {figure.name: figure.draw(study) for figure in figures_of(study)}
        for figure in figures.values():
            figure.draw_without_rendering()
    return figures


def on(run: Run, sheet: Sheet, **more: object) -> Study:
    (study,) = studies(run, View(sheet=sheet, **more))  # type: ignore[arg-type]
    return study


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two seeds, in a mixed fleet and two tiers."""
    path = tmp_path_factory.mktemp("few")
    for method in METHODS:
        for tier in ["20%"] if method == "fedavg" else ["20%", "75%", "100..500MiB"]:
            for seed in range(2):
                write_cell(path, method, tier, seed, rounds=8)
    return read_run(path)


# the sheet


@pytest.mark.parametrize("width", [WIDTHS["page"], NARROWEST])
@pytest.mark.parametrize("bare", [True, False])
def test_every_figure_fits_its_sheet_and_can_be_read_in_print(few: Run, width: float, bare: bool):
    for name, figure in drawn(on(few, Sheet(width, bare))).items():
        assert figure.get_figwidth() == width
        assert not list(beyond_the_sheet(figure)), name
        assert all(text.get_fontsize() >= 6 for text in figure.findobj(Text))


def test_a_bare_figure_has_neither_title_nor_notes(few: Run):
    for figure in drawn(on(few, COLUMN)).values():
        said = " ".join(text.get_text() for text in figure.texts)
        assert not re.search("resnet18|Mean and|ideal bound|by memory tier", said)


def test_a_pdf_embeds_its_fonts_as_truetype_and_is_the_same_each_time(run: Run, tmp_path: Path):
    study = on(run, COLUMN, methods=("profl", "heterofl"))
    with house_style(COLUMN):
        written = [save(participation.draw(study), tmp_path / str(time), "a", COLUMN) for time in range(2)]
    one, other = (paths[0].read_bytes() for paths in written)
    assert [path.suffix for path in written[0]] == [".pdf"]
    assert one == other
    assert b"/FontFile2" in one
    assert b"/Type3" not in one
    assert not re.search(rb"CreationDate|ModDate|/Producer|/Creator", one)
    (box,) = re.findall(rb"/MediaBox \[ *0 0 ([\d.]+) [\d.]+ *\]", one)
    assert float(box) == pytest.approx(72 * WIDTHS["column"], abs=0.01)


@pytest.mark.usefixtures("one_figure")
def test_the_page_is_written_where_it_has_figures_to_hold(run: Run, tmp_path: Path):
    view = View(sheet=replace(COLUMN, formats=("pdf", "svg")), methods=("profl",))
    suffixes = {path.suffix for path in write_report(run, tmp_path / "both", view)}
    assert suffixes == {".pdf", ".svg", ".tex", ".md", ".csv", ".parquet", ".html"}
    written = write_report(run, tmp_path / "pdf", View(sheet=COLUMN, methods=("profl",)))
    assert "index.html" not in {path.name for path in written}


# some methods


def test_equal_budgets_are_those_of_the_methods_shown():
    scores = {"base": [0.9, 0.9], "dear": [0.8, 0.8], "cheap": [0.7, 0.7]}
    study = study_of(scores, costs={"base": 4, "dear": 8, "cheap": 1})
    whole = study.cells
    shown = replace(study, cells=whole.loc[whole["method"] != "cheap"], left_out=("cheap",))
    assert list(budgets_of(study, AXES["operations"], "50%")) == [10, 10]
    assert list(budgets_of(shown, AXES["operations"], "50%")) == [40, 40]
    assert "any run shown of the tier" in budgets_grid(shown).note
    assert "Shown: 2 of 3 methods." in budgets_grid(shown).note
    assert "shown of" not in budgets_grid(study).note


@pytest.mark.usefixtures("one_figure")
def test_a_report_of_some_methods_holds_no_other(run: Run, tmp_path: Path):
    written = {path.name: path for path in write_report(run, tmp_path, View(methods=("heterofl", "depthfl")))}
    for name in ("cells.csv", "rounds.csv", "footprints.csv", "results.md", "accuracy.tex", "index.html"):
        text = written[name].read_text()
        assert {"heterofl", "depthfl"} <= set(re.findall(r"\w+", text))
        assert not re.search("allsmall|inclusivefl|fedavg", text), name
    assert "Shown: 2 of 7 methods." in written["results.md"].read_text()
    assert only(run, ()) is run


def test_what_is_left_out_cannot_stand_out(run: Run):
    with pytest.raises(InputError, match="'depthfl' is left out, so it cannot be compared with: show it too"):
        list(studies(run, View(versus="depthfl", methods=("profl",))))
    with pytest.raises(InputError, match="unknown method 'proffl', which cannot be shown: did you mean 'profl'"):
        list(studies(run, View(methods=("proffl",))))


# how methods are called, coloured and ordered


def test_every_sentence_and_table_uses_the_labels(few: Run, tmp_path: Path):
    labels = {name: f"The {number}th" for number, name in enumerate(METHODS)}
    study = on(few, COLUMN, appearance=Appearance(labels=labels))
    said = list(study.notes)
    for figure in figures_of(study):
        grid = figure.grid(study)
        heads = [row.head for rows in grid.groups.values() for row in rows]
        said += [figure.sentence(study), grid.note, *grid.groups, *heads]
    for figure in drawn(replace(study, sheet=Sheet())).values():
        said += [text.get_text() for text in figure.findobj(Text)]
    said += markdown(accuracy_grid(study))
    for name in METHODS:
        assert not [text for text in said if re.search(rf"\b{name}\b", text)], name


def test_settings_colour_and_order_methods(few: Run):
    appearance = Appearance(order=("heterofl", "profl"), colours={"heterofl": "#123456"})
    study = on(few, COLUMN, appearance=appearance)
    assert study.methods[:3] == ["heterofl", "profl", "fedavg"]
    assert study.looks["heterofl"].colour == "#123456"
    usual = on(few, COLUMN)
    assert study.looks["profl"] == usual.looks["profl"]
    assert study.looks["heterofl"].marker == usual.looks["heterofl"].marker
    lines = drawn(study)["accuracy_by_tier"].axes[0].lines
    assert "#123456" in {line.get_color() for line in lines}


@pytest.mark.usefixtures("one_figure")
def test_methods_that_are_named_are_shown_in_that_order(few: Run, tmp_path: Path):
    named = ("heterofl", "fedavg", "profl", "depthfl")
    view = View(methods=named, highlight="profl", appearance=Appearance(order=("depthfl", "profl")))
    (study,) = studies(few, view)
    assert study.methods == list(study.looks) == list(named)
    write_report(few, tmp_path, view)
    for name in ("results.md", "accuracy.tex"):
        rows = re.findall(rf"^(?:\| )?({'|'.join(named)})\b", (tmp_path / name).read_text(), flags=re.MULTILINE)
        assert rows[:4] == list(named), name


def test_two_methods_cannot_share_a_label(run: Run):
    with pytest.raises(InputError, match="'heterofl' and 'profl' would both be called 'profl': give them two labels"):
        on(run, COLUMN, appearance=Appearance(labels={"heterofl": "profl"}))


STYLE = """
order = ["profl", "fedrolex"]
[labels]
profl = "ProFL"
"exclusive+micro-batch:4" = "Exclusive, 4 micro-batches"
[colours]
profl = "#D55E00"
"""


def test_a_file_of_settings_serves_several_runs(run: Run, tmp_path: Path):
    (tmp_path / "paper.toml").write_text(STYLE)
    found = read_appearance(tmp_path / "paper.toml", contenders(run))
    assert found.order == ("profl", "fedrolex")
    assert found.labels["profl"] == "ProFL"
    assert on(run, COLUMN, appearance=found).label("profl") == "ProFL"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("order = [", "is not TOML"),
        ("labels = 3", "labels cannot be 3"),
        ("[label]\nprofl = 'a'", "unknown key 'label': did you mean 'labels'"),
        (
            "[labels]\nheteroflx = 'a'",
            "unknown method 'heteroflx', which cannot be named in .*: did you mean 'heterofl'",
        ),
        ("[labels]\nprofl = ''", "labels.profl cannot be ''"),
        ('[labels]\nprofl = "a\\nb"', "give a text in one line"),
        ('[labels]\nprofl = "\\u202e"', "characters that cannot be shown"),
        ("[colours]\nprofl = 'red'", "colours.profl cannot be 'red': write it as #RRGGBB"),
        ("order = ['profl', 3]", "order.1 cannot be 3"),
    ],
)
def test_a_file_of_settings_that_cannot_be_used_is_refused_in_one_line(run: Run, tmp_path: Path, text: str, told: str):
    path = tmp_path / "paper.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as refused:
        read_appearance(path, contenders(run))
    assert "\n" not in str(refused.value)
    assert "paper.toml" in str(refused.value)


def test_labels_are_read_whatever_methods_are_called():
    names = {name: name for name in ["a", "a=b", "long name", "+1"]}
    assert read_labels(["a=b=c", "long name= $Z$ = 1", "+1=plus"], names) == {
        "a=b": "c",
        "long name": "$Z$ = 1",
        "+1": "plus",
    }
    assert read_labels(["a=c=b"], names) == {"a": "c=b"}
    for text, told in (
        ("a", "'a' is no assignment: write METHOD=LABEL"),
        ("a=", "is no assignment"),
        ("lonk name=c", "unknown method 'lonk name', which cannot be labelled: did you mean 'long name'"),
        ("a=\x1b[31m", "characters that cannot be shown"),
    ):
        with pytest.raises(InputError, match=told):
            read_labels([text], names)
    with pytest.raises(InputError, match="'a' gets two labels"):
        read_labels(["a=1", "a=2"], names)


def test_a_technique_is_named_as_sweeps_name_it(make_run: Callable[..., Run]):
    run = make_run({"method": "profl", "tier": "50%", "rounds": 2})
    cell = replace(run.records[0].cell, technique="micro-batch:4")
    other = replace(run, records=[replace(run.records[0], cell=cell)])
    assert contenders(other) == dict.fromkeys(["profl+micro-batch:4", "profl with micro-batch:4"], cell.contender)


def test_markdown_shows_names_as_they_are():
    (_, _, *lines) = markdown(accuracy_grid(study_of({name: [0.5] for name in NAMES})))
    assert lines[0].startswith(r"""| -2 a\|b \`c\` \*d\* &lt;b>&amp;amp;"'""")
    assert any(line.startswith(r"| \_hidden {x} %s %(y)d \\mathdefault") for line in lines)


# the command


@pytest.mark.usefixtures("one_figure")
def test_the_command_draws_for_a_paper(run_path: Path, tmp_path: Path):
    (tmp_path / "paper.toml").write_text(STYLE)
    options = ["--method", "profl", "--method", "heterofl", "--label", "heterofl=HeteroFL", "--style"]
    options += [tmp_path / "paper.toml", "--format", "pdf", "--width", "column", "--bare", "--output", tmp_path / "out"]
    code, output = profl("report", run_path, *options)
    assert code == 0, output
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".pdf", ".csv", ".parquet", ".md", ".tex"}
    table = (tmp_path / "out" / "accuracy.tex").read_text()
    assert table.index("ProFL") < table.index("HeteroFL")
    assert r"\caption" not in table
    assert "HeteroFL" in output
    assert "Shown: 2 of 7" in output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--format", "pdff"], "unknown format 'pdff': did you mean 'pdf'? Choose one of pdf, png, svg"),
        (["--width", "colum"], "width 'colum' cannot be drawn: did you mean 'column'?"),
        (["--width", "1"], "width '1' cannot be drawn: choose one of column, page or inches from 3 to 20"),
        (["--width", "nan"], "width 'nan' cannot be drawn"),
        (["--method", "slt"], "method 'slt' was not run, so it cannot be shown: choose one of"),
        (["--method", "heterfl"], "unknown method 'heterfl', which cannot be shown: did you mean 'heterofl'?"),
        (["--label", "heterfl=x"], "unknown method 'heterfl', which cannot be labelled: did you mean 'heterofl'?"),
        (["--style", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_bad_values_are_refused_in_one_line(run_path: Path, tmp_path: Path, options: list[str], told: str):
    code, output = profl("report", run_path, "--output", tmp_path / "out", *options)
    assert code != 0
    assert told in output
    assert len(output.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--bare"], ["--method", "profl", "--width", "page"], ["--versus", "profl"]])
def test_a_comparison_of_runs_refuses_what_is_for_one(run_path: Path, tmp_path: Path, options: list[str]):
    code, output = profl("report", run_path, run_path, "--output", tmp_path / "out", *options)
    assert code == 2
    named = ", ".join(sorted(option for option in options if option.startswith("--")))
    assert (
        output.splitlines()[-1] == f"Error: {named}: for the report of one run; a comparison of several has none of it"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("one_figure")
def test_names_that_mean_something_to_a_medium_can_be_shown_and_labelled(tmp_path: Path):
    for name in NAMES[:3]:
        write_cell(tmp_path / "run", name, "75%", rounds=2, like="heterofl")
    options = [part for name in NAMES[:2] for part in ("--method", name, "--label", f"{name}=L {name}")]
    code, output = profl("report", tmp_path / "run", "--format", "pdf", "--output", tmp_path / "out", *options)
    assert code == 0, output
    (study,) = studies(read_run(tmp_path / "run"), View(methods=tuple(NAMES[:2])))
    assert study.left_out == (NAMES[2],)
