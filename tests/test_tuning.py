"""Every method's learning rate is chosen by one rule, on data that is not the test set."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from profl.bench.cli.sweep import tell_untuned
from profl.bench.config import cells, read_config
from profl.bench.errors import InputError
from profl.bench.results import Record
from profl.bench.results.folder import cell_folders
from profl.bench.tuning import at_each_rate, choose, rates_around, scores, table
from tests.conftest import small_cell
from tests.sweeps import CONFIG
from tests.test_cli import SMALL, profl


def found(accuracies: Mapping[tuple[str, str, int], tuple[float, ...]], rates: tuple[float, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {"method": method, "tier": tier, "seed": seed, "rate": rate, "score": accuracy}
        for (method, tier, seed), row in accuracies.items()
        for rate, accuracy in zip(rates, row, strict=True)
    )


def test_the_highest_mean_over_tiers_and_seeds_is_chosen_and_the_smaller_of_equals():
    frame = found(
        {
            ("a", "50%", 0): (0.5, 0.6, 0.9),
            ("a", "50%", 1): (0.5, 0.6, 0.1),
            ("a", "80%", 0): (0.5, 0.6, 0.5),
            ("b", "50%", 0): (0.25, 0.75, 0.75),
            ("c", "50%", 0): (0.75, 0.25, 0.5),
            ("d", "50%", 0): (0.25, 0.5, 0.75),
        },
        (0.01, 0.02, 0.04),
    )
    chosen = choose(frame.sample(frac=1, random_state=0))
    assert {name: (choice.rate, choice.end) for name, choice in chosen.items()} == {
        "a": (0.02, None),
        "b": (0.02, None),
        "c": (0.01, "smallest"),
        "d": (0.04, "largest"),
    }
    assert chosen["a"].score == pytest.approx(0.6)


def test_the_score_is_that_of_the_summary():
    cell = small_cell(seed=3)
    records = {
        rate: [Record("", "done", cell, {}, [], {}, [], {"last_five_accuracy": accuracy}, "")]
        for rate, accuracy in ((0.1, 0.5), (0.2, 0.75))
    }
    frame = scores(records)
    assert frame[["method", "tier", "seed", "rate", "score"]].to_numpy().tolist() == [
        ["fedavg", "unlimited", 3, 0.1, 0.5],
        ["fedavg", "unlimited", 3, 0.2, 0.75],
    ]


def test_every_rate_is_the_whole_sweep_with_data_held_out():
    rates = rates_around(0.05)
    assert rates == (0.025, 0.05, 0.1)
    sweeps = at_each_rate(replace(CONFIG, learning_rates={"heterofl": 3.0}), [0.1, 0.025, 0.1], 0.3)
    assert list(sweeps) == [0.025, 0.1]
    for rate, config in sweeps.items():
        assert {(cell.recipe.learning_rate, cell.recipe.held_out_share) for cell in cells(config)} == {(rate, 0.3)}
        assert len(cells(config)) == len(cells(CONFIG))


@pytest.mark.parametrize(
    ("changed", "rates", "share", "message"),
    [
        ({"memory_only": True}, [0.1], 0.2, "memory_only learns nothing"),
        ({}, [0.1], 0.0, "held_out_share = 0 leaves nothing to choose by"),
        ({}, [0.1], 1.0, r"recipe.held_out_share cannot be 1\.0"),
        ({}, [0.1, -0.1], 0.2, r"recipe.learning_rate cannot be -0\.1"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changed: dict, rates: list[float], share: float, message: str):
    with pytest.raises(InputError, match=message):
        at_each_rate(replace(CONFIG, **changed), rates, share)


@pytest.mark.usefixtures("commands_are_warm")
def test_tuning_prints_a_table_for_the_file_and_is_not_repeated(tmp_path: Path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    arguments = ["--config", path, "--tier", "100%", "--learning-rate", 1e-9, "--learning-rate", 0.05]
    arguments += ["--workers", 1, "--output", tmp_path / "rates"]
    done = profl("tune", *arguments)
    assert done.exit_code == 0, done.output
    path.write_text(SMALL + done.stdout)
    pasted = read_config(path).learning_rates
    assert set(pasted) == {"fedavg", "heterofl"}
    written = pd.read_csv(tmp_path / "rates" / "learning_rates.csv")
    assert list(written.columns)[-3:] == ["rate", "score", "chosen"]
    assert len(written) == 4
    assert written.groupby("method")["chosen"].sum().tolist() == [1, 1]
    means = written.set_index(["method", "rate"])["score"]
    assert pasted == {method: float(means[method].idxmax()) for method in pasted}
    assert done.stdout.count("tried: another may be better") == 2
    lone = {folder.path for rate in ("1e-09", "0.05") for folder in cell_folders(tmp_path / "rates" / rate)}
    before = {file: file.read_bytes() for folder in lone for file in folder.iterdir()}
    assert len(lone) == 4
    again = profl("tune", *arguments)
    assert again.stdout == done.stdout
    assert ": 2 are done" in " ".join(again.stderr.split())
    assert {file: file.read_bytes() for folder in lone for file in folder.iterdir()} == before
    further = profl("tune", *arguments[:4], "--method", "heterofl", "--learning-rate", 0.1, *arguments[8:])
    assert further.exit_code == 0, further.output
    every = pd.read_csv(tmp_path / "rates" / "learning_rates.csv")
    assert sorted(every.loc[every["method"] == "heterofl", "rate"]) == [1e-9, 0.05, 0.1]
    assert sorted(every.loc[every["method"] == "fedavg", "rate"]) == [1e-9, 0.05]
    assert every.groupby("method")["chosen"].sum().tolist() == [1, 1]


def test_a_rate_inside_the_grid_stands_alone():
    frame = found({("a", "50%", 0): (0.1, 0.3, 0.2)}, (0.01, 0.02, 0.04))
    assert table(choose(frame)) == "[learning_rates]\na = 0.02"


def test_methods_without_a_rate_of_their_own_are_named_beside_others_that_have_one(
    capsys: pytest.CaptureFixture[str],
):
    tell_untuned(CONFIG, "mine")
    tell_untuned(replace(CONFIG, learning_rates=dict.fromkeys(CONFIG.grid.method, 0.1)), "mine")
    assert capsys.readouterr().err == ""
    tell_untuned(replace(CONFIG, learning_rates={"heterofl": 0.3}), "mine")
    assert "fedavg, exclusive will train at the recipe's learning rate, 0.05, others" in capsys.readouterr().err
