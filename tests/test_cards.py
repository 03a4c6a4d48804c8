"""Method cards, and the page of them that is committed."""

from dataclasses import dataclass, field, fields
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from profl.bench.cards import card, method_table, page
from profl.bench.cli import main
from profl.bench.method import KINDS, FullModel, Method
from profl.bench.registry import method_class, methods
from tests.conftest import plug_in

ROOT = Path(__file__).parents[1]
OURS = sorted(name for name, point in methods().items() if point.value.startswith("profl."))


class Own(Method):
    """Trains [nothing] but ``this``.

    More of it.

    Raises
    ------
    InputError
        Never.
    """

    source = "an attic [1999]"
    deviations = ("It is smaller.", "It is later.")

    @dataclass(frozen=True)
    class Options:
        """Its knobs.

        Parameters
        ----------
        pace, push : float
            How ``fast``
            it goes [code].
        names
            A list.

        Notes
        -----
        Not shown.
        """

        pace: float = 0.5
        push: float | None = None
        names: list[str] = field(default_factory=lambda: ["a"])

    def all_tasks(self):
        return [FullModel(self.model)]

    def tasks(self):
        return self.all_tasks()


def test_the_committed_page_is_what_the_command_prints_of_our_methods():
    committed = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    assert committed == page(OURS), "make it anew: profl list cards > docs/methods.md"
    printed = CliRunner().invoke(main, ["list", "cards"], catch_exceptions=False).output
    assert all(card(name, method_class(name)) in printed for name in OURS)
    assert sorted(methods()) != OURS or printed == committed


def test_the_page_begins_with_a_list_that_leads_to_every_card():
    rows = [line for line in page(OURS).splitlines() if line.startswith("| [")]
    headings = [line.removeprefix("### ") for line in page(OURS).splitlines() if line.startswith("### ")]
    assert [row.split("](#")[1].split(")")[0] for row in rows] == headings
    assert sorted(headings) == OURS
    assert f"| [slt](#slt) | progressive | {method_class('slt').shrinks} |" in rows


@pytest.mark.parametrize("name", OURS)
def test_each_of_ours_says_what_it_is_and_documents_every_option(name: str):
    method = method_class(name)
    assert method.kind in KINDS
    assert method.shrinks
    assert method.source
    shown = card(name, method)
    for option in fields(method.Options):
        assert f"`{option.name}` = " in shown


def test_a_card_has_the_docstrings_options_and_deviations():
    lines = card("own", Own).splitlines()
    assert lines[:3] == ["### own", "", "Method cards, and the page of them that is committed."]
    assert "Trains [nothing] but `this`." in lines
    assert "More of it." in lines
    assert "Raises" not in lines
    assert "- Source: an attic [1999]." in lines
    assert "- `pace` = `0.5`, `push` = `None`: How `fast` it goes [code]." in lines
    assert '- `names` = `["a"]`: A list.' in lines
    assert lines[-4:] == ["Differs from what is published:", "", "- It is smaller.", "- It is later."]


def test_the_table_says_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch):
    plug_in(monkeypatch, "profl.methods", "own", f"{__name__}:Own")
    plug_in(monkeypatch, "profl.methods", "gone", "no_such_module:Method")
    console = Console(width=100, record=True, file=StringIO())
    console.print(method_table(["own", "gone", "heterofl", "fedavg"]))
    lines = [line for line in console.export_text().splitlines() if line.strip()]
    rows = [line.split() for line in lines]
    assert max(map(len, lines)) == 100
    names = [row[0] for line, row in zip(lines, rows, strict=True) if line[1] != " "]
    assert [name for name in names if name.isalpha()] == ["method", "fedavg", "heterofl", "own", "gone"]
    assert ["own", "-", "-", "an", "attic", "[1999]"] in rows
    assert next(row for row in rows if row[0] == "gone")[1:3] == ["?", "?"]
