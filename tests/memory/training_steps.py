"""Training steps of all kinds, to see what a virtual GPU can play; the worker process imports this module too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint_sequential

from profl.bench.memory.workload import Prepared, StepObserver, Unobserved

CLASSES = 10


class _Keyed:
    @property
    def key(self) -> str:
        return repr(self)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "sgd fused": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    "sgd one by one": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=False),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "adam fused": lambda parameters: torch.optim.Adam(parameters, fused=True),
    "adam one by one": lambda parameters: torch.optim.Adam(parameters, foreach=False),
    "adam capturable": lambda parameters: torch.optim.Adam(parameters, capturable=True),
    "adamw": torch.optim.AdamW,
    "adamw fused": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "adamw amsgrad": lambda parameters: torch.optim.AdamW(parameters, amsgrad=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
}


@dataclass(frozen=True)
class Recipe:
    """How a module is trained.

    Parameters
    ----------
    autocast
        Name of the dtype in which operators run that can, or None.
    scaled
        Whether a ``GradScaler`` guards the gradients.
    micro_batches
        Backward passes before each step of the optimizer.
    """

    optimizer: str = "momentum"
    autocast: str | None = None
    scaled: bool = False
    micro_batches: int = 1

    def train(self, module: nn.Module, inputs: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Prepared:
        """Return a step that minimises ``loss_of(inputs)`` over the parameters of ``module`` that train."""
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = OPTIMIZERS[self.optimizer](trained)
        scaler = torch.amp.GradScaler("cuda", enabled=self.scaled)

        def autocast() -> AbstractContextManager[object]:
            return torch.autocast("cuda", getattr(torch, self.autocast)) if self.autocast else nullcontext()

        def step(observer: StepObserver) -> None:
            observer.forward()
            # The observer knows one forward and one backward pass: the earlier ones count as part of the first.
            for _ in range(self.micro_batches - 1):
                with autocast():
                    earlier = loss_of(inputs)
                scaler.scale(earlier).backward()
            with autocast():
                loss = loss_of(inputs)
            observer.backward(loss)
            scaler.scale(loss).backward()
            observer.optimizer()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            observer.end()

        return Prepared(module, optimizer, (inputs,), step)


PLAIN = Recipe()


@contextmanager
def _parameters_without_values() -> Iterator[None]:
    """Draw no weights, which takes seconds. On ``torch.device("meta")`` RegNet could not compute its widths."""

    def without_value(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        return parameter if parameter is None else nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = nn.modules.module.register_module_parameter_registration_hook(without_value)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class Torchvision(_Keyed):
    """A classifier of torchvision, as it comes.

    Parameters
    ----------
    frozen_children
        The first children of the module that do not train.
    frozen_in_eval_mode
        Whether these also use, and do not update, their running statistics.
    checkpointed
        Whether the children (all one after the other) keep no activations but compute them again.
    """

    name: str
    recipe: Recipe = PLAIN
    batch_size: int = 2
    channels_last: bool = False
    frozen_children: int = 0
    frozen_in_eval_mode: bool = False
    checkpointed: bool = False

    def prepare(self, device: torch.device) -> Prepared:
        import torchvision  # two more seconds in a worker that measures something else

        options = {"init_weights": False} if self.name in ("googlenet", "inception_v3") else {}
        with _parameters_without_values():
            module = torchvision.models.get_model(self.name, num_classes=CLASSES, **options)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        module.to_empty(device=device).to(memory_format=layout)
        for child in list(module.children())[: self.frozen_children]:
            child.requires_grad_(False).train(not self.frozen_in_eval_mode)
        side = 299 if self.name == "inception_v3" else 224
        inputs = torch.zeros(self.batch_size, 3, side, side, device=device).to(memory_format=layout)
        targets = torch.zeros(self.batch_size, dtype=torch.int64, device=device)

        def forward(inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
            if not self.checkpointed:
                return module(inputs)
            children = [*module.children()]
            return checkpoint_sequential([*children[:-1], nn.Flatten(), children[-1]], 3, inputs, use_reentrant=False)

        def loss(inputs: Tensor) -> Tensor:
            outputs = forward(inputs)
            every = (outputs,) if isinstance(outputs, Tensor) else outputs  # some have classifiers on the way
            return sum((functional.cross_entropy(logits, targets) for logits in every), torch.zeros((), device=device))

        return self.recipe.train(module, inputs, loss)


@dataclass(frozen=True)
class Layer(_Keyed):
    """A layer, or a way to run one, that asks something of the GPU that classifiers of pictures do not."""

    name: str
    recipe: Recipe = PLAIN

    def prepare(self, device: torch.device) -> Prepared:
        with torch.device(device):
            module, inputs, loss = LAYERS[self.name]()
        return self.recipe.train(module, inputs, loss)


_Parts = tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]


def _layer(module: nn.Module, inputs: Tensor) -> _Parts:
    return module, inputs, lambda inputs: module(inputs).float().sum()


def _embedding(words: int) -> _Parts:
    return _layer(nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 8)), torch.zeros(16, words, dtype=torch.int64))


def _attention(backend: str) -> _Parts:
    """Self-attention through one kernel of PyTorch's own; another one that fits better is not taken."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    projection = nn.Linear(64, 3 * 64)

    def loss(inputs: Tensor) -> Tensor:
        query, key, value = projection(inputs).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return functional.scaled_dot_product_attention(query, key, value).float().sum()

    return projection, torch.zeros(2, 128, 64), loss


def _recurrent(kind: type[nn.RNNBase]) -> _Parts:
    """A recurrent layer by PyTorch itself, without cuDNN."""
    with torch.backends.cudnn.flags(enabled=False):
        module = kind(32, 64, num_layers=2, batch_first=True)

    def loss(inputs: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            return module(inputs)[0].sum()

    return module, torch.zeros(4, 16, 32), loss


def _gradient_per_sample() -> _Parts:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, CLASSES))

    def loss_of_one(parameters: dict[str, Tensor], picture: Tensor) -> Tensor:
        return torch.func.functional_call(module, parameters, (picture[None],)).logsumexp(1).sum()

    def loss(inputs: Tensor) -> Tensor:
        parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
        gradients = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0))(parameters, inputs)
        for name, parameter in module.named_parameters():
            norms = gradients[name].flatten(1).norm(dim=1).clamp(min=1)
            parameter.grad = torch.einsum("i,i...->...", 1 / norms, gradients[name])
        return module(inputs).sum()

    return module, torch.zeros(4, 3, 16, 16), loss


LAYERS: dict[str, Callable[[], _Parts]] = {
    "embedding, few words": lambda: _embedding(16),
    "embedding, many words": lambda: _embedding(1024),
    "layer norm": lambda: _layer(nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)), torch.zeros(16, 64)),
    "group norm": lambda: _layer(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.SiLU()), torch.zeros(4, 3, 16, 16)
    ),
    "instance norm": lambda: _layer(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16, affine=True)), torch.zeros(4, 3, 16, 16)
    ),
    "transposed convolution": lambda: _layer(nn.ConvTranspose2d(8, 4, 4, stride=2), torch.zeros(4, 8, 16, 16)),
    "convolution in 1d": lambda: _layer(nn.Conv1d(8, 4, 5, bias=False), torch.zeros(4, 8, 64)),
    "convolution in 3d": lambda: _layer(nn.Conv3d(3, 4, 3), torch.zeros(2, 3, 8, 16, 16)),
    "depthwise convolution": lambda: _layer(nn.Conv2d(32, 32, 3, groups=32), torch.zeros(4, 32, 16, 16)),
    "transformer": lambda: _layer(
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True), torch.zeros(4, 32, 64)
    ),
    "attention flash": lambda: _attention("FLASH_ATTENTION"),
    "attention efficient": lambda: _attention("EFFICIENT_ATTENTION"),
    "attention math": lambda: _attention("MATH"),
    "attention cudnn": lambda: _attention("CUDNN_ATTENTION"),
    "lstm": lambda: _recurrent(nn.LSTM),
    "gru": lambda: _recurrent(nn.GRU),
    "gradient per sample": _gradient_per_sample,
}


# --- what a virtual GPU plays otherwise than a real one, or not at all -----------------------------------------------


def _conditional_graph(outputs: Tensor) -> Tensor:
    graph, true = torch.cuda.CUDAGraph(), torch.ones((), dtype=torch.bool, device=outputs.device)
    with torch.cuda.graph(graph):
        graph.begin_capture_to_if_node(true)
    return outputs.sum()


def _benchmark(outputs: Tensor) -> Tensor:
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return functional.conv2d(outputs, torch.zeros(8, 8, 3, 3, device=outputs.device)).sum()


def _time(outputs: Tensor) -> Tensor:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    end.record()
    return outputs.sum() * start.elapsed_time(end)


def _pinned(outputs: Tensor) -> Tensor:
    copied = torch.empty(outputs.shape, pin_memory=True).copy_(outputs.detach(), non_blocking=True)
    return outputs.sum() * copied.sum().item()


def _matrix(outputs: Tensor) -> Tensor:
    return outputs.flatten(1) @ outputs.flatten(1).T


def _sparse(size: int, device: torch.device) -> Tensor:
    ends = torch.zeros(size + 1, dtype=torch.int64, device=device)
    return torch.sparse_csr_tensor(
        ends, ends[1:], torch.ones(size, device=device), (size, size), check_invariants=False
    )


READS: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda outputs: outputs.sum() * outputs.sum().item(),
    "branch": lambda outputs: outputs.sum() if outputs.sum() > 0 else outputs.mean(),
    "list": lambda outputs: outputs.sum() * sum(outputs.flatten().tolist()),
    "numpy": lambda outputs: outputs.sum() * float(outputs.detach().cpu().numpy().sum()),
    "strided": lambda outputs: outputs.sum() * float(outputs.detach()[:, ::2, :, ::2].cpu().sum()),
    "pinned": _pinned,
    "exponential": lambda outputs: torch.matrix_exp(_matrix(outputs)).sum(),
    "batched solve": lambda outputs: torch.linalg.solve(outputs, outputs).sum(),
}
"""Steps whose host reads what the GPU has computed."""

TIMES: dict[str, Callable[[Tensor], Tensor]] = {"benchmark": _benchmark, "time": _time}
"""Steps that depend on how long the GPU takes."""

REFUSED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "graph": ("cudaGraphConditionalHandleCreate", _conditional_graph),
    "singular values": ("cusolverDnCreate", lambda outputs: torch.linalg.svdvals(_matrix(outputs)).sum()),
    "inverse": ("cusolverDnCreate", lambda outputs: torch.linalg.inv(_matrix(outputs)).sum()),
    "fourier": ("cufftCreate", lambda outputs: torch.fft.fft(outputs).abs().sum()),
    "sparse": (
        "cusparseCreate",
        lambda outputs: torch.sparse.mm(_sparse(14, outputs.device), outputs[0, 0]).sum(),
    ),
    "alignment": (
        "cudnnCreateCTCLossDescriptor",
        lambda outputs: functional.ctc_loss(
            outputs[0].log_softmax(-1), torch.ones(28, dtype=torch.int32), 14 * (8,), 14 * (2,)
        ),
    ),
}
"""Steps that fail, each with the function that is refused."""

RECURRENT: dict[str, Callable[[Tensor], Tensor]] = {
    "rnn": lambda outputs: nn.RNN(14, 8).to(outputs.device)(outputs[0])[0].sum(),
    "lstm": lambda outputs: nn.LSTM(14, 8).to(outputs.device)(outputs[0])[0].sum(),
    "gru": lambda outputs: nn.GRU(14, 8).to(outputs.device)(outputs[0])[0].sum(),
}
"""Steps whose sizes are known from one card."""

HARMLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda outputs: outputs.sort()[0].sum() + outputs.topk(3)[0].sum() + outputs.flatten().cumsum(0).sum(),
    "dropout": lambda outputs: functional.dropout(outputs).sum(),
    "triangular": lambda outputs: torch.linalg.solve_triangular(outputs, outputs, upper=True).sum(),
    "clipping": lambda outputs: outputs.sum() + nn.utils.clip_grad_norm_([outputs.detach().requires_grad_()], 1),
    "compiled at run time": lambda outputs: outputs.sum() + torch.special.bessel_j0(outputs.detach()).sum(),
}
"""Steps that are played as on a real GPU."""


def play(loss_of_outputs: Callable[[Tensor], Tensor], recipe: Recipe = PLAIN) -> str:
    """Train a convolution for two steps; return the error, or nothing."""
    device = torch.device("cuda", 0)
    module = nn.Conv2d(3, 8, 3, device=device)
    inputs = torch.zeros(4, 3, 16, 16, device=device)
    prepared = recipe.train(module, inputs, lambda inputs: loss_of_outputs(module(inputs)))
    try:
        for _ in range(2):
            prepared.step(Unobserved())
    except RuntimeError as error:
        return str(error)
    return ""
