"""RETRO (Borgeaud et al. 2021, 2112.04426): a language model that reads the neighbours of its finished chunks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlm.models.chunked_attention import Attention, ChunkedCrossAttention
from rlm.models.decoders import Cache, Decoder, Layer, build_decoder, extend, initialise
from rlm.models.norm import RMSNorm
from rlm.models.retro_config import NeighbourEncoderConfig, RetroConfig, attending_layers


class Neighbours(NamedTuple):
    """What was retrieved for each finished chunk: a chunk found and its continuation, k times."""

    ids: Tensor
    """[batch, chunks, k, r]; r is two chunks in the paper."""
    mask: Tensor
    """False on padding, of the same shape; a chunk without neighbours is all False."""


class NeighbourEncoder(nn.Module):
    """Reads each neighbour in both directions, and in its first layer (table 10) the chunk that found it."""

    def __init__(self, config: NeighbourEncoderConfig, decoder: Decoder) -> None:
        super().__init__()
        width = config.hidden_size
        vocab_size = decoder.token_embedding().num_embeddings
        self.embedding = None if config.share_embeddings else nn.Embedding(vocab_size, width)
        self.projection = nn.Linear(decoder.width, width, bias=False) if config.share_embeddings else nn.Identity()
        self.layers: Any = nn.ModuleList(Layer(width, config.heads) for _ in range(config.layers))
        self.norm = RMSNorm(width)
        self.conditioned = config.condition
        if config.condition:
            self.activation_norm = RMSNorm(decoder.width)
            self.cross_norm = RMSNorm(width)
            self.cross_attention = Attention(width, config.heads, decoder.width)

    def forward(self, neighbours: Neighbours, activations: Tensor, shared: nn.Embedding) -> Tensor:
        """Contextual vectors of the neighbours' tokens.

        Args:
            neighbours: of each chunk.
            activations: the decoder's, of each chunk, [batch, chunks, chunk, decoder width].
            shared: the decoder's embeddings.

        Returns:
            [batch, chunks, k, r, width].
        """
        batch, chunks, k, r = neighbours.ids.shape
        embedding = shared if self.embedding is None else self.embedding
        visible = neighbours.mask.flatten(0, 2)
        # [batch * chunks * k, r, width]
        hidden = self.projection(embedding(neighbours.ids.flatten(0, 2)))
        positions = torch.arange(r, device=hidden.device)
        for number, layer in enumerate(self.layers):
            normed = layer.norm(hidden)
            hidden = hidden + layer.attention(normed, positions, normed, visible)
            if number == 0 and self.conditioned:
                # The k neighbours of a chunk are one row, so that the chunk's keys are computed once.
                queries = self.cross_norm(hidden).view(batch * chunks, k * r, -1)
                source = self.activation_norm(activations).flatten(0, 1)
                hidden = hidden + self.cross_attention(queries, positions.repeat(k), source).view_as(hidden)
            hidden = hidden + layer.feed_forward(hidden)
        return self.norm(hidden).view(batch, chunks, k, r, -1)


class Retro(nn.Module):
    """Next tokens from the tokens before and the neighbours of the chunks before (algorithm 1).

    Without neighbours it is RETRO[Off], the decoder alone. Cross-attention starts at 0, so that an untrained model is
    its decoder too; one whose weights are frozen stays as it is (RETRO-fitting).
    """

    def __init__(self, decoder: Decoder, config: RetroConfig) -> None:
        super().__init__()
        self.chunk_tokens = config.chunk_tokens
        self.cca_layers = attending_layers(config.cca_layers, decoder.layers)
        self.first = min(self.cca_layers, default=None)
        self.encoder = NeighbourEncoder(config.encoder, decoder) if self.cca_layers else None
        shape = (decoder.width, decoder.heads, config.encoder.hidden_size, config.chunk_tokens)
        crosses = [ChunkedCrossAttention(*shape) for _ in self.cca_layers]
        self.cross_attentions: Any = nn.ModuleList(crosses)
        initialise(self, config.initial_std)
        for cross in crosses:
            nn.init.zeros_(cross.attention.output.weight)
        self.decoder = decoder

    def forward(self, ids: Tensor, neighbours: Neighbours | None = None, cache: Cache | None = None) -> Tensor:
        """Logits of the token after each. Padding stands at the end of a row, where no other token reads it.

        Args:
            ids: [batch, length]; those after what the cache holds, where there is one.
            neighbours: of the chunks that end in `ids`; more are not read, unless with a cache, where they are an
                error after its first call. None is RETRO[Off], and says too that no chunk ends in `ids`.
            cache: is brought up to date, so that the next call goes on from here.

        Returns:
            [batch, length, vocabulary].

        Raises:
            ValueError: neighbours are of another number of chunks, or the decoder's positions are used up.
        """
        start = 0 if cache is None else cache.length
        end = start + ids.shape[1]
        reads_before = cache is not None and "neighbours 0 0" in cache.kept
        found = self.of_ended_chunks(start, end, neighbours, reads_before)
        hidden, encoded, visible = self.decoder.embed(ids, start), None, None
        for layer in range(self.decoder.layers):
            hidden = hidden + self.decoder.attention(layer, hidden, cache)
            if layer + 1 == self.first:
                # From the start of the chunk that `start` is in, [batch, start % chunk + length, width].
                activations = extend(cache, "activations", hidden, last=end % self.chunk_tokens)
                if found is not None:
                    encoded, visible = self.encode(found, activations), found.mask.flatten(2)
            if layer + 1 in self.cca_layers and (encoded is not None or reads_before):
                place = self.cca_layers.index(layer + 1)
                cross = self.cross_attentions[place]
                new = (None, None, None) if encoded is None else (*cross.keys_values(encoded), visible)
                memory = (extend(cache, f"neighbours {place} {n}", each, last=1) for n, each in enumerate(new))
                hidden = hidden + cross(hidden, *memory, start)
            hidden = hidden + self.decoder.feed_forward(layer, hidden)
        if cache is not None:
            cache.length = end
        return self.decoder.logits(hidden)

    def of_ended_chunks(
        self, start: int, end: int, neighbours: Neighbours | None, reads_before: bool
    ) -> Neighbours | None:
        """Neighbours of the chunks that end in tokens `start` to `end`; None where there are none to read."""
        ended = end // self.chunk_tokens - start // self.chunk_tokens
        given = 0 if neighbours is None else neighbours.ids.shape[1]
        if (neighbours is not None or reads_before) and (given < ended or (start and given > ended)):
            raise ValueError(
                f"{ended} chunks end in tokens {start} to {end}, but neighbours are given for {given}; "
                "give those of each chunk that ends, all masked where none were found"
            )
        return Neighbours(*(each[:, :ended] for each in neighbours)) if neighbours is not None and ended else None

    def encode(self, neighbours: Neighbours, activations: Tensor) -> Tensor:
        """Neighbours read beside the chunks at the front of `activations`, [batch, chunks, k, r, encoder width]."""
        chunks, m = neighbours.ids.shape[1], self.chunk_tokens
        source = activations[:, : chunks * m].unflatten(1, (chunks, m))
        assert self.encoder is not None
        return self.encoder(neighbours, source, self.decoder.token_embedding())


def build_retro(config: RetroConfig, vocab_size: int) -> Retro:
    """A RETRO from scratch, or fitted to a checkpoint.

    Raises:
        ValueError: see `build_decoder`; or the decoder lacks a layer of `cca_layers`.
    """
    return Retro(build_decoder(config.decoder, vocab_size), config)
