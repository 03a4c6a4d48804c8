"""Values copied into a module, round after round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
    parts = list(_parts(module))
    if all(_is_plain(part) for _, part in parts):
        held = {prefix + name: tensor for prefix, part in parts for name, tensor in _persistent(part)}
        given = [values[name] for name in held]
        if held and all(map(_agree, held.values(), given)):
            torch._foreach_copy_(list(held.values()), given)
            return
    module.load_state_dict({name: values[name] for name in module.state_dict()})


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield a module and all in it, each with what its names begin with, as ``state_dict`` goes through them."""
    yield prefix, module
    for name, part in module._modules.items():
        if part is not None:
            yield from _parts(part, f"{prefix}{name}.")


def _is_plain(part: nn.Module) -> bool:
    """Return whether a module saves and loads its own state, not that of its parts, as PyTorch's own do."""
    return not (
        part._state_dict_pre_hooks
        or part._state_dict_hooks
        or part._load_state_dict_pre_hooks
        or part._load_state_dict_post_hooks
        or _function(part, part.state_dict) is not nn.Module.state_dict
        or _function(part, part._save_to_state_dict) is not nn.Module._save_to_state_dict
        or _function(part, part.load_state_dict) is not nn.Module.load_state_dict
        or _function(part, part._load_from_state_dict) not in _COPYING
        or type(part).get_extra_state is not nn.Module.get_extra_state
        or type(part).set_extra_state is not nn.Module.set_extra_state
    )


def _function(part: nn.Module, method: object) -> object:
    """Return a method without its object; None if it is a function that somebody put there, or another's method."""
    return getattr(method, "__func__", None) if getattr(method, "__self__", None) is part else None


def _persistent(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a plain module's own state, with their names in it."""
    for name, tensor in (*part._parameters.items(), *part._buffers.items()):
        if tensor is not None and name not in part._non_persistent_buffers_set:
            yield name, tensor


def _agree(held: Tensor, given: Tensor) -> bool:
    """Return whether both are plain tensors of one shape, and not of a kind that copies in its own way."""
    kinds = (Tensor, nn.Parameter)
    return type(held) in kinds and type(given) in kinds and held.shape == given.shape
