"""A run's page: one file that holds what the frames hold, and answers pointer, finger and keyboard."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profl.bench.config import cells, read_config
from profl.bench.errors import InputError
from profl.bench.memory.plot import CATEGORY_COLOURS
from profl.bench.memory.timeline import Timeline, pack, unpack
from profl.bench.memory.workload import CATEGORIES
from profl.bench.presets import presets
from profl.bench.report import write_report
from profl.bench.report.figures import FIGURES
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.latex import latex
from profl.bench.report.looks import looks
from profl.bench.report.page import write_page
from profl.bench.report.page.dark import in_the_dark
from profl.bench.report.page.grids import largest_blocks, matrix, summary
from profl.bench.report.page.headline import WORDS, what_was_run
from profl.bench.report.page.records import environments, fleets, recipes
from profl.bench.report.page.reproduce import configurations
from profl.bench.report.page.writing import KINDS, TABLES, inline, joined
from profl.bench.report.ranking import best_methods
from profl.bench.report.score import SCORE
from profl.bench.report.study import studies
from profl.bench.report.style import README, mebibytes
from profl.bench.report.tables import write_tables
from profl.bench.results import Record, Run, peak_column, read_run
from tests.report.browser import browser, prefer, requested, resize
from tests.report.conftest import MIB, TASKS, write_cell

HOSTILE = "</script><script>window.injected = true</script>"
MEGABYTES = 10**6
NAMED = {figure.name: figure for figure in FIGURES}


def made_up_timeline(task: str, moments: int = 300) -> Timeline:
    """Every category rises and falls; the peak is inside."""
    draw = random.Random(task)
    live = {name: [0] * moments for name in CATEGORIES}
    for name in CATEGORIES:
        size, at = 0, 0
        while at < moments:
            hold = draw.randint(1, 20)
            live[name][at : at + hold] = [size] * len(live[name][at : at + hold])
            size, at = draw.randint(0, 4 * MIB), at + hold
    return Timeline(live, ((0, "prepare"), (40, "forward"), (120, "backward"), (200, "optimizer"), (250, "between")))


def peak_of(timeline: Timeline) -> int:
    """The first moment of the peak."""
    totals = [sum(live) for live in zip(*timeline.live_bytes.values(), strict=True)]
    return totals.index(max(totals))


@pytest.fixture(scope="module")
def shown(run_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run with troubles, with timelines of profl and a hostile environment; its report drawn."""
    path = tmp_path_factory.mktemp("shown") / "study"
    shutil.copytree(run_path, path)
    for cell in path.glob("cells/profl-*"):
        packed = {task: pack(made_up_timeline(task)) for task, _ in TASKS["profl"]}
        (cell / "timelines.json").write_text(json.dumps(packed))
        (cell / "environment.json").write_text(json.dumps({"torch": "2.11", "host": HOSTILE}))
    write_report(read_run(path))
    run = read_run(path)
    write_page(run, path / "report")
    return run


def write_without_drawing(path: Path) -> Path:
    """Write the page of a run whose figures are empty pictures."""
    run, folder = read_run(path), path / "report"
    folder.mkdir()
    parts = list(studies(run))
    for study in parts:
        for name in NAMED:
            figure = folder / (f"{name}-{study.name}.svg" if len(parts) > 1 else f"{name}.svg")
            figure.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><path id="a"/></svg>')
    write_tables(run, parts, folder)
    return write_page(run, folder)


def page_of(run: Run) -> Path:
    return run.path / "report" / "index.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(driver: Any, shown: Run) -> Any:
    """The page, freshly loaded on a wide screen."""
    resize(driver, 1400)
    prefer(driver, "light")
    driver.get_log("browser")
    requested(driver)
    driver.get(page_of(shown).as_uri())
    return driver


class Structure(HTMLParser):
    """What a page links to, and whether its tables can be read aloud."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.named_by: list[str] = []
        self.tables = self.captions = 0
        self.headings: list[str] = []
        self.bare_headings = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for name in ("href", "src", "action", "data") if (value := given.get(name))]
        self.ids += [value] if (value := given.get("id")) else []
        self.named_by += [value] if (value := given.get("aria-labelledby")) else []
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.headings += [tag] if tag in ("h1", "h2", "h3", "h4") else []
        self.bare_headings += tag == "th" and "scope" not in given


# what is written


def test_a_page_is_one_file_that_links_to_nothing_but_itself(shown: Run):
    structure = Structure(page_of(shown).read_text())
    assert {link.split(":")[0] for link in structure.links if not link.startswith("#")} == {"data"}
    inner = {link[1:] for link in structure.links if link.startswith("#")}
    assert inner <= set(structure.ids)
    assert len(structure.ids) == len(set(structure.ids))


def test_a_page_can_be_read_aloud(shown: Run):
    structure = Structure(page_of(shown).read_text())
    assert structure.tables == structure.captions > 8
    assert structure.bare_headings == 0
    assert set(structure.named_by) <= set(structure.ids)
    levels = [int(tag[1]) for tag in structure.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_the_committed_run_makes_a_page_below_5_megabytes(tmp_path: Path):
    committed = Path(__file__).parents[2] / "results" / "default"
    shutil.copytree(committed / "report", tmp_path / "report")
    page = write_page(read_run(committed), tmp_path / "report")
    assert 0.5 * MEGABYTES < page.stat().st_size < 5 * MEGABYTES
    assert "This run kept no timelines" in page.read_text() or any(committed.glob("cells/*/timelines.json"))


def test_the_same_results_give_the_same_bytes(shown: Run):
    before = page_of(shown).read_bytes()
    write_page(read_run(shown.path), shown.path / "report")
    assert page_of(shown).read_bytes() == before


def test_the_headline_says_what_was_run_and_the_words_are_explained(shown: Run):
    (study,) = studies(shown)
    text = unescape(page_of(shown).read_text()).replace("\xa0", " ")
    assert "<h1>study</h1>" in text
    assert what_was_run(study) in text
    for word, meaning in WORDS.items():
        assert text.index(f"<dt>{word}</dt><dd>{meaning}</dd>") < text.index("Results by method and tier</h3>")
    assert "6 methods beside 1 ideal (fedavg) trained resnet18 (width 16) on digits for 30 rounds, with 1 seed" in text
    assert "decided by the memory, measured on a virtual GPU (jetson-orin)." in text


def test_a_missing_figure_is_named_with_the_remedy(shown: Run, tmp_path: Path):
    with pytest.raises(InputError, match=r"cells\.csv is missing: write the figures and tables first"):
        write_page(shown, tmp_path)


def test_two_studies_have_their_own_figures_and_no_id_twice(tmp_path: Path):
    for model in ("resnet18", "vgg11"):
        write_cell(tmp_path, "profl", "50%", rounds=2, model=model)
    structure = Structure(write_without_drawing(tmp_path).read_text())
    assert len(structure.ids) == len(set(structure.ids))
    assert structure.headings.count("h2") == 5  # two studies, environment, again, downloads


def test_a_run_that_has_measured_nothing_yet_has_a_page(tmp_path: Path):
    write_cell(tmp_path, "profl", "50%", status="waiting")
    for path in tmp_path.glob("cells/*/footprints.json"):
        path.unlink()
    structure = Structure(write_without_drawing(tmp_path).read_text())
    assert structure.tables == structure.captions > 0


def test_an_svg_keeps_its_references_and_loses_its_header():
    svg = """<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
      width="9pt" height="9pt" viewBox="0 0 9 9"><metadata/><!-- said --><defs><style>*{}</style><path id="a"/></defs>
      <g clip-path="url(#a)"><use xlink:href="#a"/></g></svg>"""
    text = str(inline(svg, "one", 'is < "two"'))
    assert 'id="one-a"' in text
    assert 'href="#one-a"' in text
    assert "url(#one-a)" in text
    assert 'aria-label="is &lt; &quot;two&quot;"' in text
    assert not any(part in text for part in ("<?xml", "metadata", "style", "said", "xlink", "width"))


# timelines


@given(st.lists(st.tuples(*[st.integers(0, 2**40)] * len(CATEGORIES)), min_size=1, max_size=20))
def test_a_timeline_comes_back_from_its_changes(moments: list[tuple[int, ...]]):
    live = {name: list(values) for name, values in zip(CATEGORIES, zip(*moments, strict=True), strict=True)}
    timeline = Timeline(live, ((0, "prepare"), (len(moments) - 1, "forward")))
    assert unpack(json.loads(json.dumps(pack(timeline)))) == timeline


def test_a_timeline_that_changes_seldom_is_short():
    live = {name: [7 * MIB] * 5000 for name in CATEGORIES}
    assert len(json.dumps(pack(Timeline(live, ())))) < 500


@pytest.mark.parametrize(
    "damage",
    [
        [],
        {"grow 1": {}},
        {"grow 1": {"moments": 2, "phases": [], "changes": {"inputs": [[9, 1]]}}},
        {"grow 1": {"moments": 2, "phases": [[0]], "changes": {}}},
    ],
)
def test_damaged_timelines_are_refused_by_name(tmp_path: Path, damage: Any):
    write_cell(tmp_path, "profl", "50%", rounds=1)
    (cell,) = tmp_path.glob("cells/*")
    (cell / "timelines.json").write_text(json.dumps(damage) if damage else '["grow 1"]')
    with pytest.raises(InputError, match=r"timelines\.json.*delete .* to run it again"):
        read_run(tmp_path)


# what stands in the tables


def texts(grid: Grid) -> dict[tuple[str, str], list[str]]:
    return {
        (group, row.head): [entry.text for entry in row.entries] for group, rows in grid.groups.items() for row in rows
    }


def test_the_summary_marks_the_best_and_says_what_is_missing(run: Run):
    (study,) = studies(run)
    grid = summary(study)
    best = best_methods(study)
    for row in grid.groups[""]:
        method = row.head.removesuffix(" (ideal)")
        assert [entry.best for entry in row.entries] == [method in best[tier] for tier in study.tiers]
        for tier, entry in zip(study.tiers, row.entries, strict=True):
            accuracy = study.spreads(SCORE)[method, tier]
            assert entry.text == (f"{100 * accuracy.mean:.1f} %" if accuracy.known else "?")
            assert ("nobody can train" in entry.more) == study.idle(method, tier)
    (depthfl,) = [row for row in grid.groups[""] if row.head == "depthfl"]
    assert ("?", ("failed", "10 of 30 rounds")) in [(entry.text, entry.more) for entry in depthfl.entries]


def test_the_matrix_counts_devices_by_their_budgets(run: Run):
    (study,) = studies(run)
    records = run.records
    grid = matrix(study, fleets(records, study.cells))
    found = texts(grid)
    budgets = {r.cell.tier: r.cell.budgets(int(study.cells["full_model_least_budget_bytes"].max())) for r in records}
    least = study.footprints.set_index(["method", "task"])["least_budget_bytes"]
    assert len(found) == len(least) == sum(map(len, TASKS.values()))
    assert "of 20 devices" in grid.caption
    for pair, counts in found.items():
        assert counts == [str(sum(size >= least[pair] for size in budgets[tier])) for tier in study.tiers], pair
    assert 0 < int(found["heterofl", "width 1.0"][study.tiers.index("100..500MiB")]) < 20


def test_the_matrix_says_what_it_cannot_know(make_run):
    run = make_run({"method": "profl", "tier": "50%", "rounds": 2, "status": "stopped"})
    (study,) = studies(run)
    assert set(texts(matrix(study, fleets(run.records, study.cells)))["profl", "grow 1"]) == {"?"}


def test_the_matrix_shows_the_range_over_seeds(make_run):
    run = make_run(*({"method": "exclusive", "tier": "100..500MiB", "rounds": 2, "seed": seed} for seed in range(3)))
    (study,) = studies(run)
    found = fleets(run.records, study.cells)
    least = study.footprints.set_index("task")["least_budget_bytes"]["width 1.0"]
    counts = [sum(size >= least for size in fleet) for fleet in found["100..500MiB"]]
    assert len(set(counts)) > 1
    assert texts(matrix(study, found))["exclusive", "width 1.0"] == [f"{min(counts)} to {max(counts)}"]


def test_the_tables_of_the_figures_hold_the_frames(run: Run):
    (study,) = studies(run)
    prints = study.footprints.set_index(["method", "task"])
    for pair, entries in texts(NAMED["peak_memory"].grid(study)).items():
        row = prints.loc[pair]
        parts = [mebibytes(row[peak_column(name)]) for name in CATEGORIES]
        peaks = [mebibytes(row[name]) for name in ("peak_requested_bytes", "least_budget_bytes")]
        assert entries == [*parts, *peaks, "?"]  # of steps whose operations nobody counted
    grid = NAMED["learning_curves"].grid(study)
    tested = study.rounds.dropna(subset=["test_accuracy"]).set_index(["method", "tier", "round"])["test_accuracy"]
    number = int(grid.columns[-1].removeprefix("round "))
    assert number == study.rounds["round"].max()
    expected = f"{100 * tested['profl', '75%', number]:.1f} %"
    (label,) = [study.tier_label(tier, between=" · ") for tier in study.tiers if tier == "75%"]
    assert texts(grid)[label, "profl"][-1] == expected


def test_long_curves_are_thinned_and_keep_the_last_round(make_run):
    run = make_run({"method": "fedavg", "tier": "50%", "rounds": 101})
    (study,) = studies(run)
    grid = NAMED["learning_curves"].grid(study)
    assert grid.columns[-1] == "round 100"  # rounds are tested at even numbers
    assert 10 < len(grid.columns) <= 24
    assert "rounds.csv" in grid.note


def test_blocks_show_their_module_and_operator_where_they_are_known():
    plain = {"task": "grow 1", "largest_blocks": [{"bytes": 2 * MIB, "category": "workspace"}]}
    assert largest_blocks([("profl", plain)]).columns == ["MiB", "category"]
    named = {"bytes": MIB, "category": "activations", "module": "stages.0", "operator": "aten::conv2d"}
    grid = largest_blocks([("profl", plain), ("profl", {"task": "grow 2", "largest_blocks": [named]})])
    assert grid.columns == ["MiB", "category", "module", "operator"]
    assert texts(grid)["profl: grow 1", "1."] == ["2.00", "workspace", "?", "?"]
    assert texts(grid)["profl: grow 2", "1."] == ["1.00", "activations", "stages.0", "aten::conv2d"]


def test_the_configuration_gives_the_same_cells_again(tmp_path: Path):
    expected = cells(read_config(presets()["default"]))
    records = [Record(cell.folder_name, "waiting", cell, {}, [], {}, [], {}, "") for cell in expected]
    ((name, toml),) = configurations(records).items()
    path = tmp_path / name
    path.write_text(toml)
    again = cells(read_config(path))
    assert sorted(cell.folder_name for cell in again) == sorted(cell.folder_name for cell in expected)


# in a browser


def state(driver: Any) -> dict[str, int]:
    """Return what the timeline shows: its window and the moment."""
    found = driver.execute_script("return {...document.querySelector('.timeline').dataset}")
    return {name: int(found[name]) for name in ("from", "to", "moment")}


def readout(driver: Any) -> dict[str, int]:
    """Return the bytes of the readout by category."""
    return driver.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.readout tr')]"
        ".map(row => [row.cells[0].innerText.trim(), +row.cells[1].dataset.bytes]))"
    )


def press(driver: Any, *keys: str) -> None:
    driver.find_element("css selector", ".chart").send_keys(*keys)


def act(driver: Any, name: str) -> None:
    driver.find_element("css selector", f"[data-act={name}]").click()


def row_of(timeline: Timeline, moment: int) -> dict[str, int]:
    live = {name: timeline.live_bytes[name][moment] for name in CATEGORIES}
    return {**live, "together": sum(live.values())}


FIRST = made_up_timeline(TASKS["profl"][0][0])


def test_a_page_opens_without_complaint_and_without_the_network(opened: Any):
    urls = requested(opened)
    assert urls
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}
    assert opened.get_log("browser") == []
    assert opened.execute_script("return window.injected") is None
    assert HOSTILE in opened.execute_script("return document.querySelector('#environment').parentElement.innerText")


@pytest.mark.parametrize("width", [390, 800, 1400, 1920])
def test_nothing_sticks_out_of_the_page(opened: Any, width: int):
    resize(opened, width)
    opened.execute_script("document.querySelectorAll('details').forEach(it => { it.open = true })")
    seen, room = opened.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert room == width
    assert seen <= width
    chart = opened.execute_script("return document.querySelector('.chart').getBoundingClientRect().width")
    assert 0.4 * min(width, 900) < chart < width


def test_every_figure_is_there_with_text_and_table(opened: Any):
    found = opened.execute_script(
        "return [...document.querySelectorAll('figure')].map(it => [it.id,"
        " it.querySelector('svg[role=img]').getAttribute('aria-label'), it.querySelectorAll('details table').length,"
        " it.querySelector('svg').getBoundingClientRect().height])"
    )
    assert [name for name, *_ in found] == [name for name in NAMED if name != "memory_by_round"]
    for name, label, tables, height in found:
        assert label.startswith(NAMED[name].title)
        assert tables == 1
        assert height > 100


def test_the_table_beside_a_figure_equals_the_frame(opened: Any, shown: Run):
    (study,) = studies(shown)
    shares = study.spreads("participation_share")
    rows = opened.execute_script(
        "return [...document.querySelectorAll('#participation details tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )
    assert [row[0].removesuffix(" (ideal)") for row in rows] == study.methods
    for method, *entries in rows:
        spreads = [shares[method.removesuffix(" (ideal)"), tier] for tier in study.tiers]
        assert entries == [f"{100 * spread.mean:.0f} %" if spread.known else "?" for spread in spreads]


def test_the_timeline_starts_at_the_peak(opened: Any):
    assert state(opened) == {"from": 0, "to": 299, "moment": peak_of(FIRST)}
    assert readout(opened) == row_of(FIRST, peak_of(FIRST))
    assert "the peak" in opened.find_element("css selector", ".chart").get_attribute("aria-valuetext")


def test_hovering_shows_the_moment_below_the_pointer(opened: Any):
    from selenium.webdriver import ActionChains

    chart = opened.find_element("css selector", ".chart")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    seen = []
    for share in (-0.3, 0.2):
        ActionChains(opened).move_to_element_with_offset(chart, int(share * chart.size["width"]), 0).perform()
        seen.append(state(opened)["moment"])
        assert readout(opened) == row_of(FIRST, seen[-1])
        line = opened.execute_script("return +document.querySelector('.cursor').getAttribute('x1')")
        assert abs(line - (0.5 + share) * chart.size["width"]) < 4
    assert 30 < seen[0] < 110 < 190 < seen[1] < 240
    assert "backward" in opened.find_element("css selector", ".readout caption").text or seen[1] >= 200


def test_the_keyboard_moves_zooms_and_resets(opened: Any):
    from selenium.webdriver import Keys

    press(opened, Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert state(opened)["moment"] == 1
    assert readout(opened) == row_of(FIRST, 1)
    chart = opened.find_element("css selector", ".chart")
    assert chart.get_attribute("aria-valuenow") == "1"
    assert chart.get_attribute("aria-valuetext").startswith("Event 1 of 299, prepare: ")
    press(opened, Keys.PAGE_UP, Keys.PAGE_UP)
    assert 58 <= state(opened)["moment"] <= 62
    press(opened, "+", "+")
    zoomed = state(opened)
    assert zoomed["to"] - zoomed["from"] == pytest.approx(299 / 4, abs=2)
    assert zoomed["from"] <= zoomed["moment"] <= zoomed["to"]
    press(opened, Keys.END)
    assert state(opened)["to"] == state(opened)["moment"] == 299
    press(opened, "p")
    assert state(opened)["moment"] == peak_of(FIRST)
    press(opened, "0")
    assert (state(opened)["from"], state(opened)["to"]) == (0, 299)


def test_dragging_zooms_to_what_was_chosen_and_a_double_click_resets(opened: Any):
    from selenium.webdriver import ActionChains

    chart = opened.find_element("css selector", ".chart")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    drawn = "return document.querySelector('[data-category=workspace]').getAttribute('d')"
    before = opened.execute_script(drawn)
    width = int(0.2 * chart.size["width"])
    ActionChains(opened).move_to_element(chart).click_and_hold().move_by_offset(width, 0).release().perform()
    zoomed = state(opened)
    assert zoomed["from"] == pytest.approx(145, abs=8)
    assert zoomed["to"] - zoomed["from"] == pytest.approx(0.2 * 299, abs=12)
    assert opened.execute_script(drawn) != before
    ActionChains(opened).move_to_element(chart).double_click().perform()
    assert (state(opened)["from"], state(opened)["to"]) == (0, 299)
    assert opened.execute_script(drawn) == before


def test_the_buttons_do_the_same(opened: Any):
    reset = opened.find_element("css selector", "[data-act=reset]")
    assert not reset.is_enabled()
    act(opened, "in")
    assert state(opened)["to"] - state(opened)["from"] == pytest.approx(150, abs=2)
    assert reset.is_enabled()
    act(opened, "out")
    assert (state(opened)["from"], state(opened)["to"]) == (0, 299)
    press(opened, "\ue011")  # Home
    act(opened, "peak")
    assert state(opened)["moment"] == peak_of(FIRST)


def test_another_task_can_be_chosen_and_shares_the_scale_on_request(opened: Any):
    from selenium.webdriver.support.select import Select

    select = Select(opened.find_element("css selector", ".controls select"))
    assert [option.text for option in select.options] == [f"profl: {task}" for task, _ in TASKS["profl"]]
    select.select_by_visible_text("profl: grow 1")
    timeline = made_up_timeline("grow 1")
    assert state(opened)["moment"] == peak_of(timeline)
    assert readout(opened) == row_of(timeline, peak_of(timeline))
    assert "profl, grow 1" in opened.execute_script(
        "return document.querySelector('.timeline details caption').textContent"
    )
    top = "return +document.querySelector('.mark').getAttribute('cy')"
    alone = opened.execute_script(top)
    opened.find_element("css selector", ".check input").click()
    assert opened.execute_script(top) > alone  # some other task is higher


def test_the_timeline_has_a_table_of_its_phases(opened: Any):
    rows = opened.execute_script(
        "return [...document.querySelectorAll('.timeline details tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert [row[0] for row in rows] == [
        "prepare", "forward, step 1", "backward, step 1", "optimizer, step 1", "between, step 1",
    ]  # fmt: skip
    totals = [sum(live) for live in zip(*FIRST.live_bytes.values(), strict=True)]
    assert float(rows[2][2]) == pytest.approx(max(totals[120:200]) / MIB, abs=0.01)
    assert int(rows[2][1]) == 120 + totals[120:200].index(max(totals[120:200]))


def test_downloads_are_the_files_of_the_report(opened: Any, shown: Run):
    links = opened.execute_script(
        "return [...document.querySelectorAll('#downloads + ul a')].map(it => [it.download, it.href])"
    )
    folder = shown.path / "report"
    tables = [f"{name}.{kind}" for name in TABLES for kind in KINDS]
    assert [name for name, _ in links] == [name for name in tables if (folder / name).exists()]
    assert {"cells.csv", "cells.parquet", "results.md"} <= {name for name, _ in links}
    for name, link in links:
        assert base64.b64decode(link.partition("base64,")[2]) == (folder / name).read_bytes()


def test_a_figure_can_be_had_as_svg_and_as_png_of_the_size_of_the_file(opened: Any, shown: Run):
    assert opened.execute_script(
        "return [...document.querySelectorAll('.formats')].every(it => it.querySelectorAll('button').length === 2)"
    )
    opened.set_script_timeout(30)
    svg, head, size = opened.execute_async_script(
        "const done = arguments[0], figure = document.querySelector('#participation');"
        "(async () => { const png = await pictureKinds.png(figure);"
        " done([await (await pictureKinds.svg(figure)).text(),"
        " [...new Uint8Array(await png.arrayBuffer())].slice(0, 24), png.size]); })()"
    )
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    written = (shown.path / "report" / "participation.png").read_bytes()
    assert bytes(head[:16]) == written[:16]  # a PNG
    sizes = [[int.from_bytes(bytes(it[at : at + 4]), "big") for at in (16, 20)] for it in (head, written)]
    assert sizes[0] == pytest.approx(sizes[1], abs=1)
    assert size > 10_000  # not a blank


def test_a_figure_that_is_wider_than_a_phone_says_so_and_scrolls(opened: Any):
    hint = "return [...document.querySelectorAll('figure > .hint')].map(it => it.offsetHeight > 0)"
    assert not any(opened.execute_script(hint))
    resize(opened, 390)
    assert all(opened.execute_script(hint))
    inner, outer = opened.execute_script(
        "const it = document.querySelector('.picture'); return [it.scrollWidth, it.clientWidth]"
    )
    assert outer < 390 < 600 < inner


def test_a_table_that_is_wider_than_a_phone_says_so_and_no_other_does(opened: Any):
    resize(opened, 390)
    boxes = opened.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => setTimeout(() => done("
        "[...document.querySelectorAll('.scroll:not(.picture)')].filter(it => it.checkVisibility()).map(it =>"
        " [it.scrollWidth > it.clientWidth + 1, it.previousElementSibling.matches('.hint') &&"
        " it.previousElementSibling.offsetHeight > 0])), 100))"
    )
    assert len(boxes) > 4
    assert {wider for wider, _ in boxes} == {True, False}
    assert all(wider == said for wider, said in boxes)


def test_the_contents_are_whole_on_a_phone(opened: Any):
    resize(opened, 390)
    ends = opened.execute_script(
        "return [...document.querySelectorAll('nav a')].map(it => it.getBoundingClientRect().right)"
    )
    assert len(ends) == 7
    assert max(ends) <= 390


def test_no_line_ends_between_a_number_and_what_it_is_of():
    assert joined("exclusive 91.1, fedavg (ideal) 97.6 > profl 95.5 %") == (
        "exclusive\u00a091.1, fedavg (ideal)\u00a097.6 > profl\u00a095.5\u00a0%"
    )
    assert joined("nobody can train") == "nobody can train"


def test_the_sign_of_the_unknown_is_explained_where_it_is():
    """Wherever a table goes."""
    for note, entry, explained in (
        ("One.", Entry("?"), "One. ? unknown."),
        ("", Entry("12 MiB", ("? up, 3 down",)), "? unknown."),
        ("One.", Entry("1", ("2",)), "One."),
        ("", Entry("1"), ""),
    ):
        grid = Grid("caption", "corner", ["one", "two"], {"": [GridRow("head", [Entry("2"), entry])]}, note)
        assert grid.explained == explained
        assert ("? unknown." in "\n".join(latex(grid, README, "tab:one"))) == ("unknown" in explained)


def test_settings_are_told_as_people_write_them(shown: Run):
    found = environments(shown.records)["memory"]
    assert found["is virtual"] == ["yes"]
    assert found["total bytes"] == ["8,589,934,592 (8 GiB)"]
    assert recipes(shown.records)["recipe"]["gradient norm"] == ["no"]


def test_on_paper_the_timeline_and_the_configuration_are_shown(opened: Any):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        seen = opened.execute_script(
            "const high = (query) => [...document.querySelectorAll(query)].map(it => it.offsetHeight ??"
            " it.getBoundingClientRect().height);"
            "return [high('.chart svg'), high('.controls select'), high('.controls button'),"
            " high('#again ~ details pre')]"
        )
        chart, task, buttons, configuration = seen
        assert chart[0] > 100
        assert task[0] > 0
        assert not any(buttons)
        assert configuration[0] > 100
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_on_paper_nothing_scrolls_and_all_is_light(opened: Any):
    prefer(opened, "dark")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        resize(opened, 700)
        cut, paper, hidden = opened.execute_script(
            "const all = (query) => [...document.querySelectorAll(query)];"
            "all('.hint')[0].classList.add('shown');"  # as of a table that the screen was too narrow for
            "return [all('.scroll').filter(it => getComputedStyle(it).overflowX !== 'visible').length,"
            " getComputedStyle(document.documentElement).getPropertyValue('--card').trim(),"
            " all('nav, .hint, .formats').every(it => getComputedStyle(it).display === 'none')]"
        )
        assert (cut, paper, hidden) == (0, "#ffffff", True)
        widths = opened.execute_script(
            "return [...document.querySelectorAll('.picture svg')].map(it => it.clientWidth)"
        )
        assert max(widths) <= 700
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_finger_scrubs_and_does_not_zoom(opened: Any):
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.interaction import POINTER_TOUCH
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    resize(opened, 390)
    chart = opened.find_element("css selector", ".chart")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    box = opened.execute_script("return arguments[0].getBoundingClientRect().toJSON()", chart)
    middle = int(box["y"] + box["height"] / 2)
    seen = []
    for end in (0.6, 0.8):
        touch = ActionBuilder(opened, mouse=PointerInput(POINTER_TOUCH, "finger"))
        touch.pointer_action.move_to_location(int(box["x"] + 0.3 * box["width"]), middle).pointer_down()
        touch.pointer_action.move_to_location(int(box["x"] + end * box["width"]), middle).pointer_up()
        touch.perform()
        seen.append(state(opened))
        assert readout(opened) == row_of(FIRST, seen[-1]["moment"])
    assert 100 < seen[0]["moment"] < 190 < seen[1]["moment"]
    assert (seen[1]["from"], seen[1]["to"]) == (0, 299)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened: Any, scheme: str):
    prefer(opened, scheme)
    colours = opened.execute_script(
        "const style = getComputedStyle(document.documentElement);"
        "return Object.fromEntries(['ink', 'soft', 'accent', 'card', 'paper', 'best', 'warn', 'best-line']"
        ".map(name => [name, style.getPropertyValue('--' + name).trim()]))"
    )
    assert (luminance(colours["paper"]) > 0.5) == (scheme == "light")
    pairs = [("ink", ground) for ground in ("card", "paper", "best", "warn")]
    pairs += [(text, ground) for text in ("soft", "accent") for ground in ("card", "paper")]
    for text, ground in pairs:
        high, low = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_the_dark_figures_and_timeline_have_colours_of_their_own(opened: Any, scheme: str):
    prefer(opened, scheme)
    places = {
        ".picture [style*='stroke: #0072b2']": ("stroke", "#0072b2"),  # a line
        ".picture [style*='fill: #444444']": ("fill", "#444444"),  # a text
        ".chart [data-category=parameters]": ("fill", CATEGORY_COLOURS["parameters"]),
        ".readout tr:nth-last-child(2) .swatch": ("backgroundColor", CATEGORY_COLOURS["parameters"]),
        ".summary tr:nth-child(4) .dot": ("backgroundColor", looks(["depthfl"], [])["depthfl"].colour),
    }
    for place, (part, colour) in places.items():
        shown = opened.execute_script(
            "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", place, part
        )
        red, green, blue = (int(number) for number in re.findall(r"\d+", shown)[:3])
        expected = in_the_dark(colour) if scheme == "dark" else colour.lower()
        assert f"#{red:02x}{green:02x}{blue:02x}" == expected, place


def luminance(colour: str) -> float:
    """As the web's accessibility guidelines define it, of ``#rrggbb``."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_without_timelines_the_page_says_so(driver: Any, tmp_path: Path):
    write_cell(tmp_path, "profl", "50%", rounds=2)
    driver.get_log("browser")
    driver.get(write_without_drawing(tmp_path).as_uri())
    assert "This run kept no timelines" in driver.find_element("css selector", ".missing").text
    assert driver.find_elements("css selector", ".timeline") == []
    assert driver.get_log("browser") == []
