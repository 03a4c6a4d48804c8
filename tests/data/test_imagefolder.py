"""Folders of pictures."""

from shutil import rmtree

import numpy as np
import pytest
import torch
from PIL import Image

from profl.bench.data import classes_of, load_dataset
from profl.bench.errors import InputError
from tests.data.test_datasets import check_form


@pytest.fixture
def tree(tmp_path):
    """Two classes; colour, grey and transparent pictures of several sizes."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number, shape in enumerate([(32, 32, 3), (40, 20, 3), (8, 8), (50, 50, 4)]):
                picture = generator.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(picture).save(folder / f"{number}.png")
    return tmp_path


def test_imagefolder(tree):
    dataset = load_dataset("imagefolder", tree)
    check_form(dataset, 8, 8)
    assert dataset.classes == classes_of("imagefolder", tree) == 2
    assert dataset.train_targets.tolist() == [0] * 4 + [1] * 4
    assert dataset.augment


def test_imagefolder_keeps_pixels_and_repeats_grey(tree, monkeypatch):
    monkeypatch.setattr("profl.bench.data.imagefolder.normalised", lambda train, test: (train, test))
    pictures = load_dataset("imagefolder", tree).train_inputs
    original = np.asarray(Image.open(tree / "train" / "cat" / "0.png"))
    assert torch.equal(pictures[0], torch.tensor(original).permute(2, 0, 1))
    assert torch.equal(pictures[2, 0], pictures[2, 2])


def test_imagefolder_needs_a_folder():
    for function in (load_dataset, classes_of):
        with pytest.raises(InputError, match="'imagefolder' needs the folder"):
            function("imagefolder")


@pytest.mark.parametrize("function", [load_dataset, classes_of])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rmtree, "{root}/train is not a folder; put the pictures into"),
        (lambda root: rmtree(root / "test"), "{root}/test is not a folder; put the pictures into"),
        (lambda root: rmtree(root / "test/dog"), "{root}: only one of train and test has the class dog; put"),
        (lambda root: (root / "train/emu").mkdir(), "{root}: only one of train and test has the class emu"),
        (
            lambda root: [rmtree(root / "train" / label) for label in ("cat", "dog")],
            "{root}/train has no class folders; put",
        ),
    ],
)
def test_imagefolder_with_a_damaged_tree(tree, function, damage, message):
    damage(tree)
    with pytest.raises(InputError, match=message.format(root=tree)):
        function("imagefolder", tree)


def test_imagefolder_with_an_empty_class(tree):
    for split in ("train", "test"):
        (tree / split / "emu").mkdir()
    with pytest.raises(InputError, match=f"{tree}/train: .*emu"):
        load_dataset("imagefolder", tree)


@pytest.mark.parametrize("kept", [0, 4, 60, 1000])
def test_imagefolder_with_a_truncated_picture(tree, kept):
    path = tree / "test" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"{path} is not a readable picture .*; replace or remove it"):
        load_dataset("imagefolder", tree)
