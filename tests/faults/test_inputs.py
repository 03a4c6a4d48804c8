"""Every kind of file that is read is damaged at random: what can be read is taken, the rest refused in one line."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from profl.bench.config import experiments, read_config
from profl.bench.data.picture import FORMATS, read_picture
from profl.bench.data.users import users_of_pictures
from profl.bench.errors import InputError
from profl.bench.fleet import Tier
from profl.bench.memory.comparison.run_file import read_runs, write_runs
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.snapshot.reading import read_snapshot
from profl.bench.reference import read_reference
from profl.bench.survey.models import TABLE
from tests.faults.harm import harmed
from tests.memory.snapshot.made import FORWARD, MIB, event, segment, snapshot, written
from tests.memory.test_run_file import OTHER, RUN

ROOT = Path(__file__).parents[2]
Make = Callable[[Path], Path]
Read = Callable[[Path], Any]


def config(folder: Path) -> Path:
    path = folder / "study.toml"
    path.write_text((ROOT / "examples/my-study.toml").read_text())
    return path


def budgets(folder: Path) -> Path:
    path = folder / "budgets.txt"
    path.write_text("512MiB\n1.5GiB  # a board\n\n900MB\n" * 5)
    return path


def reference(folder: Path) -> Path:
    path = folder / "default.json"
    path.write_bytes((ROOT / "results/reference/default.json").read_bytes())
    return path


def runs(folder: Path) -> Path:
    write_runs(folder / "run.json", [RUN, OTHER])
    return folder / "run.json"


def zipped_runs(folder: Path) -> Path:
    write_runs(folder / "run.json.gz", [RUN, OTHER])
    return folder / "run.json.gz"


def memory_snapshot(folder: Path) -> Path:
    log = [event("alloc", MIB, 512, frames=FORWARD), event("free_completed", MIB, 512), event("alloc", MIB, 512)]
    return written(folder / "snapshot.pickle", snapshot([segment(MIB, 2 * MIB, [(MIB, 512, 500)])], log))


def survey(folder: Path) -> Path:
    path = folder / "models.csv"
    path.write_text("".join((ROOT / "results/survey/models.csv").read_text().splitlines(keepends=True)[:6]))
    return path


def users(folder: Path) -> Path:
    with open(folder / "users.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["picture", "user"])
        rows.writerows([f"cat/{number}.png", f"user {number % 3}"] for number in range(10))
    return folder / "users.csv"


def picture(kind: str) -> Make:
    def make(folder: Path) -> Path:
        path, content = folder / f"picture-{kind}", io.BytesIO()
        Image.effect_noise((9, 7), 40).convert("RGB").save(content, kind)
        path.write_bytes(content.getvalue())
        return path

    return make


INPUTS: dict[str, tuple[Make, Read]] = {
    "sweep": (config, lambda path: experiments(read_config(path))),
    "budgets": (budgets, lambda path: Tier.parse(str(path))),
    "reference": (reference, read_reference),
    "runs": (runs, read_runs),
    "zipped runs": (zipped_runs, read_runs),
    "snapshot": (memory_snapshot, read_snapshot),
    "survey": (survey, TABLE.read),
    "users": (users, lambda path: users_of_pictures(path.parent, [])),
    **{kind: (picture(kind), read_picture) for kind in FORMATS},
}


def refusal(read: Read, path: Path) -> str:
    """Read a file; return why it is refused, or nothing."""
    try:
        read(path)
    except (InputError, GpuUnavailable) as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", INPUTS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name: str, tmp_path: Path):
    make, read = INPUTS[name]
    path = make(tmp_path)
    assert not refusal(read, path)
    content, draw = path.read_bytes(), random.Random(name)
    refused = 0
    for _ in range(150):
        damaged = content
        for _ in range(draw.randint(1, 3)):
            damaged = harmed(damaged, draw) or b"\0"
        path.write_bytes(damaged)
        if said := refusal(read, path):
            refused += 1
            assert "\n" not in said
    assert refused > 0
