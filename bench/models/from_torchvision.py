"""torchvision's classifiers, cut into stages where the picture shrinks.

A classifier is traced by torch.fx down to its blocks, which stay as torchvision wrote them. It can be cut behind any of
them that alone feeds what follows, and is cut behind the last one of every resolution: the first resolution is the
stem, and what follows the last features that are a picture is the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from profl.bench.errors import InputError, unknown
from profl.bench.models.normalisation import split_name
from profl.bench.models.spec import ModelSpec
from profl.bench.models.staged import StagedModel

USUAL_SIDE = 64
"""Side in pixels to which pictures are enlarged: from 32, most of torchvision's classifiers would leave one pixel."""

PUBLISHED_SIDE = 224
"""Side at which resolutions are told apart; at a smaller one, features may be as small as what a head averages."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}
"""Options beside the number of classes, by model: without the classifiers on the way."""


@dataclass(frozen=True)
class Cuts:
    """Where a classifier is cut.

    Parameters
    ----------
    nodes
        Names of the traced nodes behind which it is cut: the end of the stem, then of every stage.
    channels
        Channels of the features at each.
    sides
        Height and width of the features at each.
    """

    nodes: tuple[str, ...]
    channels: tuple[int, ...]
    sides: tuple[int, ...]


def torchvision_classifier(spec: ModelSpec) -> StagedModel:
    """Return the classifier of ``torchvision:NAME`` or ``torchvision:NAME@SIDE``, with fresh initial values.

    The stem enlarges pictures to ``SIDE`` pixels. Dropout and stochastic depth are left out, as their draws would not
    come from a device's generator, and so are classifiers on the way.

    Raises
    ------
    InputError
        If torchvision has no such classifier, it takes no pictures of that side, its features are no pictures, or its
        width is another than the one asked for.
    """
    name, side = _name_and_side(spec.name)
    cuts = find_cuts(name, side)
    if spec.width != cuts.channels[0]:
        raise InputError(f"model '{spec.name}' has one width, {cuts.channels[0]}, not {spec.width}: give it that one")
    graph = _traced(_classifier(name, spec.classes))
    stem, *stages, head = _parts(graph, cuts.nodes)
    enlarge = nn.Upsample(size=(side, side), mode="bilinear", align_corners=False)
    strides = [round(before / after) for before, after in pairwise(cuts.sides)]
    return StagedModel(nn.Sequential(enlarge, stem), stages, head, cuts.channels, strides)


def _name_and_side(model: str) -> tuple[str, int]:
    name, at, side = split_name(model)[0].partition(":")[2].partition("@")
    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        unknown("classifier of torchvision", name, known)
    if at and not (side.isdecimal() and StagedModel.input_shape[1] <= int(side) <= 1024):
        raise InputError(f"model '{model}' has pictures of side '{side}': give pixels from 32 to 1024, as in @224")
    return name, int(side) if at else USUAL_SIDE


@cache
def find_cuts(name: str, side: int) -> Cuts:
    """Return where a classifier is cut.

    Parameters
    ----------
    name
        As torchvision has it.
    side
        Height and width of its pictures, in pixels; where it is cut does not depend on it.

    Raises
    ------
    InputError
        If it takes no such pictures, or its features are no pictures of several resolutions.
    """
    classes = 1009  # as many channels as nothing else has
    with torch.device("meta"):
        graph = _traced(_classifier(name, classes)).eval()
    published, own = _shapes(graph, name, PUBLISHED_SIDE), _shapes(graph, name, side)
    ends: dict[int, str] = {}
    for node in _only_ways(graph.graph):
        shape = published.get(node.name, ())
        is_picture = len(shape) == 4 and shape[2] == shape[3] > 1 and shape[1] != classes
        if is_picture and node.op == "call_module" and not _is_pooling_to_a_size(graph, node):
            ends[shape[2]] = node.name
    nodes = _with_parameters(graph, list(ends.values()))
    if len(nodes) < 3:
        raise InputError(
            f"torchvision's '{name}' cannot be cut into stages: its features are no pictures, of shape (batch, "
            "channels, height, width), that shrink from stage to stage; choose another model"
        )
    return Cuts(tuple(nodes), tuple(own[node][1] for node in nodes), tuple(own[node][2] for node in nodes))


def _classifier(name: str, classes: int) -> nn.Module:
    def build() -> nn.Module:
        return torchvision.models.get_model(name, weights=None, num_classes=classes, **OPTIONS.get(name, {}))

    wanted = torch.get_default_device()
    try:
        model = build()
    except (NotImplementedError, RuntimeError):  # on 'meta' RegNet, which computes its widths with tensors
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # as on 'meta', nothing is drawn
            model = build().to(wanted)
    for parent in list(model.modules()):
        for child, part in list(parent.named_children()):
            if isinstance(part, _DropoutNd | StochasticDepth):
                setattr(parent, child, nn.Identity())
    return model


class _BlockTracer(fx.Tracer):
    """Traces through sequences, and through what holds most of the network; all else is a block."""

    def __init__(self, whole: int) -> None:
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m).forward is nn.Sequential.forward:
            return False
        return super().is_leaf_module(m, module_qualified_name) or 2 * _scalars(m) <= self.whole


def _scalars(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _traced(model: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(model, _BlockTracer(_scalars(model)).trace(model))


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n.name] = tuple(result.shape)
        return result


def _shapes(graph: fx.GraphModule, name: str, side: int) -> dict[str, tuple[int, ...]]:
    shapes = _Shapes(graph)
    try:
        shapes.run(torch.empty(2, StagedModel.input_shape[0], side, side, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"torchvision's '{name}' takes no pictures of side {side}: choose another side, as in "
            f"torchvision:{name}@{PUBLISHED_SIDE}, or another model"
        ) from error
    return shapes.found


def _only_ways(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that are all that the nodes behind them take: where a graph can be cut."""
    ways: list[fx.Node] = []
    waiting: set[fx.Node] = set()
    for node in graph.nodes:
        waiting = {other for other in waiting | {node} if any(node < user for user in other.users)}
        if waiting == {node}:
            ways.append(node)
    return ways


def _is_pooling_to_a_size(graph: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(graph.get_submodule(str(node.target)), nn.AdaptiveAvgPool2d)


def _with_parameters(graph: fx.GraphModule, ends: Sequence[str]) -> list[str]:
    """Return the ends of parts that have parameters; what has none goes with the part in front of it."""
    kept: list[str] = []
    for end, part in zip(ends, _parts(graph, ends), strict=False):
        if not _scalars(part) and kept:
            kept.pop()
        kept.append(end)
    return kept


def _parts(graph: fx.GraphModule, ends: Sequence[str]) -> list[fx.GraphModule]:
    """Cut a graph behind the nodes of these names; one more part than ends."""
    parts, inside = [], fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        copies[node] = inside.node_copy(node, copies.__getitem__)
        if node.name in ends:
            inside.output(copies[node])
            parts.append(fx.GraphModule(graph, inside))
            inside = fx.Graph()
            copies = {node: inside.placeholder("features")}
    parts.append(fx.GraphModule(graph, inside))
    return parts
