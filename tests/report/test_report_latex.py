"""Tables for LaTeX keep its rules and those of booktabs, whatever is in them; what is escaped reads as it was.

There may be no LaTeX here: `tabulars` restates the rules more strictly than LaTeX does.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from profl.bench.report.differences import differences_grid
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.latex import END, escaped, latex, write_latex
from profl.bench.report.markdown import RESULTS, accuracy_grid
from profl.bench.report.style import WIDTHS, Sheet
from tests.report.small_studies import study_of
from tests.report.test_report_names import NAMES

TEXTS = [
    *NAMES,
    "[x]",
    "*y",
    "--z,,''w",
    "a\\b^c~d",
    "?`!`",
    '#1 & 100 % <>|"',
    "10⁻³ × 5 · 6 – 7 — 8 …",
    "-3.5 to +2",
    "2_000",
    "% at the beginning",
    "\\end{tabular}\\input{/etc/passwd}",
    "",
]
COLUMN, PAGE = Sheet(WIDTHS["column"]), Sheet(WIDTHS["page"])

RULES = (r"\toprule", r"\midrule", r"\bottomrule", r"\addlinespace")
COMMANDS = {
    *("begin", "end", "centering", "caption", "label", "footnotesize", "scriptsize", "setlength", "tabcolsep", "par"),
    *("smallskip", "parbox", "linewidth", "toprule", "midrule", "bottomrule", "addlinespace", "multicolumn", "textit"),
    *("textbf", "tabularnewline", "newline", "raggedright", "begingroup", "endgroup", "textsuperscript", "times"),
    *("cdot", "ldots", "char", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater"),
    "textbar",
}
"""Of LaTeX's own and booktabs, and no other package's."""


def without_comments(lines: list[str]) -> list[str]:
    found = [re.sub(r"(?<!\\)%.*", "", line) for line in lines]
    return [line for line in found if line]


def check_nesting(text: str) -> None:
    """Make sure that braces, formulas and environments close in order, and that only known commands are used."""
    open_: list[str] = []
    for token in re.finditer(r"\\(begin|end)\{([a-z*]+)\}|\\([A-Za-z]+)|\\(.)|([{}$])", text):
        act, environment, command, symbol, bracket = token.groups()
        if command:
            assert command in COMMANDS, command
        elif symbol:
            assert symbol in "{}$&#%_,`"
        elif act == "begin" or bracket == "{" or (bracket == "$" and "$" not in open_):
            open_.append(environment or bracket)
        else:
            assert open_.pop() == (environment or bracket.replace("}", "{"))
    assert not open_
    assert not re.search(r"(?<!\\)[#~^<>|\"]", re.sub(r"\\[~^]", "", text))


def tabulars(lines: list[str]) -> Iterator[list[list[str]]]:
    """Yield the cells of every row of a table, having checked that rules and rows stand as booktabs has them."""
    text = "\n".join(without_comments(lines))
    check_nesting(text)
    begin = re.search(r"\\begin\{tabular\}\{((?:[^{}]|\{[^{}]*\})*)\}\n", text)
    assert begin
    columns = re.findall(r"[lr]|p\{[\d.]+\\linewidth\}", begin[1].replace("@{}", ""))
    rows, before = [], ""
    body = text[begin.end() : text.index(r"\end{tabular}")].splitlines()
    assert body[0] == r"\toprule"
    assert body[-1] == r"\bottomrule"
    for line in body:
        if line in RULES:
            assert line not in (r"\midrule", r"\addlinespace") or before not in RULES
        else:
            assert line.endswith(END)
            cells = re.split(r"(?<!\\)&", line.removesuffix(END))
            assert not cells[0].lstrip().startswith(("[", "*"))
            wide = re.match(r"\\multicolumn\{(\d+)\}", line)
            assert len(cells) == (1 if wide else len(columns))
            assert not wide or int(wide[1]) == len(columns)
            assert not re.search(r"(?<!\\)\\\\", line)
            rows.append([cell.strip() for cell in cells])
        before = line
    yield rows


READ = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"{\char34}": '"',
    r"\`{}": "`",
    r"$\times$": "×",
    r"$\cdot$": "·",
    r"\ldots{}": "…",
    "$-$": "-",
    r"\,\%": " %",
    "-{}": "-",
    ",{}": ",",
    "'{}": "'",
    "---": "—",
    "--": "–",
    **{f"{{{bracket}}}": bracket for bracket in "[]*"},
    **{f"\\{symbol}": symbol for symbol in "{}$&#%_"},
}


def as_set(text: str) -> str:
    """Return what LaTeX shows of an escaped text."""
    raised = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
    text = re.sub(r"\\textsuperscript\{([\d-]+)\}", lambda power: power[1].translate(raised), text)
    return re.sub("|".join(map(re.escape, READ)), lambda found: READ[found[0]], text)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_escaped_reads_as_it_was(text: str):
    check_nesting(escaped(text))
    assert as_set(escaped(text)) == text


@pytest.mark.parametrize("sheet", [COLUMN, PAGE, Sheet(WIDTHS["column"], bare=True)])
@pytest.mark.parametrize("numbers", [True, False])
def test_tables_keep_the_rules_whatever_is_in_them(sheet: Sheet, numbers: bool):
    rows = [
        GridRow(text, [Entry(text, (text, "more"), best=True), Entry("-3.5 %", ("[-1 to 2]",) * bool(text))])
        for text in TEXTS
    ]
    grid = Grid(TEXTS[0], TEXTS[1], [f"{TEXTS[2]}\nb", "two"], {TEXTS[3]: rows, "": rows}, TEXTS[4], numbers)
    (found,) = tabulars(list(latex(grid, sheet, "tab:x")))
    assert [as_set(cell) for cell in found[0]] == [TEXTS[1], TEXTS[2], "two"]
    heads = [as_set(row[0]) for row in found if len(row) == 3]
    assert all(text in heads for text in TEXTS)


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("sheet", [COLUMN, PAGE])
def test_every_table_of_results_keeps_the_rules(name: str, sheet: Sheet):
    study = study_of({"base": [0.5, 0.52, 0.51], "a_b": [0.9, 0.9, 0.91]}, tiers=("50%", "70%"), sheet=sheet)
    grid = RESULTS[name](study)
    (rows,) = tabulars(list(latex(grid, sheet, f"tab:{name}")))
    assert len(rows) > len(grid.groups)


def test_mean_interval_and_what_is_told_apart_stand_in_the_table():
    study = study_of({"base": [0.5, 0.52, 0.51], "a_b": [0.9, 0.9, 0.91]})
    (rows,) = tabulars(list(latex(accuracy_grid(study), PAGE, "tab:accuracy")))
    assert [r"a\_b", r"\textbf{90.3\,\% {[}88.9 to 91.8{]} (100)}"] in rows
    assert ["base", r"51.0\,\% {[}48.5 to 53.5{]} (100)"] in rows
    (below,) = tabulars(list(latex(accuracy_grid(study), COLUMN, "tab:accuracy")))
    assert below[-3:] == [
        [r"a\_b", r"\textbf{90.3\,\%}"],
        ["", r"{\scriptsize {[}88.9 to 91.8{]}}"],
        ["", r"{\scriptsize (100)}"],
    ]
    alike = study_of({"base": [0.5, 0.52, 0.51], "other": [0.5, 0.53, 0.5]})
    (rows,) = tabulars(list(latex(differences_grid(alike), PAGE, "tab:differences")))
    assert rows[-1][0] == "other"
    assert rows[-1][1].endswith("not told apart")


def test_a_bare_table_is_for_a_caption_of_the_papers_own(tmp_path: Path):
    scores = {"base": [0.5, 0.52], "other": [0.9, 0.9]}
    for bare in (True, False):
        study = study_of(scores, sheet=Sheet(WIDTHS["column"], bare))
        written = write_latex([study], tmp_path)
        assert [path.name for path in written] == [f"{name}.tex" for name in RESULTS]
        text = written[0].read_text()
        assert (r"\caption" in text) == (r"\begin{table}" in text) == ("Mean and 95" in text) == (not bare)


def test_several_studies_have_tables_of_their_own(tmp_path: Path):
    studies = [study_of({"base": [0.5], "other": [0.6]}, model=model) for model in ("one", "two")]
    names = {path.name for path in write_latex(studies, tmp_path)}
    assert {"accuracy-one-4-digits-virtual-t4.tex", "accuracy-two-4-digits-virtual-t4.tex"} < names


def test_a_table_too_wide_for_a_column_is_one_for_the_page():
    many = {f"method {number}": [0.5, 0.6] for number in range(3)}
    grid = accuracy_grid(study_of(many, tiers=[f"{share}%" for share in range(10, 90, 10)]))
    assert r"\begin{table*}" in list(latex(grid, COLUMN, "tab:x"))
    assert r"\begin{table}" in list(latex(accuracy_grid(study_of(many)), COLUMN, "tab:x"))
