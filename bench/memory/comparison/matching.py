"""Which virtual GPU stands for a physical card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu.profile import ARCHITECTURES, PHYSICAL, profiles

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from profl.bench.memory.process.probe import Prober

AUTO = "virtual:auto"
"""How users ask for the virtual GPU that matches their card."""

# Drivers keep different amounts to themselves: 2 % among cards of one name, more on boards that share their memory with
# the operating system. The next larger model of a family has at least an eighth more.
_MEMORY_TOLERANCE = 0.1


class Properties(NamedTuple):
    """What ``torch.cuda.get_device_properties`` says of a card.

    Parameters
    ----------
    name
        As the driver reports it: ``NVIDIA H100 80GB HBM3``.
    capability
        Compute capability, major and minor.
    """

    name: str
    capability: tuple[int, int]
    total_bytes: int
    multiprocessors: int


@dataclass(frozen=True)
class _ReadProperties:
    """The program that reads them, as only a worker process sees the GPU."""

    key: str = "the properties of the GPU"

    def run(self, device: torch.device, report: Callable[[object], None]) -> Properties:
        import torch

        seen = torch.cuda.get_device_properties(device)
        return Properties(seen.name, (seen.major, seen.minor), seen.total_memory, seen.multi_processor_count)


def matching_gpu(prober: Prober, gpu: str = PHYSICAL) -> str:
    """Return the virtual GPU that stands for ``gpu``, the machine's own; raises as `matching` and the prober do."""
    properties: Properties = prober.run(_ReadProperties(), gpu, lambda report: None)
    return matching(*properties)


def matching(name: str, capability: tuple[int, int], total_bytes: int, multiprocessors: int) -> str:
    """Return the virtual GPU that stands for a card with these `Properties`.

    cuDNN plans by compute capability and multiprocessors, so these must be equal, and the memory about. A card
    without such a profile gets ``virtual:sm_XX``; `caveat` says what that leaves out.

    Raises
    ------
    GpuUnavailable
        If PyTorch's CUDA build, and so the virtual GPU, does not support the card.
    """
    for profile in profiles():
        gpu = profile.gpu
        alike = (gpu.capability, gpu.multiprocessors) == (tuple(capability), multiprocessors)
        if alike and abs(gpu.total_bytes - total_bytes) <= _MEMORY_TOLERANCE * gpu.total_bytes:
            return profile.name
    major, minor = capability
    if 10 * major + minor not in ARCHITECTURES:
        known = ", ".join("{}.{}".format(*divmod(architecture, 10)) for architecture in ARCHITECTURES)
        raise GpuUnavailable(
            f"no virtual GPU stands for {name}: its compute capability {major}.{minor} is none of {known}; "
            "choose a virtual GPU by name"
        )
    return f"virtual:sm_{major}{minor}"


def caveat(name: str, gpu: str) -> str | None:
    """Return what to doubt when ``gpu``, by a name that `profile.resolve` takes, stands for a card.

    Parameters
    ----------
    name
        The card's, as its driver reports it.

    Returns
    -------
    str or None
        None: the profile describes a card of that very name.
    """
    of = gpu.rpartition(":")[2]
    profile = next((profile for profile in profiles() if profile.name == f"virtual:{of}"), None)
    if profile is None:
        return f"{gpu} is no board, and plans convolutions without workspace: those of {name} may need some"
    described = json.loads(profile.gpu.cudnn_device)["deviceName"]
    return None if described == name else f"{gpu} describes another card than {name}: {profile.board}"
