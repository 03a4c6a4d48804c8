"""Training steps that read numbers from the GPU, or look as if they did; the worker process imports this too."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import LBFGS, SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

Built = tuple[nn.Module, torch.optim.Optimizer, Any, Callable[[], object]]

BATCH, WIDE, CLASSES = 32, 64, 10


class Training:
    """A small classifier; ``outputs`` and ``loss`` are those of the forward pass that has just run."""

    def __init__(self, device: torch.device) -> None:
        self.module = nn.Sequential(nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, CLASSES)).to(device)
        self.optimizer = SGD(self.module.parameters(), lr=0.1, momentum=0.9)
        self.inputs = torch.zeros(BATCH, WIDE, device=device)
        self.targets = torch.zeros(BATCH, dtype=torch.int64, device=device)

    def forward(self) -> Tensor:
        self.outputs = self.module(self.inputs)
        self.loss = functional.cross_entropy(self.outputs, self.targets)
        return self.loss

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def build(device: torch.device, name: str) -> Built:
    """Return a step that does a deed between forward and backward; what it returns is added to the loss."""
    training, deed = Training(device), DEEDS[name]

    def step() -> None:
        training.forward()
        done = deed(training)
        loss = training.loss
        training.backward(loss + done.sum() if isinstance(done, Tensor) and done.requires_grad else loss)

    return training.module, training.optimizer, (training.inputs, training.targets), step


# --- deeds ---


def clipped(training: Training) -> None:
    training.loss.backward(retain_graph=True)
    nn.utils.clip_grad_norm_(training.module.parameters(), 1.0, error_if_nonfinite=True)


def clipped_unasked(training: Training) -> None:
    training.loss.backward(retain_graph=True)
    nn.utils.clip_grad_norm_(training.module.parameters(), 1.0)


def scaled(training: Training) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler("cuda")
    scaler.scale(training.forward()).backward()
    scaler.step(training.optimizer)
    scaler.update()
    training.forward()
    return scaler


def searched(training: Training) -> None:
    optimizer = LBFGS(training.module.parameters(), line_search_fn="strong_wolfe", max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = training.forward()
        loss.backward()
        return loss

    optimizer.step(closure)
    training.forward()


def saved(training: Training) -> None:
    torch.save(training.module.state_dict(), io.BytesIO())


def aligned(training: Training, device: torch.device | None = None) -> Tensor:
    logits = training.outputs.view(8, 4, CLASSES).log_softmax(2)
    labels = torch.ones(4, 2, dtype=torch.int64, device=logits.device)
    return functional.ctc_loss(logits, labels, torch.full((4,), 8, device=device), torch.full((4,), 2, device=device))


def masked_attention(training: Training) -> Tensor:
    attention = nn.MultiheadAttention(16, 2, batch_first=True).to(training.inputs.device)
    words = training.inputs.view(BATCH, 4, 16)
    return attention(words, words, words, key_padding_mask=words[..., 0] < 0)[0]


def fast_encoder(training: Training) -> None:
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, batch_first=True), 1)
    words = training.inputs.view(BATCH, 4, 16)
    with torch.no_grad():
        layers.to(words.device).eval()(words, src_key_padding_mask=words[..., 0] < 0)


def merged(training: Training) -> None:
    table = nn.Embedding(50, 8, sparse=True, device=training.inputs.device)
    table(training.targets).sum().backward()
    assert table.weight.grad is not None
    table.weight.grad.coalesce()


def filled(training: Training) -> Tensor:
    outputs = training.outputs.clone()
    outputs[outputs > 0] = 0.0
    return outputs


def replaced(training: Training) -> Tensor:
    outputs = training.outputs.clone()
    outputs[outputs > 0] = training.loss
    return outputs


def checked(training: Training) -> None:
    finite = torch.isfinite(training.outputs).all()
    assert finite, "not finite"


def packed(training: Training) -> Tensor:
    words = training.inputs.view(BATCH, 4, 16)
    pack = partial(nn.utils.rnn.pack_padded_sequence, words, batch_first=True, enforce_sorted=False)
    return pack((training.targets + 4).cpu()).data


def failing_later(training: Training) -> None:
    sizes = training.targets.tolist()
    training.outputs.split(sizes)


def waiting(training: Training) -> None:
    while not training.loss > 0.5:
        pass


Deed = Callable[[Training], object]

TOLD: dict[str, tuple[Deed, int]] = {
    "item": (lambda training: training.loss.item(), 1),
    "float": (lambda training: float(training.loss), 1),
    "format": (lambda training: f"{training.loss:.3f}", 1),
    "print": (lambda training: repr(training.outputs), 0),
    "list": (lambda training: training.outputs.tolist(), 1),
    "copy": (lambda training: training.outputs.cpu(), 1),
    "array": (lambda training: training.outputs.detach().cpu().numpy(), 1),
    "every row": (lambda training: [int(target) for target in training.targets], BATCH),
    "branch": (lambda training: training.loss.isnan() and None, 1),
    "membership": (lambda training: 3 in training.targets, 1),
    "equal": (lambda training: torch.equal(training.outputs, training.outputs + 1), 1),
    "close": (lambda training: torch.allclose(training.outputs, training.outputs + 1), 1),
    "accuracy": (lambda training: (training.outputs.argmax(1) == training.targets).sum().item(), 1),
    "row by number": (lambda training: training.outputs[: training.targets.max()], 1),
    "size by item": (lambda training: training.inputs.new_zeros(int(training.targets.max()) + 1), 1),
    "histogram": (lambda training: torch.histc(training.outputs.detach()), 2),
    "exponential": (lambda training: torch.matrix_exp(training.outputs.T @ training.outputs), 1),
    "clipping that asks": (clipped, 1),
    "scale": (lambda training: scaled(training).get_scale(), 1),
    "plateau": (lambda training: ReduceLROnPlateau(training.optimizer).step(training.loss), 1),
    "line search": (searched, 0),
    "state": (lambda training: {name: value.cpu() for name, value in training.module.state_dict().items()}, 4),
    "saved": (saved, 4),
    "lengths of texts on the GPU": (lambda training: aligned(training, training.inputs.device), 0),
    "fast encoder": (fast_encoder, 1),
}
"""Each with how often it reads in a step; 0: as often as it takes."""

SIZED: dict[str, tuple[Deed, str]] = {
    "nonzero": (lambda training: training.outputs.nonzero(), "nonzero"),
    "where": (lambda training: torch.where(training.outputs > 0), "where"),
    "argwhere": (lambda training: torch.argwhere(training.outputs), "argwhere"),
    "mask": (lambda training: training.outputs[training.outputs > 0], "index"),
    "rows by mask": (lambda training: training.outputs[training.targets != 3], "index"),
    "mask filled from the GPU": (replaced, "index_put"),
    "masked select": (lambda training: training.outputs.masked_select(training.outputs > 0), "masked_select"),
    "unique": (lambda training: torch.unique(training.targets), "unique"),
    "unique rows": (lambda training: torch.unique(training.outputs, dim=0), "unique_dim"),
    "unique runs": (lambda training: torch.unique_consecutive(training.targets), "unique_consecutive"),
    "repeated": (lambda training: training.outputs.repeat_interleave(training.targets + 1, 0), "repeat_interleave"),
    "counted": (lambda training: torch.bincount(training.targets), "bincount"),
    "one-hot": (lambda training: functional.one_hot(training.targets), "one_hot"),
    "sparse": (lambda training: training.outputs.detach().to_sparse(), "to_sparse"),
}
"""Each with the operator that is named."""

GIVES_UP: dict[str, tuple[Deed, str]] = {
    "check": (checked, "AssertionError: not finite"),
    "distribution": (
        lambda training: torch.distributions.Normal(training.loss, 1, validate_args=True),
        "ValueError: Expected parameter loc",
    ),
    "pieces": (lambda training: training.outputs.split(training.targets.tolist()), "RuntimeError: split_with_sizes"),
    "packed": (packed, "RuntimeError: Length of all samples has to be greater than 0"),
}
"""Each with what it says where numbers that it reads are zero."""

UNTOLD: dict[str, Deed] = {
    "scaler": scaled,
    "clipping": clipped_unasked,
    "three-way where": lambda training: torch.where(training.outputs > 0, training.outputs, 0.0),
    "mask filled with a number": filled,
    "masked fill": lambda training: training.outputs.masked_fill(training.outputs > 0, 0.0),
    "size given": lambda training: training.outputs.repeat_interleave(training.targets + 1, 0, output_size=BATCH),
    "nonzero of a size": lambda training: training.outputs.nonzero_static(size=4),
    "one-hot of a size": lambda training: functional.one_hot(training.targets, CLASSES),
    "chosen rows": lambda training: training.outputs[training.targets, training.targets],
    "drawn": lambda training: torch.multinomial(training.outputs.detach().softmax(1), 2),
    "unchecked distribution": lambda training: torch.distributions.Categorical(
        logits=training.outputs, validate_args=False
    ).sample(),
    "bags": lambda training: nn.EmbeddingBag(50, 8, mode="max", device=training.inputs.device)(
        training.targets, training.targets[:4]
    ),
    "masked attention": masked_attention,
    "sorted": lambda training: training.outputs.sort()[0] + training.outputs.quantile(0.5),
    "permuted": lambda training: training.outputs[torch.randperm(BATCH, device=training.inputs.device)],
}

DEEDS: dict[str, Deed] = {
    **{name: deed for known in (TOLD, SIZED, GIVES_UP) for name, (deed, _) in known.items()},
    **UNTOLD,
    **{deed.__name__: deed for deed in (merged, failing_later, waiting)},
}
