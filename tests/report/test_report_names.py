"""Whatever methods and tiers are called, a finished sweep ends with its report, and names stand there as they are."""

import io
import re
from pathlib import Path

import pandas as pd
import pytest

from profl.bench.errors import InputError
from profl.bench.report import closing_table, write_comparison, write_report
from profl.bench.report.sheets import as_csv
from profl.bench.results import read_run
from profl.bench.terminal import Terminal
from profl.bench.validation import check_texts
from tests.report.conftest import write_cell

NAMES = [
    "[/] $\\frac{$ :smile: [bold]loud[/bold]",
    "=1+1 a$b",
    "@SUM(A1) $x_1$ [link=x]",
    "-2 a|b `c` *d* <b>&amp;\"'",
    "_hidden {x} %s %(y)d \\mathdefault \N{GRINNING FACE} é",
]


def test_names_that_mean_something_to_a_medium_stand_as_they_are(tmp_path: Path):
    names = NAMES
    for name in names:
        write_cell(tmp_path, name, "75%", rounds=2, like="heterofl", tier_file=f"tiers {names[0]} <b>")
    run = read_run(tmp_path)
    written = {path.name: path for path in write_report(run)}
    assert {name.rpartition(".")[2] for name in written} == {"png", "svg", "csv", "parquet", "md", "tex", "html"}
    shown = io.StringIO()
    Terminal(file=shown, width=2000).print(closing_table(run))
    for name in names:
        assert name in shown.getvalue()
    assert set(pd.read_parquet(written["cells.parquet"])["method"]) == set(names)
    told = pd.read_csv(written["cells.csv"])["method"]
    assert {name.removeprefix("'") for name in told} == set(names)
    assert not any(name.startswith(("=", "+", "-", "@")) for name in told)
    write_comparison([run, read_run(_copy(tmp_path))], tmp_path / "page.html")


def _copy(run: Path) -> Path:
    import shutil

    return shutil.copytree(run, run.parent / f"{run.name} [bold]")


def test_texts_that_begin_a_formula_get_an_apostrophe_and_numbers_none():
    frame = pd.DataFrame(
        {"text": ["=1", "+a", "-a", "@a", "\ta", "a=", None], "number": [-1.5] * 7, "=mixed": [-1, *"=bcdef"]}
    )
    again = pd.read_csv(io.StringIO(as_csv(frame)))
    assert again["text"].tolist()[:6] == ["'=1", "'+a", "'-a", "'@a", "'\ta", "a="]
    assert again["number"].tolist() == [-1.5] * 7
    assert again["'=mixed"].tolist() == ["-1", "'=", *"bcdef"]


@pytest.mark.parametrize("text", ["\x1b[31m", "a\x00", "\udcff", "\u202eb", "\x85", "\x7f"])
def test_nothing_that_steers_a_terminal_reaches_it(text: str, tmp_path: Path):
    shown = io.StringIO()
    terminal = Terminal(file=shown, width=80)
    terminal.print(f"a {text} b")
    assert shown.getvalue().isprintable() or set(shown.getvalue()) <= set("a [31mb\N{REPLACEMENT CHARACTER}\n")
    with pytest.raises(InputError, match=r"here: '.*' holds characters that cannot be shown") as refused:
        check_texts({"a": [("b", {text: 1})]}, "here")
    assert refused.value.args[0].isprintable()
    write_cell(tmp_path, "profl", "75%", rounds=1)
    (rows,) = tmp_path.glob("cells/*/rounds.jsonl")
    escaped = text.encode("unicode_escape").decode().replace("\\x", "\\u00")
    rows.write_text(
        re.sub(r'"checksum": "\w+"', '"checksum": "a"', rows.read_text()).replace('"grow', f'"{escaped}grow')
    )
    with pytest.raises(InputError):
        read_run(tmp_path)
