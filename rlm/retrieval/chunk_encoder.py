"""Embeddings of chunks by a frozen BERT-like encoder: the mean of its contextual vectors (RETRO, section 2.3)."""

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlm.data.tokens import Ragged, SpecialTokens
from rlm.retrieval.config import ChunkEncoderConfig, DualEncoderConfig, PretrainedEncoder
from rlm.retrieval.encoder import DualEncoder, Progress, embed_rows, embedding_copy
from rlm.retrieval.refresh import allocate

STRETCH = 1 << 13
"""Chunks embedded together: bounds memory, and is what an interrupted `write_embeddings` repeats at most."""

Pieces = Callable[[int, int], Ragged]
"""`pieces(first, last)`: word pieces of consecutive chunks, in the encoder's vocabulary."""


def build_chunk_encoder(config: ChunkEncoderConfig, vocab_size: int) -> DualEncoder:
    """The encoder as it comes, in evaluation mode: nothing is trained, nothing projected.

    Raises:
        ValueError: the checkpoint's vocabulary is of another size than its tokenizer's, or there is none.
    """
    dual = DualEncoderConfig(
        encoder=config.encoder,
        pooling="mean",
        projection=None,
        layer_norm=False,
        normalize=config.normalize,
        scale=1.0,
        query_tokens=config.max_tokens,
        passage_tokens=config.max_tokens,
    )
    return DualEncoder(dual, vocab_size).eval()


class ChunkEmbedder:
    """Embeddings of consecutive chunks, on the encoder's device and in bfloat16 where that is fast.

    Args:
        encoder: what `build_chunk_encoder` gave.
        pieces: word pieces of the chunks.
        special: ids of the encoder's special tokens.
    """

    def __init__(self, encoder: DualEncoder, pieces: Pieces, special: SpecialTokens) -> None:
        self._fast, self._pieces, self._special = embedding_copy(encoder), pieces, special
        self.dim = encoder.dim

    def __call__(self, first: int, last: int) -> Tensor:
        """Of chunks `first` to before `last`: float32 [chunks, dim]."""
        return self.embed(self._pieces(first, last))

    def embed(self, pieces: Ragged) -> Tensor:
        """Of rows of word pieces: float32 [rows, dim].

        Raises:
            ValueError: what the encoder gives is no number; nothing is trained here that could have diverged.
        """
        found = embed_rows(self._fast, pieces, self._special, self._fast.config.query_tokens)
        if not bool(torch.isfinite(found).all()):
            encoder = self._fast.config.encoder
            name = encoder.name if isinstance(encoder, PretrainedEncoder) else "the encoder from scratch"
            raise ValueError(f"chunks.encoder: {name} embeds a chunk as NaN or infinity; name another")
        return found


def write_embeddings(
    path: Path,
    mark: Path,
    embedder: ChunkEmbedder,
    count: int,
    progress: Progress | None = None,
    stretch: int = STRETCH,
) -> None:
    """Write the embeddings of all chunks, [count, dim] in float32; an interrupted call goes on after its last stretch.

    Args:
        path: of the `.npy` file.
        mark: of a file that says how many chunks are written; whoever has read the embeddings removes it.
        embedder: of the chunks.
        count: chunks.
        progress: called with chunks done and chunks in all.
        stretch: chunks embedded together.

    Raises:
        OSError: the disk has no room (found out before work starts).
    """
    done = int(mark.read_text(encoding="utf-8")) if mark.exists() and path.exists() else 0
    out: Any = np.lib.format.open_memmap(path, mode="r+") if done else allocate(path, (count, embedder.dim))
    for first in range(done, count, stretch):
        last = min(first + stretch, count)
        out[first:last] = embedder(first, last).cpu().numpy()
        out.flush()
        out._mmap.madvise(mmap.MADV_DONTNEED)  # what is on the disk need not stay resident
        part = mark.with_suffix(".part")
        part.write_text(str(last), encoding="utf-8")
        part.replace(mark)
        if progress is not None:
            progress(last, count)
