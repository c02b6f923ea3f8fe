"""In which order the pictures of an archive are read: shuffled by part, so that every part is read once an epoch.

A part is one file of up to 64 neighbours. A few parts are mixed at a time: near to a full shuffle where sources were
listed in any order, at the price of a sequential read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIXED_PARTS = 4


def epoch_order(
    parts: Sequence[str], shuffle: bool, seed: int = 0, epoch: int = 0, mixed: int = MIXED_PARTS
) -> np.ndarray:
    """Indexes of all pictures; `parts[i]` is the part of picture i. The same on every rank and worker."""
    names, part_of = np.unique(np.asarray(parts, dtype=object).astype(str), return_inverse=True)
    if not shuffle:
        return np.argsort(part_of, kind="stable")
    generator = np.random.default_rng([seed, epoch])
    members = np.split(np.argsort(part_of, kind="stable"), np.cumsum(np.bincount(part_of, minlength=len(names)))[:-1])
    turns = generator.permutation(len(names))
    groups = [np.concatenate([members[at] for at in turns[k : k + mixed]]) for k in range(0, len(turns), mixed)]
    return np.concatenate([generator.permutation(group) for group in groups]) if groups else np.empty(0, np.int64)


def share(order: np.ndarray, rank: int, world_size: int, worker: int = 0, workers: int = 1) -> np.ndarray:
    """What one worker of one rank reads: a run of neighbours.

    Every rank gets the same number (a collective that waits for a rank without work would wait for ever), so up to
    `world_size - 1` pictures are left out, others in the next epoch; workers of a rank may differ by one.
    """
    each = len(order) // world_size
    own = order[rank * each : (rank + 1) * each]
    return np.array_split(own, workers)[worker]
