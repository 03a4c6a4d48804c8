"""What documents say: links lead somewhere, commands run or at least parse, code and numbers are those of the files.

A comment before a block of code or a table says where it is from:

``<!-- from FILE -->``
    The block is part of that file.
``<!-- printed -->``
    Every line is printed by the commands before it.
``<!-- not run: REASON -->``, ``<!-- not checked: REASON -->``
    Neither run nor checked; its commands parse all the same.
``<!-- table: NAME -->``
    The numbers are made again, from committed result files or by measuring.

Commands without a comment are run.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from textwrap import indent

import click
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import profl.bench.memory
from profl.bench.cell import Recipe
from profl.bench.cli import main
from profl.bench.config import read_config
from profl.bench.memory import Prober
from profl.bench.method import FullModel, Task
from profl.bench.models import ModelSpec
from profl.bench.operations import operations_per_step
from profl.bench.presets import preset
from profl.bench.registry import method_class, methods
from profl.bench.report import View
from profl.bench.report.budgets import budgets_frame
from profl.bench.report.spread import Spread, over_seeds
from profl.bench.report.study import studies
from profl.bench.results import Run, read_run
from profl.bench.survey.methods import PUBLISHED_WIDTHS
from profl.bench.technique import PLAIN, Technique
from profl.bench.training import TrainingWorkload
from profl.growing import GrowTask
from tests.conftest import plug_in
from tests.hardware import convolutions_on_card
from tests.pytorch.listed import MEMORY_TESTS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
TESTS = [*ROOT.glob("tests/**/*.py"), ROOT / "bench/conformance.py"]
MADE_BY_COMMANDS = {"results/run-default"}
"""Paths that documents name and that are not committed."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code, or a table, in a document.

    Parameters
    ----------
    place
        Document and line, for messages.
    language
        As the fence names it; ``table``.
    mark
        The comment on the line before, without its brackets; empty if there is none.
    """

    place: str
    language: str
    mark: str
    lines: tuple[str, ...]

    @property
    def is_run(self) -> bool:
        return not self.mark.startswith("not run: ")

    @property
    def commands(self) -> list[list[str]]:
        return [words for line in self.lines if (words := shlex.split(line, comments=True))]


def blocks_of(document: Path) -> Iterator[Block]:
    lines = document.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        start, fence = number, re.fullmatch(r"```(\w*)", lines[number])
        number += 1
        if fence:
            number = lines.index("```", number) + 1
            inside = lines[start + 1 : number - 1]
        elif lines[start].startswith("|"):
            while number < len(lines) and lines[number].startswith("|"):
                number += 1
            inside = lines[start:number]
        else:
            continue
        comment = re.fullmatch(r"<!-- (.*) -->", lines[start - 1])
        place = f"{document.relative_to(ROOT)}:{start + 1}"
        yield Block(place, fence[1] if fence else "table", comment[1] if comment else "", tuple(inside))


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def each(blocks: Iterable[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in blocks])


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


@cache
def prose(document: Path) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(document: Path) -> set[str]:
    """Return what headings are called in addresses, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


each_document = pytest.mark.parametrize(
    "document", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]
)


# --- links, files, figures ---


@each_document
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_document
def test_files_that_are_named_exist(document: Path):
    folders = "bench|profl|baselines|tests|examples|results|docs"
    for name in re.findall(rf"`((?:{folders})/[\w./*-]*)`", prose(document)):
        assert name.rstrip("/") in MADE_BY_COMMANDS or list(ROOT.glob(name)), name


@each_document
def test_figures_stand_beside_the_command_that_makes_them(document: Path):
    for section in re.split(r"^##? ", document.read_text(encoding="utf-8"), flags=re.MULTILINE):
        if "![" in section:
            makes = r"profl (report results/\S+|measure .*--plot|survey methods)|python -m tests\."
            assert re.search(makes, section), section[:80]


def test_the_door_is_short_and_leads_to_every_document():
    door = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(door.splitlines()) <= 150
    for document in DOCUMENTS[1:]:
        assert f"]({document.relative_to(ROOT)})" in door


def test_the_timeline_at_the_door_is_of_the_board_of_the_results_below():
    door = (ROOT / "README.md").read_text(encoding="utf-8")
    (gpu,) = re.findall(r"^profl measure .* --gpu (\S+) --plot ", door, flags=re.MULTILINE)
    assert gpu == read_config(preset("default")).gpu


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


# --- code ---


@each(of("python", "toml", "yaml", "latex", ""))
def test_code_is_that_of_a_file_or_says_why_not(block: Block):
    kind, _, rest = block.mark.partition(" ")
    assert kind in ("from", "not", "printed"), f"{block.place} does not say where it is from"
    if kind == "from":
        text = "\n".join(block.lines)
        known = (ROOT / rest).read_text(encoding="utf-8")
        assert any(indent(text, " " * depth) in known for depth in (0, 4)), f"{block.place} is not in {rest}"


# --- commands ---


def parsed(words: list[str]) -> None:
    """Parse a command without running it; `click.UsageError` if it has no such option, argument or choice."""
    command: click.Command | None = main
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        command = command.get_command(click.Context(command), name)
        assert command is not None, f"no command {name} in {shlex.join(words)}"
    if rest or not isinstance(command, click.Group):
        with suppress(click.exceptions.Exit):  # of --help and --version
            command.make_context(words[0], rest)


def test_a_command_that_does_not_parse_is_found():
    for right in (["measure", "--method", "profl"], ["measure", "--help"], ["--version"]):
        parsed(right)
    for wrong in (
        ["--verbose"],
        ["measure", "--methd", "profl"],
        ["list", "gpu"],
        ["fit"],
        ["survey", "models", "--workers", "0"],
    ):
        with pytest.raises(click.UsageError):
            parsed(wrong)
    with pytest.raises(AssertionError, match="no command swep"):
        parsed(["swep"])


@pytest.fixture
def _examples_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know the names of what the examples plug in, which parsing looks up; nothing of them is imported."""
    for package in sorted((ROOT / "examples").glob("*/pyproject.toml")):
        for group, points in tomllib.loads(package.read_text())["project"]["entry-points"].items():
            for name, value in points.items():
                plug_in(monkeypatch, group, name, value)


@pytest.mark.usefixtures("_examples_installed")
@each(of("sh"))
def test_commands_of_blocks_parse(block: Block):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for program, *words in block.commands:
        if program == "profl":
            parsed(words)
        elif program == "make":
            assert set(words) <= set(targets)
        else:
            assert not block.is_run, f"{block.place}: only profl is run from documents, not {program}"


@each_document
def test_commands_in_sentences_parse(document: Path):
    for text in re.findall(r"`(profl [^`]+)`", prose(document)):
        words = shlex.split(text.replace("\n", " "))[1:]
        try:
            parsed(words)
        except click.MissingParameter:
            assert len(words) == 1, f"{text} lacks something"  # the name of a command stands for it


@pytest.fixture
def cli(prober: Prober, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command in an empty folder, with the worker process that is warm already; return what it prints."""
    for module in (profl.bench.memory, sys.modules[Prober.__module__]):
        monkeypatch.setattr(module, "Prober", lambda: nullcontext(prober))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return run


def squeezed(line: str) -> str:
    return " ".join(line.split())


@each(block for block in of("sh") if block.is_run)
def test_commands_run_and_print_what_is_said(block: Block, cli: Callable[..., str]):
    printed = "".join(cli(*words) for _, *words in block.commands)
    following = BLOCKS[BLOCKS.index(block) + 1]
    said = following.lines if following.mark == "printed" else ()
    assert {squeezed(line) for line in said} <= {squeezed(line) for line in printed.splitlines()}


def test_what_is_printed_follows_a_command_that_is_run():
    for before, block in pairwise(BLOCKS):
        assert block.mark != "printed" or (before.language == "sh" and before.is_run), block.place
    languages = {block.language for block in BLOCKS}
    assert languages == {"python", "toml", "yaml", "csv", "latex", "", "sh", "table"}  # those that tests look at


# --- tables ---


def mebibytes(size: float) -> str:
    return f"{size / 2**20:.0f}"


def percent(share: float, form: str = ".1f") -> str:
    return f"{100 * share:{form}} %"


def accuracy(method: str, tier: str) -> str:
    """Return a cell of the table of the default run, as its report writes it."""
    (_, *tiers), *rows = table_of(next(blocks_of(ROOT / "results/default/report/results.md")))
    return {name: shown for name, *shown in rows}[method][tiers.index(tier)]


def surveyed() -> pd.DataFrame:
    return pd.read_csv(ROOT / "results/survey/models.csv")


def models(step: str, gpu: str) -> str:
    name, precision = step.split(", ")
    table = surveyed()
    found = table[(table["model"] == name) & (table["precision"] == precision) & (table["gpu"] == f"virtual:{gpu}")]
    quantities = ("peak_requested", "peak_allocated", "peak_reserved", "least_budget")
    return " / ".join(mebibytes(found[f"{quantity}_bytes"].item()) for quantity in quantities)


def estimates(quantity: str, board: str) -> str:
    """Return mean and largest relative error, the latter with its sign."""
    table = surveyed().set_index(["model", "precision", "batch_size", "image_size"])
    sizes = table[f"{quantity.replace(' ', '_')}_bytes"]
    by_gpu = {kind: sizes[table["gpu"] == f"{kind}:{board}"] for kind in ("estimate", "virtual")}
    errors = (by_gpu["estimate"] / by_gpu["virtual"] - 1).dropna()
    assert len(errors) == 48
    return f"{percent(errors.abs().mean())}, {percent(errors[errors.abs().idxmax()], '+.1f')}"


def recorders(step: str, recorder: str) -> str:
    table = pd.read_csv(ROOT / "results/survey/recorders.csv")
    rows = table[table["subject"] == step].set_index("recorder")
    if recorder == "one plain CPU step":
        return f"{rows['cpu_step_seconds'].iloc[0]:.1f} s"
    row = rows.loc[recorder if recorder != "profl" else "profl, virtual:h100"]
    error = percent(row["error_to_requested"], "+.1f") if row["error_to_requested"] else "0"
    return f"{error}, {row['seconds']:.1f} s"


def deviations(method: str, _: str) -> str:
    return " ".join(method_class(method.strip("`")).deviations)


def farthest(table: pd.DataFrame, quantity: str) -> str:
    """Return the largest relative difference of the virtual GPU from the card, with its sign."""
    differences = table[f"virtual_{quantity}_bytes"] / table[f"card_{quantity}_bytes"] - 1
    largest = differences[differences.abs().idxmax()]
    return percent(largest, "+.2f") if largest else "equal"


def card_steps(kind: str, column: str) -> str:
    table = pd.read_csv(ROOT / "results/card/h100-steps.csv")
    kinds = table["step"].str.extract(r"^(?:(\w+): )?", expand=False).fillna("in the ways that people write them")
    steps = table if kind == "all" else table[kinds == kind]
    peaks = ("requested", "allocated", "reserved")
    equal = [(steps[f"virtual_{peak}_bytes"] == steps[f"card_{peak}_bytes"]) for peak in peaks]
    if column.startswith("farthest "):
        return farthest(steps, column.removeprefix("farthest "))
    return {
        "steps": str(len(steps)),
        "equal in all three peaks": str((equal[0] & equal[1] & equal[2]).sum()),
        "equal in requested": str(equal[0].sum()),
        "requested within 1 %": str(
            (steps["virtual_requested_bytes"] / steps["card_requested_bytes"] - 1).abs().le(0.01).sum()
        ),
    }[column]


def tasks_on_card() -> pd.DataFrame:
    return pd.read_csv(ROOT / "results/card/h100-tasks.csv").astype({"technique": "string"})


def card_models(which: str, column: str) -> str:
    table = tasks_on_card()
    model, _, with_techniques = which.partition(", ")
    chosen = (table["technique"] != "none") == bool(with_techniques)
    tasks = table if which == "all" else table[chosen & (table["model"] == model.strip("`"))]
    differences = (tasks["virtual_peak_requested_bytes"] / tasks["card_peak_requested_bytes"] - 1).abs()
    if column.startswith("farthest "):
        return farthest(tasks, f"peak_{column.removeprefix('farthest ')}")
    if column.startswith("requested within "):
        return str(differences.le(int(column.split()[2]) / 100).sum())
    peaks = [f"peak_{name}_bytes" for name in ("requested", "allocated", "reserved")]
    equal = pd.concat([tasks[f"card_{peak}"] == tasks[f"virtual_{peak}"] for peak in peaks], axis=1)
    return str(len(tasks) if column == "tasks" else equal.all(axis=1).sum())


def card_tasks(task: str, column: str) -> str:
    table = tasks_on_card()
    model, method, key, *way = task.split(", ")
    same = (table[["model", "method", "task", "technique"]] == [model, method, key, *(way or ["none"])]).all(axis=1)
    row = table[same].iloc[0]
    peak, _, shown = column.partition(", ")
    name = f"peak_{peak}_bytes" if peak != "least budget" else "least_budget_bytes"
    if shown == "MiB":
        return mebibytes(row[f"card_{name}"]) if pd.notna(row[f"card_{name}"]) else "?"
    difference = row[f"virtual_{name}"] / row[f"card_{name}"] - 1
    return "?" if pd.isna(difference) else percent(difference, "+.1f") if difference else "equal"


def card_saving(model: str, column: str) -> str:
    table = tasks_on_card()
    what, _, where = column.partition(", ")
    peak = f"{where or 'card'}_peak_requested_bytes"
    dearest = table[table["model"] == model.strip("`")].groupby(["method", "technique"])[peak].max()
    full = dearest["fedavg", "none"]
    if what == "full model":
        return f"{mebibytes(full)} MiB"
    part = dearest["profl", "none"] if what == "ProFL" else dearest["fedavg", what.strip("`")]
    return percent(1 - part / full, ".1f")


def of_kind(table: pd.DataFrame, kind: str) -> pd.Series:
    """Return which convolutions without groups are of a kind: ``1x1, forward``, ``larger, gradient of the weight``."""
    size, _, which = kind.partition(", ")
    one, ungrouped = table["kernel"] == 1, table["groups"] == 1
    rows = ungrouped & {"1x1": one, "larger": ~one, "all": ungrouped}[size]
    passes = {"": convolutions_on_card.PASSES, "forward": [""]}.get(which, [which.removeprefix("gradient of the ")])
    return rows & table["gradient_of"].isin(passes)


def card_convolutions(kind: str, column: str) -> str:
    table = convolutions_on_card.read(ROOT / "results/card/h100-convolutions.csv")
    differences = (table["virtual_workspace_bytes"] - table["card_workspace_bytes"])[of_kind(table, kind)]
    farthest = differences[differences.abs().idxmax()]
    return {
        "run": str(len(differences)),
        "equal": str((differences == 0).sum()),
        "within 1 KiB": str((differences.abs() <= 2**10).sum()),
        "virtual too small": str((differences < -(2**10)).sum()),
        "virtual too large": str((differences > 2**10).sum()),
        "farthest, MiB": f"{farthest / 2**20:+.1f}",
    }[column]


def card_plans(kind: str, column: str) -> str:
    table = convolutions_on_card.read(ROOT / "results/card/h100-plans.csv")
    rows = table[of_kind(table, kind)]
    less = rows["description_workspace_bytes"] - rows["handle_workspace_bytes"]
    assert (rows["handle_plan"] == rows["description_plan"]).all()
    hidden = rows[rows["description_plan"] != rows["no_driver_plan"]]
    return {
        "run": str(len(rows)),
        "left out without a driver": str(len(hidden)),
        "kernel": ", ".join(sorted(set(hidden["description_plan"].str.split().str[0]), key=int)) or "none",
        "131 bytes less with a handle": str((less == 131).sum()),
        "other with a handle": str((~less.isin([0, 131])).sum()),
    }[column]


def card_methods(method: str, column: str) -> str:
    table = tasks_on_card()
    tasks = table[table["method"] == method.strip("`")]
    differences = tasks["virtual_peak_requested_bytes"] / tasks["card_peak_requested_bytes"] - 1
    if column.startswith("within "):
        return str(differences.abs().le(int(column.split()[1]) / 100).sum())
    return {
        "tasks": str(len(tasks)),
        "most too small": percent(min(differences.min(), 0.0), ".1f"),
        "most too large": percent(max(differences.max(), 0.0), "+.1f"),
    }[column]


def versions(model: str, column: str) -> str:
    """Compare the virtual H100 of two versions, by requested peaks of tasks without techniques."""
    task = ["method", "task", "model"]
    older, newer = tasks_on_card(), pd.read_csv(ROOT / "results/paper-memory/methods.csv")
    newer = newer[(newer["gpu"] == "virtual:h100") & (newer["batch_size"] == 64)]
    older, newer = (
        table[(table["technique"] == "none") & (table["model"] == model.strip("`"))].set_index(task)
        for table in (older, newer)
    )
    differences = (newer["peak_requested_bytes"] / older["virtual_peak_requested_bytes"] - 1).dropna()
    return {
        "tasks": str(len(differences)),
        "within 1 %": str(differences.abs().le(0.01).sum()),
        "most smaller": percent(min(differences.min(), 0.0), ".1f"),
        "most larger": percent(max(differences.max(), 0.0), "+.1f"),
    }[column]


def other_card(what: str, column: str) -> str:
    if what == "convolutions, workspace":
        tables = (
            convolutions_on_card.read(ROOT / f"results/card/{card}-convolutions.csv") for card in ("h200", "h100")
        )
        (ours, first), name = (table[table["groups"] == 1] for table in tables), "workspace"
    else:
        steps = (pd.read_csv(ROOT / f"results/card/{card}-steps.csv").set_index("step") for card in ("h200", "h100"))
        (ours, first), name = steps, "requested"
        first = first.loc[ours.index]
    card, virtual = f"card_{name}_bytes", f"virtual_{name}_bytes"
    return {
        "run": str(len(ours)),
        "equal to the H100 card": str((ours[card] == first[card]).sum()),
        "virtual H200 equal to virtual H100": str((ours[virtual] == first[virtual]).sum()),
        "virtual H200 equal to the H200 card": str((ours[virtual] == ours[card]).sum()),
    }[column]


def ablated(name: str) -> pd.Series:
    """Return the scores of an ablation's seeds, in points."""
    return (
        100 * pd.read_csv(ROOT / f"results/ablations/{name}/report/cells.csv").set_index("seed")["last_five_accuracy"]
    )


def drop(name: str) -> float:
    """Return the mean points of accuracy that the first test of a growing block is below the last of the one before."""
    rounds = pd.read_csv(ROOT / f"results/ablations/{name}/report/rounds.csv").dropna(subset=["test_accuracy"])
    growing = rounds[rounds["phase"].str.startswith("grow")].sort_values(["cell", "round"])
    before = growing.groupby("cell")[["phase", "test_accuracy"]].shift()
    switched = before["phase"].notna() & (before["phase"] != growing["phase"])
    return 100 * (before["test_accuracy"] - growing["test_accuracy"])[switched].mean()


def ablations(name: str, column: str) -> str:
    scores = ablated(name.strip("`"))
    if column == "drop at a switch":
        return f"{drop(name.strip('`')):.0f}"
    if column == "score":
        return f"{scores.mean():.1f}"
    if name.strip("`") == "no-shrinking":
        return ""
    difference = over_seeds((scores - ablated("no-shrinking")).to_list())
    told = "" if difference.told_apart else ", not told apart"
    return f"{difference.mean:+.1f}, {difference.low:+.1f} to {difference.high:+.1f}{told}"


def claims(run: str, contender: str, column: str) -> str:
    """Return a cell of a table of one of the claims' runs: the report's own words, from the table that has them."""
    name = contender.strip("`")
    if column == "at equal operations, minus `profl`":
        if name == "profl" or pd.isna(beside_profl(name, run).loc[name, "difference"]):
            return ""  # one of the two was not tested by then
        return f"{equal_operations(name, 'difference', run)} (at {equal_operations(name, 'budget', run)})"
    tables = list(blocks_of(ROOT / f"results/claims/{run}/report/results.md"))
    accuracies, differences, _, costs = (
        {name.removesuffix(" (ideal)"): shown for name, *shown in table_of(block)[1:]} for block in tables
    )
    if column == "minus `profl`":
        return differences.get(name, [""])[0]
    if column == "operations":
        return costs[name][0].partition(" operations")[0]
    return (costs if column == "operations, bytes" else accuracies)[name][0]


def picture_rates(method: str, rate: str) -> str:
    table = pd.read_csv(ROOT / "results/claims/pictures_learning_rates.csv")
    tried = table[(table["method"] == method.strip("`")) & (table["rate"] == float(rate))]
    if tried.empty:
        return ""
    shown = f"{100 * tried['score'].mean():.1f}"
    return f"**{shown}**" if tried["chosen"].all() else shown


@cache
def claims_run(name: str) -> Run:
    return read_run(ROOT / "results/claims" / name)


@cache
def beside_profl(name: str, run: str) -> pd.DataFrame:
    """Return the scores of ProFL and one rival at equal operations, by method."""
    (pair,) = studies(claims_run(run), View(methods=("profl", name)))
    return budgets_frame(pair).query("budget == 'operations'").set_index("method")


def equal_operations(contender: str, column: str, run: str = "digits-dirichlet") -> str:
    """Return a cell of the table of ProFL and one rival at equal operations."""
    name = contender.strip("`")
    rows = beside_profl(name, run)
    if column.startswith("budget"):
        return f"{rows['amount'].iloc[0] / 1e9:.1f}"
    if column != "difference":
        return f"{100 * rows.loc['profl' if column.startswith('ProFL') else name, 'score']:.1f}"
    found = Spread(*rows.loc[name, ["difference", "difference_low", "difference_high"]])
    told = "" if found.told_apart else ", not told apart"
    return f"{100 * found.mean:+.1f}, {100 * found.low:+.1f} to {100 * found.high:+.1f}{told}"


def study(model: str, contender: str, gpu: str = "virtual:jetson-orin") -> pd.DataFrame:
    """Return the tasks of a method, or of one with a technique, in the memory study at batch 64, the dearest first."""
    table = pd.read_csv(ROOT / "results/paper-memory/methods.csv")
    method, _, technique = contender.partition(" with ")
    same = {"model": model, "method": method, "technique": technique or "none", "gpu": gpu, "batch_size": 64}
    for name, value in same.items():
        table = table[table[name] == value]
    return table.sort_values("peak_requested_bytes", ascending=False)


def in_study(row: pd.Series, column: str) -> str:
    """Return what a row of the memory study says, as tables write it."""
    name = {"peak": "peak_requested_bytes", "least budget": "least_budget_bytes", "up": "uploaded_bytes"}.get(column)
    if name:
        return f"{row[name] / 2**20:.1f} MiB" if name == "peak_requested_bytes" else f"{row[name] / 2**20:.3g} MiB"
    shares = {"saved": "peak_requested_reduction", "saved as a budget": "least_budget_reduction"}
    if column in shares:
        return percent(row[shares[column]])
    return {
        "operations": lambda: percent(row["operations_share"]),
        "devices": lambda: f"{row['eligible_devices']:.0f}",
        "task": lambda: f"`{row['task']}`",
    }[column]()


def memory(contender: str, column: str) -> str:
    """Return a cell of the table of all methods: ResNet18, dearest and cheapest task."""
    rows = study("resnet18", contender.strip("`"))
    which, _, quantity = column.partition(": ")
    return in_study(rows.iloc[0 if which == "dearest" else -1], quantity)


def combined(contender: str, technique: str) -> str:
    """Return a cell of the table of methods with techniques: what the dearest task saves; dash: refused."""
    method, model = contender.split(", ")
    rows = study(model, method.strip("`") + ("" if technique == "none" else f" with {technique}"))
    return "-" if rows.empty else in_study(rows.iloc[0], "saved")


def participants(where: str, column: str) -> str:
    """Return a cell of the table of who takes part: how many of the published fleet hold the dearest task."""
    model, board = where.split(", ")
    own = {"full model": "fedavg", "ProFL's dearest": "profl"}
    contender = own.get(column, column.replace("FedAvg", "fedavg"))
    return who_holds(study(model, contender, f"virtual:{board.strip('`')}"))


def participants_with_techniques(contender: str, technique: str) -> str:
    """Return a cell of the table of who takes part with techniques; dash: refused."""
    method, model = contender.split(", ")
    rows = study(model, method.strip("`") + ("" if technique == "none" else f" with {technique}"))
    return "-" if rows.empty else who_holds(rows)


def who_holds(rows: pd.DataFrame) -> str:
    """Return how many of the published fleet hold the task that needs most, and how many MiB that is."""
    return f"{rows['eligible_devices'].min():.0f} ({rows['least_budget_bytes'].max() / 2**20:.0f})"


def saving(model: str, column: str) -> str:
    """Return a cell of the table of what ProFL saves, by model."""
    if column == "full model":
        return in_study(study(model, "fedavg").iloc[0], "peak")
    if " with " in column:
        return in_study(study(model, f"fedavg{column[column.index(' with ') :]}").iloc[0], "saved")
    return in_study(study(model, "profl").iloc[0], column.removeprefix("ProFL's dearest: "))


def growth(what: str, column: str) -> str:
    """Return a cell of the table of how a sweep grows, at the smallest or the largest size of an axis."""
    table = pd.read_csv(ROOT / "docs/growth/growth.csv").query(f"axis == '{what.split('`')[1]}'")
    quantity, _, which = column.rpartition(": ")
    at = table[table["size"] == (table["size"].min() if which == "smallest" else table["size"].max())]
    shown = {"seeds": "seconds to draw", "rounds": "seconds of a round at the end"}
    values = at.set_index("what")["value"]
    seconds = shown.get(what.split("`")[1], "seconds a round")
    if column == "measured":
        return seconds
    if not quantity:
        return f"{at['size'].iloc[0]:,}"
    if quantity == "seconds":
        return f"{values[seconds]:.3g}"
    return f"{values['peak bytes of the process'] / 2**20:.0f} MiB"


FROM_FILES: dict[str, Callable[[str, str], str]] = {
    "claims": partial(claims, "digits-dirichlet"),
    "claims_iid": partial(claims, "digits-iid"),
    "claims_pictures": partial(claims, "pictures-dirichlet"),
    "claims_pictures_iid": partial(claims, "pictures-iid"),
} | {
    function.__name__: function
    for function in (
        accuracy,
        models,
        estimates,
        recorders,
        deviations,
        card_steps,
        card_models,
        card_saving,
        card_tasks,
        card_convolutions,
        card_methods,
        card_plans,
        versions,
        other_card,
        picture_rates,
        ablations,
        growth,
        equal_operations,
        combined,
        memory,
        participants,
        participants_with_techniques,
        saving,
    )
}
"""By the name of a table: what a cell says, given what its row and its column are called."""

MEASURED = {"published", "reduction", "steps", "techniques", "traces"}
"""Tables that tests of their own measure, those of traces in tests/hardware, of steps in tests/memory."""


def table_of(block: Block) -> list[list[str]]:
    """Return a table's cells, heading first."""
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.lines)
    return [heading, *rows]


def test_every_table_of_numbers_says_where_it_is_from():
    for block in BLOCKS:
        if block.language == "table" and any(re.search(r"\b\d", re.sub("`[^`]*`", "", line)) for line in block.lines):
            kind, _, name = block.mark.partition(": ")
            assert kind == "not checked" or (kind == "table" and name in {*FROM_FILES, *MEASURED}), block.place
    assert {block.mark.removeprefix("table: ") for block in BLOCKS} >= {*FROM_FILES, *MEASURED}


@each(block for block in of("table") if block.mark.removeprefix("table: ") in FROM_FILES)
def test_tables_are_those_of_the_result_files(block: Block):
    cell = FROM_FILES[block.mark.removeprefix("table: ")]
    (_, *columns), *rows = table_of(block)
    for row, *shown in rows:
        assert shown == [cell(row, column) for column in columns], row


def test_the_default_run_is_shown_whole():
    (block,) = (block for block in BLOCKS if block.mark == "table: accuracy")
    (_, *tiers), *rows = table_of(block)
    cells = pd.read_csv(ROOT / "results/default/report/cells.csv")
    assert {re.sub(r"\W*(\w+).*", r"\1", row[0]) for row in rows} == set(cells["method"])
    assert {*tiers, "unlimited"} == set(cells["tier"])


def test_the_deviations_of_every_method_are_shown_as_the_command_prints_them(cli: Callable[..., str]):
    (block,) = (block for block in BLOCKS if block.mark == "table: deviations")
    assert {row[0].strip("`") for row in table_of(block)[1:]} == {
        name for name, point in methods().items() if point.value.startswith("profl.")
    }
    assert set(block.lines) <= set(cli("list", "deviations").splitlines())


def test_what_techniques_save_is_measured_again(prober: Prober):
    """Every number of operations, and peaks of the first rows; plain steps are those of the reference."""
    (block,) = (block for block in BLOCKS if block.mark == "table: techniques")
    _, *shown = table_of(block)
    model, recipe = ModelSpec("resnet18", 64, 10), Recipe(batch_size=64)
    steps = {f"ProFL's `grow {block}`": GrowTask(model, block) for block in (1, 4)}
    tasks: dict[str, Task] = {"full model": FullModel(model), **steps}
    committed = json.loads((ROOT / "results/reference/default.json").read_text())["metrics"]
    for row, (what, peak, least, operations) in enumerate(shown):
        task, technique = what.rsplit(", ", 1)
        technique = Technique.parse(technique.strip("`"))
        assert f"{operations_per_step(tasks[task], model, recipe, technique) / 1e9:.1f} G" == operations
        scope = "fedavg" if task == "full model" else "profl"
        workload = TrainingWorkload(scope, model, tasks[task], recipe, technique)
        if technique == PLAIN:
            known = committed[workload.key]
            found = known["peak_requested_bytes"]
            assert f"{known['least_budget_bytes'] / 2**20:.0f} MiB" == least
        elif row < 3:
            found = prober.measure(workload, "virtual:jetson-orin", least_budget=False).peak_requested_bytes
        else:
            continue
        assert f"{found / 2**20:.1f} MiB" == peak


def least_saved(method: str) -> float:
    """Return by which share the dearest task of a method needs less at the peak, of the model where that is most."""
    models = pd.read_csv(ROOT / "results/paper-memory/methods.csv")["model"].unique()
    dearest = [study(model, method)["peak_requested_reduction"].head(1) for model in models]
    return pd.concat(dearest).max()


def slt_bytes(model: ModelSpec, batch_size: int) -> int:
    """Return what SLT's published code counts for plain training: outputs of all layers, tensors, gradients.

    Restated from memory/memory_configs_slt.py of k1l1/SLT: no optimizer, no workspaces, nothing that is freed.
    """
    outputs: list[int] = []
    module = model.skeleton()
    for part in module.modules():
        if not any(True for _ in part.children()):
            part.register_forward_hook(lambda part, inputs, output: outputs.append(output.numel()))
    module(torch.zeros(batch_size, *module.input_shape, device="meta"))
    tensors = sum(value.numel() for value in module.state_dict().values())
    return 4 * (sum(outputs) + tensors + sum(parameter.numel() for parameter in module.parameters()))


def test_what_was_published_stands_beside_what_the_memory_study_says():
    (block,) = (block for block in BLOCKS if block.mark == "table: published")
    shown = {figure: measured for figure, _, measured, _ in table_of(block)[1:]}
    full = study("resnet18", "fedavg").iloc[0]
    steps = study("resnet18", "profl").set_index("task")["peak_requested_bytes"]
    said = {"ProFL, full ResNet18": full["peak_requested_bytes"]}
    said |= {f"ProFL, block {block} of ResNet18": steps[f"grow {block}"] for block in (1, 2, 3, 4)}
    expected = {figure: f"{size / 1e6:.0f} MB" for figure, size in said.items()}
    expected["ProFL, saved by these thresholds"] = percent(
        study("resnet18", "profl")["peak_requested_reduction"].iloc[0]
    )
    expected["ProFL, saved at most"] = percent(least_saved("profl"))
    formula = slt_bytes(ModelSpec("resnet18", 64, 10), 64)
    expected["SLT, its formula for full ResNet18"] = f"{full['peak_requested_bytes'] / 1e6:.0f} MB"
    assert f"{formula / 1e6:.0f} MB" in next(line for line in block.lines if "SLT, its formula" in line)
    expected["NeuLite, saved at most"] = percent(study("resnet34", "neulite")["peak_requested_reduction"].iloc[0])
    means = {name: study(name, "smartfreeze")["peak_requested_reduction"].mean() for name in PUBLISHED_WIDTHS}
    best = max(means, key=lambda name: means[name])
    assert best == "mobilenet_v2"  # as the table names it
    expected["SmartFreeze, saved on average"] = percent(means[best])
    for figure, measured in expected.items():
        assert shown[figure].startswith(measured), (figure, measured)
    assert set(shown) == set(expected)


@each_document
def test_tests_that_are_named_exist(document: Path):
    known = {name for file in TESTS for name in re.findall(r"^def (test_\w+)", file.read_text(), flags=re.MULTILINE)}
    known |= {name for names in MEMORY_TESTS.values() for name in names}  # PyTorch's own
    assert set(re.findall(r"`(test_\w+)`", prose(document))) <= known


def test_the_memory_that_profl_saves_is_measured_again(cli: Callable[..., str]):
    (block,) = (block for block in BLOCKS if block.mark == "table: reduction")
    _, *rows = table_of(block)
    for *_, whole, step, reduction, _, _ in rows:
        share = 1 - float(step.removesuffix(" MiB")) / float(whole.removesuffix(" MiB"))
        assert reduction == percent(share)
    model, gpu, *shown = rows[0]
    chosen = ["--method", "fedavg", "--method", "profl", "--task", "full model", "--task", "grow 1"]
    setting = ["--model", model, "--batch-size", "64", "--gpu", gpu.replace(" ", ":"), "--json"]
    full, grow = json.loads(cli("measure", *chosen, *setting))["tasks"]
    peaks = [task["peak_requested_bytes"] for task in (full, grow)]
    budgets = [task["least_budget_bytes"] for task in (full, grow)]
    shares = [percent(1 - smaller / larger) for larger, smaller in (peaks, budgets)]
    assert shown[:4] == [*(f"{peak / 2**20:.1f} MiB" for peak in peaks), *shares]
