"""Training steps with cuDNN's recurrent layers; the worker process imports this module too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Built = tuple[nn.Module, torch.optim.Optimizer, Any, Callable[[], object]]

LENGTHS = (35, 35, 20, 7, 1)
WORDS, WIDTH, HIDDEN, CLASSES = 500, 48, 256, 4


def _built(module: nn.Module, inputs: object, loss_of: Callable[[], Tensor]) -> Built:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        loss_of().backward()
        optimizer.step()
        optimizer.zero_grad()

    return module, optimizer, inputs, step


def layers(device: torch.device, kind: type[nn.RNNBase], **options: Any) -> Built:
    module = kind(WIDTH, HIDDEN, **options).to(device)
    inputs = torch.zeros(len(LENGTHS), max(LENGTHS), WIDTH, device=device, dtype=options.get("dtype"))
    return _built(module, inputs, lambda: module(inputs)[0].sum())


def autocast(device: torch.device) -> Built:
    module = nn.LSTM(WIDTH, HIDDEN, num_layers=2).to(device)
    inputs = torch.zeros(max(LENGTHS), len(LENGTHS), WIDTH, device=device)

    def loss_of() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return module(inputs)[0].float().sum()

    return _built(module, inputs, loss_of)


class Classifier(nn.Module):
    """Of texts, by the last state in both directions."""

    def __init__(self, padded_again: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.reader = nn.LSTM(WIDTH, HIDDEN, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN, CLASSES)
        self.padded_again = padded_again

    def forward(self, texts: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.words(texts), lengths, batch_first=True, enforce_sorted=False)
        read, (state, _) = self.reader(packed)
        if self.padded_again:
            return self.head(pad_packed_sequence(read, batch_first=True)[0].amax(1))
        return self.head(torch.cat((state[-2], state[-1]), dim=1))


def texts(device: torch.device, padded_again: bool = False) -> Built:
    module = Classifier(padded_again).to(device)
    inputs = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64, device=device)
    targets = torch.zeros(len(LENGTHS), dtype=torch.int64, device=device)
    lengths = torch.tensor(LENGTHS)

    def loss_of() -> Tensor:
        return nn.functional.cross_entropy(module(inputs, lengths), targets)

    return _built(module, (inputs, targets), loss_of)


STEPS: dict[str, Callable[[torch.device], Built]] = {
    "lstm": partial(layers, kind=nn.LSTM),
    "gru": partial(layers, kind=nn.GRU),
    "rnn": partial(layers, kind=nn.RNN, nonlinearity="relu"),
    "lstm, batch first": partial(layers, kind=nn.LSTM, batch_first=True),
    "lstm, no bias": partial(layers, kind=nn.LSTM, bias=False),
    "lstm, both directions": partial(layers, kind=nn.LSTM, bidirectional=True),
    "lstm, projected": partial(layers, kind=nn.LSTM, num_layers=2, bidirectional=True, proj_size=64),
    "lstm, projected, no bias": partial(layers, kind=nn.LSTM, proj_size=64, bias=False),
    "gru, deep": partial(layers, kind=nn.GRU, num_layers=3, bidirectional=True, dropout=0.5),
    "rnn, deep": partial(layers, kind=nn.RNN, num_layers=3, dropout=0.25),
    "lstm, double": partial(layers, kind=nn.LSTM, dtype=torch.float64),
    "lstm, bfloat16": partial(layers, kind=nn.LSTM, dtype=torch.bfloat16),
    "lstm, autocast": autocast,
    "texts": texts,
    "texts, padded again": partial(texts, padded_again=True),
}
