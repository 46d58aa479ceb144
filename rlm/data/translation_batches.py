"""Batches of sentence pairs: to train on (a pure function of seed and step), and every pair once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlm.data.datamodules import Order, share
from rlm.data.parallel import ParallelText
from rlm.data.tokens import Ragged

POOL = 16
"""Batches whose sentences are sorted by length together."""
MULTIPLE = 4
"""Widths of batches are rounded up to this."""


def padded(rows: Ragged, value: int) -> NDArray[np.int64]:
    """[rows, width], with `value` where a row has ended."""
    lengths = rows.lengths
    width = -(-int(lengths.max()) // MULTIPLE) * MULTIPLE
    found = np.full((len(rows), width), value, np.int64)
    found[np.arange(width) < lengths[:, None]] = rows.values
    return found


def pair_batch(text: ParallelText, pairs: NDArray[np.int64], ignored: int) -> dict[str, torch.Tensor]:
    """`ids` and `mask` of the sources, `labels` of the translations, each [batch, width].

    Args:
        text: it reads from.
        pairs: which.
        ignored: label of padding.
    """
    source = text.source.take(pairs)
    mask = padded(Ragged(np.ones_like(source.values), source.offsets), 0)
    labels = padded(text.target.take(pairs), ignored)
    found = {"ids": padded(source, text.pad), "mask": mask, "labels": labels}
    return {name: torch.from_numpy(value) for name, value in found.items()}


def batches_by_length(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Every row once, longest first, those of like length together."""
    order = np.argsort(-lengths, kind="stable")
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


class PairBatches:
    """Shuffled pairs, those of like length together, as other `Batches`."""

    def __init__(self, text: ParallelText, batch_size: int, seed: int, ignored: int) -> None:
        self.text, self.batch_size, self.seed, self.ignored = text, batch_size, seed, ignored
        self.order = Order(self._examples, seed)

    def _examples(self, epoch: int) -> NDArray[np.int64]:
        return np.arange(len(self.text))

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Any]:
        pool, place = divmod(step, POOL)
        pairs, _ = self.order(pool, self.batch_size * POOL)
        lengths = self.text.source.lengths[pairs] + self.text.target.lengths[pairs]
        chosen = np.random.default_rng((self.seed, pool)).permutation(POOL)[place]
        batch = np.array_split(pairs[np.argsort(lengths, kind="stable")], POOL)[chosen]
        return pair_batch(self.text, share(rank, world, batch)[0], self.ignored)


def every_pair(text: ParallelText, batch_size: int, ignored: int) -> Iterator[dict[str, torch.Tensor]]:
    """Every pair once, longest first."""
    for pairs in batches_by_length(text.source.lengths + text.target.lengths, batch_size):
        yield pair_batch(text, pairs, ignored)
