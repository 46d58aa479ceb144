"""Documents cut into chunks of equally many tokens: numbers of chunks, and their tokens, by arithmetic alone."""

import numpy as np
from numpy.typing import NDArray

from rlm.data.documents import Documents
from rlm.data.tokenizer import token_bytes


class Chunks:
    """Chunk c is `chunk_tokens` tokens of one document; the last of a document may have fewer.

    Chunks are numbered document by document. Nothing is stored but the first chunk of each document.

    Args:
        documents: cut.
        chunk_tokens: m of RETRO.

    Raises:
        ValueError: no positive number of tokens.
    """

    def __init__(self, documents: Documents, chunk_tokens: int) -> None:
        if chunk_tokens < 1:
            raise ValueError(f"chunk_tokens: {chunk_tokens}; a chunk needs at least one token")
        self.documents, self.chunk_tokens = documents, chunk_tokens
        counts = -(-documents.tokens.lengths // chunk_tokens)
        self.first: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)])
        """Of each document, [documents + 1]."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def document_of(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The document that each chunk is of, in the shape of `chunks`."""
        return np.searchsorted(self.first, chunks, "right") - 1

    def starts(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """First token of each chunk, a position in `documents.tokens.values`."""
        document = self.document_of(chunks)
        return self.documents.tokens.offsets[document] + (chunks - self.first[document]) * self.chunk_tokens

    def stops(self, chunks: NDArray[np.int64], count: int = 1) -> NDArray[np.int64]:
        """Where each chunk, or the last of `count` from it on, ends: at most where its document does."""
        end = self.documents.tokens.offsets[self.document_of(chunks) + 1]
        return np.minimum(self.starts(chunks) + count * self.chunk_tokens, end)

    def bytes(self) -> NDArray[np.float64]:
        """UTF-8 bytes of the raw text of every chunk, [chunks]; those of a document add up to its own.

        A document's bytes are split in proportion to the bytes of its tokens, which is exact where a byte-level
        tokenizer leaves text as it is; with other tokenizers, in proportion to its tokens. A start token has none.
        """
        tokens, numbers = self.documents.tokens, np.arange(len(self))
        sizes = token_bytes(self.documents.tokenizer)[tokens.values]
        sizes[tokens.offsets[:-1]] = 0
        of_chunks = np.add.reduceat(sizes, self.starts(numbers))
        of_documents = np.add.reduceat(of_chunks, self.first[:-1])
        document = self.document_of(numbers)
        return self.documents.bytes[document] * of_chunks / of_documents[document]

    def take(self, chunks: NDArray[np.int64], count: int = 1) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens of chunks and of those that follow, never of the next document.

        Args:
            chunks: numbers, of any shape.
            count: consecutive chunks from each; 2 takes the continuation too.

        Returns:
            ids, padded, and mask, True on tokens; each of the shape of `chunks` and [count * chunk_tokens] more.
        """
        # [..., count * chunk]
        positions = self.starts(chunks)[..., None] + np.arange(count * self.chunk_tokens)
        mask = positions < self.stops(chunks, count)[..., None]
        values = self.documents.tokens.values
        ids = values[np.minimum(positions, len(values) - 1)].astype(np.int64)
        return np.where(mask, ids, self.documents.pad), mask
