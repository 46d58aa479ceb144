"""Chunks as an encoder reads them: in its own word pieces, whatever the language model's tokens are."""

from typing import Any

import numpy as np
from tokenizers.decoders import WordPiece

from rlm.data.chunks import Chunks
from rlm.data.tokenizer import encode
from rlm.data.tokens import Ragged, SpecialTokens, token_dtype

TOGETHER = 1 << 12  # chunks decoded together


def own_tokens(chunks: Chunks, first: int, last: int) -> Ragged:
    """Tokens of chunks `first` to before `last` as their documents have them, start tokens left out."""
    numbers = np.arange(first, last)
    starts, stops = chunks.starts(numbers), chunks.stops(numbers)
    starts += numbers == chunks.first[chunks.document_of(numbers)]
    offsets = np.concatenate([[0], np.cumsum(stops - starts)])
    # Chunks follow each other, but for the start tokens between documents.
    positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], stops - starts)
    return Ragged(np.asarray(chunks.documents.tokens.values[positions]), offsets)


class ChunkPieces:
    """`pieces(first, last)` gives the word pieces of consecutive chunks, start tokens of documents left out.

    Args:
        chunks: of documents, in the language model's tokens.
        tokenizer: the encoder's; where its vocabulary is that of the documents, tokens are taken as they are, else
            chunks are decoded to text and tokenised anew.
    """

    def __init__(self, chunks: Chunks, tokenizer: Any) -> None:
        self.chunks, self.tokenizer = chunks, tokenizer
        own = chunks.documents.tokenizer
        self.same = own.get_vocab() == tokenizer.get_vocab()
        self.decoder = None if self.same else own.backend_tokenizer
        # the marks of a word piece that continues a word whose start is in the chunk before
        self.continues = "##" if isinstance(own.backend_tokenizer.decoder, WordPiece) else ""

    def __call__(self, first: int, last: int) -> Ragged:
        return self.of(own_tokens(self.chunks, first, last))

    def of(self, own: Ragged) -> Ragged:
        """Word pieces of tokens, row by row: of any text in the language model's tokens, start tokens left out."""
        if self.decoder is None:
            return own
        dtype = token_dtype(len(self.tokenizer))
        parts = []
        for start in range(0, len(own), TOGETHER):
            rows = [own[row].tolist() for row in range(start, min(start + TOGETHER, len(own)))]
            texts = [text.removeprefix(self.continues) for text in self.decoder.decode_batch(rows)]
            parts.append(Ragged.from_rows(encode(self.tokenizer, texts), dtype))
        lengths = np.concatenate([part.lengths for part in parts])
        return Ragged(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))


def encoder_special_tokens(tokenizer: Any, start: int, pad: int) -> SpecialTokens:
    """Special tokens for an encoder of chunks; a tokenizer without [CLS] and [SEP] starts and ends with `start`."""
    instead = {"cls": start, "sep": start, "pad": pad, "mask": pad}
    for name in instead:
        found = getattr(tokenizer, f"{name}_token_id", None)
        instead[name] = instead[name] if found is None else int(found)
    return SpecialTokens(**instead)
