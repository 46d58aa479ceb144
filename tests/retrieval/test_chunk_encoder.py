"""Embeddings of chunks by an encoder that nobody trains here."""

import pytest
import torch

from rlm.data.tokens import Ragged
from rlm.retrieval.chunk_encoder import ChunkEmbedder, build_chunk_encoder
from rlm.retrieval.config import ChunkEncoderConfig, ScratchEncoder


def test_embed__when_it_is_no_number(small_corpus) -> None:
    tokens, _, special = small_corpus
    scratch = ScratchEncoder(layers=1, hidden_size=16, heads=2, max_positions=32)
    encoder = build_chunk_encoder(ChunkEncoderConfig(encoder=scratch, max_tokens=32), 90)

    def pieces(first: int, last: int) -> Ragged:
        return tokens.take(torch.arange(first, last).numpy())

    assert ChunkEmbedder(encoder, pieces, special)(0, 4).isfinite().all()
    torch.nn.init.constant_(encoder.encoder.embeddings.LayerNorm.bias, torch.nan)
    with pytest.raises(
        ValueError, match=r"chunks\.encoder: the encoder from scratch embeds a chunk as NaN or infinity"
    ):
        ChunkEmbedder(encoder, pieces, special)(0, 4)
