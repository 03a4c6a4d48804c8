import hashlib
import os
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from profl.bench.data import DATASETS, augment, classes_of, docstrings, load_dataset
from profl.bench.data.dataset import normalised
from profl.bench.errors import InputError


def check_form(dataset, train, test):
    assert dataset.train_inputs.shape == (train, 3, 32, 32)
    assert dataset.test_inputs.shape == (test, 3, 32, 32)
    assert dataset.train_targets.shape == (train,)
    assert dataset.test_targets.shape == (test,)
    assert dataset.train_inputs.dtype == dataset.test_inputs.dtype == torch.float32
    assert dataset.train_targets.dtype == dataset.test_targets.dtype == torch.int64
    assert dataset.train_inputs.is_contiguous()
    assert set(dataset.train_targets.tolist()) == set(range(dataset.classes))
    torch.testing.assert_close(dataset.train_inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(dataset.train_inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


# docstrings


def test_docstrings_are_passages_of_scipys_and_none_is_on_both_sides():
    from scipy import fft

    dataset = load_dataset("docstrings")
    assert (dataset.train_inputs.shape, dataset.test_inputs.shape) == ((1600, 128), (400, 128))
    assert dataset.train_inputs.dtype == dataset.train_targets.dtype == torch.int64
    assert dataset.classes == classes_of("docstrings") == 10
    assert not dataset.augment
    assert dataset.train_targets.bincount().tolist() == [160] * 10
    assert dataset.test_targets.bincount().tolist() == [40] * 10
    train, test = (
        {bytes(codes) for codes in inputs.tolist()} for inputs in (dataset.train_inputs, dataset.test_inputs)
    )
    assert all(passage.isascii() for passage in train | test)
    first, fifth = (" ".join(getattr(fft, name).__doc__.split()) for name in np.array(sorted(fft.__all__))[[0, 4]])
    assert bytes(dataset.train_inputs[0].tolist()).decode() == first[:128]
    assert bytes(dataset.test_inputs[0].tolist()).decode() == fifth[:128]
    assert len(train & test) < 0.02 * len(test)  # what many docstrings say alike


def test_without_docstrings_there_is_no_dataset_of_them(monkeypatch):
    monkeypatch.setattr(docstrings.inspect, "getdoc", lambda thing: None)
    with pytest.raises(InputError, match="dataset 'docstrings' finds too few in SciPy: run Python without -OO"):
        load_dataset("docstrings")


# digits


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_digits(digits):
    check_form(digits, 1437, 360)
    assert digits.classes == classes_of("digits") == 10
    assert not digits.augment


def test_digits_are_grey(digits):
    assert torch.equal(digits.train_inputs[:, 0], digits.train_inputs[:, 1])
    assert torch.equal(digits.train_inputs[:, 0], digits.train_inputs[:, 2])


def test_digits_split_is_stratified_and_loses_nothing(digits):
    train, test = digits.train_targets.bincount(), digits.test_targets.bincount()
    # Counts of the ten digits in the source.
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (test - (train + test) / 5).abs().max() < 1


def test_digits_are_the_source_pictures(digits):
    from sklearn.datasets import load_digits

    # The mean over each 4x4 patch of a bilinear enlargement is close to the pixel it came from.
    grey = torch.cat([digits.train_inputs, digits.test_inputs])[:, 0]
    shrunk = torch.nn.functional.avg_pool2d(grey, 4).flatten(1)
    source = torch.as_tensor(load_digits().data, dtype=torch.float32)
    targets = torch.as_tensor(load_digits().target)
    similarity = torch.corrcoef(torch.cat([shrunk[:200], source]))[:200, 200:]
    nearest = similarity.argmax(1)
    assert similarity.max(1).values.min() > 0.95
    assert torch.equal(targets[nearest], digits.train_targets[:200])
    assert len(nearest.unique()) == 200


def test_digits_never_change(digits):
    # Results are comparable only between equal splits; this is the order of the test targets.
    assert hashlib.sha256(digits.test_targets.numpy().tobytes()).hexdigest()[:16] == "4493b2052e7b4258"


# normalisation


def test_normalisation_uses_training_statistics_by_channel():
    train = torch.tensor([[0, 100], [10, 30], [7, 7]], dtype=torch.uint8).view(1, 3, 1, 2)
    test = torch.tensor([[50, 150], [20, 40], [7, 9]], dtype=torch.uint8).view(1, 3, 1, 2)
    train_inputs, test_inputs = normalised(train, test)
    assert train_inputs.view(3, 2).tolist() == [[-1, 1], [-1, 1], [0, 0]]
    assert test_inputs.view(3, 2).tolist() == [[0, 2], [0, 2], [0, 2]]


# CIFAR, from files in its format as there is no network


def write_cifar(root, labels, key):
    """Write a tiny dataset in CIFAR's Python format: every picture is reddish."""
    generator = np.random.default_rng(0)
    names = ["train", "test"]
    if key == "labels":
        names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    root.mkdir(parents=True)
    for name in names:
        data = generator.integers(0, 50, (len(labels), 3, 1024), dtype=np.uint8)
        data[:, 0] += 200
        (root / name).write_bytes(pickle.dumps({"data": data.reshape(len(labels), -1), key: labels}))
    meta = {"label_names": [], "fine_label_names": []}
    (root / ("batches.meta" if key == "labels" else "meta")).write_bytes(pickle.dumps(meta))


@pytest.fixture
def any_checksum(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, *md5: os.path.isfile(path))


@pytest.fixture
def no_network(monkeypatch):
    def fail(*arguments, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)


@pytest.mark.usefixtures("any_checksum", "no_network")
@pytest.mark.parametrize(
    ("name", "folder", "key", "classes", "train"),
    [
        ("cifar10", "cifar-10-batches-py", "labels", 10, 50),
        ("cifar100", "cifar-100-python", "fine_labels", 100, 100),
    ],
)
def test_cifar_is_read(tmp_path, name, folder, key, classes, train):
    write_cifar(tmp_path / folder, list(range(classes)), key)
    before = sorted(tmp_path.iterdir())
    dataset = load_dataset(name, tmp_path)
    check_form(dataset, train, classes)
    assert dataset.classes == classes_of(name) == classes
    assert dataset.augment
    assert dataset.test_targets.tolist() == list(range(classes))
    assert sorted(tmp_path.iterdir()) == before  # so that it may be read-only


@pytest.mark.usefixtures("any_checksum", "no_network")
def test_cifar_channels_stay_in_order(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", [0], "labels")
    monkeypatch.setattr("profl.bench.data.cifar.normalised", lambda train, test: (train, test))
    pictures = load_dataset("cifar10", tmp_path).train_inputs
    assert pictures.shape == (5, 3, 32, 32)
    assert pictures[:, 0].min() >= 200
    assert pictures[:, 1:].max() < 50


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_network(tmp_path, name):
    message = f"{name} is not in .*Name or service.*: unpack cifar-.*'digits'"
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(name, tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "new") in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_cifar_goes_to_the_cache_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path}/profl/data"):
        load_dataset("cifar10")


def test_cifar_with_an_unusable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cifar10 is not in .*file"):
        load_dataset("cifar10", tmp_path / "file")


# EMNIST, from files in its format


def write_emnist(root, train, test):
    """Write pictures in the layout of torchvision's EMNIST, one after another of the classes in turn."""
    root.mkdir(parents=True)
    for name, pictures in (("train", train), ("test", test)):
        count, height, width = pictures.shape
        labels = (np.arange(count) % 47).astype(np.uint8)
        prefix = root / f"emnist-balanced-{name}"
        header = struct.pack(">IIII", 0x803, count, height, width)
        Path(f"{prefix}-images-idx3-ubyte").write_bytes(header + pictures.tobytes())
        Path(f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())


@pytest.fixture
def emnist(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    pictures = np.random.default_rng(0).integers(0, 256, (94, 28, 28), dtype=np.uint8)
    pictures[0, :14] = 255  # in the file the first row is the leftmost column
    pictures[0, 14:] = 0
    write_emnist(tmp_path / "EMNIST" / "raw", pictures, pictures[:47])
    return tmp_path


def test_emnist_is_read(emnist):
    before = sorted(emnist.rglob("*"))
    dataset = load_dataset("emnist", emnist)
    check_form(dataset, 94, 47)
    assert dataset.classes == classes_of("emnist", emnist) == 47
    assert not dataset.augment
    assert dataset.test_targets.tolist() == list(range(47))
    assert torch.equal(dataset.train_inputs[:, 0], dataset.train_inputs[:, 2])
    assert sorted(emnist.rglob("*")) == before  # so that it may be read-only


def test_emnist_stands_upright(emnist):
    picture = load_dataset("emnist", emnist).test_inputs[0, 0]
    assert picture[:, :15].min() > picture[:, 17:].max()
    assert torch.equal(picture[0], picture[31])


def test_emnist_without_network(emnist):
    for name in ("train-labels-idx1", "test-images-idx3"):
        path = emnist / "EMNIST" / "raw" / f"emnist-balanced-{name}-ubyte"
        for damaged in (path.read_bytes()[:20], b""):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=f"emnist is not in {emnist} and cannot be downloaded .*: unpack http"):
                load_dataset("emnist", emnist)
    with pytest.raises(InputError, match=r"Name or service.*/EMNIST/raw, or use the dataset 'digits'") as caught:
        load_dataset("emnist", emnist / "new")
    assert "\n" not in str(caught.value)


# names


@pytest.mark.parametrize("function", [load_dataset, classes_of])
def test_unknown_datasets(function):
    with pytest.raises(InputError, match=f"unknown dataset 'svhn': choose one of {', '.join(DATASETS)}"):
        function("svhn")


# augmentation


def test_augmentation_follows_its_generator():
    batch = torch.rand(8, 3, 32, 32)
    copy = batch.clone()
    first = augment(batch, torch.Generator().manual_seed(1))
    torch.rand(1)
    assert torch.equal(first, augment(batch, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, augment(batch, torch.Generator().manual_seed(2)))
    assert torch.equal(batch, copy)


def test_augmentation_is_a_crop_of_the_padded_picture_or_its_mirror():
    batch = torch.rand(300, 2, 6, 5)
    padded = torch.nn.functional.pad(batch, (4, 4, 4, 4))
    shifts, mirrored = set(), 0
    for source, result in zip(padded, augment(batch, torch.Generator().manual_seed(0)), strict=True):
        crops = {
            (top, left, mirror): crop.flip(-1) if mirror else crop
            for top in range(9)
            for left in range(9)
            for mirror in (False, True)
            for crop in [source[:, top : top + 6, left : left + 5]]
        }
        found = [name for name, crop in crops.items() if torch.equal(crop, result)]
        assert len(found) == 1
        shifts.add(found[0][:2])
        mirrored += found[0][2]
    assert {top for top, _ in shifts} == {left for _, left in shifts} == set(range(9))
    assert 100 < mirrored < 200
