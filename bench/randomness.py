"""Random generators by name: a draw depends on what it is for and never on what was drawn before it.

Every random draw of a run comes from a generator named by (seed, purpose, round, client). A run is then the
same for one worker or many, fresh or resumed, whatever the global seeds are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index

import numpy as np
import torch


def named_seed(seed: int, *name: str | int) -> int:
    """Return the seed of the generator with this name, in [0, 2**63).

    Stable over processes, machines and versions: a cryptographic hash, since Python salts its own ``hash``.
    The name is hashed as JSON, so that ("ab", "c") and ("a", "bc"), or 1 and "1", are different names.

    Raises
    ------
    TypeError
        If a part of the name is neither text nor an integer.
    """
    parts = [part if isinstance(part, str) else index(part) for part in (index(seed), *name)]
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_generator(seed: int, *name: str | int) -> torch.Generator:
    """Return a fresh CPU generator with this name."""
    return torch.Generator().manual_seed(named_seed(seed, *name))


def numpy_generator(seed: int, *name: str | int) -> np.random.Generator:
    """Return a fresh NumPy generator with this name."""
    return np.random.default_rng(named_seed(seed, *name))


@contextmanager
def initialised(seed: int, *name: str | int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block and restore it afterwards.

    For constructing modules, whose initialisers take no generator. GPU generators are neither seeded nor
    saved: a module built on the CPU and moved starts from the same weights on every machine.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reseed every GPU, for good.
        torch.default_generator.manual_seed(named_seed(seed, *name))
        yield
