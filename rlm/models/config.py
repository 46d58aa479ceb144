"""Configuration of the models' training (imports nothing heavy)."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlm.data.config import MaskingConfig, SalientSpans
from rlm.limits import Count, Distinct, NotNegative, PassageTokens, Positive, QueryTokens, Share
from rlm.retrieval.config import IndexRefresh


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """AdamW as BERT's: linear warm-up and decay, weight decay except on biases and LayerNorm, clipping at 1."""

    steps: int
    batch_size: int
    """Examples per optimizer step over all devices."""
    learning_rate: float
    warmup_steps: Count | None = None
    """None takes min(10,000, max(100, steps / 10)), as the released code."""
    weight_decay: NotNegative = 0.01
    precision: Literal["bf16", "float32"] = "bf16"


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStartConfig:
    """Trains a masked-token head (and an encoder from scratch) before REALM needs it.

    Sentences are masked by `masking` and read beside a passage, as in pre-training, but the passage is given:
    the one that shares most rare word pieces with the sentence (BM25), never the one the sentence comes from.
    """

    training: Training
    masking: MaskingConfig = field(default_factory=SalientSpans)
    query_tokens: QueryTokens = 96
    passage_tokens: PassageTokens = 288
    max_masks: Positive = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class IctConfig:
    """The inverse cloze task (ORQA, section 4): a sentence finds the passage it was taken from."""

    training: Training
    keep_sentence: Share = 0.1
    """Share of examples whose passage keeps the sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """REALM pre-training (section 3)."""

    training: Training
    masking: MaskingConfig = field(default_factory=SalientSpans)
    index_refresh: IndexRefresh = field(default_factory=IndexRefresh)
    candidates: int = 8
    """Passages read per sentence, the null passage included."""
    null_passage: bool = True
    exclude_source: bool = True
    """Drop the passage that the sentence came from, by identity; k stays full."""
    marginal: Literal["per_token", "joint"] = "per_token"
    """`per_token` is the released code, `joint` the paper's equation."""
    query_tokens: QueryTokens = 96
    passage_tokens: int = 288
    max_masks: Positive = 10
    """Masked word pieces per sentence."""
    keep_snapshots: bool = False
    """Keep every index snapshot, so that zero-shot recall can be drawn over the steps of pre-training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """Open-domain question answering over a fixed passage index (ORQA, section 5)."""

    training: Training
    retriever_from: Literal["pretrain", "ict"] = "pretrain"
    encoder_from: Literal["pretrain", "bert"] = "pretrain"
    """The reader starts from the pre-trained knowledge-augmented encoder, or from its own starting point."""
    passages_read: int = 5
    early_candidates: int = 5000
    """Passages in ORQA's early loss; 0 switches it off."""
    max_span: Positive = 10
    """Word pieces in an answer span."""
    span_hidden_size: Positive = 256
    passage_tokens: int = 288
    train_retriever: bool = True
    """The question encoder trains; the passage index never does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    split: Literal["dev", "test"] = "dev"
    batch_size: int = 32
    recall_at: Annotated[tuple[int, ...], Distinct()] = (1, 5, 20)
