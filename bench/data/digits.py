"""1,797 real handwritten digits that come with scikit-learn: no download."""

from __future__ import annotations

from profl.bench.data.dataset import Dataset, from_grey, normalised

CLASSES = 10


def load() -> Dataset:
    """Load the digits: 1,437 to train, 360 to test.

    The 8x8 pictures of ``sklearn.datasets.load_digits`` (17 grey levels) are resized to 32x32 bilinearly. The
    split is fixed and stratified by class. Writers are not separated: the source does not name them.
    """
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pictures, targets = load_digits(return_X_y=True)
    inputs = from_grey(torch.as_tensor(pictures, dtype=torch.float32).view(-1, 8, 8) * (255 / 16))
    train, test = train_test_split(range(len(targets)), test_size=0.2, stratify=targets, random_state=0)

    train_inputs, test_inputs = normalised(inputs[train], inputs[test])
    labels = torch.as_tensor(targets, dtype=torch.int64)
    return Dataset("digits", train_inputs, labels[train], test_inputs, labels[test], CLASSES, augment=False)
