"""The numbers: what a training step needs, of what it consists, and where it was measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profl.bench.memory.summary import Summary, mebibytes
from profl.bench.memory.timeline import Timeline

if TYPE_CHECKING:
    import pandas as pd

PEAKS = {
    "peak requested": "peak_requested_bytes",
    "peak allocated": "peak_allocated_bytes",
    "peak reserved": "peak_reserved_bytes",
    "least budget": "least_budget_bytes",
    "peak activations": "peak_activation_bytes",
}
"""What tables call the attributes of a `Footprint` that they show below its categories."""


@dataclass(frozen=True)
class Block:
    """One allocation: the bytes asked for, their category, whose they are, and the operator that asked.

    Parameters
    ----------
    module
        As in `Portion`.
    operator
        As the program called it in forward (``conv2d``), the node of the autograd graph in backward
        (``ConvolutionBackward0``). None: unknown.
    """

    bytes: int
    category: str
    module: str | None = None
    operator: str | None = None


@dataclass(frozen=True)
class Portion:
    """A part of the peak: what was allocated in one phase, in one category, for one module.

    Parameters
    ----------
    phase
        In which it was allocated: ``prepare``, ``between`` (two steps), ``forward``, ``backward``, ``optimizer``.
        ``optimizer`` goes on to the next forward pass of the same step, or to its end. None: unknown.
    module
        Path of the module that owns the parameter, gradient or optimizer state; else of the innermost module that
        ran, in backward of the one that made the node of the autograd graph. ``(root)``: the whole module itself;
        ``(step)``: none. Of a module that is no part of it, the path begins with its class. None: unknown.
    saved
        Of activations: True if they outlive the phase that made them, as what is saved for backward does, or a graph
        of gradients keeps them; False if the phase releases them before it ends. None: no activations, or unknown.
    """

    phase: str | None
    category: str
    module: str | None
    saved: bool | None
    bytes: int


@dataclass(frozen=True)
class Stage:
    """A part of the network: a child of the module, or an entry of a child that is only a list.

    Parameters
    ----------
    name
        Its path; ``(root)`` is what belongs to the whole module and no child.
    parameter_bytes
        Of its parameters, trained and frozen; one that several stages share counts for the first.
    peak_activation_bytes
        The most that its activations held, not necessarily at the peak of the whole.
    """

    name: str
    parameter_bytes: int
    peak_activation_bytes: int


@dataclass(frozen=True)
class PeakPosition:
    """The allocation that reached the peak.

    Parameters
    ----------
    step
        Number of the step that runs or comes next, the first is 1; 0 while preparing.
    phase
        Of the step, as in `Portion`.
    module
        That ran, as in `Portion`, whosever the block is. None: unknown.
    operator
        As in `Block`.
    """

    step: int
    phase: str
    module: str | None
    operator: str | None

    def __str__(self) -> str:
        module = f" in {self.module}" if self.module else ""
        operator = f" by {self.operator}" if self.operator else ""
        return f"step {self.step}, {self.phase}{module}{operator}"


@dataclass(frozen=True)
class Environment:
    """Where a footprint was measured. Numbers of different environments differ for good reasons.

    Parameters
    ----------
    gpu
        The GPU as it was asked for: ``cuda``, ``virtual:NAME`` or ``estimate:NAME``.
    device_name
        As PyTorch reports it; begins with ``virtual`` or ``estimated`` where no hardware was involved.
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


@dataclass(frozen=True, repr=False)
class Footprint:
    """The measured GPU memory of a training step; printed, a summary.

    Peaks are over everything from building to the last step.

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
        The least memory from which on ten steps ran under every real limit: below the reserved peak, and where cuDNN
        has plans with less workspace even below the allocated one. See `profl.bench.memory.recording.budget` for what
        is guaranteed. None: not searched for.
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
    attribution
        The peak by phase, category and module, largest portion first; the bytes sum to ``peak_requested_bytes``,
        exactly. Empty: unknown.
    stages
        In order of the module's children. Empty: unknown.
    peak_position
        None: unknown.
    caveats
        What a virtual GPU could not play as hardware would, so that bytes may differ there; and what grows from step
        to step, or stays on the GPU when all that was built has been given up.
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
    attribution: tuple[Portion, ...] = ()
    stages: tuple[Stage, ...] = ()
    peak_position: PeakPosition | None = None
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        accounts = {"categories": sum(self.categories_at_peak.values())}
        if self.attribution:
            accounts["modules"] = sum(portion.bytes for portion in self.attribution)
        for name, accounted in accounts.items():
            if accounted != self.peak_requested_bytes:
                raise ValueError(
                    f"{self.key}: the {name} sum to {accounted} bytes, the peak is {self.peak_requested_bytes}"
                )

    def __str__(self) -> str:
        return str(self._summary)

    def __repr__(self) -> str:
        peak = mebibytes(self.peak_requested_bytes)
        return f"<Footprint of {self.key} on {self.environment.device_name}: peak {peak} requested>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self._summary.page()

    @property
    def _summary(self) -> Summary:
        peaks = {
            "requested": self.peak_requested_bytes,
            "allocated": self.peak_allocated_bytes,
            "reserved": self.peak_reserved_bytes,
            "least budget": self.least_budget_bytes,
        }
        title = f"{self.key} on {self.environment.device_name}"
        return Summary(title, peaks, str(self.peak_position or ""), self.categories_at_peak, self.caveats)

    @property
    def kept_timeline(self) -> Timeline:
        """The timeline, for what cannot do without.

        Raises
        ------
        ValueError
            If the footprint was measured without its timeline.
        """
        if self.timeline is None:
            raise ValueError(f"{self.key} has no timeline: measure it with timeline=True")
        return self.timeline

    def to_dict(self, timeline: bool = False, attribution: bool = False) -> dict[str, Any]:
        """Return the footprint as JSON can hold it, its two long parts only if asked for."""
        values = asdict(self)
        for name, wanted in (("timeline", timeline), ("attribution", attribution)):
            if not wanted:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Footprint:
        """Return what `to_dict` was given, also after a round through JSON, and also by an earlier version."""
        timeline, position = values.get("timeline"), values.get("peak_position")
        return cls(
            **{
                **values,
                "largest_blocks": tuple(Block(**block) for block in values["largest_blocks"]),
                "environment": Environment(**values["environment"]),
                "timeline": timeline
                and Timeline(timeline["live_bytes"], tuple((int(at), name) for at, name in timeline["phases"])),
                "attribution": tuple(Portion(**portion) for portion in values.get("attribution", ())),
                "stages": tuple(Stage(**stage) for stage in values.get("stages", ())),
                "peak_position": position and PeakPosition(**position),
                "caveats": tuple(values.get("caveats", ())),
            }
        )

    def frame(self) -> pd.DataFrame:
        """Return the peak as a tidy table.

        Returns
        -------
        pandas.DataFrame
            One row per `Portion`, largest first, its fields as columns (``saved`` is a nullable boolean, an unknown
            ``phase`` or ``module`` is ``?``), and two more: ``stage``, the stage that the module is part of or else
            the module itself, and ``share`` of the peak, 0 to 1. Without attribution one row per category.
        """
        import pandas as pd

        names = [stage.name for stage in self.stages]
        known = self.attribution or tuple(
            Portion(None, category, None, None, size) for category, size in self.categories_at_peak.items()
        )
        table = pd.DataFrame([asdict(portion) for portion in known]).astype({"saved": "boolean", "bytes": "int64"})
        table.insert(3, "stage", [stage_of(portion.module, names) for portion in known])
        paths = ["phase", "module", "stage"]
        table[paths] = table[paths].astype(object).where(table[paths].notna(), "?")
        return table.assign(share=table["bytes"] / self.peak_requested_bytes)

    def plot(self, path: Path | str) -> None:
        """Draw the timeline by category to ``path``; its suffix (``.png``, ``.svg``, ...) decides the format.

        Raises
        ------
        ValueError
            If the footprint was measured without its timeline.
        """
        from profl.bench.memory.plot import write_timeline

        title = f"{self.key}\non {self.environment.device_name}"
        write_timeline(self.kept_timeline, self.categories_at_peak, title, Path(path))

    def write_trace(self, path: Path | str) -> None:
        """Write the timeline as a Chrome trace, for https://ui.perfetto.dev or ``chrome://tracing``.

        Raises
        ------
        ValueError
            If the footprint was measured without its timeline.
        """
        from profl.bench.memory.trace import write_trace

        write_trace(self.kept_timeline, f"{self.key} on {self.environment.device_name}", Path(path))


def stage_of(module: str | None, stages: Collection[str]) -> str | None:
    """Return which of ``stages`` the module at this path is part of, or else the path itself."""
    if module is None:
        return None
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return next((prefix for prefix in prefixes if prefix in stages), module)
