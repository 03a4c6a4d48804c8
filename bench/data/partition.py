"""Which examples each client holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from profl.bench.errors import InputError, nearest, remedy

Indices = NDArray[np.int64]

TRIES = 1000
"""Draws before a split that leaves some client with too few examples is given up."""

HOPELESS = 24
"""Clients with too few examples, in the mean of all draws so far, at which a split is given up before `TRIES`.

Clients go short independently or rather apart, as shares add up to one: where E of them do on average, a draw leaves
none short with a probability of about exp(-E) at most. From E = 21 on, `TRIES` draws succeed once in a million times;
below, draws exceed this line, four draws' worth above it, with a probability of less than 1e-10 (Chernoff's bound).
"""

LARGEST_ALPHA = 1e6
"""Shares are equal to 0.1 % by then; far above it the Dirichlet sampler fails."""


class Scheme(Protocol):
    """A way of dealing examples to clients; ``str(scheme)`` is the text it was parsed from."""

    def deal(self, targets: NDArray, clients: int, generator: np.random.Generator) -> list[Indices]:
        """Return one draw: the indices into ``targets`` (examples,) that each client gets."""


@dataclass(frozen=True)
class Iid:
    """At random, equally many each (one more for the first clients where it does not divide evenly)."""

    def __str__(self) -> str:
        return "iid"

    def deal(self, targets: NDArray, clients: int, generator: np.random.Generator) -> list[Indices]:
        return np.array_split(generator.permutation(len(targets)), clients)


@dataclass(frozen=True)
class Dirichlet:
    """Every class is dealt by shares drawn from a symmetric Dirichlet distribution.

    The scheme of flwr_datasets without self-balancing: a small ``alpha`` gives each class to few clients, a
    large one tends to equal shares.
    """

    alpha: float

    def __str__(self) -> str:
        return f"dirichlet:{self.alpha:g}"

    def deal(self, targets: NDArray, clients: int, generator: np.random.Generator) -> list[Indices]:
        by_class = []
        for label in np.unique(targets):
            examples = np.flatnonzero(targets == label)
            shares = generator.dirichlet(np.full(clients, self.alpha))
            # Every cut is rounded down, as in the original: the remainder goes to later clients.
            by_class.append(np.split(examples, (np.cumsum(shares) * len(examples)).astype(int)[:-1]))
        return [np.concatenate(pieces) for pieces in zip(*by_class, strict=True)]


@dataclass(frozen=True)
class Shards:
    """The examples sorted by class are cut into equal shards; each client gets ``per_client`` random ones.

    The non-IID split of McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
    Data", 2017. A shard straddles two classes where their sizes are no multiple of the shard's.
    """

    per_client: int

    def __str__(self) -> str:
        return f"shards:{self.per_client}"

    def deal(self, targets: NDArray, clients: int, generator: np.random.Generator) -> list[Indices]:
        count = clients * self.per_client
        if count > len(targets):
            raise InputError(
                f"partition '{self}': {clients} clients need {count} shards, but there are only "
                f"{len(targets)} examples; use fewer shards or fewer clients (devices of the recipe)"
            )
        shuffled = generator.permutation(len(targets))
        by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
        shards = np.array_split(by_class, count)
        dealt = generator.permutation(count).reshape(clients, self.per_client)
        return [np.concatenate([shards[shard] for shard in own]) for own in dealt]


@dataclass(frozen=True)
class Natural:
    """As the dataset itself says: a client is one of its users and holds what that user holds.

    Clients are in the order of the users. Of more users than clients, as many as there are clients are drawn; what the
    others hold trains nobody.
    """

    def __str__(self) -> str:
        return "natural"

    def deal(self, targets: NDArray, clients: int, generator: np.random.Generator) -> list[Indices]:
        """As of `Scheme`, but that ``targets`` are the users of the examples, not their classes."""
        users, counts = np.unique(targets, return_counts=True)
        if clients > len(users):
            raise InputError(
                f"partition '{self}': only {len(users)} users hold training examples, too few for {clients} devices: "
                f"set devices of the recipe to {len(users)} or fewer"
            )
        held = np.split(np.argsort(targets, kind="stable"), np.cumsum(counts)[:-1])
        return [held[user] for user in np.sort(generator.choice(len(users), clients, replace=False))]


def parse_scheme(text: str) -> Scheme:
    """Read ``iid``, ``dirichlet:0.5``, ``shards:2`` or ``natural``.

    Raises
    ------
    InputError
        If the text is none of these, or its number is out of range.
    """
    kind, _, number = text.strip().partition(":")
    try:
        if kind == "dirichlet" and 0 < float(number) <= LARGEST_ALPHA:
            return Dirichlet(float(number))
        if kind == "shards" and int(number) >= 1:
            return Shards(int(number))
        if kind == "iid" and kind == text.strip():
            return Iid()
        if kind == "natural" and kind == text.strip():
            return Natural()
    except ValueError:
        pass  # not a number: the same error as a number out of range
    kinds = ("iid", "dirichlet", "shards", "natural")
    forms = (
        f"write iid, dirichlet:ALPHA with 0 < ALPHA <= {LARGEST_ALPHA:g} as in dirichlet:0.5, "
        "shards:COUNT with COUNT >= 1 as in shards:2, or natural"
    )
    raise InputError(f"unknown partition '{text}': {remedy(None if kind in kinds else nearest(kind, kinds), forms)}")


def partition(
    targets: ArrayLike,
    clients: int,
    scheme: str | Scheme,
    seed: int,
    minimum: int = 1,
    users: ArrayLike | None = None,
) -> list[Indices]:
    """Deal the examples to the clients, each to exactly one; with `Natural`, to one at most.

    Parameters
    ----------
    targets
        Class of every example; int, shape (examples,).
    clients
        Number of clients.
    scheme
        See `parse_scheme` for its text form.
    seed
        Seeds ``numpy.random.default_rng`` as it stands, not by name, so that a Dirichlet split equals that of
        other frameworks at the same seed.
    minimum
        Fewest examples a client may hold. The whole split is drawn again until every client has them.
    users
        Who holds every example; int, shape (examples,). For `Natural` alone.

    Returns
    -------
    list of ndarray
        Indices into ``targets`` by client, shuffled; int64.

    Raises
    ------
    InputError
        If the scheme is malformed, if there are too few examples or users for the clients or shards, if there are no
        ``users`` to deal by, or if no draw in `TRIES` leaves every client with ``minimum`` examples, which is foreseen
        where it is `HOPELESS`.
    """
    scheme = parse_scheme(scheme) if isinstance(scheme, str) else scheme
    labels = np.asarray(targets)
    if clients < 1:
        raise InputError(f"{clients} clients: a partition needs at least 1")
    if len(labels) < clients * minimum:
        raise InputError(
            f"{len(labels)} examples cannot give each of {clients} clients at least {minimum}: use fewer "
            "clients (devices of the recipe) or a larger dataset"
        )
    if isinstance(scheme, Natural):
        if users is None:
            raise InputError(f"partition '{scheme}' needs the users of the examples: give them, or choose another")
        labels = np.asarray(users)
    generator = np.random.default_rng(seed)
    draws = short = 0
    while draws < TRIES and short <= HOPELESS * (draws + 4):
        parts = scheme.deal(labels, clients, generator)
        lacking = sum(len(part) < minimum for part in parts)
        if not lacking:
            for part in parts:
                generator.shuffle(part)
            return parts
        draws, short = draws + 1, short + lacking
    raise InputError(
        f"partition '{scheme}': about {round(short / draws)} of {clients} clients get fewer than {minimum} of "
        f"{len(labels)} examples (draws: {draws}); use fewer clients (devices of the recipe) or a larger alpha"
    )
