"""What ``profl show`` prints, draws and writes of a snapshot."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from matplotlib.image import imread

from profl.bench.cli import main
from profl.bench.memory.snapshot.summary import _PLACES
from tests.memory.snapshot.made import BACKWARD, BLAS, FORWARD, MIB, event, segment, snapshot, written

EVIL = '[red]<script>alert(1)</script>"\x1b]0;owned\x07\u202e$x^2$'


def profl(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def two_gpus(name: str = "forward") -> dict[str, Any]:
    frames = [*FORWARD[:-1], {**FORWARD[-1], "name": name}]
    stamped = {"user_metadata": name} if name == EVIL else {}
    first = [
        event("alloc", 4096, 5 * MIB, frames=frames, time_us=10, **stamped),
        event("alloc", 16 * MIB, 3 * MIB, frames=BACKWARD, time_us=20),
        event("free_completed", 16 * MIB, 3 * MIB, time_us=30),
        event("alloc", 32 * MIB, 8_519_680, frames=BLAS, time_us=40),
    ]
    blocks = [(4096, 5 * MIB, 5 * MIB), (32 * MIB, 8_519_680, 8_519_680)]
    return snapshot([segment(4096, 64 * MIB, blocks)], first, [event("alloc", 512, 7)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "two.pickle", two_gpus())


def test_the_peak_of_each_gpu(path: Path) -> None:
    result = profl("show", path)
    assert result.exit_code == 0
    assert "GPU 0: peak requested 13.1 MiB (13,762,560 B) at event 4 of 4, 0.000 s after the first" in result.output
    assert "GPU 1: peak requested 0.0 MiB (7 B) at event 1 of 1" in result.output
    assert "study/network.py:12" in result.output
    assert "careful: 1 x a block that no event releases" in result.output
    assert "replay" not in result.output
    assert "replay: the model reserves" in profl("show", path, "--replay").output


def test_json_tells_what_the_tables_do(path: Path) -> None:
    told = json.loads(profl("show", path, "--json").output)
    first, second = told["devices"]
    assert first["peak_requested_bytes"] == 13_762_560
    assert first["peak_reserved_bytes"] == 64 * MIB
    assert (first["peak_event"], first["peak_seconds"]) == (4, 30e-6)
    groups = {group["name"]: group["bytes"] for group in first["groups"]}
    assert groups == {"forward": 5 * MIB, "workspace": 8_519_680}
    assert sum(place["bytes"] for place in first["places"]) == first["peak_requested_bytes"]
    assert first["largest_blocks"][0] == {
        "bytes": 8_519_680,
        "group": "workspace",
        "place": "train.py:1 main",
        "operator": "?",
    }
    assert second["peak_requested_bytes"] == 7
    assert first["replayed"] is None


def test_of_many_places_the_rest_is_summed(tmp_path: Path) -> None:
    log = [event("alloc", 512 * at, at, frames=[{"name": "f", "filename": "x.py", "line": at}]) for at in range(1, 100)]
    path = written(tmp_path / "many.pickle", snapshot([], log))
    (device,) = json.loads(profl("show", path, "--json").output)["devices"]
    places = device["places"]
    assert len(places) == _PLACES
    assert places[-1]["name"] == f"({99 - _PLACES + 1} more)"
    assert sum(place["bytes"] for place in places) == sum(range(1, 100))


def test_a_packed_snapshot_is_the_same(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "two.pickle.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert profl("show", packed).output == profl("show", path).output


def test_nothing_happened(tmp_path: Path) -> None:
    path = written(tmp_path / "empty.pickle", snapshot([], []))
    assert profl("show", path, "--page", tmp_path / "page.html").output.startswith("nothing was allocated")
    assert "Nothing was allocated" in (tmp_path / "page.html").read_text()


def test_texts_of_the_file_are_shown_as_they_are(tmp_path: Path) -> None:
    result = profl("show", written(tmp_path / "evil.pickle", two_gpus(EVIL)), "--replay")
    assert result.exit_code == 0
    assert "[red]" in result.output
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", result.output)


def test_a_plot_of_each_gpu(path: Path, tmp_path: Path) -> None:
    result = profl("show", path, "--plot", tmp_path / "plots" / "lines.png")
    assert result.exit_code == 0
    for index in (0, 1):
        assert imread(tmp_path / "plots" / f"lines-{index}.png").std() > 0.05
    svg = tmp_path / "one.svg"
    alone = {**two_gpus(EVIL), "device_traces": two_gpus(EVIL)["device_traces"][:1]}
    name = "$a^b.pickle"
    assert profl("show", written(tmp_path / name, alone), "--plot", svg).exit_code == 0
    assert svg.read_text().count("<svg") == 1


class Page(HTMLParser):
    """Collects what a browser would load or run, and the texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_page_that_needs_nothing_else_and_runs_nothing(tmp_path: Path) -> None:
    page = tmp_path / "pages" / "page.html"
    path = written(tmp_path / "evil.pickle", {**two_gpus(EVIL), "allocator_settings": {"<b>": "<script>"}})
    assert profl("show", path, "--page", page).exit_code == 0
    text = page.read_text()
    read = Page(text)
    assert "script" not in read.tags
    assert len(read.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in read.addresses)
    assert any("<script>alert(1)</script>" in part for part in read.texts)
    assert any("13,762,560" in part for part in read.texts)
    assert text == (profl("show", path, "--page", page), page.read_text())[1]


def test_the_same_file_gives_the_same_page(path: Path, tmp_path: Path) -> None:
    pages = [tmp_path / name for name in ("one.html", "two.html")]
    for page in pages:
        assert profl("show", path, "--page", page).exit_code == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_what_is_wrong_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "evil.pickle"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    result = profl("show", path)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {path} is no snapshot that can be read (it holds the instruction GLOBAL")
    assert result.output.count("\n") == 1


def test_a_plot_that_cannot_be_drawn_is_refused(path: Path, tmp_path: Path) -> None:
    result = profl("show", path, "--plot", tmp_path / "plot.xyz")
    assert result.exit_code == 1
    assert "choose a file that ends in .png, .svg, .pdf" in result.output


def test_showing_a_snapshot_needs_no_torch(path: Path) -> None:
    script = (
        "import sys; from profl.bench.memory.snapshot import reading, history, summary, replaying, tables; "
        f"from pathlib import Path; value = reading.read_snapshot(Path({str(path)!r})); "
        "[summary.summary(value, history.TracedHistory(device), replay=True) for device in value.devices.values()]; "
        "print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
