"""What normalises, a setting behind a model's name: ``resnet18:group`` has GroupNorm where ``resnet18`` has BatchNorm.

BatchNorm is where federated methods differ for reasons that have nothing to do with memory: what they do with running
statistics, and how well those of one device suit another.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

GROUP_CHANNELS = 16
"""Channels of a group, as Wu and He (*Group Normalization*, ECCV 2018) try beside 32 groups, and find as good.

A group then has the same members in a narrower network, which has the leading channels, as in the whole.
"""

NORMALISATIONS = ("group", "static")
"""What may stand behind a model's name; without it a model has BatchNorm as published.

``group``: GroupNorm, which knows no batch and keeps no statistics. ``static``: BatchNorm that normalises by the batch
and keeps no statistics in training; those it is tested with are estimated for the test, as they are for every method.
"""


def split_name(name: str) -> tuple[str, str | None]:
    """Return a model's name without its normalisation, and that; None if it names none.

    Examples
    --------
    >>> split_name("resnet18:group"), split_name("resnet18"), split_name("torchvision:resnet50")
    (('resnet18', 'group'), ('resnet18', None), ('torchvision:resnet50', None))
    """
    model, _, last = name.rpartition(":")
    return (model, last) if last in NORMALISATIONS and model else (name, None)


def batchnorms(module: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorms of a module, those that keep no running statistics too."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def normalise(module: nn.Module, kind: str | None) -> None:
    """Make every BatchNorm inside ``module`` one of a ``kind``, in place; None leaves all. Weights keep their names."""
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if not isinstance(part, _BatchNorm):
                continue
            if kind == "static":
                make_static(part)
            elif kind == "group":
                setattr(parent, name, group_norm(part))


def group_norm(batchnorm: _BatchNorm) -> nn.GroupNorm:
    """Return a fresh GroupNorm of as many channels: groups of 16, or of the most below that divide the channels."""
    channels = batchnorm.num_features
    members = max(size for size in range(1, GROUP_CHANNELS + 1) if channels % size == 0)
    return nn.GroupNorm(channels // members, channels, batchnorm.eps)


def make_static(batchnorm: _BatchNorm) -> None:
    """Normalise by the statistics of the batch alone, and keep no other, in training or evaluation."""
    batchnorm.track_running_stats = False
    batchnorm.running_mean = batchnorm.running_var = batchnorm.num_batches_tracked = None


def keep_statistics(batchnorm: _BatchNorm) -> None:
    """Let a static BatchNorm keep running statistics again, fresh ones; of another they are reset."""
    if not batchnorm.track_running_stats:
        fresh = type(batchnorm)(batchnorm.num_features, device=batchnorm.weight.device)
        batchnorm.track_running_stats = True
        for name, value in fresh.named_buffers():
            setattr(batchnorm, name, value)
    batchnorm.reset_running_stats()
