"""What the server side of all rivals shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def filled(build: Callable[[], Network], state: Mapping[str, Tensor]) -> Network:
    """Build a module on the CPU and copy ``state`` into it, without drawing initial values only to lose them.

    Parameters
    ----------
    build
        Makes the module; every tensor of it must be persistent.
    state
        Values by name; names that the module does not have are left out.
    """
    with torch.device("meta"):
        module = build()
    module.to_empty(device="cpu")
    module.load_state_dict({name: state[name] for name in module.state_dict()})
    return module
