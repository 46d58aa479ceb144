"""RETRO's equations (Borgeaud et al. 2021, algorithm 1) in float64: token by token, head by head, without padding."""

import math

import torch
import torch.nn.functional as F


def unpadded(tokens, mask):
    """One row's [chunks, k, r, ...] as lists: `result[u][n]` are the real tokens of a neighbour."""
    return [[tokens[u, n][mask[u, n]] for n in range(mask.shape[1])] for u in range(mask.shape[0])]


def normed(norm, vectors):
    return vectors / (vectors.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()


def turned(vector, position):
    """Rotary encoding of one head's vector, pair by pair."""
    half = len(vector) // 2
    result = vector.clone()
    for pair in range(half):
        angle = position * 10_000.0 ** (-pair / half)
        x, y = vector[pair], vector[pair + half]
        result[pair] = x * math.cos(angle) - y * math.sin(angle)
        result[pair + half] = x * math.sin(angle) + y * math.cos(angle)
    return result


def attention(layer, vector, position, source, positions):
    """One token reads all of `source`, [width]; 0 where that is empty."""
    queries = (layer.query.weight.double() @ vector + layer.query.bias.double()).chunk(layer.heads)
    if not len(source):
        return torch.zeros_like(vector)
    projected = source @ layer.key_value.weight.double().T + layer.key_value.bias.double()
    keys, values = projected.chunk(2, dim=1)
    heads = []
    for query, key, value in zip(queries, keys.chunk(layer.heads, 1), values.chunk(layer.heads, 1), strict=True):
        key = torch.stack([turned(row, j) for row, j in zip(key, positions, strict=True)])
        logits = key @ turned(query, position) / math.sqrt(len(query))
        heads.append(logits.softmax(dim=0) @ value)
    return layer.output.weight.double() @ torch.cat(heads)


def feed_forward(block, vectors):
    norm, rise, _, fall = block
    return F.gelu(normed(norm, vectors) @ rise.weight.double().T) @ fall.weight.double().T


def cross_attention(layer, hidden, encoded):
    """CCA(H, E) of one row: token t reads all neighbours of chunk floor((t - (m - 1)) / m), with one softmax.

    `encoded[u][n]` are the real tokens of a neighbour, [tokens, encoded width].
    """
    m, update = layer.chunk_tokens, torch.zeros_like(hidden)
    for t in range(m - 1, len(hidden)):
        u, i = divmod(t - (m - 1), m)
        positions = [j for neighbour in encoded[u] for j in range(len(neighbour))]
        # Distance i - j + m - 1.
        query = normed(layer.norm, hidden[t])
        update[t] = attention(layer.attention, query, i + m - 1, torch.cat(encoded[u]), positions)
    return update


def encode(encoder, ids, activations):
    """Enc(Ret(C_u)^j, H_u): the real tokens of one neighbour, beside the chunk that found it."""
    hidden = encoder.embedding.weight.double()[ids]
    if not len(ids):
        return hidden
    source = normed(encoder.activation_norm, activations)
    for number, layer in enumerate(encoder.layers):
        own = normed(layer.norm, hidden)
        hidden = hidden + torch.stack(
            [attention(layer.attention, own[i], i, own, range(len(own))) for i in range(len(own))]
        )
        if number == 0:
            own = normed(encoder.cross_norm, hidden)
            read = [attention(encoder.cross_attention, own[i], i, source, range(len(source))) for i in range(len(own))]
            hidden = hidden + torch.stack(read)
        hidden = hidden + feed_forward(layer.feed_forward, hidden)
    return normed(encoder.norm, hidden)


def logits(model, ids, neighbours):
    """[length, vocabulary] of one row: ids [length], neighbours[u][n] the real tokens of a neighbour."""
    decoder, m = model.decoder, model.chunk_tokens
    hidden = decoder.embedding.weight.double()[ids]
    crosses = dict(zip(model.cca_layers, model.cross_attentions, strict=True))
    for number, layer in enumerate(decoder.blocks, start=1):
        own = normed(layer.norm, hidden)
        read = [attention(layer.attention, own[t], t, own[: t + 1], range(t + 1)) for t in range(len(ids))]
        hidden = hidden + torch.stack(read)
        if number == min(crosses):
            encoded = [
                [encode(model.encoder, each, hidden[u * m : (u + 1) * m]) for each in found]
                for u, found in enumerate(neighbours)
            ]
        if number in crosses:
            hidden = hidden + cross_attention(crosses[number], hidden, encoded)
        hidden = hidden + feed_forward(layer.feed_forward, hidden)
    return normed(decoder.norm, hidden) @ decoder.head.weight.double().T
