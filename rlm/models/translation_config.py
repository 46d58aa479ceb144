"""Configuration of translation with an encoder-decoder and a datastore of its states (imports nothing heavy)."""

from dataclasses import dataclass, field
from typing import Literal

from rlm.limits import Name, NotNegative, Positive, ShareBelowOne
from rlm.models.config import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class ScratchTranslator:
    """A Transformer encoder-decoder with random weights; it trains."""

    kind: Literal["scratch"] = "scratch"
    layers: int = 3
    """Of the encoder, and of the decoder."""
    hidden_size: int = 256
    heads: int = 4
    dropout: ShareBelowOne = 0.1
    max_positions: Positive = 256
    """Tokens of the longest sentence it reads or writes."""
    initial_std: NotNegative = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedTranslator:
    """Any encoder-decoder checkpoint of transformers, by folder or hub name, which stays as it is."""

    kind: Literal["pretrained"] = "pretrained"
    name: Name
    revision: Name | None = None


TranslatorConfig = ScratchTranslator | PretrainedTranslator


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationTraining:
    """Cross-entropy of each token of the translation, given those before and the source."""

    training: Training
    label_smoothing: float = 0.1
    """Share of the probability that every token gets alike (Vaswani et al. 2017, section 5.4)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationDatastore:
    """Keys and values of a parallel text: the decoder's state at each token of a translation, and that token."""

    of: tuple[str, ...] = ("own",)
    """Domains whose training pairs are read, joined in this order: `own` is the one that is translated, `wrong` the one
    that it names as such, others by name."""
    fraction: float = 1.0
    """Share of the pairs, by a hash of their ids; a smaller share is inside a larger."""
    key: Literal["ffn_input", "output"] = "ffn_input"
    """`ffn_input` is the input of the decoder's last feed-forward block, after its norm (2010.00710, section 2);
    `output` what the decoder gives to the vocabulary."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the keys."""
    batch_size: int = 64
    """Pairs read at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestTokens:
    """p = lambda p_kNN + (1 - lambda) p_MT at every step (2010.00710, equations 2 and 3)."""

    weight: float = 0.5
    """lambda, of p_kNN; 0 is the model alone."""
    k: int = 16
    """Neighbours."""
    temperature: float = 10.0
    """T, of the softmax over negative squared distances."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingConfig:
    """Beam search by transformers' `generate`."""

    beams: int = 4
    max_tokens: int = 128
    """Of a translation."""
    length_penalty: float = 1.0
    batch_size: int = 32
    """Sentences translated at a time."""
    knn: NearestTokens = field(default_factory=NearestTokens)
