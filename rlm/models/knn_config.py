"""Configuration of kNN-LM (imports nothing heavy)."""

from dataclasses import dataclass, field
from typing import Literal

from rlm.limits import Name
from rlm.models.retro_config import ScratchDecoder
from rlm.retrieval.config import ExactIndex, FaissFlat, FaissIvfPq

KeyFunction = Literal[
    "ffn_input",
    "ffn_input_before_norm",
    "attention_input",
    "attention_input_before_norm",
    "output",
    "output_normalized",
]
"""What of the last layer's states at a token is its key (1911.00172, table 5): the input of the feed-forward, after
(`ffn_input`, the paper's) or before its layer norm; that of the self-attention, likewise; or what the layer puts out,
before or after the model's last norm."""
Tuned = Literal["tuned"]
WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.65, 0.8, 0.9)
"""Tried for the weight of the neighbours (lambda)."""
SHARES = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0)
"""Tried for k, as shares of the neighbours that were searched."""

TEMPERATURES = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0)
"""Tried for the temperature, in units of the mean squared distance of the nearest neighbour."""
FLATNESS = (1.0, 4.0, 8.0, 16.0, 32.0)
"""Tried for the cache's flatness, in units of one over the mean squared length of a key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedLanguageModel:
    """A causal language model of transformers, by folder or hub name; its weights stay as they are."""

    kind: Literal["pretrained"] = "pretrained"
    name: Name
    revision: Name | None = None


LanguageModelConfig = ScratchDecoder | PretrainedLanguageModel


@dataclass(frozen=True, kw_only=True, slots=True)
class DatastoreConfig:
    """One pass of a language model over a text: the keys of its tokens, and the tokens that follow them."""

    key: KeyFunction = "ffn_input"
    dtype: Literal["float16", "float32"] = "float16"
    """Of the keys on the disk."""
    tokens: int = 512
    """Of a window."""
    stride: int | None = None
    """Tokens from window to window; a prediction looks back on `tokens - stride` at least, but where a document begins.
    None takes windows that do not overlap."""
    batch_size: int = 16
    """Windows."""
    precision: Literal["bf16", "float32"] = "bf16"
    """Of the language model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnSearchConfig:
    """The nearest keys of every key of a text, by squared L2 distance."""

    k: int = 1024
    """Computed for each token; whoever reads them may take fewer, the nearest."""
    index: ExactIndex | FaissFlat | FaissIvfPq = field(default_factory=ExactIndex)
    """With `ivf_pq`, `rerank` times k keys are found, and their distances computed again from the full keys; 0 keeps
    the quantised distances."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnConfig:
    """p = weight * p_kNN + (1 - weight) * p_LM, p_kNN = softmax(-distance / temperature) over the k nearest keys
    (1911.00172, equations 2 and 3). What is `tuned` is chosen on the development text."""

    k: int | Tuned = "tuned"
    """Neighbours read, at most as many as were searched."""
    temperature: float | Tuned = "tuned"
    """In units of squared distance."""
    weight: float | Literal["tuned", "learned"] = "tuned"
    """Lambda, from 0 (the language model) to 1; `learned`: by a gate for each token (adaptive)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """The continuous cache (Grave et al. 2017, 1612.04426): neighbours are the tokens before in the document, p_cache =
    softmax(flatness * inner product of keys), mixed into what there is with its own weight."""

    tokens: int = 2048
    """Looked back on."""
    flatness: float | Tuned = "tuned"
    """Theta."""
    weight: float | Tuned = "tuned"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnEvaluateConfig:
    """What a row reads beside the language model."""

    knn: KnnConfig | None = field(default_factory=KnnConfig)
    cache: CacheConfig | None = None
