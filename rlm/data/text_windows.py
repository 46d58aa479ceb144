"""Windows of documents for language models, each with the neighbours of its chunks: to train on and to evaluate.

Every token but the start of a document is predicted exactly once: in training in each epoch, in evaluation in one
pass over all windows.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rlm.data.chunks import Chunks
from rlm.data.config import Part
from rlm.data.datamodules import Order, share

MULTIPLE = 8
"""Widths of batches are rounded up to this."""


class Table(Protocol):
    """Neighbours of every chunk of a text, best first."""

    ids: NDArray[np.int64]
    """Chunks of the corpus, [chunks, k]."""


class NeighbourTokens:
    """Tokens of the neighbours of chunks: what was found, what follows it in its document, or both.

    Args:
        table: of the text's chunks; `NeighbourTable` is one.
        corpus: chunks that the table numbers.
        part: which tokens; r is two chunks for `both`, else one.
    """

    def __init__(self, table: Table, corpus: Chunks, part: Part = "both") -> None:
        self.table, self.corpus, self.part = table, corpus, part

    def __call__(self, chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids, padded, and mask, True on tokens, of the neighbours of chunks; those of chunk -1 are all padding.

        Args:
            chunks: of the text, [batch, chunks].

        Returns:
            each [batch, chunks, k, r].
        """
        # [batch, chunks, k]
        found = np.asarray(self.table.ids[np.maximum(chunks, 0)])
        ids, mask = self.corpus.take(found, 1 if self.part == "neighbour" else 2)
        if self.part == "continuation":
            ids, mask = ids[..., self.corpus.chunk_tokens :], mask[..., self.corpus.chunk_tokens :]
        mask = mask & (chunks >= 0)[..., None, None]
        return np.where(mask, ids, self.corpus.documents.pad), mask


class TextWindows:
    """Every document as windows of `tokens` tokens that start `stride` tokens apart, the last of them shorter.

    A window reads up to the last token but one of its document, for the last predicts nothing. Where windows overlap,
    the later one predicts what the earlier did not.

    Args:
        chunks: of the text.
        tokens: read by a window (n).
        stride: tokens from window to window, whole chunks; the smaller, the more a prediction may look back on. None
            takes as many whole chunks as a window has.
        neighbours: of the chunks; None gives none (a language model, kNN-LM, RETRO[Off]).

    Raises:
        ValueError: a window is not longer than a chunk, a stride of no whole chunks or beyond the window, or neighbours
            of another text or of chunks of another size.
    """

    def __init__(
        self, chunks: Chunks, tokens: int, stride: int | None = None, neighbours: NeighbourTokens | None = None
    ) -> None:
        m = chunks.chunk_tokens
        if tokens <= m:
            raise ValueError(
                f"sequences of {tokens} tokens are not longer than one chunk of {m}, so that no token could read the "
                "neighbours of a chunk before it; set longer sequences or smaller chunks"
            )
        stride = tokens // m * m if stride is None else stride
        if stride % m or not 0 < stride <= tokens:
            raise ValueError(f"stride of {stride} tokens; write a multiple of the chunk, {m}, of at most {tokens}")
        if neighbours is not None:
            if len(neighbours.table.ids) != len(chunks):
                raise ValueError(
                    f"neighbours of {len(neighbours.table.ids)} chunks for a text of {len(chunks)}; "
                    "compute them for this text"
                )
            if neighbours.corpus.chunk_tokens != m:
                raise ValueError(
                    f"neighbours of {neighbours.corpus.chunk_tokens} tokens for chunks of {m}; use one size"
                )
        self.chunks, self.tokens, self.stride, self.neighbours = chunks, tokens, stride, neighbours
        self._read = chunks.documents.tokens.lengths - 1
        counts = 1 + np.maximum(-(-(self._read - tokens) // stride), 0)
        self._first: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def places(self, windows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Document, first token in it, and length of each window."""
        document = np.searchsorted(self._first, windows, "right") - 1
        start = (windows - self._first[document]) * self.stride
        return document, start, np.minimum(self._read[document] - start, self.tokens)

    def batch(self, windows: NDArray[np.int64]) -> dict[str, Any]:
        """The given windows, padded to the longest.

        Returns:
            ids, targets (the token after each): int64 [batch, length]; mask (True on tokens), scored (True where the
            target counts): bool [batch, length]; document, start: of the windows, [batch]; chunks: numbers of those
            that end in the window, -1 beyond, [batch, chunks]; with neighbours, neighbour_ids and neighbour_mask:
            [batch, chunks, k, r].
        """
        document, start, length = self.places(windows)
        m, values = self.chunks.chunk_tokens, self.chunks.documents.tokens.values
        width = min(-(-int(length.max()) // MULTIPLE) * MULTIPLE, self.tokens)
        column = np.arange(width)
        mask = column < length[:, None]
        # [batch, length + 1]
        positions = (self.chunks.documents.tokens.offsets[document] + start)[:, None] + np.arange(width + 1)
        text = values[np.minimum(positions, len(values) - 1)].astype(np.int64)
        pad = self.chunks.documents.pad
        seen_before = np.where(start > 0, self.tokens - self.stride, 0)
        # [batch, chunks]
        place = np.arange(width // m)
        chunks = (self.chunks.first[document] + start // m)[:, None] + place
        chunks = np.where((place + 1) * m <= length[:, None], chunks, -1)
        found = {
            "ids": np.where(mask, text[:, :-1], pad),
            "targets": np.where(mask, text[:, 1:], pad),
            "mask": mask,
            "scored": mask & (column >= seen_before[:, None]),
            "document": document,
            "start": start,
            "chunks": chunks,
        }
        if self.neighbours is not None:
            found["neighbour_ids"], found["neighbour_mask"] = self.neighbours(chunks)
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def batches(self, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[dict[str, Any]]:
        """Every window once, those of like length together; a rank of `world` gets every world-th batch."""
        lengths = self.places(np.arange(len(self)))[2]
        order = np.argsort(-lengths, kind="stable")
        for first in range(rank * batch_size, len(order), world * batch_size):
            yield self.batch(order[first : first + batch_size])


class TextBatches:
    """Shuffled windows to train on: a pure function of seed and step, as other `Batches`."""

    def __init__(self, windows: TextWindows, batch_size: int, seed: int) -> None:
        self.windows, self.batch_size = windows, batch_size
        self.order = Order(self._examples, seed)

    def _examples(self, epoch: int) -> NDArray[np.int64]:
        return np.arange(len(self.windows))

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Any]:
        (windows,) = share(rank, world, self.order(step, self.batch_size)[0])
        return self.windows.batch(windows)
