r"""A run's results as tables of LaTeX, one a file, to be taken into a paper by ``\input``; they need booktabs alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from profl.bench.files import write_whole
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.markdown import RESULTS
from profl.bench.report.study import Study
from profl.bench.report.style import WIDTHS, Sheet

TEXT_SHARE = 0.68
"""Of the width of a line: what columns of texts take, which are broken into lines; the rest is the first column's."""

CHARACTER_POINTS, SMALL_POINTS = 3.9, 3.4
"""Widths of a character of Computer Modern, on average, in the sizes footnotesize and scriptsize of a text in 10 pt."""

SEPARATION_POINTS = 4
"""To either side of a column."""

END = r" \tabularnewline"
"""Of a row: where a column is set ragged, two backslashes would only break the line."""


def write_latex(parts: Sequence[Study], folder: Path) -> list[Path]:
    """Write the tables of every study of a run and return their paths; none where nothing was computed.

    Of several studies each has its own, with its name behind the table's. Where the sheet is narrow, or the table too
    wide for a page, what belongs to a number stands below it. A bare sheet has the tables without captions and notes.
    """
    written = []
    for study in parts:
        suffix = f"-{study.name}" if len(parts) > 1 else ""
        tables = {} if study.memory_only else {name + suffix: table(study) for name, table in RESULTS.items()}
        for name, grid in tables.items():
            if grid.groups:
                path = folder / f"{name}.tex"
                write_whole(path, "\n".join(latex(grid, study.sheet, f"tab:{name}")) + "\n")
                written.append(path)
    return written


def latex(grid: Grid, sheet: Sheet, label: str) -> Iterator[str]:
    """Yield the lines of a table; ``label`` is what a text refers to it by."""
    stacked = grid.numbers and (sheet.narrow or _inches(grid, stacked=False) > WIDTHS["page"])
    kind = "table" if sheet.narrow and _inches(grid, stacked) <= WIDTHS["column"] else "table*"
    yield r"% Written by 'profl report'. Needs \usepackage{booktabs}."
    if sheet.bare:
        yield r"\begingroup"
    else:
        yield rf"\begin{{{kind}}}"
        yield r"\centering"
        yield rf"\caption{{{escaped(grid.caption)}.}}"
        yield rf"\label{{{label}}}"
    yield r"\footnotesize"
    yield rf"\setlength{{\tabcolsep}}{{{SEPARATION_POINTS}pt}}"
    yield from _tabular(grid, stacked)
    if sheet.bare:
        yield r"\endgroup"
        return
    if grid.explained:
        yield rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {escaped(grid.explained)}}}"
    yield rf"\end{{{kind}}}"


def _inches(grid: Grid, stacked: bool) -> float:
    """Return about how wide a table is; one of texts, which are broken into lines, is as wide as there is room."""
    if not grid.numbers:
        return 0.0
    rows = [row for rows in grid.groups.values() for row in rows]
    points = max(map(len, [grid.corner, *(row.head for row in rows)])) * CHARACTER_POINTS
    for place, column in enumerate(grid.columns):
        lines = [[entry.text, *entry.more] for entry in (row.entries[place] for row in rows)]
        large = [*column.split("\n"), *(entry[0] if stacked else grid.joint.join(entry) for entry in lines)]
        small = [line for entry in lines for line in entry[1:] if stacked]
        widths = [*(len(text) * CHARACTER_POINTS for text in large), *(len(text) * SMALL_POINTS for text in small)]
        points += max(widths) + 2 * SEPARATION_POINTS
    return points / 72


def _tabular(grid: Grid, stacked: bool) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{@{{}}l{_columns(grid)}@{{}}}}"
    yield r"\toprule"
    heads = [[grid.corner], *(column.split("\n") for column in grid.columns)]
    for line in range(max(map(len, heads))):
        yield " & ".join(escaped(head[line]) if line < len(head) else "" for head in heads) + END
    for group, rows in grid.groups.items():
        yield r"\midrule"
        if group:
            yield rf"\multicolumn{{{len(heads)}}}{{@{{}}l}}{{\textit{{{escaped(group)}}}}}" + END
        for place, row in enumerate(rows):
            below = stacked and any(entry.more for entry in row.entries)
            if place and (below or not grid.numbers):
                yield r"\addlinespace"
            yield from _lines(row) if below else [_line(grid, row)]
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _columns(grid: Grid) -> str:
    """Return how columns are set: numbers flush right, texts in a share of the line by the root of their length."""
    if grid.numbers:
        return "r" * len(grid.columns)
    rows = [row for rows in grid.groups.values() for row in rows]
    roots = [max(math.sqrt(len(row.entries[place].text)) for row in rows) for place in range(len(grid.columns))]
    return "".join(rf"p{{{TEXT_SHARE * root / sum(roots):.3f}\linewidth}}" for root in roots)


def _line(grid: Grid, row: GridRow) -> str:
    """Return a row whose entries each stand in one line, or in a column of texts."""
    between = escaped(grid.joint) if grid.numbers else r"\newline "
    texts = [between.join(map(escaped, [entry.text, *entry.more])) for entry in row.entries]
    marked = [_marked(entry, text) for entry, text in zip(row.entries, texts, strict=True)]
    ragged = [text if grid.numbers else rf"\raggedright {text}" for text in marked]
    return " & ".join([escaped(row.head), *ragged]) + END


def _lines(row: GridRow) -> Iterator[str]:
    """Yield a row whose entries stand in several lines, each a row of the table."""
    yield " & ".join([escaped(row.head), *(_marked(entry, escaped(entry.text)) for entry in row.entries)]) + END
    for line in range(max(len(entry.more) for entry in row.entries)):
        below = [entry.more[line] if line < len(entry.more) else "" for entry in row.entries]
        yield " & ".join(["", *(rf"{{\scriptsize {escaped(text)}}}" if text else "" for text in below)]) + END


def _marked(entry: Entry, text: str) -> str:
    return rf"\textbf{{{text}}}" if entry.best else text


_ESCAPES = {
    **{character: f"\\{character}" for character in "{}$&#%_"},
    **{character: f"{{{character}}}" for character in "[]*"},  # behind the end of a row they would be its options
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "`": r"\`{}",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_TOKEN = re.compile(
    rf"(?P<power>[{''.join(_SUPERSCRIPTS)}]+)"
    r"|(?P<percent>(?<=\d) %)"
    r"|(?P<minus>(?<![\w-])-(?=\d))"
    r"|(?P<twice>-(?=-)|,(?=,)|'(?='))"
    r"|(?P<other>.)",
)


def escaped(text: str) -> str:
    """Return a text as LaTeX sets it, whatever is in it.

    Letters that are neither ASCII nor among those that the report itself writes stay as they are: LaTeX knows
    those of European languages, XeLaTeX and LuaLaTeX what their font has.
    """

    def one(match: re.Match[str]) -> str:
        found = match[0]
        match match.lastgroup:
            case "power":
                return rf"\textsuperscript{{{''.join(map(_SUPERSCRIPTS.__getitem__, found))}}}"
            case "percent":
                return r"\,\%"
            case "minus":
                return "$-$"
            case "twice":
                return f"{found}{{}}"  # else two would become one other character
        return _ESCAPES.get(found, found)

    return _TOKEN.sub(one, text)
