"""Training steps as people write them, in all the ways that hooks of a module do not see; workers import this too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call, vmap
from torch.func import grad as func_grad
from torch.nn import functional
from torch.optim import SGD, Adam
from torch.utils.checkpoint import checkpoint

Built = tuple[Any, Any, Any, Callable[[], object]]

BATCH, WIDE, NARROW = 48, 160, 24
CLIENT_BYTES = 4 * (WIDE * WIDE + WIDE + WIDE * NARROW + NARROW)
"""Of the parameters of `Net`."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(WIDE, WIDE)
        self.norm = nn.BatchNorm1d(WIDE, affine=False)
        self.head = nn.Linear(WIDE, NARROW)

    def forward(self, features: Tensor) -> Tensor:
        return self.classify(self.encode(features))

    def encode(self, features: Tensor) -> Tensor:
        return functional.relu(functional.linear(features, self.body.weight, self.body.bias))

    def classify(self, features: Tensor) -> Tensor:
        return functional.linear(features, self.head.weight, self.head.bias)


class Called(Net):
    def encode(self, features: Tensor) -> Tensor:
        return functional.relu(self.norm(self.body(features)))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


def _net(device: torch.device, kind: type[Net] = Called) -> tuple[Net, torch.optim.Optimizer, Tensor]:
    net = kind().to(device)
    return net, SGD(net.parameters(), lr=0.1, momentum=0.9), torch.zeros(BATCH, WIDE, device=device)


def _minimise(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


# --- modules whose __call__ never runs ---


def copied_client(device: torch.device) -> Built:
    """A round of one client, who trains a copy of the server's model and sends it back."""
    server, optimizer, batch = _net(device)

    def step() -> None:
        client = copy.deepcopy(server)
        local = SGD(client.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            _minimise(local, client(batch).sum())
        server.load_state_dict(client.state_dict())

    return server, optimizer, batch, step


def copied_client_by_functions(device: torch.device) -> Built:
    server, optimizer, batch = _net(device, Net)

    def step() -> None:
        client = copy.deepcopy(server)
        local = SGD(client.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            _minimise(local, client.classify(client.encode(batch)).sum())

    return server, optimizer, batch, step


def weights_only(device: torch.device) -> Built:
    model, optimizer, batch = _net(device)

    def step() -> None:
        hidden = functional.linear(batch, model.body.weight).relu()
        _minimise(optimizer, functional.linear(hidden, model.head.weight).sum())

    return model, optimizer, batch, step


def other_methods(device: torch.device) -> Built:
    model, optimizer, batch = _net(device, Net)
    return model, optimizer, batch, lambda: _minimise(optimizer, model.classify(model.encode(batch)).sum())


def functional_weights(device: torch.device) -> Built:
    model, optimizer, batch = _net(device)

    def step() -> None:
        weights = {name: weight * 1 for name, weight in model.named_parameters()}
        _minimise(optimizer, functional_call(model, weights, (batch,)).sum())

    return model, optimizer, batch, step


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor, *weights: Tensor) -> Tensor:
        context.save_for_backward(features, *weights)
        for weight in weights:
            features = features @ weight
        return features

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, *weights = context.saved_tensors
        passed = [features]
        for weight in weights[:-1]:
            passed.append(passed[-1] @ weight)
        gradients: list[Tensor] = []
        for weight, into in zip(reversed(weights), reversed(passed), strict=True):
            gradients.insert(0, into.T @ gradient)
            gradient = gradient @ weight.T
        return None, *gradients


def own_function(device: torch.device) -> Built:
    weights = nn.ParameterList(torch.zeros(WIDE, WIDE, device=device) for _ in range(3))
    optimizer, batch = Adam(weights.parameters()), torch.zeros(BATCH, WIDE, device=device)
    return weights, optimizer, batch, lambda: _minimise(optimizer, _Chain.apply(batch, *weights).sum())


def _by_function(one_thread: bool) -> AbstractContextManager[object]:
    """In two threads the peak varies: the engine's lets go of the last node only after the program goes on."""
    return torch.autograd.set_multithreading_enabled(not one_thread)


def gradients_by_function(device: torch.device, one_thread: bool = True) -> Built:
    """``torch.func.grad``, and a step of one's own."""
    model, optimizer, batch = _net(device, Net)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(model, weights, (batch,)).sum()

    def step() -> None:
        with _by_function(one_thread):
            gradients = func_grad(loss)({name: weight.detach() for name, weight in model.named_parameters()})
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight -= 0.1 * gradients[name]

    return model, optimizer, batch, step


def gradients_of_samples(device: torch.device, one_thread: bool = True) -> Built:
    """Private training: a gradient of every sample, cut and summed."""
    model, optimizer, batch = _net(device, Net)

    def loss(weights: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, weights, (sample[None],)).sum()

    def step() -> None:
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        with _by_function(one_thread):
            samples = vmap(func_grad(loss), in_dims=(None, 0))(weights, batch)
        for name, weight in model.named_parameters():
            weight.grad = samples[name].clamp(-1, 1).sum(0)
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, batch, step


def zeroth_order(device: torch.device) -> Built:
    """Two forward passes in place of a backward pass, nothing of it known to autograd, nor to a module."""
    model, optimizer, batch = _net(device, Net)

    @torch.no_grad()
    def step() -> None:
        losses = []
        for sign in (1, -2):
            for weight in model.parameters():
                weight += sign * torch.randn_like(weight)
            losses.append(model.classify(model.encode(batch)).sum())
        for weight in model.parameters():
            weight.grad = (losses[0] - losses[1]) * torch.randn_like(weight)
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, batch, step


def imported_grad(device: torch.device) -> Built:
    """``grad`` by a name of one's own, and gradients of gradients."""
    model, optimizer, batch = _net(device)

    def step() -> None:
        adapted = [
            weight - 0.1 * gradient
            for weight, gradient in zip(
                model.parameters(),
                grad(model(batch).sum(), list(model.parameters()), create_graph=True),
                strict=True,
            )
        ]
        names = [name for name, _ in model.named_parameters()]
        _minimise(optimizer, functional_call(model, dict(zip(names, adapted, strict=True)), (batch,)).square().sum())

    return model, optimizer, batch, step


def slope_of_slope(device: torch.device) -> Built:
    """Keeps the graph of a gradient, and what is computed from it while no module runs, in variables too."""
    model = nn.Linear(WIDE, 1).to(device)
    optimizer = SGD(model.parameters(), lr=0.1)
    batch = torch.zeros(BATCH, WIDE, device=device, requires_grad=True)

    def step() -> None:
        (slope,) = grad(model(batch).square().sum(), batch, create_graph=True)
        bent = slope.exp()
        _minimise(optimizer, (bent * bent.sin()).sum())

    return model, optimizer, batch, step


# --- tensors without plain storage ---


def sparse_rows(device: torch.device, adam: bool) -> Built:
    words = nn.Sequential(nn.Embedding(500, 32, sparse=True), nn.Flatten()).to(device)
    optimizer = torch.optim.SparseAdam(words.parameters()) if adam else SGD(words.parameters(), lr=0.1)
    batch = torch.zeros(BATCH, 8, dtype=torch.int64, device=device)
    return words, optimizer, batch, lambda: _minimise(optimizer, words(batch).sum())


def sparse_rows_gathered(device: torch.device) -> Built:
    words, optimizer, batch, _ = sparse_rows(device, adam=False)

    def step() -> None:
        words(batch).sum().backward()
        _minimise(optimizer, words(batch).sum())

    return words, optimizer, batch, step


class Odd(Called):
    """Has buffers of every kind of tensor that is not plain."""

    def __init__(self) -> None:
        super().__init__()
        plain = torch.zeros(16, 16, device="cuda")
        scales, points = torch.ones(16, device="cuda"), torch.zeros(16, dtype=torch.int64, device="cuda")
        for name, tensor in {
            "coo": torch.sparse_coo_tensor(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(5), (9, 9)).cuda(),
            "csr": torch.sparse_csr_tensor([0, 1, 2], [0, 1], [1.0, 1.0], size=(2, 2)).cuda(),
            "by_tensor": torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
            "by_channel": torch.quantize_per_channel(plain, scales, points, 0, torch.qint8),
            "nested": torch.nested.nested_tensor([torch.zeros(3), torch.zeros(7)], device="cuda"),
            "jagged": torch.nested.nested_tensor([torch.zeros(3), torch.zeros(7)], device="cuda", layout=torch.jagged),
        }.items():
            self.register_buffer(name, tensor)


def odd_buffers(device: torch.device) -> Built:
    model, optimizer, batch = _net(device, Odd)
    return model, optimizer, batch, lambda: _minimise(optimizer, model(batch).sum())


# --- several optimizers and models ---


def adversaries(device: torch.device, declared: bool = True, penalty: bool = False) -> Built:
    """A generator against a discriminator, each with its optimizer."""
    maker, critic = (nn.Sequential(nn.Linear(*sizes)).to(device) for sizes in ((NARROW, WIDE), (WIDE, 1)))
    makers = Adam(maker.parameters())
    critics = Adam(critic.parameters())
    real = torch.zeros(BATCH, WIDE, device=device)

    def step() -> None:
        noise = torch.randn(BATCH, NARROW, device=device)
        fake = maker(noise)
        critics.zero_grad()
        loss = critic(fake.detach()).mean() - critic(real).mean()
        if penalty:
            mixed = (real + fake.detach()).requires_grad_()
            (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
            loss = loss + slope.norm(dim=1).square().mean()
        loss.backward()
        critics.step()
        makers.zero_grad()
        critic(fake).mean().neg().backward()
        makers.step()

    if declared:
        return (maker, critic), [makers, critics], real, step
    return nn.ModuleList((maker, critic)), makers, real, step


def averaged(device: torch.device) -> Built:
    """A moving average of the weights beside them."""
    model, optimizer, batch = _net(device)
    average = copy.deepcopy(model).requires_grad_(False)

    def step() -> None:
        _minimise(optimizer, model(batch).sum())
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(weight, 0.01)

    return [model, average], optimizer, batch, step


def taught(device: torch.device) -> Built:
    """A teacher that nobody declares, called first."""
    model, optimizer, batch = _net(device)
    teacher = copy.deepcopy(model).requires_grad_(False)

    def step() -> None:
        with torch.no_grad():
            wanted = teacher(batch)
        _minimise(optimizer, functional.mse_loss(model(batch), wanted))

    return model, optimizer, batch, step


def undeclared_optimizer(device: torch.device) -> Built:
    model, _, batch = _net(device)
    body, head = Adam(model.body.parameters()), SGD(model.head.parameters(), lr=0.1)

    def step() -> None:
        model(batch).sum().backward()
        for optimizer in (body, head):
            optimizer.step()
            optimizer.zero_grad()

    return model, head, batch, step


# --- a forward pass after the optimizer's step, and several of everything ---


def validated(device: torch.device) -> Built:
    model, optimizer, batch = _net(device)
    held_back = torch.zeros(BATCH, WIDE, device=device)

    def step() -> None:
        _minimise(optimizer, model(batch).sum())
        with torch.no_grad():
            model(held_back).sum()

    return model, optimizer, (batch, held_back), step


def kept_for_the_next(device: torch.device, by_functions: bool = False) -> Built:
    """The loss of the next step is computed in this one, after the optimizer's step."""
    model, optimizer, batch = _net(device, Net if by_functions else Called)
    coming: list[Tensor] = []

    def step() -> None:
        if coming:
            _minimise(optimizer, coming.pop())
        coming.append((model.classify(model.encode(batch)) if by_functions else model(batch)).sum())

    return model, optimizer, batch, step


def gathered(device: torch.device) -> Built:
    model, optimizer, batch = _net(device)

    def step() -> None:
        for part in batch.chunk(3):
            (model(part).sum() / 3).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, batch, step


def several_forwards(device: torch.device) -> Built:
    model, optimizer, batch = _net(device)
    return model, optimizer, batch, lambda: _minimise(optimizer, model(batch).sum() + model(batch * 2).square().sum())


def epochs(device: torch.device) -> Built:
    """Local training of several batches as one step."""
    model, optimizer, batch = _net(device)

    def step() -> None:
        for _ in range(4):
            _minimise(optimizer, model(torch.zeros_like(batch)).sum())

    return model, optimizer, batch, step


def closure(device: torch.device, optimizer: str) -> Built:
    model, _, batch = _net(device)
    made = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        made.zero_grad()
        value = model(batch).sum()
        value.backward()
        return value

    return model, made, batch, lambda: made.step(loss)


class Sharpness(SGD):
    """Steps by the gradient at a point nearby, by way of another optimizer."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.base = SGD(self.param_groups, lr=0.1, momentum=0.9)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        weights = [weight for group in self.param_groups for weight in group["params"]]
        moved = [weight.grad * 0.05 for weight in weights]
        torch._foreach_add_(weights, moved)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        torch._foreach_sub_(weights, moved)
        self.base.step()


def sharpness(device: torch.device) -> Built:
    model, _, batch = _net(device)
    optimizer = Sharpness(list(model.parameters()))

    def step() -> None:
        model(batch).sum().backward()
        optimizer.step(lambda: model(batch).sum().backward())
        optimizer.zero_grad()

    return model, optimizer, batch, step


def proximal(device: torch.device) -> Built:
    """A term that holds the weights near the server's."""
    model, optimizer, batch = _net(device)
    anchor = [weight.detach().clone() for weight in model.parameters()]

    def step() -> None:
        near = sum(
            ((weight - old).square().sum() for weight, old in zip(model.parameters(), anchor, strict=True)),
            torch.zeros((), device=device),
        )
        _minimise(optimizer, model(batch).sum() + 0.1 * near)

    return model, optimizer, batch, step


# --- what stays, and what grows ---

_kept: list[Any] = []


def leaking(device: torch.device, every_step: bool) -> Built:
    """Into a list that outlives everything."""
    model, optimizer, batch = _net(device)
    _kept.append(torch.zeros(1000, device=device))

    def step() -> None:
        hidden = model.encode(batch)
        if every_step:
            _kept.append(hidden.detach())
        _minimise(optimizer, model.classify(hidden).sum())

    return model, optimizer, batch, step


def growing(device: torch.device) -> Built:
    """Into a list that goes when the step does: with their graphs."""
    model, optimizer, batch = _net(device)
    losses: list[Tensor] = []

    def step() -> None:
        losses.append(model(batch).square().sum())
        losses[-1].backward(retain_graph=True)
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, batch, step


def stepping_in_backward(device: torch.device) -> Built:
    """An optimizer a parameter, stepped as soon as its gradient is there, which is then gone."""
    model, _, batch = _net(device)
    each = {weight: Adam([weight], foreach=False) for weight in model.parameters()}

    def step_one(weight: Tensor) -> None:
        each[weight].step()
        each[weight].zero_grad()

    for weight in model.parameters():
        weight.register_post_accumulate_grad_hook(step_one)
    return model, list(each.values()), batch, lambda: model(batch).sum().backward()


def compiled(device: torch.device, backend: str, checkpointed: bool = False, in_place: bool = False) -> Built:
    model, optimizer, batch = _net(device)

    def forward(features: Tensor) -> Tensor:
        if checkpointed:
            return checkpoint(model, features, use_reentrant=False)
        return model(features)

    if in_place:
        model.compile(backend=backend)
        return model, optimizer, batch, lambda: _minimise(optimizer, model(batch).sum())
    fast = torch.compile(forward if checkpointed else model, backend=backend)
    return model, optimizer, batch, lambda: _minimise(optimizer, fast(batch).sum())


class Pointwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 1)

    def forward(self, features: Tensor) -> Tensor:
        features = self.into(features)
        for _ in range(6):
            features = features.sin() * features.sigmoid()
        return self.out(features)


def pointwise(device: torch.device, backend: str | None) -> Built:
    model = Pointwise().to(device)
    optimizer, batch = SGD(model.parameters(), lr=0.1), torch.zeros(4096, WIDE, device=device)
    fast = torch.compile(model, backend=backend) if backend else model
    return model, optimizer, batch, lambda: _minimise(optimizer, fast(batch).sum())


def counting_graphs(device: torch.device) -> Built:
    """Fails if the model is compiled more than once."""
    graphs: list[object] = []

    def backend(graph: Any, _: object) -> Any:
        graphs.append(graph)
        if len(graphs) > 1:
            raise AssertionError("compiled again")
        return graph.forward

    model, optimizer, batch = _net(device)
    fast = torch.compile(model, backend=backend)
    return model, optimizer, batch, lambda: _minimise(optimizer, fast(batch).sum())


def not_here(graph: object, _: object) -> Any:
    raise RuntimeError("no compiler")


STEPS: dict[str, Callable[[torch.device], Built]] = {
    "copied client": copied_client,
    "copied client by functions": copied_client_by_functions,
    "weights only": weights_only,
    "other methods": other_methods,
    "functional weights": functional_weights,
    "own function": own_function,
    "gradients by function": gradients_by_function,
    "gradients of samples": gradients_of_samples,
    "zeroth order": zeroth_order,
    "imported grad": imported_grad,
    "sparse rows, SGD": partial(sparse_rows, adam=False),
    "sparse rows, SparseAdam": partial(sparse_rows, adam=True),
    "sparse rows gathered": sparse_rows_gathered,
    "odd buffers": odd_buffers,
    "adversaries": adversaries,
    "adversaries, one undeclared": partial(adversaries, declared=False),
    "adversaries with penalty": partial(adversaries, penalty=True),
    "averaged": averaged,
    "taught": taught,
    "undeclared optimizer": undeclared_optimizer,
    "validated": validated,
    "kept for the next": kept_for_the_next,
    "kept for the next by functions": partial(kept_for_the_next, by_functions=True),
    "gathered": gathered,
    "several forwards": several_forwards,
    "epochs": epochs,
    "closure of SGD": partial(closure, optimizer="SGD"),
    "closure of LBFGS": partial(closure, optimizer="LBFGS"),
    "sharpness": sharpness,
    "proximal": proximal,
    "leaking once": partial(leaking, every_step=False),
    "leaking every step": partial(leaking, every_step=True),
    "growing": growing,
    "stepping in backward": stepping_in_backward,
    "compiled, eager": partial(compiled, backend="eager"),
    "compiled, aot_eager": partial(compiled, backend="aot_eager"),
    "compiled in place, aot_eager": partial(compiled, backend="aot_eager", in_place=True),
    "compiled checkpoint, aot_eager": partial(compiled, backend="aot_eager", checkpointed=True),
    "compiled, inductor": partial(compiled, backend="inductor"),
    "compiled checkpoint, inductor": partial(compiled, backend="inductor", checkpointed=True),
}
