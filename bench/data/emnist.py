"""EMNIST's balanced split through torchvision: handwritten digits and letters, without their writers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from profl.bench.data.dataset import Dataset, from_grey, normalised
from profl.bench.data.downloaded import default_root, downloaded

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = 47
"""Ten digits and 37 letters: of 15 letters, capitals and small ones look alike and are one class."""

FILES = "emnist-balanced-{train,test}-{images-idx3,labels-idx1}-ubyte"


def load(root: Path | None) -> Dataset:
    """Load EMNIST: 112,800 pictures to train, 18,800 to test. Takes 1.6 GB of memory.

    The split ``balanced`` of Cohen et al., "EMNIST: Extending MNIST to handwritten letters", 2017; ``byclass``, of 62
    classes as FEMNIST has, would take 10 GB. Pictures of 28x28 are resized to 32x32 bilinearly, and their rows and
    columns exchanged, as they lie mirrored on their side in the files. Who wrote what, the files do not say.

    Parameters
    ----------
    root
        Folder that holds, or will hold, torchvision's ``EMNIST/raw``. `default_root` if None. The download is 560 MB
        and unpacks all splits.

    Raises
    ------
    InputError
        If the data is neither there nor can be downloaded.
    """
    root = default_root() if root is None else root
    train, test = _split(root, train=True), _split(root, train=False)
    train_inputs, test_inputs = normalised(_pictures(train), _pictures(test))
    return Dataset("emnist", train_inputs, train.targets, test_inputs, test.targets, CLASSES, augment=False)


def _split(root: Path, train: bool) -> Any:
    from torchvision.datasets import EMNIST

    remedy = f"unpack {EMNIST.url} and put {FILES}, unpacked, into {root / 'EMNIST' / 'raw'}"
    return downloaded("emnist", EMNIST, root, remedy, split="balanced", train=train)


def _pictures(split: Any) -> Tensor:
    return from_grey(split.data.transpose(1, 2).float())
