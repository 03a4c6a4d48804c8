"""Values copied into a module, round after round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

_COPYING = (nn.Module._load_from_state_dict, _NormBase._load_from_state_dict)
"""What copies, and no more, where every name is there."""


@torch.no_grad()
def copy_into(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values by name into a module's tensors, in place: what ``load_state_dict`` does, sooner if they are small.

    Where that would do more than copy, it does it.

    Parameters
    ----------
    values
        At least all of the module's state; names that it does not have are left out.

    Raises
    ------
    KeyError
        If a value is missing.
    RuntimeError
        If one has another shape.
    """
    held = module.state_dict()
    given = {name: values[name] for name in held}
    if _is_copied(module) and _is_own(held, module) and all(_agree(held[name], given[name]) for name in held):
        for name, tensor in held.items():
            tensor.copy_(given[name])
    else:
        module.load_state_dict(given)


def _is_copied(module: nn.Module) -> bool:
    """Return whether a module and all its parts load their state as PyTorch's own do."""
    return getattr(module.load_state_dict, "__func__", None) is nn.Module.load_state_dict and not any(
        part._load_state_dict_pre_hooks
        or part._load_state_dict_post_hooks
        or getattr(part._load_from_state_dict, "__func__", None) not in _COPYING
        or type(part).set_extra_state is not nn.Module.set_extra_state
        for part in module.modules()
    )


def _is_own(held: Mapping[str, object], module: nn.Module) -> bool:
    """Return whether a state is the module's very tensors, and all of them: hooks may hide some, or copy."""
    own = {
        f"{prefix}.{name}" if prefix else name: tensor
        for prefix, part in module.named_modules(remove_duplicate=False)
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None and name not in part._non_persistent_buffers_set
    }
    return held.keys() == own.keys() and all(
        isinstance(tensor := held[name], Tensor) and tensor.data_ptr() == mine.data_ptr() for name, mine in own.items()
    )


def _agree(held: Tensor, given: Tensor) -> bool:
    """Return whether both are plain tensors of one shape, and not of a kind that copies in its own way."""
    return type(held) is Tensor and type(given) in (Tensor, nn.Parameter) and held.shape == given.shape
