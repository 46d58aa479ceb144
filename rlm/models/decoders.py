"""Causal language models that RETRO's cross-attention is put into, and what they keep while decoding."""

from abc import ABC, abstractmethod
from math import sqrt
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from rlm.data.pretrained import load_model, vocabulary_mistake
from rlm.models.chunked_attention import Attention, attend_causally
from rlm.models.norm import RMSNorm
from rlm.models.retro_config import DecoderConfig, ScratchDecoder


class Cache:
    """What incremental decoding keeps of the tokens before."""

    def __init__(self) -> None:
        self.length = 0
        """Tokens decoded."""
        self.kept: dict[str, Tensor] = {}


def extend(cache: Cache | None, name: str, new: Tensor | None, last: int | None = None) -> Tensor:
    """What is kept under a name with `new` after it, along dimension 1; the `last` (None: all) stay kept."""
    if cache is None:
        assert new is not None
        return new
    whole = torch.cat([each for each in (cache.kept.get(name), new) if each is not None], dim=1)
    cache.kept[name] = whole if last is None else whole[:, whole.shape[1] - last :]
    return whole


def initialise(module: nn.Module, std: float) -> None:
    """Normal weights of all projections and embeddings, and biases a third as large as what the weights add to."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.normal_(part.bias, std=std * sqrt(part.in_features) / 3)


def feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        RMSNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )


class Layer(nn.Module):
    """Self-attention and feed-forward, each behind an RMSNorm; what uses them adds their results."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.attention = Attention(width, heads, width)
        self.feed_forward = feed_forward(width)


class Decoder(nn.Module, ABC):
    """A causal language model taken apart, so that cross-attention fits between self-attention and feed-forward."""

    layers: int
    width: int
    heads: int
    positions: int | None = None
    """Tokens of the longest text; None: no limit."""

    @abstractmethod
    def token_embedding(self) -> nn.Embedding:
        """Of the tokens that it reads."""

    @abstractmethod
    def embed(self, ids: Tensor, start: int) -> Tensor:
        """[batch, length], the first of them at position `start`, to [batch, length, width]."""

    @abstractmethod
    def attention(self, layer: int, hidden: Tensor, cache: Cache | None) -> Tensor:
        """What a layer's causal self-attention adds to [batch, length, width]."""

    @abstractmethod
    def feed_forward(self, layer: int, hidden: Tensor) -> Tensor:
        """What a layer's feed-forward adds to [batch, length, width]."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """[batch, length, width] to [batch, length, vocabulary]."""

    def read_past(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, cache: Cache | None) -> Tensor:
        """Causal attention over what the cache keeps and [batch, length, heads, head size], heads joined."""
        keys, values = (extend(cache, f"{name} {layer}", new) for name, new in (("keys", keys), ("values", values)))
        return attend_causally(queries, keys, values).flatten(2)


class RotaryDecoder(Decoder):
    """The decoder from scratch: RMSNorm, rotary positions (no limit on the length), no biases."""

    def __init__(self, config: ScratchDecoder, vocab_size: int) -> None:
        super().__init__()
        self.layers, self.width, self.heads = config.layers, config.hidden_size, config.heads
        self.embedding = nn.Embedding(vocab_size, self.width)
        self.blocks: Any = nn.ModuleList(Layer(self.width, self.heads) for _ in range(self.layers))
        self.norm = RMSNorm(self.width)
        self.head = nn.Linear(self.width, vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        initialise(self, config.initial_std)

    def token_embedding(self) -> nn.Embedding:
        return self.embedding

    def embed(self, ids: Tensor, start: int) -> Tensor:
        return self.embedding(ids)

    def attention(self, layer: int, hidden: Tensor, cache: Cache | None) -> Tensor:
        block = self.blocks[layer]
        hidden = block.norm(hidden)
        start = 0 if cache is None else cache.length
        positions = torch.arange(start, start + hidden.shape[1], device=hidden.device)
        queries = block.attention.queries(hidden, positions)
        keys, values = block.attention.keys_values(hidden, positions)
        return block.attention.output(self.read_past(layer, queries, keys, values, cache))

    def feed_forward(self, layer: int, hidden: Tensor) -> Tensor:
        return self.blocks[layer].feed_forward(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(self.norm(hidden))


class FrozenGpt2(Decoder):
    """The decoder of RETRO-fitting: a GPT-2 whose weights never change, without dropout."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__()
        config = model.config
        if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
            raise ValueError("this GPT-2 scales its attention in a way of its own; name one that scales by head size")
        self.layers, self.width, self.heads = config.n_layer, config.n_embd, config.n_head
        self.positions = config.n_positions
        self.model: Any = model.requires_grad_(False).eval()

    def token_embedding(self) -> nn.Embedding:
        return self.model.transformer.wte

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def embed(self, ids: Tensor, start: int) -> Tensor:
        end = start + ids.shape[1]
        if self.positions is not None and end > self.positions:
            raise ValueError(f"{end} tokens, but this GPT-2 has {self.positions} positions; cut sequences to that")
        positions = torch.arange(start, end, device=ids.device)
        return self.model.transformer.wte(ids) + self.model.transformer.wpe(positions)

    def attention(self, layer: int, hidden: Tensor, cache: Cache | None) -> Tensor:
        block = self.model.transformer.h[layer]
        projected = block.attn.c_attn(block.ln_1(hidden)).unflatten(2, (3, self.heads, -1))
        queries, keys, values = projected.unbind(2)
        return block.attn.c_proj(self.read_past(layer, queries, keys, values, cache))

    def feed_forward(self, layer: int, hidden: Tensor) -> Tensor:
        block = self.model.transformer.h[layer]
        return block.mlp(block.ln_2(hidden))

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(self.model.transformer.ln_f(hidden))


def build_decoder(config: DecoderConfig, vocab_size: int) -> Decoder:
    """A decoder from scratch, or of a checkpoint.

    Raises:
        ValueError: the checkpoint is not a GPT-2, or its vocabulary is not the corpus's.
    """
    if isinstance(config, ScratchDecoder):
        return RotaryDecoder(config, vocab_size)
    failure = "gives no causal language model"
    model = load_model(AutoModelForCausalLM, config, "model.decoder.name", failure, dtype=torch.float32)
    if not isinstance(model, GPT2LMHeadModel):
        raise ValueError(f"{config.name} is a {model.config.model_type}, not a gpt2; name a GPT-2 checkpoint")
    if mistake := vocabulary_mistake(config, model.config.vocab_size, vocab_size):
        raise ValueError(mistake)
    return FrozenGpt2(model)
