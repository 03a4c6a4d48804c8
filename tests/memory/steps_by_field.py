"""Training steps of texts, pictures, generative models and federated clients, in common sizes; workers import this too.

Sizes cost nothing where nothing is computed: they are such that activations outweigh the workspaces of libraries.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW
from torch.utils.checkpoint import checkpoint

Built = tuple[Any, Any, Any, Callable[[], object]]

WORDS, LENGTH, FEATURES, HEADS, CLASSES = 8000, 256, 256, 8, 10
TEXTS, PICTURES, SIDE = 16, 32, 64


def _texts(device: torch.device, count: int = TEXTS) -> Tensor:
    return torch.zeros(count, LENGTH, dtype=torch.int64, device=device)


def _pictures(device: torch.device) -> Tensor:
    return torch.zeros(PICTURES, 3, SIDE, SIDE, device=device)


def _labels(device: torch.device, count: int = PICTURES) -> Tensor:
    return torch.zeros(count, dtype=torch.int64, device=device)


def _minimise(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# --- texts ---


class SelfAttention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.into, self.out, self.causal = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES), causal

    def forward(self, features: Tensor) -> Tensor:
        parts = self.into(features).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(FEATURES) for _ in range(2))
        self.attention = SelfAttention(causal)
        self.wide = nn.Sequential(nn.Linear(FEATURES, 4 * FEATURES), nn.GELU(), nn.Linear(4 * FEATURES, FEATURES))

    def forward(self, features: Tensor) -> Tensor:
        features = features + self.attention(self.norms[0](features))
        return features + self.wide(self.norms[1](features))


class LanguageModel(nn.Module):
    """Predicts words by the embeddings that it reads them with."""

    def __init__(self, causal: bool = True, depth: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, FEATURES), nn.Embedding(LENGTH, FEATURES)
        self.blocks = nn.ModuleList(Block(causal) for _ in range(depth))
        self.norm = nn.LayerNorm(FEATURES)

    def read(self, texts: Tensor) -> Tensor:
        features = self.words(texts) + self.places(torch.arange(texts.shape[1], device=texts.device))
        for block in self.blocks:
            features = block(features)
        return self.norm(features)

    def forward(self, texts: Tensor) -> Tensor:
        return functional.linear(self.read(texts), self.words.weight)


def surprise(logits: Tensor, words: Tensor) -> Tensor:
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())


def language_model(device: torch.device, autocast: bool = False, parts: int = 1) -> Built:
    """Gradients are gathered over ``parts`` of the batch, and clipped."""
    model, texts = LanguageModel().to(device), _texts(device)
    optimizer = AdamW(model.parameters(), weight_decay=0.1)

    def step() -> None:
        optimizer.zero_grad()
        for part in texts.chunk(parts):
            with torch.autocast("cuda", torch.float16, enabled=autocast, cache_enabled=False):
                loss = surprise(model(part), part) / parts
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return model, optimizer, texts, step


def masked_words(device: torch.device) -> Built:
    """Guesses hidden words in both directions."""
    model, texts = LanguageModel(causal=False).to(device), _texts(device)
    optimizer = AdamW(model.parameters())

    def step() -> None:
        hidden = torch.rand(texts.shape, device=device) < 0.15
        targets = texts.masked_fill(~hidden, -100)
        logits = model(texts.masked_fill(hidden, WORDS - 1))
        _minimise(optimizer, functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100))

    return model, optimizer, texts, step


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, FEATURES, padding_idx=0)
        layer = nn.TransformerEncoderLayer(FEATURES, HEADS, 4 * FEATURES, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, texts: Tensor) -> Tensor:
        padding = texts == 0
        features = self.layers(self.words(texts), src_key_padding_mask=padding)
        return self.head(features.masked_fill(padding[..., None], 0).mean(1))


def padded_texts(device: torch.device) -> Built:
    model, texts = Classifier().to(device), _texts(device)
    optimizer = Adam(model.parameters())
    return (
        model,
        optimizer,
        texts,
        lambda: _minimise(optimizer, functional.cross_entropy(model(texts), _labels(device, TEXTS))),
    )


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, FEATURES)
        self.body = nn.Transformer(FEATURES, HEADS, 2, 2, 4 * FEATURES, batch_first=True)
        self.head = nn.Linear(FEATURES, WORDS)

    def forward(self, texts: Tensor, translated: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(translated.shape[1], device=texts.device)
        return self.head(self.body(self.words(texts), self.words(translated), tgt_mask=mask, tgt_is_causal=True))


def translation(device: torch.device) -> Built:
    model, texts, translated = Translator().to(device), _texts(device), _texts(device)
    optimizer = Adam(model.parameters())

    def step() -> None:
        logits = model(texts, translated)[:, :-1].flatten(0, 1)
        _minimise(optimizer, functional.cross_entropy(logits, translated[:, 1:].flatten(), label_smoothing=0.1))

    return model, optimizer, (texts, translated), step


class Adapter(nn.Module):
    """A frozen layer, and what is learnt beside it in few dimensions."""

    def __init__(self, frozen: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Parameter(torch.zeros(rank, frozen.in_features))
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, features: Tensor) -> Tensor:
        return self.frozen(features) + features @ self.down.T @ self.up.T


def adapters(device: torch.device) -> Built:
    model = LanguageModel().requires_grad_(False)
    for block in model.blocks:
        block.attention.into = Adapter(block.attention.into)
    model, texts = model.to(device), _texts(device)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(learnt)
    return model, optimizer, texts, lambda: _minimise(optimizer, surprise(model(texts), texts))


def text_distilled(device: torch.device) -> Built:
    student, teacher = LanguageModel(depth=1).to(device), LanguageModel().to(device).eval()
    optimizer, texts = AdamW(student.parameters()), _texts(device, 4)

    def step() -> None:
        with torch.no_grad():
            wanted = (teacher(texts) / 2).softmax(-1)
        known = functional.log_softmax(student(texts) / 2, dim=-1)
        _minimise(optimizer, functional.kl_div(known, wanted, reduction="batchmean"))

    return (student, teacher), optimizer, texts, step


def similar_texts(device: torch.device) -> Built:
    """Pairs of texts that belong together, against all others of the batch."""
    model = LanguageModel(causal=False).to(device)
    optimizer, pairs = AdamW(model.parameters()), (_texts(device), _texts(device))

    def step() -> None:
        one, other = (functional.normalize(model.read(texts).mean(1), dim=-1) for texts in pairs)
        likeness = one @ other.T / 0.05
        targets = torch.arange(TEXTS, device=device)
        _minimise(
            optimizer, functional.cross_entropy(likeness, targets) + functional.cross_entropy(likeness.T, targets)
        )

    return model, optimizer, pairs, step


class WordVectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Embedding(WORDS, FEATURES), nn.Embedding(WORDS, FEATURES)

    def forward(self, words: Tensor, others: Tensor) -> Tensor:
        return torch.bmm(self.outer(others), self.inner(words)[:, :, None]).squeeze(2)


def word_vectors(device: torch.device) -> Built:
    """Skip-grams with negative samples."""
    model = WordVectors().to(device)
    words, others = (torch.zeros(*size, dtype=torch.int64, device=device) for size in ((8192,), (8192, 6)))
    optimizer, targets = Adam(model.parameters()), torch.zeros(8192, 6, device=device)
    return (
        model,
        optimizer,
        (words, others, targets),
        lambda: _minimise(optimizer, functional.binary_cross_entropy_with_logits(model(words, others), targets)),
    )


class NextLetter(nn.Module):
    """The recurrent network of federated benchmarks on Shakespeare."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.reader = nn.Embedding(90, 8), nn.LSTM(8, 256, 2, batch_first=True)
        self.head = nn.Linear(256, 90)

    def forward(self, texts: Tensor) -> Tensor:
        return self.head(self.reader(self.letters(texts))[0][:, -1])


def next_letter(device: torch.device, own_kernels: bool = False) -> Built:
    """By cuDNN, or by PyTorch's own kernels."""
    with torch.backends.cudnn.flags(enabled=not own_kernels):
        model, texts = NextLetter().to(device), torch.zeros(64, 40, dtype=torch.int64, device=device)
    optimizer, letters = SGD(model.parameters(), lr=0.8), _labels(device, 64)

    def step() -> None:
        with torch.backends.cudnn.flags(enabled=not own_kernels):
            _minimise(optimizer, functional.cross_entropy(model(texts), letters))

    return model, optimizer, (texts, letters), step


# --- pictures ---


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Encoder(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(inputs, outputs), _convolution(outputs, outputs, stride=2))
            for inputs, outputs in zip((3, *widths), widths, strict=False)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        for stage in self.stages:
            pictures = stage(pictures)
        return pictures.mean((2, 3))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Encoder(), nn.Linear(256, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.body(pictures))


def scaled_halves(device: torch.device) -> Built:
    """Autocast with a scaler, channels last."""
    model = Network().to(device, memory_format=torch.channels_last)
    optimizer, scaler = SGD(model.parameters(), lr=0.1, momentum=0.9), torch.amp.GradScaler("cuda")
    pictures, labels = _pictures(device).contiguous(memory_format=torch.channels_last), _labels(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16, cache_enabled=False):
            loss = functional.cross_entropy(model(pictures), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return model, optimizer, (pictures, labels), step


def mixed_pictures(device: torch.device) -> Built:
    """Pictures and labels of two at a time, smoothed."""
    model, pictures = Network().to(device), _pictures(device)
    optimizer, labels = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True), _labels(device)

    def step() -> None:
        order = torch.randperm(PICTURES, device=device)
        targets = functional.one_hot(labels, CLASSES).float()
        logits = model(0.7 * pictures + 0.3 * pictures[order])
        _minimise(
            optimizer, functional.cross_entropy(logits, 0.7 * targets + 0.3 * targets[order], label_smoothing=0.1)
        )

    return model, optimizer, (pictures, labels), step


class Segmenter(nn.Module):
    """Down and up again, with what was seen on the way down."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.into, self.down, self.bottom = _convolution(3, 32), _convolution(32, 64), _convolution(64, 128)
        self.up = nn.ModuleList((nn.ConvTranspose2d(128, 64, 2, 2), nn.ConvTranspose2d(64, 32, 2, 2)))
        self.join, self.last = nn.ModuleList((_convolution(128, 64), _convolution(64, 32))), nn.Conv2d(32, outputs, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        first = self.into(pictures)
        second = self.down(functional.max_pool2d(first, 2))
        features = self.bottom(functional.max_pool2d(second, 2))
        for up, join, seen in zip(self.up, self.join, (second, first), strict=True):
            features = join(torch.cat((up(features), seen), dim=1))
        return self.last(features)


def segmentation(device: torch.device) -> Built:
    """Cross-entropy of every place, and the overlap of areas."""
    model, pictures = Segmenter().to(device), _pictures(device)
    optimizer = Adam(model.parameters())
    areas = torch.zeros(PICTURES, SIDE, SIDE, dtype=torch.int64, device=device)

    def step() -> None:
        logits = model(pictures)
        found, wanted = logits.softmax(1), functional.one_hot(areas, CLASSES).movedim(-1, 1).float()
        overlap = 2 * (found * wanted).sum((2, 3)) / (found.sum((2, 3)) + wanted.sum((2, 3)) + 1)
        _minimise(optimizer, functional.cross_entropy(logits, areas) + 1 - overlap.mean())

    return model, optimizer, (pictures, areas), step


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(3, 32), _convolution(32, 64, stride=2), _convolution(64, 128, stride=2))
        self.is_there, self.box = nn.Conv2d(128, CLASSES, 3, padding=1), nn.Conv2d(128, 4, 3, padding=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(pictures)
        return self.is_there(features), self.box(features)


def detection(device: torch.device) -> Built:
    """Boxes, and a loss that looks away from what is easy."""
    model, pictures = Detector().to(device), _pictures(device)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    there, boxes = (torch.zeros(PICTURES, parts, SIDE // 4, SIDE // 4, device=device) for parts in (CLASSES, 4))

    def step() -> None:
        logits, found = model(pictures)
        by_place = functional.binary_cross_entropy_with_logits(logits, there, reduction="none")
        _minimise(
            optimizer, ((1 - torch.exp(-by_place)) ** 2 * by_place).mean() + functional.smooth_l1_loss(found, boxes)
        )

    return model, optimizer, (pictures, there, boxes), step


def two_views(device: torch.device) -> Built:
    """Each picture twice, against all others: no labels."""
    model = nn.Sequential(Encoder(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128)).to(device)
    optimizer, pictures = Adam(model.parameters()), _pictures(device)

    def step() -> None:
        views = torch.cat((pictures + torch.randn_like(pictures), pictures.flip(3)))
        found = functional.normalize(model(views), dim=1)
        alike = (found @ found.T / 0.5).masked_fill(torch.eye(2 * PICTURES, dtype=torch.bool, device=device), -1e9)
        _minimise(optimizer, functional.cross_entropy(alike, torch.arange(2 * PICTURES, device=device).roll(PICTURES)))

    return model, optimizer, pictures, step


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, FEATURES, 8, 8)
        self.first = nn.Parameter(torch.zeros(1, 1, FEATURES))
        self.places = nn.Parameter(torch.zeros(1, 1 + (SIDE // 8) ** 2, FEATURES))
        self.blocks, self.head = nn.ModuleList(Block(causal=False) for _ in range(4)), nn.Linear(FEATURES, CLASSES)

    def forward(self, pictures: Tensor, again: bool = False) -> Tensor:
        patches = self.cut(pictures).flatten(2).transpose(1, 2)
        features = torch.cat((self.first.expand(len(pictures), -1, -1), patches), dim=1) + self.places
        for block in self.blocks:
            features = checkpoint(block, features, use_reentrant=False) if again else block(features)
        return self.head(features[:, 0])


def patches(device: torch.device, again: bool = False) -> Built:
    """``again``: blocks are computed again in the backward pass."""
    model, pictures = Patches().to(device), _pictures(device)
    optimizer, labels = AdamW(model.parameters()), _labels(device)
    return (
        model,
        optimizer,
        (pictures, labels),
        lambda: _minimise(optimizer, functional.cross_entropy(model(pictures, again), labels)),
    )


def last_layers(device: torch.device) -> Built:
    """Of a network that is trained already, whose statistics stay."""
    model, pictures = Network().to(device), _pictures(device)
    model.body.requires_grad_(False).eval()
    optimizer, labels = Adam(model.head.parameters()), _labels(device)
    return (
        model,
        optimizer,
        (pictures, labels),
        lambda: _minimise(optimizer, functional.cross_entropy(model(pictures), labels)),
    )


# --- generative models ---


def _decoder(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 128 * 64),
        nn.Unflatten(1, (128, 8, 8)),
        nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
    )


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.code, self.decoder = Encoder(), nn.Linear(256, 2 * 64), _decoder(64)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.code(self.encoder(pictures)).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(code), mean, log_variance


def variational(device: torch.device) -> Built:
    model, pictures = Autoencoder().to(device), _pictures(device)
    optimizer = Adam(model.parameters())

    def step() -> None:
        drawn, mean, log_variance = model(pictures)
        far = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        _minimise(optimizer, functional.binary_cross_entropy_with_logits(drawn, pictures, reduction="sum") + far)

    return model, optimizer, pictures, step


def codebook(device: torch.device) -> Built:
    """Codes are replaced by the nearest known ones, past which gradients go straight."""
    encoder = nn.Sequential(_convolution(3, 64, 2), _convolution(64, 64, 2), nn.Conv2d(64, 64, 1)).to(device)
    decoder = nn.Sequential(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)).to(
        device
    )
    codes, pictures = nn.Embedding(512, 64).to(device), _pictures(device)
    optimizer = Adam(chain(encoder.parameters(), decoder.parameters(), codes.parameters()))

    def step() -> None:
        found = encoder(pictures)
        places = found.movedim(1, -1).flatten(0, 2)
        nearest = torch.cdist(places, codes.weight).argmin(1)
        known = codes(nearest).view(*found.movedim(1, -1).shape).movedim(-1, 1)
        drawn = decoder(found + (known - found).detach())
        loss = functional.mse_loss(drawn, pictures) + functional.mse_loss(known, found.detach())
        _minimise(optimizer, loss + 0.25 * functional.mse_loss(found, known.detach()))

    return (encoder, decoder, codes), optimizer, pictures, step


def adversaries(device: torch.device, penalty: bool = False) -> Built:
    """Pictures drawn against a critic, who may be held to slopes of one."""
    maker, critic = (
        _decoder(64).to(device),
        nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(128 * (SIDE // 4) ** 2, 1),
        ).to(device),
    )
    makers, critics = (Adam(module.parameters(), lr=2e-4, betas=(0.5, 0.9)) for module in (maker, critic))
    pictures = _pictures(device)

    def step() -> None:
        drawn = maker(torch.randn(PICTURES, 64, device=device))
        loss = functional.relu(1 - critic(pictures)).mean() + functional.relu(1 + critic(drawn.detach())).mean()
        if penalty:
            share = torch.rand(PICTURES, 1, 1, 1, device=device)
            between = (share * pictures + (1 - share) * drawn.detach()).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            loss = loss + 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
        _minimise(critics, loss)
        _minimise(makers, -critic(drawn).mean())

    return (maker, critic), [makers, critics], pictures, step


class Denoiser(nn.Module):
    """Guesses the noise in a picture, given how much there is."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))
        self.into, self.out = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, 64) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))

    def forward(self, pictures: Tensor, times: Tensor) -> Tensor:
        waves = torch.exp(torch.arange(32, device=times.device) * (-math.log(10_000) / 32))
        angles = times[:, None].float() * waves
        when = self.time(torch.cat((angles.sin(), angles.cos()), dim=1))[:, :, None, None]
        features = self.into(pictures)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            features = features + convolution(functional.silu(norm(features + when)))
        return self.out(features)


def diffusion(device: torch.device) -> Built:
    """With a moving average of the weights."""
    model, pictures = Denoiser().to(device), _pictures(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer, kept = AdamW(model.parameters()), torch.linspace(0.99, 0.01, 1000, device=device)

    def step() -> None:
        times, noise = torch.randint(0, 1000, (PICTURES,), device=device), torch.randn_like(pictures)
        share = kept[times][:, None, None, None]
        noisy = share.sqrt() * pictures + (1 - share).sqrt() * noise
        _minimise(optimizer, functional.mse_loss(model(noisy, times), noise))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 0.001)

    return (model, average), optimizer, pictures, step


class Coupling(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features // 2, 512), nn.ReLU(), nn.Linear(512, features))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = values.chunk(2, dim=1)
        scale, shift = self.net(kept).chunk(2, dim=1)
        scale = torch.tanh(scale)
        return torch.cat((changed * scale.exp() + shift, kept), dim=1), scale.sum(1)


def flow(device: torch.device) -> Built:
    """Invertible layers, trained by likelihood."""
    model, values = nn.ModuleList(Coupling(64) for _ in range(6)).to(device), torch.zeros(4096, 64, device=device)
    optimizer = Adam(model.parameters())

    def step() -> None:
        code, stretched = values, torch.zeros(len(values), device=device)
        for layer in model:
            code, more = layer(code)
            stretched = stretched + more
        _minimise(optimizer, (0.5 * code.square().sum(1) - stretched).mean())

    return model, optimizer, values, step


# --- federated clients ---


def _client(device: torch.device) -> tuple[Network, SGD, Tensor, Tensor]:
    model = Network().to(device)
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9), _pictures(device), _labels(device)


def _squares(model: nn.Module, others: list[Tensor]) -> Tensor:
    return torch.stack(
        [(one - other).square().sum() for one, other in zip(model.parameters(), others, strict=True)]
    ).sum()


def held_near(device: torch.device) -> Built:
    """FedProx: near the server's weights."""
    model, optimizer, pictures, labels = _client(device)
    server = [weight.detach().clone() for weight in model.parameters()]
    return (
        model,
        optimizer,
        (pictures, labels),
        lambda: _minimise(
            optimizer, functional.cross_entropy(model(pictures), labels) + 0.005 * _squares(model, server)
        ),
    )


def corrected(device: torch.device) -> Built:
    """SCAFFOLD: gradients are corrected by what sets this client apart, which is then learnt anew."""
    model, optimizer, pictures, labels = _client(device)
    server = [weight.detach().clone() for weight in model.parameters()]
    mine, all_of_us = ([torch.zeros_like(weight) for weight in server] for _ in range(2))

    def step() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            functional.cross_entropy(model(pictures), labels).backward()
            for weight, own, common in zip(model.parameters(), mine, all_of_us, strict=True):
                weight.grad.add_(common - own)
            optimizer.step()
        with torch.no_grad():
            for weight, old, own, common in zip(model.parameters(), server, mine, all_of_us, strict=True):
                own.copy_(own - common + (old - weight) / (2 * 0.1))

    return model, optimizer, (pictures, labels), step


def regularised(device: torch.device) -> Built:
    """FedDyn: a linear term from rounds before, and one that holds near."""
    model, optimizer, pictures, labels = _client(device)
    server = [weight.detach().clone() for weight in model.parameters()]
    history = torch.zeros(sum(weight.numel() for weight in server), device=device)

    def step() -> None:
        flat = torch.cat([weight.flatten() for weight in model.parameters()])
        loss = functional.cross_entropy(model(pictures), labels) - flat @ history + 0.01 * _squares(model, server)
        _minimise(optimizer, loss)

    return model, optimizer, (pictures, labels), step


def near_the_common(device: torch.device) -> Built:
    """MOON: features near those of the server's model, far from those of the client's last one."""
    model, optimizer, pictures, labels = _client(device)
    server, last = (copy.deepcopy(model).requires_grad_(False).eval() for _ in range(2))

    def step() -> None:
        features = model.body(pictures)
        with torch.no_grad():
            common, own = server.body(pictures), last.body(pictures)
        near, far = (functional.cosine_similarity(features, other) / 0.5 for other in (common, own))
        contrast = functional.cross_entropy(torch.stack((near, far), dim=1), torch.zeros_like(labels))
        _minimise(optimizer, functional.cross_entropy(model.head(features), labels) + contrast)

    return (model, server, last), optimizer, (pictures, labels), step


@contextmanager
def _learning(part: nn.Module, other: nn.Module) -> Iterator[None]:
    part.requires_grad_(True)
    other.requires_grad_(False)
    yield
    other.requires_grad_(True)


def personal_head(device: torch.device) -> Built:
    """FedRep: first the client's own head, then the shared body."""
    model, _, pictures, labels = _client(device)
    heads, bodies = (SGD(part.parameters(), lr=0.1, momentum=0.9) for part in (model.head, model.body))

    def step() -> None:
        for optimizer, part, other in ((heads, model.head, model.body), (bodies, model.body, model.head)):
            with _learning(part, other):
                _minimise(optimizer, functional.cross_entropy(model(pictures), labels))

    return model, [heads, bodies], (pictures, labels), step


def quick_to_adapt(device: torch.device) -> Built:
    """Per-FedAvg: the loss after a step, as the weights before it make it."""
    model, optimizer, pictures, labels = _client(device)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False
    names = [name for name, _ in model.named_parameters()]

    def step() -> None:
        weights = list(model.parameters())
        loss = functional.cross_entropy(model(pictures), labels)
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        adapted = [weight - 0.01 * gradient for weight, gradient in zip(weights, gradients, strict=True)]
        outputs = torch.func.functional_call(model, dict(zip(names, adapted, strict=True)), (pictures,))
        _minimise(optimizer, functional.cross_entropy(outputs, labels))

    return model, optimizer, (pictures, labels), step


def private(device: torch.device) -> Built:
    """Gradients of one picture at a time, clipped, summed and noised."""
    model, optimizer, pictures, labels = _client(device)
    model.eval()

    def step() -> None:
        sums = [torch.zeros_like(weight) for weight in model.parameters()]
        for picture, label in zip(pictures[:4].split(1), labels[:4].split(1), strict=True):
            optimizer.zero_grad()
            functional.cross_entropy(model(picture), label).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            torch._foreach_add_(sums, [weight.grad for weight in model.parameters()])
        for weight, total in zip(model.parameters(), sums, strict=True):
            weight.grad = (total + torch.randn_like(total)) / 4
        optimizer.step()

    return model, optimizer, (pictures, labels), step


def taught_by_all(device: torch.device) -> Built:
    """FedDF: the server learns from what several clients' models say."""
    model, optimizer, pictures, _ = _client(device)
    clients = [copy.deepcopy(model).requires_grad_(False).eval() for _ in range(4)]

    def step() -> None:
        with torch.no_grad():
            said = torch.stack([client(pictures) for client in clients]).mean(0).softmax(1)
        _minimise(optimizer, functional.kl_div(model(pictures).log_softmax(1), said, reduction="batchmean"))

    return [model, *clients], optimizer, pictures, step


def whole_round(device: torch.device) -> Built:
    """Two clients one after another, each from the server's weights, and their mean."""
    server, _, pictures, labels = _client(device)

    def step() -> None:
        total: dict[str, Tensor] = {}
        for _ in range(2):
            client = copy.deepcopy(server)
            optimizer = SGD(client.parameters(), lr=0.1)
            for _ in range(2):
                _minimise(optimizer, functional.cross_entropy(client(pictures), labels))
            for name, value in client.state_dict().items():
                total[name] = total[name] + value / 2 if name in total else value / 2
        server.load_state_dict(total)

    return server, SGD(server.parameters(), lr=0.1), (pictures, labels), step


STEPS: dict[str, dict[str, Callable[[torch.device], Built]]] = {
    "text": {
        "language model": language_model,
        "language model, autocast": partial(language_model, autocast=True),
        "language model, in parts": partial(language_model, parts=4),
        "masked words": masked_words,
        "padded texts": padded_texts,
        "translation": translation,
        "adapters": adapters,
        "distilled": text_distilled,
        "similar texts": similar_texts,
        "word vectors": word_vectors,
        "next letter": next_letter,
        "next letter, without cuDNN": partial(next_letter, own_kernels=True),
    },
    "vision": {
        "scaled halves": scaled_halves,
        "mixed pictures": mixed_pictures,
        "segmentation": segmentation,
        "detection": detection,
        "two views": two_views,
        "patches": patches,
        "patches, checkpointed": partial(patches, again=True),
        "last layers": last_layers,
    },
    "generative": {
        "variational autoencoder": variational,
        "codebook": codebook,
        "adversaries of pictures": adversaries,
        "adversaries of pictures, penalised": partial(adversaries, penalty=True),
        "diffusion": diffusion,
        "flow": flow,
    },
    "federated": {
        "held near": held_near,
        "corrected": corrected,
        "regularised": regularised,
        "near the common": near_the_common,
        "personal head": personal_head,
        "quick to adapt": quick_to_adapt,
        "private": private,
        "taught by all": taught_by_all,
        "whole round": whole_round,
    },
}
