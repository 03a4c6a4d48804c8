"""The numbers: what a training step needs, of what it consists, and where it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Block:
    """One allocation: the bytes asked for, and their category."""

    bytes: int
    category: str


@dataclass(frozen=True)
class Environment:
    """Where a footprint was measured. Numbers of different environments differ for good reasons.

    Parameters
    ----------
    gpu
        The GPU as it was asked for: ``cuda`` or ``virtual:NAME``.
    device_name
        As PyTorch reports it; begins with ``virtual`` where no hardware was involved.
    total_bytes
        The GPU's whole memory.
    allocator_settings
        The variables that change what PyTorch's allocator does, or ``default``.
    """

    gpu: str
    device_name: str
    is_virtual: bool
    total_bytes: int
    torch: str
    cuda: str
    cudnn: str
    allocator_settings: str


@dataclass(frozen=True)
class Timeline:
    """Live bytes at every moment: at the start, and after every allocation and every release.

    Parameters
    ----------
    live_bytes
        By category, one value a moment.
    phases
        Moment and name of every phase's beginning: ``prepare``, then each step's ``forward``, ``backward``
        and ``optimizer`` and the ``between`` that follows.
    """

    live_bytes: Mapping[str, list[int]]
    phases: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Footprint:
    """The measured GPU memory of a training step. Peaks are over everything from building to the last step.

    Parameters
    ----------
    key
        The workload's.
    steps
        How many steps were run; the first differs from the others.
    peak_requested_bytes
        Bytes that PyTorch asked its allocator for. Depends on no allocator setting.
    peak_allocated_bytes
        The same rounded up to blocks.
    peak_reserved_bytes
        What the allocator took from the GPU with plenty of memory left: blocks, and the gaps between them.
    least_budget_bytes
        The least memory from which on ten steps ran under every real limit: below the reserved peak, and where
        cuDNN has plans with less workspace even below the allocated one. See `bench.memory.budget` for what is
        guaranteed. None: not searched for.
    parameter_bytes
        Of the module's parameters, trained and frozen.
    peak_activation_bytes
        The most that the category activations held, not necessarily at the peak of the whole.
    categories_at_peak
        Bytes by category at the first moment of the peak; their sum is ``peak_requested_bytes``, exactly.
    largest_blocks
        The largest blocks alive at the peak, largest first.
    nvml_used_bytes
        What the driver said this process held after the last step, the CUDA context included. None: unknown.
    timeline
        None where it was not asked for.
    """

    key: str
    steps: int
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    least_budget_bytes: int | None
    parameter_bytes: int
    peak_activation_bytes: int
    categories_at_peak: Mapping[str, int]
    largest_blocks: tuple[Block, ...]
    nvml_used_bytes: int | None
    environment: Environment
    timeline: Timeline | None = None

    def __post_init__(self) -> None:
        accounted = sum(self.categories_at_peak.values())
        if accounted != self.peak_requested_bytes:
            raise ValueError(
                f"{self.key}: the categories sum to {accounted} bytes, the peak is {self.peak_requested_bytes}"
            )

    def to_dict(self, timeline: bool = False) -> dict[str, Any]:
        """Return the footprint as JSON can hold it, its timeline only if asked for."""
        values = asdict(self)
        if not timeline:
            del values["timeline"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Footprint:
        """Return what `to_dict` was given, also after a round through JSON."""
        timeline = values.get("timeline")
        return cls(
            **{
                **values,
                "largest_blocks": tuple(Block(**block) for block in values["largest_blocks"]),
                "environment": Environment(**values["environment"]),
                "timeline": timeline
                and Timeline(timeline["live_bytes"], tuple((int(at), name) for at, name in timeline["phases"])),
            }
        )

    def frame(self) -> pd.DataFrame:
        """Return the categories at the peak: index ``category``, columns ``bytes`` and ``share`` (0 to 1)."""
        import pandas as pd

        bytes_at_peak = pd.Series(self.categories_at_peak, name="bytes", dtype="int64").rename_axis("category")
        return bytes_at_peak.to_frame().assign(share=bytes_at_peak / self.peak_requested_bytes)
