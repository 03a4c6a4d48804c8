"""Who holds which training picture: as a folder says, held out alike, dealt alike; what is not clear is refused."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from profl.bench.config import Config, Grid, experiments
from profl.bench.data import DATASETS, load_dataset, users_of
from profl.bench.data.held_out import held_out, hold_out
from profl.bench.data.partition import Natural, parse_scheme, partition
from profl.bench.engine import InProcess
from profl.bench.errors import InputError
from profl.bench.federation import Federation, run_cell
from profl.bench.measuring import workloads
from profl.bench.memory.process.probe import Prober
from profl.bench.results.folder import folder_of
from profl.bench.sweep import run_sweep
from tests.sweeps import CONFIG, GRID, Silent, bits

HELD = {"cat": "cabca", "dog": "bbaad"}
"""Users of the training pictures 0, 1, ... of each class."""

USERS = [2, 0, 1, 2, 0, 1, 1, 0, 0, 3]


def draw(root: Path, by_folder: bool, held: dict[str, str] = HELD) -> Path:
    """Draw two classes; each training picture is as bright as its user's letter."""
    for split in ("train", "test"):
        for label, users in held.items():
            for number, user in enumerate(users):
                folder = root / split / label / (user if by_folder and split == "train" else "")
                folder.mkdir(parents=True, exist_ok=True)
                shade = 40 * "abcdef".index(user) + 10
                Image.new("L", (32, 32), shade).save(folder / f"{number}.png")
    if not by_folder:
        lines = [f"{label}/{number}.png,{user}" for label, users in held.items() for number, user in enumerate(users)]
        (root / "users.csv").write_text("\n".join(["picture,user", *lines]))
    return root


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return draw(tmp_path, by_folder=False)


@pytest.fixture
def sorted_by_user(tmp_path: Path) -> Path:
    return draw(tmp_path, by_folder=True)


def test_a_list_says_who_holds_each_picture(listed: Path):
    assert users_of("imagefolder", listed).tolist() == USERS
    assert users_of("imagefolder", listed).dtype == torch.int64


def test_a_list_may_have_more_columns_lines_and_blanks(listed: Path):
    lines = (listed / "users.csv").read_text().splitlines()[:0:-1]
    rows = [f"{number}, {line.split(',')[1]} ,./{line.split(',')[0]}" for number, line in enumerate(lines)]
    text = "\r\n".join(["\ufeffnumber,user,picture", *rows, rows[0], "99,e,emu/0.png", ""])
    (listed / "users.csv").write_text(text, encoding="utf-8")
    assert users_of("imagefolder", listed).tolist() == USERS


@pytest.mark.parametrize("by_folder", [False, True])
def test_a_dataset_tells_its_users_if_it_is_asked(tmp_path: Path, by_folder: bool):
    dataset = load_dataset("imagefolder", draw(tmp_path, by_folder), with_users=True)
    assert dataset.users is not None
    # Every picture is as bright as its own user's letter: users are in the order of the pictures.
    shades = dataset.train_inputs[:, 0, 0, 0].tolist()
    seen = sorted(set(zip(dataset.users.tolist(), shades, strict=True)))
    assert [user for user, _ in seen] == [0, 1, 2, 3]
    assert [shade for _, shade in seen] == sorted(set(shades))
    assert sorted(dataset.users.tolist()) == sorted(USERS)
    assert load_dataset("imagefolder", tmp_path).users is None


def test_a_folder_of_one_name_in_two_classes_is_one_users(sorted_by_user: Path):
    users = users_of("imagefolder", sorted_by_user)
    assert users.tolist() == [0, 0, 1, 2, 2, 0, 0, 1, 1, 3]  # by folder within a class


def test_a_folder_without_users_is_read_as_ever(sorted_by_user: Path):
    Image.new("L", (32, 32)).save(sorted_by_user / "train" / "cat" / "5.png")
    (sorted_by_user / "users.csv").write_text("nonsense")
    assert len(load_dataset("imagefolder", sorted_by_user).train_targets) == 11


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "users.csv").unlink(),
            "{root} has no user for train/cat/0.png: sort all training pictures into train/CLASS/USER/, or list them "
            "in users.csv beside train, with the columns picture (CLASS/FILE) and user",
        ),
        (
            lambda root: (root / "users.csv").write_text("picture,user\ncat/0.png,c\n"),
            "{root}/users.csv has no user for cat/1.png: add a line",
        ),
        (
            lambda root: (root / "users.csv").write_text("picture,users\ncat/0.png,c\n"),
            "{root}/users.csv has no column user: add it",
        ),
        (
            lambda root: (root / "users.csv").write_text(""),
            "{root}/users.csv has no column picture and no column user: add it",
        ),
        (
            lambda root: (root / "users.csv").write_text("picture,user\ncat/0.png,c\ncat/1.png, \n"),
            "{root}/users.csv, line 3: cat/1.png has no user: add one",
        ),
        (
            lambda root: (root / "users.csv").write_text("picture,user\ncat/0.png\n"),
            "{root}/users.csv, line 2: cat/0.png has no user: add one",
        ),
        (
            lambda root: (root / "users.csv").write_text("picture,user\ncat/0.png,c\n./cat/0.png,d\n"),
            "{root}/users.csv, line 3: cat/0.png has a second user: leave one",
        ),
        (
            lambda root: (root / "users.csv").write_bytes(b"picture,user\ncat/0.png,\xff\n"),
            "{root}/users.csv cannot be read (it is no text in UTF-8, by the byte at 23): write a CSV file in UTF-8",
        ),
        (
            lambda root: [(root / "users.csv").unlink(), os.mkfifo(root / "users.csv")],
            "{root}/users.csv is no file: remove it",
        ),
        (
            lambda root: [
                (root / "train/dog/zoe").mkdir(),
                (root / "train/dog/4.png").rename(root / "train/dog/zoe/4.png"),
            ],
            "{root}: users are in users.csv and, as it seems, in folders such as train/dog/zoe: move the pictures into "
            "the folders of their classes, or remove the list",
        ),
    ],
)
def test_a_list_that_is_not_clear_is_refused(listed: Path, damage, message: str):
    damage(listed)
    with pytest.raises(InputError) as caught:
        users_of("imagefolder", listed)
    assert str(caught.value) == message.format(root=listed)


@pytest.mark.parametrize("place", ["cat", "cat/a/deeper"])
def test_a_picture_in_no_users_folder_is_refused(sorted_by_user: Path, place: str):
    folder = sorted_by_user / "train" / place
    folder.mkdir(exist_ok=True)
    Image.new("L", (32, 32)).save(folder / "stray.png")
    with pytest.raises(InputError, match=f"{sorted_by_user} has no user for train/{place}/stray.png: sort all"):
        users_of("imagefolder", sorted_by_user)


# dealing


def test_every_device_is_a_user_in_the_order_of_their_names():
    users = np.array(USERS)
    parts = partition(np.zeros(10, int), 4, "natural", seed=3, users=users)
    assert [sorted(part.tolist()) for part in parts] == [[1, 4, 7, 8], [2, 5, 6], [0, 3], [9]]
    assert all(part.dtype == np.int64 for part in parts)


def test_of_more_users_than_devices_some_are_drawn_by_the_seed():
    users = np.random.default_rng(0).integers(0, 50, 2000) * 7  # numbers need not follow each other
    drawn = {}
    for seed in range(20):
        parts = partition(np.zeros(2000, int), 8, "natural", seed, users=torch.tensor(users))
        again = partition(np.zeros(2000, int), 8, " natural ", seed, users=users)
        assert [part.tolist() for part in parts] == [part.tolist() for part in again]
        owners = [set(users[part].tolist()) for part in parts]
        assert all(len(owner) == 1 for owner in owners)
        drawn[seed] = [owner.pop() for owner in owners]
        assert drawn[seed] == sorted(set(drawn[seed]))
        assert [len(part) for part in parts] == [np.count_nonzero(users == user) for user in drawn[seed]]
    assert len({user for chosen in drawn.values() for user in chosen}) > 40


def test_more_devices_than_users_are_refused():
    message = "'natural': only 4 users hold training examples, too few for 5 devices: set devices of the recipe to 4 or"
    with pytest.raises(InputError, match=message):
        partition(np.zeros(10, int), 5, "natural", seed=0, users=USERS)


def test_without_users_nothing_is_natural():
    with pytest.raises(InputError, match="partition 'natural' needs the users of the examples: give them, or"):
        partition(np.zeros(10, int), 5, "natural", seed=0)
    with pytest.raises(InputError, match=r"unknown partition 'natural:3'.*or natural"):
        parse_scheme("natural:3")
    assert parse_scheme(" natural ") == Natural()
    assert str(Natural()) == "natural"


def test_users_are_held_out_with_their_examples(listed: Path):
    whole = load_dataset("imagefolder", listed, with_users=True)
    part = hold_out(whole, 0.4, seed=1)
    mask = torch.from_numpy(held_out(whole.train_targets.numpy(), 0.4, seed=1))
    assert part.users is not None
    assert part.users.tolist() == [user for user, out in zip(USERS, mask.tolist(), strict=True) if not out]
    assert len(part.users) == len(part.train_targets) == 6


# sweeps


def config(root: Path | None, dataset: str, seed: int = 0, **recipe: int | float) -> Config:
    own = replace(CONFIG.recipe, **{"partition": "natural", "devices": 4, "participants": 2, **recipe})
    grid = Grid(**{**GRID, "method": ["exclusive"], "dataset": [dataset], "seed": [seed]})
    return replace(CONFIG, grid=grid, recipe=own, data=None if root is None else str(root))


@pytest.mark.parametrize("dataset", sorted(set(DATASETS) - {"imagefolder", "docstrings"}))
def test_datasets_without_users_are_refused_before_any_work(dataset: str):
    message = f"dataset '{dataset}' does not say who holds which example, .* choose another partition, or imagefolder"
    with pytest.raises(InputError, match=message):
        experiments(config(None, dataset))


def test_a_folder_without_users_is_refused_before_any_work(listed: Path):
    assert len(experiments(config(listed, "imagefolder"))) == 2
    (listed / "users.csv").unlink()
    with pytest.raises(InputError, match=r"has no user for train/cat/0\.png: sort all"):
        experiments(config(listed, "imagefolder"))


@pytest.mark.parametrize(("recipe", "users"), [({"devices": 5}, 4), ({"held_out_share": 0.4, "seed": 2}, 3)])
def test_too_few_users_are_refused_before_any_work(listed: Path, tmp_path: Path, recipe: dict, users: int):
    possible = experiments(config(listed, "imagefolder", **recipe))
    with pytest.raises(InputError, match=f"only {users} users hold training examples"), Prober() as idle:
        run_sweep(possible, tmp_path / "run", InProcess(), idle, Silent())
    assert not (tmp_path / "run").exists()


def test_a_device_is_given_what_its_user_holds(listed: Path):
    experiment = experiments(config(listed, "imagefolder"))[0]
    dataset = load_dataset("imagefolder", listed, with_users=True)
    fleet = Federation(experiment, dataset, dict.fromkeys(workloads(experiment), 1), 1)
    assert [sorted(part.tolist()) for part in fleet.partition] == [[1, 4, 7, 8], [2, 5, 6], [0, 3], [9]]


def test_a_run_over_users_goes_on_to_the_same_bits(listed: Path, tmp_path: Path):
    experiment = experiments(config(listed, "imagefolder", devices=3, participants=3))[0]
    needs = dict.fromkeys(workloads(experiment), 1)

    def run(output: Path, on_round) -> None:
        folder = folder_of(experiment.cell, output)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.begin(experiment.cell.to_dict())
        run_cell(experiment, folder, needs, 100, on_round)

    def stop(row: dict) -> None:
        raise KeyboardInterrupt

    run(tmp_path / "whole", lambda row: None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop)
    run(tmp_path / "stopped", lambda row: None)
    whole, stopped = (bits([experiment.cell], tmp_path / name) for name in ("whole", "stopped"))
    assert whole == stopped
    assert [[row["participants"] for row in rows] for rows in whole.values()] == [[3, 3]]
