"""Folders of pictures: what is read, in which order, and what is refused in one line."""

import os
import struct
import zlib
from shutil import rmtree

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader

from profl.bench.data import classes_of, load_dataset
from profl.bench.data.imagefolder import _listed
from profl.bench.data.picture import read_picture
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
    with pytest.raises(InputError, match=f"{tree}/train/emu has no pictures .*: add some, or remove the class"):
        load_dataset("imagefolder", tree)


@pytest.mark.parametrize("kept", [0, 4, 60, 1000])
def test_imagefolder_with_a_truncated_picture(tree, kept):
    path = tree / "test" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"{path} is not a readable picture .*; replace or remove it"):
        load_dataset("imagefolder", tree)


def refusal(function, *arguments):
    """Return the refusal, which is one line."""
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_imagefolder_lists_pictures_in_torchvisions_order(tree):
    # What a seed draws, and so every result, depends on it.
    for path in (
        "dog/b/x.PNG",
        "dog/b c/x.jpeg",
        "dog/b/c/x.webp",
        "dog/a.tif",
        "dog/.bmp",
        "dog/notes.txt",
        "cat/z/1.ppm",
    ):
        target = tree / "train" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3)).save(target, format="PNG")
    expected = ImageFolder(str(tree / "train"))
    listed = _listed(tree)[0]
    assert [(str(path), label) for label, of_class in enumerate(listed) for path in of_class] == expected.samples
    assert load_dataset("imagefolder", tree).train_targets.tolist() == expected.targets
    assert len(expected.samples) == 14


@pytest.mark.parametrize(
    ("link", "leads_to"),
    [
        ("train/cat/again", "train/cat"),
        ("train/cat/up", "train"),
        ("train/cat/up", "."),
        ("train/cat/up", ".."),
        ("train/cat/up", "/"),
        ("train/cat/other", "train/dog"),
        ("train/emu", "train/dog"),
        ("test/dog/trained", "train/dog"),
    ],
)
def test_a_folder_that_a_link_shows_twice_is_refused(tree, link, leads_to):
    (tree / link).symlink_to(tree / leads_to)
    if link == "train/emu":
        (tree / "test" / "emu").mkdir()
    message = refusal(load_dataset, "imagefolder", tree)
    assert " are one folder, by a symbolic link: remove the link" in message
    assert str(tree / link) in message


def test_testing_on_the_training_pictures_by_a_link_is_refused(tree):
    rmtree(tree / "test")
    (tree / "test").symlink_to("train")
    message = refusal(load_dataset, "imagefolder", tree)
    assert message == f"{tree}/test and {tree}/train are one folder, by a symbolic link: remove the link"


def test_links_to_pictures_elsewhere_are_followed(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (tree / "train" / "cat").rename(elsewhere / "cat")
    (tree / "train" / "cat").symlink_to(elsewhere / "cat")
    (tree / "train" / "dog" / "3.png").rename(elsewhere / "3.png")
    (tree / "train" / "dog" / "3.png").symlink_to(elsewhere / "3.png")
    assert load_dataset("imagefolder", tree).train_targets.tolist() == [0] * 4 + [1] * 4


def test_what_is_no_file_is_refused_and_not_waited_for(tree):
    path = tree / "train" / "cat" / "4.png"
    remedies = {
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to("nowhere"),
    }
    for make in remedies:
        make()
        message = refusal(load_dataset, "imagefolder", tree)
        assert message == f"{path} is no file (a pipe, a device or a broken link): remove it"
        path.unlink()


def test_a_folder_that_cannot_be_read_is_refused(tree, monkeypatch):
    def fail(path):
        raise PermissionError("Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", fail)
    assert "cannot be read (Permission denied): make it readable" in refusal(load_dataset, "imagefolder", tree)


# one picture


RAMP = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
"""Grey of 16 bits, from black to nearly white, of the size that needs no resizing."""


def png_of_16_bits(colour_type, channels):
    """Return a PNG of `RAMP` in every channel; Pillow writes none in colour."""
    rows = b"".join(b"\0" + np.repeat(row, channels).astype(">u2").tobytes() for row in RAMP)
    header = struct.pack(">IIBBBBB", 32, 32, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def tiff(array, **options):
    def write(path):
        Image.fromarray(array).save(path, format="TIFF", **options)

    return write


def content(data):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    "write",
    [
        content(png_of_16_bits(0, 1)),
        content(png_of_16_bits(2, 3)),
        content(png_of_16_bits(4, 2)),
        content(png_of_16_bits(6, 4)),
        content(b"P5 32 32 65535\n" + RAMP.astype(">u2").tobytes()),
        content(b"P5 32 32 1023\n" + (RAMP // 64).astype(">u2").tobytes()),
        content(b"P6 32 32 65535\n" + np.repeat(RAMP.ravel(), 3).astype(">u2").tobytes()),
        tiff(RAMP),
        tiff(RAMP.astype(">u2")),
    ],
)
def test_pictures_of_16_bits_are_scaled_to_8(tmp_path, write):
    write(tmp_path / "ramp.png")
    picture = read_picture(tmp_path / "ramp.png")
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 32, 32)
    assert np.abs(picture.numpy() - RAMP / 257).max() <= 1  # in colour Pillow rounds down


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (tiff((RAMP / 65535).astype(np.float32)), r"F (TIFF)"),
        (tiff(RAMP.astype(np.int32)), r"I (TIFF)"),
        (tiff(RAMP, tiffinfo={262: 0}), r"I;16 (TIFF)"),
        (content(b"Pf\n32 32\n-1.0\n" + (RAMP / 65535).astype("<f4").tobytes()), r"F (PPM)"),
    ],
)
def test_pixels_whose_white_is_not_known_are_refused(tmp_path, write, kind):
    path = tmp_path / "ramp.png"
    write(path)
    message = refusal(read_picture, path)
    assert message == (
        f"{path} has pixels of kind {kind}, of which black and white are not known: save it with 8 bits a channel"
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_pictures_of_8_bits_are_read_as_torchvision_reads_them(tmp_path, mode):
    path = tmp_path / "ramp.png"
    grey = Image.fromarray((RAMP >> 8).astype(np.uint8)).resize((40, 20))
    grey.convert("RGB").convert(mode).save(path, format="TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    assert Image.open(path).mode == mode
    expected = np.asarray(pil_loader(str(path)).resize((32, 32), Image.Resampling.BILINEAR))
    assert torch.equal(read_picture(path), torch.tensor(expected).permute(2, 0, 1))


@pytest.mark.parametrize("kind", ["EPS", "GIF", "ICO", "PDF", "SGI"])
def test_other_formats_are_refused_and_no_program_runs_for_them(tmp_path, kind, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", fail)
    path = tmp_path / "picture.png"
    Image.new("RGB", (32, 32)).save(path, format=kind)
    message = refusal(read_picture, path)
    assert message.startswith(f"{path} is not a readable picture (cannot identify image file")
    assert message.endswith("replace or remove it (BMP, JPEG, PNG, PPM, TIFF, WEBP)")


def test_a_picture_of_too_many_pixels_is_refused_before_they_are_made(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 9_000)).save(path)  # 11 kB, of more pixels than Pillow warns of
    message = refusal(read_picture, path)
    assert message.startswith(f"{path} is not a readable picture (Image size (90000000 pixels) exceeds limit")
