"""Configuration of RETRO (imports nothing heavy)."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlm.data.config import Part
from rlm.limits import Between, Name, NotNegative, Positive
from rlm.models.config import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class ScratchDecoder:
    """A causal language model with random weights, rotary positions and RMSNorm; it trains."""

    kind: Literal["scratch"] = "scratch"
    layers: int = 6
    hidden_size: int = 256
    heads: int = 4
    tie_embeddings: bool = True
    """Predict tokens with the table that embeds them."""
    initial_std: NotNegative = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedDecoder:
    """RETRO-fitting (section 4.2): a GPT-2-style checkpoint, by folder or hub name, which stays as it is."""

    kind: Literal["pretrained"] = "pretrained"
    name: Name
    revision: Name | None = None


DecoderConfig = ScratchDecoder | PretrainedDecoder


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourEncoderConfig:
    """A bidirectional encoder with random weights."""

    layers: int = 2
    hidden_size: int = 256
    heads: int = 4
    share_embeddings: bool = False
    """Embed neighbours with the decoder's table, projected to `hidden_size`; the paper's has one of its own."""
    condition: bool = True
    """Cross-attend, in the first layer, to the decoder's activations of the chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetroConfig:
    """A decoder that reads the neighbours of each chunk from the next one (2112.04426)."""

    decoder: DecoderConfig = field(default_factory=ScratchDecoder)
    encoder: NeighbourEncoderConfig = field(default_factory=NeighbourEncoderConfig)
    chunk_tokens: Positive = 64
    cca_layers: tuple[int, ...] | Literal["all"] | None = None
    """Decoder layers with chunked cross-attention, the first is 1, the last -1; none, (), make the base language model,
    which reads no neighbours.

    None takes every third from the sixth, as the paper, and the middle one of a decoder with fewer than six.
    """
    initial_std: NotNegative = 0.02
    """Of the weights of encoder and cross-attention."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetroTrainConfig:
    """Training on windows of documents; each token is predicted once an epoch."""

    training: Training
    tokens: int = 512
    """Of a window (n; the paper: 2,048)."""
    k: int = 2
    """Neighbours of each chunk that are read; 0 reads none, as a language model."""
    part: Part = "both"
    """Of a neighbour, that is read."""
    fit: Annotated[float, Between(most=1000)] = 0.0
    """RETRO-fitting (section 4.2): train without neighbours first, then encoder and cross-attention alone for this
    share of `training.steps` (the paper: 0.03); 0 trains everything together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityConfig:
    """Evaluation on windows that slide over documents; each token is predicted once."""

    tokens: int = 512
    """Of a window."""
    stride: int | None = None
    """Tokens from window to window, whole chunks; the smaller, the more a prediction may look back on. None takes as
    many whole chunks as a window has.
    """
    k: int = 2
    """Neighbours of each chunk that are read; 0 is RETRO[Off]."""
    part: Part = "both"
    """Of a neighbour, that is read."""
    batch_size: int = 16
    """Windows."""
    precision: Literal["bf16", "float32"] = "bf16"


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakageConfig:
    """The leakage filter (section 2.6): chunks by the longest run of tokens that they share with a neighbour."""

    thresholds: tuple[float, ...] = (12.5, 25.0, 37.5, 50.0, 75.0, 100.0)
    """Rising, percent of a chunk: chunks that share no more are kept; the last, 100, keeps all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetroFinetuneConfig:
    """Open-domain question answering over passages that were found before (section 4.3): "question: {question} \\n
    answer: {answer}", of which the answer is trained on.
    """

    training: Training
    k: int = 20
    """Passages that are read beside a question, the best of those found; 0 reads none (closed book)."""
    prompt_chunks: int = 1
    """Chunks that a prompt fills, up to "answer:"; the last of them has the passages as its neighbours. A shorter
    prompt is padded in front with the token that starts documents, a longer one loses its beginning.
    """
    passage_tokens: int | None = None
    """Of a passage with its title; None takes two chunks, the length of a neighbour."""
    answer_tokens: int = 32
    """Of an answer, with the token that ends it; at most a chunk, so that all of it is predicted from the passages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetroAnswerConfig:
    """Answers to the questions of a split, the likeliest token each time."""

    split: Literal["dev", "test"] = "dev"
    batch_size: int = 32
    """Questions."""
    precision: Literal["bf16", "float32"] = "bf16"


def attending_layers(chosen: tuple[int, ...] | Literal["all"] | None, layers: int) -> tuple[int, ...]:
    """Numbers of the layers with chunked cross-attention in a decoder of `layers`.

    Raises:
        ValueError: there is no such layer.
    """
    if chosen is None:
        # Of single layers the middle is the paper's best (table 13).
        return tuple(range(6, layers + 1, 3)) or ((layers + 1) // 2,)
    if chosen == "all":
        return tuple(range(1, layers + 1))
    absent = sorted(number for number in chosen if not 1 <= abs(number) <= layers)
    if absent:
        raise ValueError(f"cca_layers names {absent}, but the decoder's layers are 1 to {layers}")
    return tuple(sorted({number % (layers + 1) for number in chosen}))
