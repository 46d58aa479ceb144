"""The dual encoder (ORQA, 1906.00300; REALM, 2002.08909), and embedding a corpus with it at the encoder's own rate."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PretrainedConfig

from rlm.config import to_plain
from rlm.data.pretrained import load_config, load_model, vocabulary_mistake
from rlm.data.tokens import Batch, Ragged, SpecialTokens, join
from rlm.retrieval.bfloat16 import has_fast_bfloat16
from rlm.retrieval.config import DualEncoderConfig, EncoderConfig, PretrainedEncoder, ScratchEncoder
from rlm.retrieval.realm_checkpoint import is_realm, read_realm, read_realm_projection

BATCH_TOKENS = 16_384
"""Padded word pieces of one batch of `embed_corpus`."""
CHUNK = 1 << 18
"""Passages sorted by length together: bounds memory, and is what a resumed `embed_corpus` starts from."""

FIELD, FAILURE = "encoder.name", "gives no encoder"
"""Of messages about checkpoints."""

Progress = Callable[[int, int], None]


def encoder_config(config: EncoderConfig, vocab_size: int) -> PretrainedConfig:
    """The transformers configuration of an encoder.

    Raises:
        ValueError: the checkpoint's vocabulary is not the corpus's, or there is no such checkpoint.
    """
    if isinstance(config, ScratchEncoder):
        return BertConfig(
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.hidden_size,
            max_position_embeddings=config.max_positions,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            initializer_range=config.initial_std,
        )
    found = load_config(config, FIELD, FAILURE)
    if mistake := vocabulary_mistake(config, found.vocab_size, vocab_size):
        raise ValueError(mistake)
    return _with_dropout(found, config.dropout)


def _with_dropout(config: PretrainedConfig, dropout: float | None) -> PretrainedConfig:
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if dropout is not None and hasattr(config, name):
            setattr(config, name, dropout)
    return config


def build_encoder(config: EncoderConfig, vocab_size: int, pooler: bool = False) -> nn.Module:
    """A BERT-like encoder: random weights, or a checkpoint's.

    Args:
        config: which.
        vocab_size: of the corpus's tokenizer.
        pooler: keep the pooler, with its weights.

    Raises:
        ValueError: the checkpoint's vocabulary is not the corpus's, there is no such checkpoint, or it lacks weights.
    """
    found = encoder_config(config, vocab_size)
    if isinstance(config, ScratchEncoder):
        return _random_encoder(found, pooler)
    if is_realm(found):
        return read_realm(_random_encoder(found, pooler), config, FIELD, FAILURE)
    encoder = load_model(
        *(AutoModel, config, FIELD, FAILURE),
        untrained="" if pooler else "pooler.",
        config=found,
        attn_implementation="sdpa",
        dtype=torch.float32,
    )
    return _with_pooler(encoder, pooler)


def _random_encoder(config: PretrainedConfig, pooler: bool) -> nn.Module:
    if isinstance(config, BertConfig):
        config._attn_implementation = "sdpa"
        return BertModel(config, add_pooling_layer=pooler)
    return _with_pooler(AutoModel.from_config(config, attn_implementation="sdpa"), pooler)


def _with_pooler(encoder: nn.Module, pooler: bool) -> nn.Module:
    has_one = getattr(encoder, "pooler", None) is not None
    if pooler and not has_one:
        raise ValueError(f"retriever.pooling: pooler, but a {type(encoder).__name__} has none; write cls or mean")
    if has_one and not pooler:
        encoder.pooler = None  # type: ignore[assignment]
    return encoder


class DualEncoder(nn.Module):
    """One tower for queries and passages: encode, pool, project; the score f(x, z) is their inner product.

    embed(t) = LayerNorm(W pool(encoder(t)) + b), optionally scaled to a fixed length. W and b start random, but for a
    checkpoint of Hugging Face's RealmEmbedder, which has them.

    Args:
        config: architecture; `encoder` says where the weights start from.
        vocab_size: of the corpus's tokenizer.
        encoder: use this one rather than build it from `config.encoder`.
    """

    def __init__(self, config: DualEncoderConfig, vocab_size: int, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        pooler = config.pooling == "pooler"
        self.encoder = build_encoder(config.encoder, vocab_size, pooler) if encoder is None else encoder
        hidden: int = self.encoder.config.hidden_size  # type: ignore[union-attr, assignment]
        self.dim = config.projection or hidden
        self.projection = nn.Linear(hidden, self.dim) if config.projection else nn.Identity()
        self.layer_norm = nn.LayerNorm(self.dim, eps=config.layer_norm_eps) if config.layer_norm else nn.Identity()
        if encoder is None and isinstance(config.encoder, PretrainedEncoder) and is_realm(self.encoder.config):
            read_realm_projection(self, config, FIELD, FAILURE)
        self._has_segments = getattr(self.encoder.config, "type_vocab_size", 0) > 1

    def embed_query(self, ids: Tensor, mask: Tensor, segments: Tensor | None = None) -> Tensor:
        """Embeddings of `[CLS] query [SEP]`.

        Args:
            ids: word pieces, [batch, length].
            mask: true on word pieces, [batch, length].
            segments: all zero where left out, [batch, length].

        Returns:
            float32 [batch, dim].
        """
        return self._embed(ids, mask, segments)

    def embed_passage(self, ids: Tensor, mask: Tensor, segments: Tensor | None = None) -> Tensor:
        """Embeddings of `[CLS] title [SEP] body [SEP]`, segments 0 up to the first [SEP] and 1 after; as `embed_query`.

        Encoders without a second segment type are given zeros.
        """
        return self._embed(ids, mask, segments)

    def _embed(self, ids: Tensor, mask: Tensor, segments: Tensor | None) -> Tensor:
        extra = {}
        if self._has_segments:
            extra["token_type_ids"] = torch.zeros_like(ids) if segments is None else segments
        output = self.encoder(input_ids=ids, attention_mask=mask, **extra)
        hidden = output.last_hidden_state
        if self.config.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.config.pooling == "pooler":
            pooled = output.pooler_output
        else:
            weights = mask.to(hidden.dtype)
            pooled = torch.bmm(weights.unsqueeze(1), hidden).squeeze(1).float() / mask.sum(1, keepdim=True)
        head = next(self.projection.parameters(), None)
        embeddings = self.layer_norm(self.projection(pooled if head is None else pooled.to(head.dtype))).float()
        if self.config.normalize:
            embeddings = nn.functional.normalize(embeddings, dim=-1) * self.config.scale**0.5
        return embeddings

    # ---- checkpoints ----

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`, `dual_encoder.json` and `encoder/config.json`; the weights appear last, whole."""
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.config.save_pretrained(folder / "encoder")  # type: ignore[union-attr, operator]
        described = {"config": to_plain(self.config), "vocab_size": self.vocab_size}
        (folder / "dual_encoder.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        part = folder / "model.safetensors.part"
        save_file(weights, part)
        os.replace(part, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path, config: DualEncoderConfig | None = None) -> Self:
        """Read what `save` wrote; needs neither the hub nor the checkpoint that training started from.

        Args:
            folder: what `save` was given.
            config: the architecture expected; lengths and dropout are taken from it. None takes what was saved.

        Raises:
            ValueError: the checkpoint is of another architecture (which fields differ), or is damaged.
        """
        try:
            described = json.loads((folder / "dual_encoder.json").read_text(encoding="utf-8"))
            saved = config_from_plain(described["config"])
            hub = AutoConfig.from_pretrained(folder / "encoder")
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{folder}: no retriever checkpoint, or a damaged one ({error}); build it again"
            ) from error
        if config is not None:
            _check_same(folder, _architecture(saved), _architecture(config))
            _with_dropout(hub, config.encoder.dropout)
        model = cls(config or saved, described["vocab_size"], _random_encoder(hub, saved.pooling == "pooler"))
        try:
            weights = load_file(folder / "model.safetensors")
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{folder / 'model.safetensors'}: damaged ({error}); build the checkpoint again"
            ) from error
        found = {name: list(value.shape) for name, value in weights.items()}
        _check_same(folder, found, {name: list(value.shape) for name, value in model.state_dict().items()})
        model.load_state_dict(weights)
        return model.eval()


def config_from_plain(plain: dict[str, Any]) -> DualEncoderConfig:
    """A configuration from its JSON."""
    kinds: dict[str, type[EncoderConfig]] = {"scratch": ScratchEncoder, "pretrained": PretrainedEncoder}
    encoder = plain["encoder"]
    return DualEncoderConfig(**{**plain, "encoder": kinds[encoder["kind"]](**encoder)})


def _architecture(config: DualEncoderConfig) -> dict[str, Any]:
    """The fields that decide which tensors there are and what they mean."""
    plain = to_plain(config)
    encoder = plain.pop("encoder")
    plain |= {f"encoder.{name}": value for name, value in encoder.items()}
    ignored = {"query_tokens", "passage_tokens", "encoder.dropout", "encoder.initial_std", "encoder.revision"}
    ignored |= set() if config.normalize else {"scale"}
    return {name: value for name, value in plain.items() if name not in ignored}


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if "encoder.kind" in names:  # the rest of the encoder's fields are of another kind
        names = [name for name in names if not name.startswith("encoder.") or name == "encoder.kind"]
    if names:
        listed = "; ".join(f"{name}: {found.get(name)} saved, {wanted.get(name)} wanted" for name in names[:8])
        more = f"; and {len(names) - 8} more" if len(names) > 8 else ""
        raise ValueError(
            f"{folder}: a retriever of another architecture ({listed}{more}); "
            "give it the configuration that it was trained with, or train it again"
        )


# ---- embedding ----


def embedding_copy(encoder: DualEncoder) -> DualEncoder:
    """A frozen copy for embedding: the encoder in pure bfloat16 where that is fast, the projection in float32.

    Pure, because autocast casts the weights anew in each batch.
    """
    duplicate = copy.deepcopy(encoder).requires_grad_(False).eval()
    if has_fast_bfloat16(next(encoder.parameters()).device):
        duplicate.encoder.bfloat16()
    return duplicate


def cut(rows: Ragged, lengths: NDArray[np.int64]) -> Ragged:
    """Each row's first values, as many as `lengths` says."""
    lengths = np.minimum(lengths, rows.lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) + np.repeat(rows.offsets[:-1] - offsets[:-1], lengths)
    return Ragged(np.asarray(rows.values[positions]), offsets)


def passage_rows(titles: Ragged, tokens: Ragged, rows: NDArray[np.int64], limit: int, special: SpecialTokens) -> Batch:
    """`[CLS] title [SEP] body [SEP]` of some passages: the title is cut to the limit first, then the body (ORQA)."""
    title = titles.take(rows, limit - 3)
    return join([title, cut(tokens.take(rows, limit), limit - 3 - title.lengths)], special)


def length_sorted_batches(lengths: NDArray[np.int64], budget: int, multiple: int = 8) -> list[NDArray[np.int64]]:
    """Rows in batches of like length, longest first, each of at most `budget` padded tokens (or of one row)."""
    order = np.argsort(-lengths, kind="stable")
    widths = -(-lengths[order] // multiple) * multiple
    batches, start = [], 0
    while start < len(order):
        end = start + max(1, budget // max(int(widths[start]), 1))
        batches.append(order[start:end])
        start = end
    return batches


def embed_corpus(
    encoder: DualEncoder,
    corpus_tokens: Ragged,
    corpus_titles: Ragged,
    special: SpecialTokens,
    out: NDArray[np.floating] | Tensor,
    progress: Progress | None = None,
    start: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> None:
    """Write the embedding of every passage to its row of `out`.

    Args:
        encoder: embeds on the device it is on.
        corpus_tokens: word pieces of the bodies.
        corpus_titles: word pieces of the titles.
        special: ids of the special tokens.
        out: [passages, dim], float32 or float16 array (a memory map too), or a tensor of any dtype and device.
        progress: called with passages done and passages in all.
        start: passages before this one are left as they are. Passages are embedded in stretches of `CHUNK` consecutive
            ones, so an interrupted call is continued from the last multiple of `CHUNK` that it had reported.
        batch_tokens: padded word pieces of a batch.

    Raises:
        ValueError: `out` has another shape.
    """
    count = len(corpus_tokens)
    if tuple(out.shape) != (count, encoder.dim):
        raise ValueError(f"out is {tuple(out.shape)}, the embeddings {(count, encoder.dim)}: allocate [passages, dim]")
    limit, fast = encoder.config.passage_tokens, embedding_copy(encoder)
    for first in range(start, count, CHUNK):
        last = min(first + CHUNK, count)
        body, title = (np.diff(part.offsets[first : last + 1]) for part in (corpus_tokens, corpus_titles))
        done = first
        for rows in length_sorted_batches(np.minimum(body + title + 3, limit), batch_tokens):
            batch = passage_rows(corpus_titles, corpus_tokens, rows + first, limit, special)
            embeddings = _embed_batch(fast, batch)
            if isinstance(out, Tensor):
                out[torch.from_numpy(rows + first).to(out.device)] = embeddings.to(out.device, out.dtype)
            else:
                out[rows + first] = embeddings.cpu().numpy()
            done += len(rows)
            if progress is not None:
                progress(done, count)


@torch.inference_mode()
def _embed_batch(encoder: DualEncoder, batch: Batch) -> Tensor:
    device = next(encoder.parameters()).device
    ids, mask, segments = (torch.from_numpy(part).to(device) for part in (batch.ids, batch.mask, batch.segments))
    return encoder.embed_passage(ids, mask, segments)


def embed_queries(encoder: DualEncoder, tokens: Ragged, special: SpecialTokens) -> Tensor:
    """Embeddings of queries, cut to `query_tokens`: float32 [queries, dim] on the encoder's device, no gradient."""
    return embed_rows(embedding_copy(encoder), tokens, special, encoder.config.query_tokens)


def embed_rows(fast: DualEncoder, tokens: Ragged, special: SpecialTokens, limit: int) -> Tensor:
    """Embeddings of `[CLS] row [SEP]`, cut to `limit` with these two: float32 [rows, dim] on the encoder's device.

    Args:
        fast: what `embedding_copy` gave.
        tokens: word pieces.
        special: ids of the special tokens.
        limit: word pieces that are read.
    """
    device = next(fast.parameters()).device
    out = torch.empty(len(tokens), fast.dim, device=device)
    for rows in length_sorted_batches(np.minimum(tokens.lengths, limit - 2) + 2, BATCH_TOKENS):
        batch = join([tokens.take(rows, limit - 2)], special)
        out[torch.from_numpy(rows).to(device)] = _embed_batch(fast, batch).clone()
    return out
