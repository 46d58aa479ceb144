"""Attention of RETRO (Borgeaud et al. 2021, 2112.04426): rotary relative positions, chunks that read their neighbours.

The paper adds a learned function of the distance to the logits (B.1.2). Here queries and keys are rotated instead (Su
et al. 2021, 2104.09864): logits still depend on nothing but content and distance, and torch's fused kernels, which
never hold a matrix of attention weights, need no bias.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlm.models.norm import RMSNorm


def rotate(vectors: Tensor, positions: Tensor) -> Tensor:
    """Queries or keys turned by their positions, [..., length, heads, head size]; positions are [length]."""
    half = vectors.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half, device=vectors.device) / half)
    # [length, 1, half]
    angles = positions[:, None, None] * frequencies
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    # Halves that are exchanged whole need fewer passes over memory, backward too, than four products of halves.
    exchanged = vectors.roll(half, -1)
    return torch.addcmul(vectors * torch.cat([cos, cos], -1), exchanged, torch.cat([-sin, sin], -1))


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """torch's, of [rows, length, heads, head size] each, to the same shape; it holds no matrix of attention weights."""
    kind, given = queries.device.type, queries.dtype
    # Without matrix units for bfloat16, backward in it takes twice the time of float32.
    exact = kind == "cpu" and given == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()
    with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not exact):
        dtype = torch.float32 if exact else given
        queries, keys, values = (each.transpose(1, 2).to(dtype) for each in (queries, keys, values))
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
    return read.transpose(1, 2).to(given)


def attend(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None = None) -> Tensor:
    """Every query of a row reads the row's visible keys; a row without any gives exactly 0.

    Args:
        queries: [rows, queries, heads, head size].
        keys, values: [rows, keys, heads, head size].
        visible: [rows, keys]; None shows all.

    Returns:
        [rows, queries, heads, head size].
    """
    if visible is None:
        return fused_attention(queries, keys, values, None)
    some = visible.any(dim=1, keepdim=True)
    # A softmax over nothing is NaN in some kernels: such a row reads everything, and what it read is dropped.
    mask = (visible | ~some)[:, None, None, :]
    return fused_attention(queries, keys, values, mask) * some[:, :, None, None]


def attend_causally(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The last keys stand where the queries stand; a query reads those up to its own.

    Args:
        queries: [batch, new, heads, head size].
        keys, values: [batch, past + new, heads, head size].

    Returns:
        [batch, new, heads, head size].
    """
    new, past = queries.shape[1], keys.shape[1] - queries.shape[1]
    mask = None
    if past and new > 1:  # `is_causal` would align the first key with the first query
        mask = torch.ones(new, past + new, dtype=torch.bool, device=queries.device).tril(past)
    return fused_attention(queries, keys, values, mask, causal=past == 0)


class Attention(nn.Module):
    """Multi-head attention with rotary positions; the source may have a width of its own.

    With biases a head may attend by distance alone, which rotations of content that is about 0 on average cannot; the
    paper's learned function of the distance can.
    """

    def __init__(self, width: int, heads: int, source_width: int) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"hidden_size {width} is no multiple of 2 * heads = {2 * heads}, as rotary positions need")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source_width, 2 * width)
        self.output = nn.Linear(width, width, bias=False)

    def queries(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """[..., length, width] to [..., length, heads, head size]."""
        return rotate(self.query(hidden).unflatten(-1, (self.heads, -1)), positions)

    def keys_values(self, source: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[..., length, source width] to twice [..., length, heads, head size]."""
        keys, values = self.key_value(source).unflatten(-1, (2 * self.heads, -1)).chunk(2, dim=-2)
        return rotate(keys, positions), values

    def forward(self, hidden: Tensor, positions: Tensor, source: Tensor, visible: Tensor | None = None) -> Tensor:
        """[rows, length, width], at `positions`, reads [rows, keys, source width], at 0, 1, ...; not causal."""
        keys, values = self.keys_values(source, torch.arange(source.shape[1], device=source.device))
        return self.output(attend(self.queries(hidden, positions), keys, values, visible).flatten(2))


class ChunkedCrossAttention(nn.Module):
    """Chunks read the neighbours of the chunk before them (section 2.4, equations 3 and 4).

    Position t reads the neighbours of chunk u = floor((t - (m - 1)) / m), for chunks of m tokens: the last token of
    chunk u and the first m - 1 of chunk u + 1, with one softmax over all tokens of all neighbours. The first m - 1
    tokens read nothing. The i-th of such m tokens is at distance i + m - 1 - j of token j of each neighbour
    (equation 6), as if all neighbours began where chunk u does, so that their order does not matter.
    """

    def __init__(self, width: int, heads: int, encoded_width: int, chunk_tokens: int) -> None:
        super().__init__()
        self.chunk_tokens = chunk_tokens
        self.norm = RMSNorm(width)
        self.attention = Attention(width, heads, encoded_width)

    def keys_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, chunks, k, r, encoded width] to twice [batch, chunks, k * r, heads, head size]."""
        keys, values = self.attention.keys_values(encoded, torch.arange(encoded.shape[3], device=encoded.device))
        return keys.flatten(2, 3), values.flatten(2, 3)

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor, visible: Tensor, start: int = 0) -> Tensor:
        """What is added to the activations.

        Args:
            hidden: activations, the first of them at position `start`, [batch, length, width].
            keys, values: of chunks up to the last that ends here, [batch, chunks, k * r, heads, head size].
            visible: False on padding, [batch, chunks, k * r].
            start: tokens decoded before.

        Returns:
            [batch, length, width]; exactly 0 where there is nothing to read.
        """
        m, end = self.chunk_tokens, start + hidden.shape[1]
        first = max(start, m - 1)
        if first >= end:
            return torch.zeros_like(hidden)
        chunks = end // m - (first + 1) // m + 1
        keys, values, visible = (each[:, -chunks:].flatten(0, 1) for each in (keys, values, visible))
        within = (torch.arange(first, end, device=hidden.device) + 1) % m
        queries = self.attention.queries(self.norm(hidden[:, first - start :]), within + m - 1)
        # Queries of several chunks are laid on the grid of m; those of one (a decoding step) need no filling up.
        before, size = ((first + 1) % m, m) if chunks > 1 else (0, end - first)
        queries = F.pad(queries, (0, 0, 0, 0, before, chunks * size - before - (end - first)))
        read = attend(queries.unflatten(1, (chunks, size)).flatten(0, 1), keys, values, visible)
        read = read.unflatten(0, (-1, chunks)).flatten(1, 2)[:, before : before + end - first]
        return F.pad(self.attention.output(read.flatten(2)), (0, 0, first - start, 0))
