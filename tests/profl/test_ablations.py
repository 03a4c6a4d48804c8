"""The committed ablations: each line of the script is a sweep that can be run, and no two are the same."""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from profl.bench.config import experiments, override, read_config, read_options
from profl.bench.presets import preset
from profl.method import ProFL

SCRIPT = Path(__file__).parents[2] / "results" / "ablations" / "run.sh"


@pytest.fixture
def run(tmp_path):
    """Returns ``run(*arguments)``: status, what the script would run, by output folder, and its errors."""
    stub = tmp_path / "profl"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)

    def script(*arguments):
        variables = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["sh", SCRIPT, *arguments], env=variables, capture_output=True, text=True)
        commands = [line.split() for line in done.stdout.splitlines()]
        return done.returncode, {words[words.index("--output") + 1]: words for words in commands}, done.stderr

    return script


def cells(words):
    assert words[:3] == ["sweep", "--preset", "ablation"]
    options = [text for flag, text in itertools.pairwise(words) if flag == "--option"]
    return experiments(override(read_config(preset("ablation")), {}, read_options(options)))


def test_every_ablation_is_a_sweep_of_its_own(run):
    status, commands, _ = run()
    assert status == 0
    folders = [experiment.cell.folder_name for words in commands.values() for experiment in cells(words)]
    assert len(set(folders)) == len(folders) == 3 * len(commands)
    assert len(commands) > 10


def test_least_rounds_of_shrinking_are_more_than_its_share_gives(run):
    _, commands, _ = run()

    def rounds(name):
        (first, *_) = cells(commands[f"results/ablations/{name}"])
        method = first.method()
        assert isinstance(method, ProFL)
        return {step.task.key: step.rounds for step in method.steps}

    shares, leasts = rounds("map-rate"), rounds("map-rate-and-rounds")
    assert all(leasts[key] > shares[key] for key in shares if not key.startswith("grow"))


def test_one_by_name(run):
    status, commands, _ = run("warm-up")
    assert (status, list(commands)) == (0, ["results/ablations/warm-up"])
    status, commands, error = run("warm")
    assert (status, commands) == (2, {})
    assert "there is no ablation 'warm': choose one of published no-shrinking" in error
